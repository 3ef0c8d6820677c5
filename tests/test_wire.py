"""The bytes on the wire are the method: what each model is sent, seen by a server that records it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langchain_together import ChatTogether
from langgraph.checkpoint.memory import InMemorySaver
from openai import DefaultAsyncHttpxClient

from moa_graph import AGGREGATE_AND_SYNTHESIZE, Layer, LayerPolicy, Proposer, create_moa
from tests.server import Behaviour, RecordingServer

KINDS: dict[str, Callable[..., Any]] = {
    "ChatOpenAI": lambda name, url: ChatOpenAI(model=name, base_url=url, api_key="key"),
    "ChatTogether": lambda name, url: ChatTogether(model=name, base_url=url, api_key="key"),
    "openai string": lambda name, url, **sampling: Proposer(f"openai:{name}", base_url=url, **sampling),
    "together string": lambda name, url, **sampling: Proposer(f"together:{name}", base_url=url, **sampling),
}
OBJECTS, STRINGS = list(KINDS)[:2], list(KINDS)[2:]
QUESTION = {"role": "user", "content": "Why?"}
ASK = {"messages": [("user", "Why?")]}

Make = Callable[..., Any]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, server: RecordingServer) -> Make:
    """A model of each kind, by its name; every one answers "answer of {name} #{n}"."""
    return lambda name, **sampling: KINDS[request.param](name, server.base_url, **sampling)


@pytest.fixture
def openai(server: RecordingServer) -> Make:
    return lambda name: KINDS["ChatOpenAI"](name, server.base_url)


def synthesis(*answers: str, prompt: str = AGGREGATE_AND_SYNTHESIZE) -> str:
    return prompt + "".join(f"\n{k}. {answer}" for k, answer in enumerate(answers, 1))


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def sent(server: RecordingServer, model: str) -> list[list[dict[str, Any]]]:
    return [request.messages for request in server.requests_for(model)]


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("before", ["", "Be brief."])
async def test_each_layer_reads_the_layer_before_it_and_the_conversation(
    server: RecordingServer, make: Make, layers: int, before: str
) -> None:
    """Layer i+1 gets layer i's responses, numbered, in (or behind the text of) the system message, then x_1."""
    moa = create_moa([make("a"), make("b")], make("c"), layers)
    conversation = [SystemMessage(before), HumanMessage("Why?")] if before else [HumanMessage("Why?")]
    out = await moa.ainvoke({"messages": conversation})

    x = [[system(before), QUESTION] if before else [QUESTION]]
    for n in range(1, layers):
        references = synthesis(f"answer of a #{n}", f"answer of b #{n}")
        x.append([system(f"{before}\n\n{references}" if before else references), QUESTION])
    assert sent(server, "a") == sent(server, "b") == x[:-1]
    assert sent(server, "c") == [x[-1]]
    assert out["messages"][-1].text == "answer of c #1"
    assert len(server.requests) == 2 * (layers - 1) + 1


def test_invoke_sends_what_ainvoke_sends(server: RecordingServer, make: Make) -> None:
    """The sync entry point puts the same messages on the wire."""
    create_moa([make("a"), make("b")], make("c"), 3).invoke(ASK)
    assert sent(server, "a") == [
        [QUESTION],
        [system(synthesis("answer of a #1", "answer of b #1")), QUESTION],
    ]
    assert sent(server, "c") == [[system(synthesis("answer of a #2", "answer of b #2")), QUESTION]]


async def test_streaming_sends_the_same_messages(server: RecordingServer, make: Make) -> None:
    """Streaming changes how an answer comes back, not what is asked."""
    moa = create_moa([make("a")], make("c"), 2, stream_proposers=True)
    stream = moa.astream(ASK, stream_mode="messages", subgraphs=True)
    said = [chunk.text async for _, (chunk, _) in stream]
    assert "".join(said) == "answer of a #1answer of c #1"
    assert sent(server, "a") == [[QUESTION]]
    assert sent(server, "c") == [[system(synthesis("answer of a #1")), QUESTION]]


async def test_a_long_conversation_is_sent_whole_and_unchanged(server: RecordingServer, make: Make) -> None:
    """x_1 is the whole conversation: each earlier turn stands behind the synthesis, in its role."""
    turns = [HumanMessage("Hi"), AIMessage("Hello."), HumanMessage("Why?")]
    await create_moa([make("a")], make("c"), 2).ainvoke({"messages": turns})
    spoken = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, QUESTION]
    assert sent(server, "a") == [spoken]
    assert sent(server, "c") == [[system(synthesis("answer of a #1")), *spoken]]


async def test_a_second_turn_knows_final_answers_only(server: RecordingServer, make: Make) -> None:
    """On a thread, turn two starts from questions and final answers, without the first turn's synthesis."""
    moa = create_moa([make("a"), make("b")], make("c"), 3, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    await moa.ainvoke(ASK, thread)
    out = await moa.ainvoke({"messages": [("user", "And?")]}, thread)

    history = [QUESTION, {"role": "assistant", "content": "answer of c #1"}, {"role": "user", "content": "And?"}]
    assert sent(server, "a")[2] == sent(server, "b")[2] == history
    assert sent(server, "a")[3] == [system(synthesis("answer of a #3", "answer of b #3")), *history]
    assert sent(server, "c")[1] == [system(synthesis("answer of a #4", "answer of b #4")), *history]
    assert [m.text for m in out["messages"]] == ["Why?", "answer of c #1", "And?", "answer of c #2"]


@pytest.mark.parametrize("prompt", ["Merge:\n", "  spaces kept  ", "Réponds {k} {response} %s"])
async def test_a_custom_prompt_is_sent_byte_for_byte(server: RecordingServer, openai: Make, prompt: str) -> None:
    """The prompt's bytes are kept as given: no stripping, no formatting."""
    await create_moa([openai("a")], openai("c"), 2, prompt=prompt).ainvoke(ASK)
    assert sent(server, "c") == [[system(synthesis("answer of a #1", prompt=prompt)), QUESTION]]


async def test_a_proposers_own_system_prompt_is_its_own(server: RecordingServer, openai: Make) -> None:
    """`system` is read by that proposer alone, before the conversation's system message and the synthesis."""
    panel = [Proposer(openai("a"), system="Be terse."), openai("b")]
    await create_moa(panel, openai("c"), 3).ainvoke({"messages": [("system", "S."), ("user", "Why?")]})
    references = synthesis("answer of a #1", "answer of b #1")
    assert sent(server, "a") == [
        [system("Be terse.\n\nS."), QUESTION],
        [system(f"Be terse.\n\nS.\n\n{references}"), QUESTION],
    ]
    assert sent(server, "b") == [[system("S."), QUESTION], [system(f"S.\n\n{references}"), QUESTION]]
    assert sent(server, "c")[0][0]["content"].startswith("S.\n\n")


async def test_the_aggregators_own_system_prompt_stands_first(server: RecordingServer, openai: Make) -> None:
    """A final model with a `system` reads it before the synthesis; no proposer sees it."""
    await create_moa([openai("a")], Proposer(openai("c"), system="Be kind."), 2).ainvoke(ASK)
    assert sent(server, "a") == [[QUESTION]]
    assert sent(server, "c") == [[system("Be kind.\n\n" + synthesis("answer of a #1")), QUESTION]]


async def test_numbers_stay_consecutive_where_a_proposer_failed(server: RecordingServer, make: Make) -> None:
    """A failed proposer is left out: the others are numbered 1, 2, and its error text reaches no model."""
    server.script("b", Behaviour(status=400, error="no such thing"))
    moa = create_moa([make("a"), make("b"), make("d")], make("c"), 2)
    out = await moa.ainvoke(ASK)
    assert sent(server, "c") == [[system(synthesis("answer of a #1", "answer of d #1")), QUESTION]]
    assert [p["status"] for p in out["proposals"]] == ["ok", "error", "ok"]
    assert "no such thing" in out["proposals"][1]["error"]


async def test_references_stand_in_declared_order(server: RecordingServer, openai: Make) -> None:
    """The order of the panel counts, not the order of the answers or of the names (p10 sorts before p2)."""
    names = [f"p{k}" for k in range(1, 12)]
    for name in names:
        server.script(name, Behaviour(latency=0.1 if name == "p1" else 0.0))
    await create_moa([openai(name) for name in names], openai("c"), 2).ainvoke(ASK)
    assert sent(server, "c") == [[system(synthesis(*(f"answer of {name} #1" for name in names))), QUESTION]]


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(text="\n\n  Because.\n\t "),
        Behaviour(text="<think>He asks why.</think>\n\nBecause."),
        Behaviour(text="<think>one</think> <think>two</think>Because."),
        Behaviour(text="thinking that began in the template</think>\n\nBecause."),
        Behaviour(text="Because.", reasoning="He asks why."),
    ],
    ids=["white space", "think block", "two think blocks", "think block without its start", "reasoning_content"],
)
async def test_only_the_response_itself_is_passed_on(server: RecordingServer, make: Make, behaviour: Behaviour) -> None:
    """Surrounding white space and thinking, in the text or beside it, reach neither the next layer nor the state."""
    server.script("a", behaviour)
    out = await create_moa([make("a")], make("c"), 2).ainvoke(ASK)
    assert sent(server, "c") == [[system(synthesis("Because.")), QUESTION]]
    assert out["proposals"][0]["content"] == "Because."


async def test_only_thinking_is_no_answer(server: RecordingServer, openai: Make) -> None:
    """A proposer that thought until its tokens ran out did not answer, and is left out with the reason."""
    server.script("a", Behaviour(text="<think>Let me see, he asks", finish_reason="length"))
    out = await create_moa([openai("a"), openai("b")], openai("c"), 2).ainvoke(ASK)
    assert sent(server, "c") == [[system(synthesis("answer of b #1")), QUESTION]]
    assert "length" in out["proposals"][0]["error"]


async def test_a_panel_per_layer_is_asked_in_its_layer(server: RecordingServer, openai: Make) -> None:
    """With one panel per layer, each model is asked once, with the references of the layer before it."""
    moa = create_moa([[openai("a"), openai("b")], Layer([openai("d")])], openai("c"))
    await moa.ainvoke(ASK)
    assert sent(server, "a") == sent(server, "b") == [[QUESTION]]
    assert sent(server, "d") == [[system(synthesis("answer of a #1", "answer of b #1")), QUESTION]]
    assert sent(server, "c") == [[system(synthesis("answer of d #1")), QUESTION]]


async def test_samples_are_references_of_their_own(server: RecordingServer, openai: Make) -> None:
    """The single-proposer setting asks one model n times, and shows every answer."""
    await create_moa([Proposer(openai("a"), samples=3)], openai("a"), 2).ainvoke(ASK)
    *proposers, final = sent(server, "a")
    assert proposers == [[QUESTION]] * 3
    assert final[0]["content"].removeprefix(AGGREGATE_AND_SYNTHESIZE).count("answer of a") == 3
    assert len(final) == 2


def sampling(body: dict[str, Any]) -> dict[str, Any]:
    limits = {"max_tokens": body.get("max_tokens", body.get("max_completion_tokens"))}
    return {name: value for name, value in {**body, **limits}.items() if name in ("temperature", "max_tokens")}


@pytest.mark.parametrize("kind", STRINGS)
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"temperature": 0.7, "max_tokens": 2048}),
        ({"temperature": 0.0}, {"temperature": 0.0, "max_tokens": 2048}),
        ({"temperature": 1.0, "max_tokens": 9}, {"temperature": 1.0, "max_tokens": 9}),
        ({"temperature": None}, {"max_tokens": 2048}),
        ({"max_tokens": None}, {"temperature": 0.7}),
        ({"temperature": None, "max_tokens": None}, {}),
    ],
    ids=str,
)
async def test_a_model_string_is_asked_with_the_papers_sampling(
    server: RecordingServer, kind: str, given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """0.7 and 2048 unless set, for proposers and the final model alike; `None` sends nothing."""
    model = KINDS[kind]("a", server.base_url, **given)
    await create_moa([model], model, 2).ainvoke(ASK)
    for request in server.requests:
        found = {name: value for name, value in sampling(request.body).items() if value is not None}
        assert found == wanted


@pytest.mark.parametrize("kind", OBJECTS)
async def test_an_object_is_asked_as_it_would_ask_itself(server: RecordingServer, kind: str) -> None:
    """A model given as an object sends the body it sends alone: no temperature, limit or option of ours."""
    async with DefaultAsyncHttpxClient() as http:
        alone = type(KINDS[kind]("a", server.base_url))(
            model="a", base_url=server.base_url, api_key="key", http_async_client=http
        )
        await alone.ainvoke([("user", "Why?")])
    await create_moa([KINDS[kind]("a", server.base_url)], KINDS[kind]("a", server.base_url), 2).ainvoke(ASK)
    own, proposer, final = (request.body for request in server.requests)
    assert proposer == own
    assert final.keys() == own.keys()


async def test_an_objects_own_parameters_are_kept(server: RecordingServer) -> None:
    """What the user set on the object is sent; what the Proposer sets goes before it, for that seat alone."""
    model = ChatOpenAI(model="a", base_url=server.base_url, api_key="key", temperature=0.2, seed=7)
    await create_moa([Proposer(model, temperature=1.5)], model, 2).ainvoke(ASK)
    proposer, final = (request.body for request in server.requests)
    assert (proposer["temperature"], proposer["seed"]) == (1.5, 7)
    assert (final["temperature"], final["seed"]) == (0.2, 7)


async def test_parameters_are_sent(server: RecordingServer) -> None:
    """Further keywords of a model string reach the provider."""
    model = Proposer("openai:a", base_url=server.base_url, parameters={"top_p": 0.5})
    await create_moa([model], model, 2).ainvoke(ASK)
    assert [request.body["top_p"] for request in server.requests] == [0.5, 0.5]


@pytest.mark.parametrize("kind", STRINGS)
async def test_a_server_of_ones_own_gets_no_key(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """With a `base_url` and no key set, none is needed; `api_key_env` names the one to send."""
    monkeypatch.setenv("MY_KEY", "a-key-of-mine")
    plain = KINDS[kind]("a", server.base_url)
    keyed = KINDS[kind]("b", server.base_url, api_key_env="MY_KEY")
    await create_moa([plain], keyed, 2).ainvoke(ASK)
    (a,), (b,) = server.requests_for("a"), server.requests_for("b")
    assert b.headers["authorization"] == "Bearer a-key-of-mine"
    assert "a-key-of-mine" not in a.headers["authorization"]


async def test_usage_comes_back_of_every_kind_also_when_streamed(server: RecordingServer, make: Make) -> None:
    """Usage is asked for in a stream too, though LangChain leaves it out for custom endpoints."""
    moa = create_moa([make("a")], make("c"), 2)
    streamed = [state async for state in moa.astream(ASK, stream_mode=["messages", "values"])]
    values = [part for mode, part in streamed if mode == "values"][-1]
    receipt = values["messages"][-1].response_metadata["moa"]
    assert receipt["input_tokens"] == sum(request.prompt_tokens for request in server.requests)
    assert receipt["output_tokens"] == sum(request.completion_tokens for request in server.requests)


async def test_attempts_are_the_same_request(server: RecordingServer, openai: Make) -> None:
    """A retry after a transient failure asks the same thing again."""
    server.script("a", Behaviour(status=429, retry_after="0.01"), Behaviour(text="Because."))
    await create_moa([openai("a")], openai("c"), 2, policy=LayerPolicy(retries=1)).ainvoke(ASK)
    first, second = server.requests_for("a")
    assert first.body == second.body
    assert sent(server, "c") == [[system(synthesis("Because.")), QUESTION]]


async def test_prompts_begin_alike_for_prefix_caches(server: RecordingServer, make: Make) -> None:
    """A layer's samples are sent one prompt; a next turn's begins with the turns before it, so a cache may hit."""
    a = make("a")
    moa = create_moa([replace(a, samples=3) if isinstance(a, Proposer) else Proposer(a, samples=3)], make("c"), 2)
    first = await moa.ainvoke(ASK)
    await moa.ainvoke({"messages": [*first["messages"], ("user", "And at dusk?")]})
    prompts = sent(server, "a")
    turns = len(prompts) // 2
    assert all(prompt == prompts[0] for prompt in prompts[:turns])
    assert all(prompt[: len(prompts[0])] == prompts[0] for prompt in prompts[turns:])
