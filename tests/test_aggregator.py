"""What the end of a mixture does with the answers: one of them is named, or counted out, and given word for word."""

import re
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from moa_graph import (
    Budget,
    BudgetExceededError,
    ChatMoA,
    Consistent,
    FinalError,
    Layer,
    LayerPolicy,
    MoAConfig,
    MoAConfigError,
    Prompt,
    Proposer,
    Rank,
    Sequential,
    Synthesize,
    TopK,
    Vote,
    create_moa,
    local,
)
from moa_graph.aggregator import named
from moa_graph.draw import draw
from moa_graph.testing import ScriptedChatModel, bad_request
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "What is six times seven?")]}
SAID = {"ada": "It is  41.\n\nSorry.", "bo": "It is 42.", "cy": "So 42.0!", "di": "No idea"}
NAMES = pytest.mark.parametrize("family", [Rank, Consistent])


def model(*answers: Any, name: str = "judge") -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or ["ok"], model_name=name)


def panel(**said: Any) -> list[Proposer]:
    return [Proposer(model(text, name=f"m-{name}"), name=name) for name, text in (said or SAID).items()]


def run(aggregator: Any, said: Any = None, layers: int = 2, **more: Any) -> Any:
    """The answer, its receipt, and what was decided at the end."""
    message = create_moa(panel(**(said or {})), aggregator, layers, **more).invoke(ASK)["messages"][-1]
    receipt = message.response_metadata["moa"]
    return message, receipt, [d for d in receipt["decisions"] if d["step"] == "aggregator"]


# A model names an answer


@NAMES
def test_the_answer_that_is_named_is_given_word_for_word(family: Any) -> None:
    """The judge's own words are not in it, and the receipt tells who was chosen, by whom."""
    message, receipt, [decision] = run(family(model('I think: {"best": 1}')))
    assert message.text == SAID["ada"]
    assert (decision["by"], decision["chosen"]) == (family.name, ["ada"])
    assert (receipt["final"]["model"], receipt["final"]["attempts"], receipt["calls"]) == ("judge", 1, 5)
    assert message.response_metadata["model_name"] == "m-ada"


@NAMES
def test_the_judge_reads_the_conversation_and_the_numbered_answers(family: Any) -> None:
    """They stand in order between marks that no answer can know; the request is in the user's last message."""
    judge = model("2")
    run(family(judge))
    system, user = judge.prompts[0]
    places = [system.text.index(f"\n{text}\n") for text in SAID.values()]
    assert places == sorted(places)
    assert re.search(r"<response 2 (\w{16})>\nIt is 42.\n</response 2 \1>", system.text)
    assert user.text.startswith("What is six times seven?")
    assert '{"best": 2}' in user.text


@pytest.mark.parametrize(
    "text",
    ['{"best": 3}', '```json\n{"best": "3"}\n```', "[[3]]", "3", "**3**", "Response 3.", "The best is 3, yes 3."],
)
def test_a_name_is_read_whatever_stands_around_it(text: str) -> None:
    """JSON, double brackets, or the only number in the text."""
    assert named(text, 4) == [3]


@pytest.mark.parametrize(
    "text",
    ["", "I cannot judge that.", "5", '{"best": 0}', '{"best": null}', '{"best": 2.5}', "2 or 3?", '{"best": []}'],
)
def test_what_names_no_answer_is_no_choice(text: str) -> None:
    """A refusal, a number that is not there and several numbers in prose are nonsense, not a choice."""
    with pytest.raises(ValueError, match="names"):
        named(text, 4)


def test_a_judge_that_makes_no_sense_is_asked_again() -> None:
    """Three times in all; every attempt counts."""
    _, receipt, [decision] = run(Rank(model("What?", "9", "[[2]]")))
    assert decision["chosen"] == ["bo"]
    assert (receipt["final"]["attempts"], receipt["calls"]) == (3, 7)


@NAMES
def test_three_times_nonsense_is_an_error_with_all_that_was_paid_for(family: Any) -> None:
    """The error says what the judge said, and has the proposals and the receipt."""
    judge = model("9", "10", "I refuse.")
    with pytest.raises(
        FinalError, match=r"no usable answer in 3 attempts: it names no response \('I refuse.'\)"
    ) as caught:
        run(family(judge))
    assert [p["content"] for p in caught.value.proposals] == list(SAID.values())
    assert caught.value.receipt is not None
    assert caught.value.receipt["calls"] == 7
    assert caught.value.receipt["final"]["status"] == "error"


def test_a_thread_goes_on_behind_a_judge_that_made_no_sense() -> None:
    """Resumed, only the judge is asked again."""
    judge, config = model("no", "no", "no", "2"), {"configurable": {"thread_id": "1"}}
    moa = create_moa(panel(), Rank(judge), 2, checkpointer=InMemorySaver())
    with pytest.raises(FinalError):
        moa.invoke(ASK, config)
    message = moa.invoke(None, config)["messages"][-1]
    assert message.text == SAID["bo"]
    assert message.response_metadata["moa"]["calls"] == 1


@NAMES
@pytest.mark.parametrize("said", ["no", bad_request()], ids=str)
def test_the_first_answer_stands_in_where_that_was_declared(family: Any, said: Any) -> None:
    """`otherwise="first"`, and the receipt says so and why."""
    message, receipt, [decision] = run(family(model(said), otherwise="first"))
    assert message.text == SAID["ada"]
    assert decision["said"].startswith("ada, the first: ")
    assert receipt["final"]["error"]


def test_the_next_judge_is_asked_where_one_fails() -> None:
    """As with any final model, a list is of those asked in its place."""
    _, receipt, [decision] = run(
        Rank([model(bad_request(), name="one"), model("no", name="two"), model("3", name="three")])
    )
    assert decision["chosen"] == ["cy"]
    assert (receipt["final"]["model"], receipt["final"]["attempts"]) == ("three", 5)
    assert receipt["final"]["error"].startswith("final, one: BadRequestError")


def test_of_several_that_are_named_the_first_is_given() -> None:
    """And the receipt tells of the tie."""
    message, _, [decision] = run(Rank(model('{"best": [3, 2]}')))
    assert message.text == SAID["bo"]
    assert decision["said"] == "bo, the first of a tie: bo, cy"


@NAMES
def test_one_answer_alone_is_given_without_asking(family: Any) -> None:
    """There is nothing to choose, and the receipt says that nobody was asked."""
    judge = model("1")
    message, receipt, [decision] = run(family(judge), {"ada": "Yes.", "bo": bad_request()})
    assert (message.text, judge.calls, receipt["calls"]) == ("Yes.", 0, 2)
    assert decision["said"] == "ada alone answered: nobody was asked"
    assert receipt["final"]["cost_usd"] == 0.0


def test_shuffled_answers_are_named_as_they_were_shown() -> None:
    """Whatever the order, the number is that of the answer which the judge has read under it."""

    def find(messages: Any) -> str:
        return re.search(r"(\d+)\. So 42.0!", messages[0].text)[1]  # type: ignore[index]

    shown = set()
    for _ in range(6):
        judge = ScriptedChatModel(answers=find)
        message, _, _ = run(Rank(judge, prompt=Prompt("Judge.", shuffle=True)))
        assert message.text == SAID["cy"]
        shown.add(judge.prompts[0][0].text)
    assert len(shown) > 1


def test_answers_that_do_not_fit_leave_the_numbers_right() -> None:
    """What is left out for want of room cannot be named, and the others keep who they are."""
    judge = model("2")
    seat = Proposer(judge, context_window=520, max_tokens=100)
    message, receipt, [decision] = run(
        Rank(seat, prompt=Prompt("Judge.", fit="drop")), {"ada": "word " * 400, "bo": "Bo.", "cy": "Cy."}
    )
    assert receipt["final"]["fit"] == {"trimmed": [], "dropped": [1]}
    assert (message.text, decision["chosen"]) == ("Cy.", ["cy"])


def test_only_what_is_read_on_can_be_named() -> None:
    """An answer that a selection left out is not shown."""
    judge, own = model("1"), model("[2, 3]")
    layer = Layer(panel(), select=TopK(2, own))
    message = create_moa([layer], Rank(judge), 2).invoke(ASK)["messages"][-1]
    assert SAID["ada"] not in judge.prompts[0][0].text
    assert message.text == SAID["bo"]


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_the_chosen_answer_is_what_streams(way: str) -> None:
    """Not a token of the judge, and the answer once, with its metadata."""
    moa = create_moa(panel(), Rank(model('The best is {"best": 2}')), 2)
    if way == "stream":
        parts = list(moa.stream(ASK, stream_mode="messages"))
    else:
        parts = [part async for part in moa.astream(ASK, stream_mode="messages")]
    [(message, metadata)] = parts
    assert message.text == SAID["bo"]
    assert message.id
    assert (metadata["moa_role"], metadata["moa_aggregator"]) == ("final", "rank")


def test_the_event_of_the_decision_is_told() -> None:
    """`moa.decided` comes before `moa.done`."""
    moa = create_moa(panel(), Rank(model("2")), 2)
    events = [e for e in moa.stream(ASK, stream_mode="custom") if e["type"] in ("moa.decided", "moa.done")]
    assert [e["type"] for e in events] == ["moa.decided", "moa.done"]
    assert (events[0]["step"], events[0]["by"], events[0]["chosen"]) == ("aggregator", "rank", ["bo"])


@pytest.mark.parametrize("refused", [False, True])
def test_a_server_is_asked_with_a_schema_and_in_words_where_it_refuses(server: RecordingServer, refused: bool) -> None:
    """An OpenAI-compatible server can give nothing but a number that is there; one that cannot is asked without."""
    server.script("judge", *([Behaviour(status=400)] if refused else []), Behaviour(text='{"best": 2}'))
    judge = ChatOpenAI(model="judge", base_url=server.base_url, api_key="key")
    message, _, _ = run(Rank(judge))
    assert message.text == SAID["bo"]
    bodies = [request.body for request in server.requests]
    best = bodies[0]["response_format"]["json_schema"]["schema"]["properties"]["best"]
    assert best == {"type": "integer", "enum": [1, 2, 3, 4]}
    assert ["response_format" in body for body in bodies] == ([True, False] if refused else [True])


def test_a_budget_counts_the_judge() -> None:
    """Where its call is too much, the run stops before it, and a further attempt is a call too."""
    with pytest.raises(BudgetExceededError):
        run(Rank(model("2")), budget=Budget(calls=4))
    judge = model("no", "2")
    with pytest.raises(FinalError, match="in 1 attempt"):
        run(Rank(judge), budget=Budget(calls=5))
    assert judge.calls == 1


# A vote


def test_the_majority_is_found_however_it_is_written() -> None:
    """Two of four say the same number in other words: the first of them is given, and no model is asked."""
    message, receipt, [decision] = run(Vote())
    assert message.text == "It is 42."
    assert decision["said"] == "2 of 4 said 42; di said nothing to count"
    assert decision["chosen"] == ["bo"]
    final = receipt["final"]
    assert (final["model"], final["attempts"], final["usage"], final["cost_usd"]) == ("vote", 0, {}, 0.0)
    assert receipt["calls"] == 4


def test_thirty_samples_are_counted() -> None:
    """The majority of many samples of one model is found."""
    answers = [f"I get {7 if k % 3 else k}." for k in range(30)]
    moa = create_moa([Proposer(model(*answers), name="luna", samples=30)], Vote(), 2)
    message = moa.invoke(ASK)["messages"][-1]
    assert message.text == "I get 7."
    assert message.response_metadata["moa"]["decisions"][0]["said"].startswith("20 of 30 said 7")


@pytest.mark.parametrize("tie", ["first", "error"])
def test_a_tie_is_resolved_as_declared(tie: Any) -> None:
    """The earlier one in declared order, and told; or an error that tells both."""
    said = {"ada": "2", "bo": "1", "cy": "1", "di": "2"}
    if tie == "error":
        with pytest.raises(FinalError, match="a tie: 2 of 4 said 2, 2 of 4 said 1"):
            run(Vote(tie=tie), said)
    else:
        message, _, [decision] = run(Vote(tie=tie), said)
        assert (message.text, decision["chosen"]) == ("2", ["ada"])
        assert decision["said"] == "a tie: 2 of 4 said 2, 2 of 4 said 1; ada is first"


def test_a_judge_decides_a_tie_and_is_not_asked_without_one() -> None:
    """It reads one answer of each side."""
    judge = model("2")
    message, receipt, [decision] = run(
        Vote(tie=Rank(judge)), {"a": "One: 1", "b": "Two: 2", "c": "also 1", "d": "also 2"}
    )
    assert (message.text, decision["by"], receipt["final"]["model"]) == ("Two: 2", "vote", "judge")
    assert "also" not in judge.prompts[0][0].text
    run(Vote(tie=Rank(judge)))
    assert judge.calls == 1


def test_a_tie_may_be_synthesized() -> None:
    """The model writes an answer from those that tie, and from no other."""
    writer = model("Both.")
    message, _, [decision] = run(Vote(tie=Synthesize(writer)), {"a": "say 1", "b": "say 2", "c": "none"})
    assert message.text == "Both."
    assert decision["chosen"] == ["a", "b"]
    assert writer.prompts[0][0].text.endswith("\n1. say 1\n2. say 2")


def test_where_nobody_votes_it_is_an_error_or_the_first_as_declared() -> None:
    """An extractor that matches nothing is never a silent choice."""
    with pytest.raises(FinalError, match=r"none of 4 answers says anything to count \('choice'\)"):
        run(Vote("choice"))
    message, _, [decision] = run(Vote("choice", otherwise="first"))
    assert message.text == SAID["ada"]
    assert decision["said"] == "ada, the first: nobody said anything to count"


def test_a_function_may_extract() -> None:
    """What it raises is an error that names the proposer, and so is what is no text."""
    message, _, _ = run(Vote(lambda text: text[:5] if "42" in text else None))
    assert message.text == "It is 42."
    with pytest.raises(FinalError, match="the answer of ada: ZeroDivisionError"):
        run(Vote(lambda text: str(1 / 0)))
    with pytest.raises(FinalError, match="extract gave int"):
        run(Vote(lambda text: 3))  # type: ignore[arg-type, return-value]


# What is refused when it is built


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rank(model(), otherwise="last"), "Rank: otherwise is 'last': one of error, first"),  # type: ignore[arg-type]
        (lambda: Rank(model(), prompt=" "), "the prompt is empty"),
        (lambda: Vote(tie="last"), "Vote: tie is 'last': one of first, error, Rank"),  # type: ignore[arg-type]
        (lambda: Vote(otherwise="last"), "Vote: otherwise is 'last'"),  # type: ignore[arg-type]
        (lambda: Vote("number("), "Vote: extract is 'number\\('"),
        (lambda: create_moa([], Vote(), 1), "vote needs answers to read, and with layers=1 there are none"),
        (lambda: create_moa(panel(), [Rank(model())], 2), r"Rank stands by itself; the list goes into it"),
        (lambda: create_moa(panel(), Rank([]), 2), "there is no aggregator"),
        (
            lambda: create_moa(panel(), Rank("nobody:x"), 2),
            "aggregator: 'nobody:x' does not begin with a known provider",
        ),
        (lambda: create_moa(panel(), Rank(Proposer(model(), samples=2)), 2), "the aggregator answers once"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(make: Any, said: str) -> None:
    """The error names the culprit and the choices."""
    with pytest.raises(MoAConfigError, match=said):
        make()


def test_a_bare_model_is_synthesize() -> None:
    """The same prompt, the same answer, and nothing else in the receipt."""
    bare, named_ = model("Done."), model("Done.")
    _, receipt, decisions = run(bare)
    run(Synthesize(named_))
    assert [m.text for m in bare.prompts[0]] == [m.text for m in named_.prompts[0]]
    assert (decisions, receipt["final"]["model"]) == ([], "judge")


# As a chat model, in YAML, in pictures


@pytest.mark.parametrize("family", [Rank(model("2")), Consistent(model("2")), Vote()], ids=lambda f: f.name)
def test_it_works_as_a_chat_model(family: Any) -> None:
    """The answer in one piece, whole or streamed, with the usage of all calls."""
    chat = ChatMoA(proposers=panel(), aggregator=family, layers=2)
    assert chat.invoke("What?").text == SAID["bo"]
    chunks = list(chat.stream("What?"))
    assert "".join(chunk.text for chunk in chunks) == SAID["bo"]
    assert chunks[-1].usage_metadata


@pytest.mark.parametrize("family", [Rank(model("2")), Consistent(model("2")), Vote()], ids=lambda f: f.name)
def test_a_chosen_answer_takes_no_tools(family: Any) -> None:
    """Nobody writes the answer, so tools and schemas are refused when they are bound."""
    chat = ChatMoA(proposers=panel(), aggregator=family, layers=2)
    with pytest.raises(MoAConfigError, match=f"{family.name} gives a proposer's answer word for word .* tools"):
        chat.bind_tools([{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}])
    with pytest.raises(MoAConfigError, match="word for word"):
        chat.with_structured_output({"title": "T", "type": "object", "properties": {}}).invoke("What?")


def test_chat_models_that_end_in_other_ways_are_others() -> None:
    """LangChain's cache does not take one for the other."""
    ways = [
        model("2"),
        Rank(model("2")),
        Consistent(model("2")),
        Vote(),
        Vote("choice"),
        Rank(model("2"), prompt="Judge."),
    ]
    made = {str(ChatMoA(proposers=panel(), aggregator=way, layers=2)._identifying_params["mixture"]) for way in ways}
    assert len(made) == len(ways)


@pytest.mark.parametrize(
    ("given", "family"),
    [
        ({"rank": "openai:gpt-6-sol"}, "rank"),
        ({"rank": {"model": ["openai:a", {"model": "openai:b"}], "otherwise": "first", "prompt": "Judge."}}, "rank"),
        ({"consistent": "openai:gpt-6-sol"}, "consistent"),
        ({"vote": {"extract": "number", "tie": "first"}}, "vote"),
        ({"vote": "choice"}, "vote"),
        ({"vote": {"tie": {"rank": "openai:gpt-6-sol"}}}, "vote"),
        ({"synthesize": "openai:gpt-6-sol"}, None),
        ("openai:gpt-6-sol", None),
        ({"model": "openai:gpt-6-sol"}, None),
    ],
)
def test_each_is_described_in_yaml(given: Any, family: str | None) -> None:
    """The graph that is built has it, and every model is known to the description."""
    config = MoAConfig(proposers=["openai:gpt-6-luna"], layers=2, aggregator=given)
    graph = config.build(stand_in=lambda name: model(name=name))
    assert graph.nodes["final"].metadata.get("moa_aggregator") == family
    assert len(config.models()) == 1 + str(given).count("openai:")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rnak": "openai:a"}, "aggregator.rnak: unknown key; did you mean rank"),
        (
            {"rank": {"model": "openai:a", "otherwise": "last"}},
            "aggregator.rank.otherwise: 'error' or 'first' is needed",
        ),
        (
            {"rank": {"model": "openai:a", "window": 3}},
            "aggregator.rank.window: unknown key; one of model, otherwise, prompt",
        ),
        ({"rank": {}}, "aggregator.rank.model: this key is missing"),
        ({"vote": {"extrakt": "number"}}, "aggregator.vote.extrakt: unknown key; did you mean extract"),
        ({"vote": {"extract": "nubmer"}}, "Vote: extract is 'nubmer'"),
        (
            {"vote": {}, "rank": "openai:a"},
            "aggregator: give just one of consistent, rank, sequential, synthesize, vote",
        ),
        ({"rank": None}, "aggregator.rank: give a model"),
    ],
)
def test_what_is_wrong_in_yaml_is_named(given: Any, said: str, tmp_path: Any) -> None:
    """The file, the key and the choices."""
    import yaml

    file = tmp_path / "moa.yaml"
    file.write_text(yaml.safe_dump({"proposers": ["openai:gpt-6-luna"], "layers": 2, "aggregator": given}))
    with pytest.raises(MoAConfigError, match=re.escape(said)) as caught:
        MoAConfig.from_yaml(file)
    assert "moa.yaml" in str(caught.value)


def test_an_estimate_counts_the_judge_and_no_vote() -> None:
    """A vote makes no call."""
    calls = {}
    for given in ({"rank": "openai:gpt-6-sol"}, {"vote": {"tie": {"rank": "openai:gpt-6-sol"}}}):
        config = MoAConfig(proposers=["openai:gpt-6-luna", "openai:gpt-6-terra"], layers=2, aggregator=given)
        calls[next(iter(given))] = [layer["calls"] for layer in config.estimate("Why?")["layers"]]
    assert calls == {"rank": [2, 1], "vote": [2, 0]}


@pytest.mark.parametrize(
    ("family", "said"), [(Rank(model("2")), "rank · judge"), (Vote(), "vote")], ids=["rank", "vote"]
)
def test_the_picture_says_how_it_ends(family: Any, said: str) -> None:
    """The last box has the kind of aggregator, and its model where it asks one; of a run, too."""
    moa = create_moa(panel(), family, 2)
    assert said in draw(moa).mermaid
    receipt = moa.invoke(ASK)["messages"][-1].response_metadata["moa"]
    assert said in draw(moa, receipt=receipt).mermaid
    assert "bo's answer" in draw(moa, receipt=receipt).text


@pytest.mark.skipif(not local.available(), reason='needs pip install "moa-graph[local]"')
@pytest.mark.timeout(600)
def test_each_runs_on_the_embedded_model() -> None:
    """The judges give a number that is there; what comes out is an answer of the panel's."""
    small = Proposer("local:smollm2", name="luna", samples=3, max_tokens=24)
    for family in (Rank("local:smollm2"), Consistent("local:smollm2"), Vote(r"(\w+)")):
        out = create_moa([small], family, 2, policy=LayerPolicy(timeout=200)).invoke(ASK)
        assert out["messages"][-1].text in [p["content"] for p in out["proposals"]]
    local.close()


# Many answers through a small window


def thirty(writer: Any, window: int = 6, keep: int = 1, **more: Any) -> Any:
    """One model asked thirty times, whose answers are read through a window."""
    samples = Proposer(model(*[f"s{k:02}" for k in range(1, 31)]), name="luna", samples=30, **more.pop("each", {}))
    return create_moa([samples], Sequential(writer, window, keep), 2, **more)


def numbered_references(prompt: Any) -> list[str]:
    return re.findall(r"^\d+\. (.*)$", prompt[0].text, re.MULTILINE)


def test_thirty_samples_go_through_a_window_of_six() -> None:
    """No call reads more than six, each sample is read once, and the synthesis before goes along."""
    writer = model(*[f"y{k}" for k in range(1, 7)])
    message = thirty(writer).invoke(ASK)["messages"][-1]
    read = [numbered_references(prompt) for prompt in writer.prompts]
    assert [len(each) for each in read] == [6, 6, 6, 6, 6, 5]
    assert [each[0] for each in read[1:]] == ["y1", "y2", "y3", "y4", "y5"]
    samples = [text for each in read for text in each if text.startswith("s")]
    assert sorted(samples) == [f"s{k:02}" for k in range(1, 31)]
    assert message.text == "y6"


def test_every_window_is_in_the_receipt() -> None:
    """As a decision with its call; the last one is the final call, and the sums have them all."""
    writer = model(*[f"y{k}" for k in range(1, 7)])
    receipt = thirty(writer).invoke(ASK)["messages"][-1].response_metadata["moa"]
    decisions = receipt["decisions"]
    assert [d["part"] for d in decisions] == [1, 2, 3, 4, 5, 6]
    assert [d.get("call", {}).get("proposer") for d in decisions[:5]] == [f"window_{k}" for k in range(1, 6)]
    assert decisions[1]["said"] == "window 2 read 5 answers and what the windows before made of theirs"
    assert receipt["calls"] == 36
    used = sum(d["call"]["usage"]["output_tokens"] for d in decisions[:5]) + receipt["final"]["usage"]["output_tokens"]
    assert receipt["output_tokens"] == 30 + used


@pytest.mark.parametrize(
    ("window", "keep", "calls"), [(2, 1, 29), (6, 5, 25), (6, 2, 7), (29, 1, 2), (30, 1, 1), (40, 3, 1)]
)
def test_the_number_of_windows_is_known_before(window: int, keep: int, calls: int) -> None:
    """So many nodes and so many calls, and no window reads more than fits."""
    writer = model("y")
    moa = thirty(writer, window, keep)
    nodes = [name for name in moa.nodes if name.startswith("window_")]
    moa.invoke(ASK)
    assert (writer.calls, len(nodes)) == (calls, calls - 1)
    assert max(len(numbered_references(prompt)) for prompt in writer.prompts) <= window


def test_what_fits_in_one_window_is_read_as_ever() -> None:
    """The same prompt as that of `Synthesize`."""
    one, plain = model("y"), model("y")
    run(Sequential(one))
    run(plain)
    assert [m.text for m in one.prompts[0]] == [m.text for m in plain.prompts[0]]


def test_several_syntheses_can_be_kept() -> None:
    """The last two of them go along, in their order."""
    writer = model(*[f"y{k}" for k in range(1, 8)])
    thirty(writer, 6, 2).invoke(ASK)
    assert [numbered_references(prompt)[:2] for prompt in writer.prompts[2:4]] == [["y1", "y2"], ["y2", "y3"]]


def test_fewer_answers_need_fewer_windows() -> None:
    """The nodes that are left over ask nobody; the picture of the run says so."""
    answers = [f"s{k}" for k in range(1, 9)] + [bad_request()] * 22
    writer = model("y1", "y2")
    moa = create_moa([Proposer(model(*answers), name="luna", samples=30, retries=0)], Sequential(writer), 2)
    receipt = moa.invoke(ASK)["messages"][-1].response_metadata["moa"]
    assert writer.calls == 2
    assert [len(numbered_references(prompt)) for prompt in writer.prompts] == [6, 3]
    assert draw(moa, receipt=receipt).text.count("not needed") == 4


def test_only_the_last_window_streams() -> None:
    """The tokens are those of the answer."""
    writer = model(*[f"this is y{k}" for k in range(1, 7)])
    parts = list(thirty(writer).stream(ASK, stream_mode="messages"))
    assert "".join(message.text for message, _ in parts if message.type == "AIMessageChunk") == "this is y6"
    assert {metadata["langgraph_node"] for _, metadata in parts} == {"final"}


def test_a_thread_goes_on_at_the_window_that_failed() -> None:
    """The windows before it are not asked again."""
    writer, config = model("y1", "y2", bad_request(), "y3", "y4", "y5", "y6"), {"configurable": {"thread_id": "1"}}
    moa = thirty(writer, checkpointer=InMemorySaver())
    with pytest.raises(FinalError, match="window 3 failed: judge: BadRequestError") as caught:
        moa.invoke(ASK, config)
    assert caught.value.receipt is not None
    assert caught.value.receipt["calls"] == 33
    message = moa.invoke(None, config)["messages"][-1]
    assert (message.text, writer.calls) == ("y6", 7)
    assert message.response_metadata["moa"]["calls"] == 4
    again = moa.invoke({"messages": [("user", "And again?")]}, config)["messages"][-1]
    assert again.response_metadata["moa"]["calls"] == 36


def test_the_next_model_is_asked_within_a_window() -> None:
    """A list is of those asked in its place, window by window."""
    failing, writer = model(bad_request(), name="one"), model("y")
    receipt = thirty([failing, writer]).invoke(ASK)["messages"][-1].response_metadata["moa"]
    assert (failing.calls, writer.calls, receipt["calls"]) == (6, 6, 42)


def test_answers_that_a_person_adds_are_read_too() -> None:
    """Behind the nodes that there are, the last one has further windows; none reads more than fits."""
    from moa_graph.review import edit

    writer, config = model("y"), {"configurable": {"thread_id": "1"}}
    moa = create_moa(panel(), Sequential(writer, 3), 2, checkpointer=InMemorySaver())
    moa.invoke(ASK, config, interrupt_after=["layer_1"])
    kept = moa.get_state(config).values["proposals"]
    edit(moa, config, [*kept, *({"content": f"more {k}"} for k in range(4))])
    moa.invoke(None, config)
    read = [numbered_references(prompt) for prompt in writer.prompts]
    assert [len(each) for each in read] == [3, 3, 3, 2]
    assert read[-1] == ["y", "more 3"]


def test_the_references_of_a_window_are_made_to_fit() -> None:
    """Each window by itself, and the receipt tells which."""
    small = Proposer(model("y"), context_window=700, max_tokens=100)
    said = {f"p{k}": "A word. " * (400 if k == 2 else 3) for k in range(5)}
    _, receipt, decisions = run(Sequential(small, 3, 1), said, prompt=Prompt("Synthesize.", fit="drop"))
    assert decisions[0]["call"]["fit"]["dropped"] == [3]
    assert "fit" not in receipt["final"]


def test_a_budget_stops_before_a_window_and_a_thread_goes_on() -> None:
    """What was spent on windows counts, also in a thread that is resumed."""
    config: Any = {"configurable": {"thread_id": "1"}}
    writer, saver = model("y"), InMemorySaver()
    with pytest.raises(BudgetExceededError, match="before window 3 the budget is too small") as caught:
        thirty(writer, checkpointer=saver, budget=Budget(calls=32)).invoke(ASK, config)
    assert caught.value.receipt is not None
    assert caught.value.receipt["calls"] == 32
    with pytest.raises(BudgetExceededError, match="before window 4"):
        thirty(writer, checkpointer=saver, budget=Budget(calls=33)).invoke(None, config)
    thirty(writer, checkpointer=saver, budget=Budget(calls=36)).invoke(None, config)
    assert writer.calls == 6


def test_a_budget_may_leave_out_windows() -> None:
    """With `on_exceed="answer"` the last model answers from what was read, and the receipt says what was not."""
    writer = model("y")
    moa = thirty(writer, budget=Budget(calls=33, on_exceed="answer"))
    receipt = moa.invoke(ASK)["messages"][-1].response_metadata["moa"]
    assert receipt["calls"] <= 33
    assert "were not read" in receipt["decisions"][-1]["said"]
    assert "before window" in receipt["stopped"]


@pytest.mark.parametrize(("window", "keep"), [(1, 1), (0, 1), (True, 1), ("6", 1), (6, 0), (6, 6), (6, 1.5)])
def test_a_window_has_room(window: Any, keep: Any) -> None:
    """A window of one, or one that is full of syntheses, would read nothing."""
    with pytest.raises(MoAConfigError, match=r"Sequential: (window is .* at least 2|keep is .* from 1 to 5)"):
        Sequential(model(), window, keep)


def test_windows_in_yaml_and_in_estimates() -> None:
    """Each window is a call, and reads its part."""
    given = {"sequential": {"model": "openai:gpt-6-sol", "window": 6, "keep": 1}}
    many = [{"model": "openai:gpt-6-luna", "samples": 30}]
    config = MoAConfig(proposers=many, layers=2, aggregator=given)
    made = config.estimate("Why?")
    plain = MoAConfig(proposers=many, layers=2, aggregator="openai:gpt-6-sol").estimate("Why?")
    assert [layer["calls"] for layer in made["layers"]] == [30, 6]
    more = made["layers"][1]["input_tokens"] - plain["layers"][1]["input_tokens"]
    assert 5 * 500 < more < 5 * 1000  # five syntheses and prompts
    assert len([n for n in config.build(stand_in=lambda name: model(name=name)).nodes if "window" in n]) == 5
    with pytest.raises(MoAConfigError, match="Sequential: window is 1"):
        MoAConfig(proposers=many, aggregator={"sequential": {"model": "openai:a", "window": 1}}).build()


def test_the_last_window_of_a_chat_model_has_the_tools() -> None:
    """The windows before are told of them in words."""
    from tests.chat_models import Obliging

    writer = Obliging(answers=["y"])
    chat = ChatMoA(proposers=panel(), aggregator=Sequential(writer, 3), layers=2)
    tool = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    answer = chat.bind_tools([tool]).invoke("What?")
    assert [call["name"] for call in answer.tool_calls] == ["f"]
    assert answer.usage_metadata
    assert chat.invoke("What?").text == "y"


@pytest.mark.skipif(not local.available(), reason='needs pip install "moa-graph[local]"')
def test_windows_run_on_the_embedded_model() -> None:
    """Eight samples through a window of three."""
    small = Proposer("local:smollm2", name="luna", samples=8, max_tokens=24)
    last = Proposer("local:smollm2", max_tokens=24)
    message = create_moa([small], Sequential(last, 3), 2, policy=LayerPolicy(timeout=100)).invoke(ASK)["messages"][-1]
    assert message.text
    assert message.response_metadata["moa"]["calls"] == 8 + 4
    local.close()
