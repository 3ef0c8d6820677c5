"""A budget: what a run may spend, checked before every layer and before the final model."""

import asyncio
import gc
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from moa_graph import Budget, BudgetExceededError, LayerPolicy, MoAConfig, MoAConfigError, Prompt, Proposer, create_moa
from moa_graph.fit import about
from moa_graph.prices import Price
from moa_graph.reading import about_reference
from moa_graph.stats import record
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, rate_limited
from tests.server import Behaviour, RecordingServer
from tests.test_stats import call, made

ASK = {"messages": [("user", "Why is the sky blue?")]}
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])
SHORT = Prompt("Merge:")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)


def panel(size: int = 3, *answers: Any) -> list[Proposer]:
    return [Proposer(ScriptedChatModel(answers=list(answers) or [f"It is {k}."]), name=f"p{k}") for k in range(size)]


def mixture(budget: Budget | None, proposers: Any = None, **more: Any) -> Any:
    final = more.pop("final", ScriptedChatModel(answers=["So it is."]))
    return create_moa(proposers or panel(), final, more.pop("layers", 3), budget=budget, prompt=SHORT, **more)


async def run(moa: Any, way: str = "ainvoke", given: Any = ASK, config: Any = None) -> Any:
    return await moa.ainvoke(given, config) if way == "ainvoke" else await asyncio.to_thread(moa.invoke, given, config)


def receipt_of(out: Any) -> Any:
    return out["messages"][-1].response_metadata["moa"]


def calls(proposers: list[Proposer]) -> int:
    return sum(p.model.calls for p in proposers)  # type: ignore[union-attr]


@WAYS
async def test_a_run_within_its_budget_is_a_run(way: str) -> None:
    """A budget that is large enough changes nothing."""
    receipt = receipt_of(await run(mixture(Budget(calls=7)), way))
    assert (receipt["calls"], receipt["stopped"]) == (7, None)


@WAYS
async def test_a_layer_that_does_not_fit_is_not_asked(way: str) -> None:
    """With five calls the second layer of three is not begun, and the error keeps the answers of the first."""
    proposers, final = panel(), ScriptedChatModel()
    with pytest.raises(BudgetExceededError, match=r"from layer 2 on .* 3 calls more .* 3 calls of 5 calls") as raised:
        await run(mixture(Budget(calls=5), proposers, final=final), way)
    assert (calls(proposers), final.calls) == (3, 0)
    assert [p["content"] for p in raised.value.proposals] == ["It is 0.", "It is 1.", "It is 2."]
    assert raised.value.receipt
    assert (raised.value.receipt["calls"], raised.value.receipt["final"]["status"]) == (3, "unasked")


@WAYS
async def test_the_final_model_is_not_asked_either(way: str) -> None:
    """Six calls are the layers': there is none left for the seventh."""
    final = ScriptedChatModel()
    with pytest.raises(BudgetExceededError, match="before the final model") as raised:
        await run(mixture(Budget(calls=6), final=final), way)
    assert final.calls == 0
    assert len(raised.value.proposals) == 6


@WAYS
async def test_a_thread_is_resumed_with_a_higher_budget(way: str) -> None:
    """What was answered before is not asked again, and counts."""
    saver, proposers, config = InMemorySaver(), panel(), {"configurable": {"thread_id": "t"}}
    with pytest.raises(BudgetExceededError):
        await run(mixture(Budget(calls=5), proposers, checkpointer=saver), way, config=config)
    with pytest.raises(BudgetExceededError, match="3 calls of 5 calls are spent"):
        await run(mixture(Budget(calls=5), proposers, checkpointer=saver), way, None, config)
    out = await run(mixture(Budget(calls=7), proposers, checkpointer=saver), way, None, config)
    assert out["messages"][-1].text == "So it is."
    assert calls(proposers) == 6
    assert receipt_of(out)["calls"] == 4


@WAYS
async def test_with_answer_the_final_model_answers_from_what_there_is(way: str) -> None:
    """`on_exceed="answer"`: the second layer is left out, the final model reads the first, the receipt says so."""
    proposers, final = panel(), ScriptedChatModel()
    out = await run(mixture(Budget(calls=6, on_exceed="answer"), proposers, final=final), way)
    assert (calls(proposers), len(out["proposals"])) == (3, 3)
    assert final.prompts[0][0].text == "Merge:\n1. It is 0.\n2. It is 1.\n3. It is 2."
    assert "from layer 2 on" in receipt_of(out)["stopped"]
    assert receipt_of(out)["calls"] == 4


async def test_a_layer_that_is_left_out_is_told() -> None:
    """Each layer that is not asked is an event with the reason; nothing says that it began."""
    moa = mixture(Budget(calls=4, on_exceed="answer"), layers=4)
    events = [e async for _, e in moa.astream(ASK, stream_mode="custom", subgraphs=True)]
    told = [(e["type"], e["layer"]) for e in events if "layer_" in e["type"]]
    assert told == [
        ("moa.layer_started", 1), ("moa.layer_done", 1), ("moa.layer_left_out", 2), ("moa.layer_left_out", 3),
    ]  # fmt: skip
    assert "the budget is too small" in next(e["why"] for e in events if e["type"] == "moa.layer_left_out")


async def test_with_answer_and_room_for_nobody_else_the_final_model_answers_alone() -> None:
    """The first layer does not fit: a plain answer, and the receipt says why."""
    final = ScriptedChatModel()
    out = await run(mixture(Budget(calls=2, on_exceed="answer"), final=final))
    assert (out["proposals"], len(final.prompts[0])) == ([], 1)
    assert "from layer 1 on" in receipt_of(out)["stopped"]


async def test_tokens_are_expected_and_counted() -> None:
    """A layer's prompts and 500 tokens an answer are set against the limit; what it then used counts."""
    with pytest.raises(BudgetExceededError, match=r"from layer 1 on .*about 1,5\d\d tokens more"):
        await run(mixture(Budget(tokens=1500)))
    short = [Proposer(p.model, name=p.name, max_tokens=20) for p in panel()]
    assert receipt_of(await run(mixture(Budget(tokens=900), short)))["calls"] == 7


async def test_dollars_are_expected_and_counted() -> None:
    """With a price of its own per model, a layer that would cost more than is left is not asked."""
    dear = [Proposer(p.model, name=p.name, price=Price(0, 1000)) for p in panel()]
    final = Proposer(ScriptedChatModel(), price=Price(0, 0))
    with pytest.raises(BudgetExceededError, match=r"from layer 2 on .*about \$1.5 more .*\$0.009 of \$1.505"):
        await run(mixture(Budget(usd=1.505), dear, final=final))


async def test_a_further_attempt_is_a_call_too() -> None:
    """Nobody is asked again where the budget has no call left for it."""
    limited = ScriptedChatModel(answers=[rate_limited(retry_after=0.0), "late"])
    members = [*panel(1), Proposer(limited, name="limited")]
    out = await run(mixture(Budget(calls=3, shared=True), members, layers=2))
    assert (limited.calls, [p["status"] for p in out["proposals"]]) == (1, ["ok", "error"])
    out = await run(mixture(Budget(calls=4, shared=True), members, layers=2))
    assert [p["status"] for p in out["proposals"]] == ["ok", "ok"]


async def test_a_batch_shares_a_budget(server: RecordingServer) -> None:
    """Of twenty runs at once seven begin on a shared budget of 30 calls, and all of those end with an answer."""
    member = [Proposer(f"openai:{n}", base_url=server.base_url, name=n) for n in ("a", "b", "c")]
    moa = create_moa(member, Proposer("openai:d", base_url=server.base_url), 2, budget=Budget(calls=30, shared=True))
    done = await moa.abatch([ASK] * 20, return_exceptions=True)
    answered = [out for out in done if not isinstance(out, Exception)]
    assert all(isinstance(out, BudgetExceededError) for out in done if out not in answered)
    assert answered
    assert (len(answered), len(server.requests)) == (7, 28)
    with pytest.raises(BudgetExceededError):
        await run(moa)


async def test_a_run_that_was_given_up_gives_back_what_was_set_aside_for_it() -> None:
    """A cancelled run and a failed one leave the rest of a shared budget to the others."""
    budget = Budget(calls=7, shared=True)
    hanging = mixture(budget, panel(1, Answer("Never.", stall_after=0)), layers=3)
    task = asyncio.create_task(run(hanging))
    while not budget.purse()._held.calls:  # noqa: ASYNC110 - nothing else tells that it has begun
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    with pytest.raises(Exception, match="layer 1: 0 of 1"):
        await run(mixture(budget, panel(1, bad_request()), layers=3))
    gc.collect()
    assert receipt_of(await run(mixture(budget, panel(2), layers=3)))["calls"] == 5


async def test_each_run_has_a_budget_of_its_own(server: RecordingServer) -> None:
    """Without `shared`, one graph answers any number of questions with the budget of one."""
    moa = mixture(Budget(calls=7))
    assert len(await moa.abatch([ASK] * 5)) == 5


@pytest.mark.parametrize("limit", range(1, 15))
async def test_a_run_never_goes_over_by_more_than_what_is_in_flight(server: RecordingServer, limit: int) -> None:
    """Whatever fails and is asked again, the server sees no more requests than the budget, and the receipt as many."""
    member = [Proposer(f"openai:{n}", base_url=server.base_url, name=n) for n in ("a", "b", "c")]
    server.script("b", Behaviour(status=429, retry_after="0"), Behaviour(status=500), Behaviour())
    budget = Budget(calls=limit)
    moa = create_moa(
        member, Proposer("openai:d", base_url=server.base_url), 3, budget=budget, policy=LayerPolicy(retries=3)
    )
    try:
        receipt = receipt_of(await run(moa))
    except BudgetExceededError as error:
        receipt = error.receipt
    assert len(server.requests) <= limit
    assert receipt["calls"] == len(server.requests)


async def test_what_a_cut_call_used_is_taken_to_be_what_was_expected() -> None:
    """Nobody knows what a provider charges for an answer that was cut, so its place in the budget stays taken."""
    priced = [
        Proposer(ScriptedChatModel(answers=["Quick."]), name="quick", price=Price(0, 100)),
        Proposer(ScriptedChatModel(answers=[Answer("Never.", stall_after=0)]), name="cut", price=Price(0, 100)),
    ]
    budget, policy = Budget(usd=0.2, shared=True), LayerPolicy(quorum=1, grace=0.05)
    final = Proposer(ScriptedChatModel(), price=Price(0, 0))
    out = await run(create_moa(priced, final, 2, budget=budget, policy=policy))
    assert receipt_of(out)["cost_usd"] is None
    assert receipt_of(out)["cost_usd_at_least"] == pytest.approx(0.0001)
    assert budget.purse()._spent.usd == pytest.approx(0.0501)


async def test_a_failed_run_gives_back_what_was_held_for_it() -> None:
    """Runs that fail take what they used from a shared budget, and no more."""
    budget = Budget(calls=10, shared=True)
    moa = mixture(budget, panel(3, bad_request()), layers=2)
    for _ in range(3):
        with pytest.raises(Exception, match="layer 1: 0 of 3"):
            await run(moa)
    assert budget.purse()._held == (0, 0, 0)
    assert budget.purse()._spent.calls == 9


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "the budget limits nothing: give usd, tokens or calls"),
        ({"usd": -1}, r"usd is -1: a number of \$ above 0"),
        ({"usd": 0}, "usd is 0"),
        ({"usd": float("nan")}, "usd is nan"),
        ({"usd": "5"}, "usd is '5'"),
        ({"tokens": 1.5}, "tokens is 1.5: a whole number of at least 1"),
        ({"calls": True}, "calls is True"),
        ({"calls": 1, "on_exceed": "warn"}, "on_exceed is 'warn': one of stop, answer"),
        ({"calls": 1, "shared": 1}, "shared is 1: True or False"),
    ],
)
def test_a_budget_that_is_none(given: dict[str, Any], why: str) -> None:
    """A wrong value is named when the budget is made."""
    with pytest.raises(MoAConfigError, match=why):
        Budget(**given)


def test_dollars_want_prices() -> None:
    """A limit in $ for a model whose price nobody knows is refused when the mixture is built, and the model named."""
    with pytest.raises(MoAConfigError, match="budget: usd needs the price of every model, and that of scripted"):
        mixture(Budget(usd=1))


def test_what_is_no_budget_is_refused() -> None:
    """A number is not a budget: of what?"""
    with pytest.raises(MoAConfigError, match=r"budget is 5: give a Budget, such as Budget\(usd=0.05\)"):
        mixture(5)  # type: ignore[arg-type]


def test_in_yaml(tmp_path: Any) -> None:
    """A mixture's file may have a budget."""
    path = tmp_path / "moa.yaml"
    path.write_text("proposers: ['local:smollm2']\naggregator: 'local:smollm2'\nbudget: {usd: 1, on_exceed: answer}\n")
    assert MoAConfig.from_yaml(path).arguments()["budget"] == Budget(usd=1.0, on_exceed="answer")


async def test_further_attempts_leave_the_final_model_its_call() -> None:
    """Whoever would be asked again with the last call of the budget is not: then there would be no answer."""
    limited = ScriptedChatModel(answers=[rate_limited(retry_after=0.0), "late"])
    out = await run(mixture(Budget(calls=3), [*panel(1), Proposer(limited, name="limited")], layers=2))
    assert (limited.calls, receipt_of(out)["calls"]) == (1, 3)


def test_a_budget_as_an_object_in_a_config() -> None:
    """`MoAConfig` takes a `Budget` as well as its keys."""
    made = MoAConfig(proposers=["openai:a"], aggregator="openai:b", budget=Budget(calls=3))
    assert made.budget
    assert made.budget.budget() == Budget(calls=3)


# What it expects of an answer


def described(budget: Budget | None = None, **changes: Any) -> MoAConfig:
    """A mixture of two models in two layers; with answers of 20 tokens in the statistics, where `known` was called."""
    prices = {name: {"input": 1, "output": 10} for name in ("a", "b", "c")}
    given = {"proposers": ["openai:a", "openai:b"], "aggregator": "openai:c", "budget": budget, "prices": prices}
    return MoAConfig(**{**given, **changes})


def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    record(made(call("openai:a"), call("openai:b"), final=call("openai:c", proposer="final")), config="mine")


def built(config: MoAConfig, **runtime: Any) -> Any:
    return config.build(stand_in=lambda name: ScriptedChatModel(answers=["word " * 20], model_name=name), **runtime)


@pytest.mark.parametrize("length", [20, 500])
@pytest.mark.parametrize("own", [True, False])
async def test_a_budget_expects_what_an_estimate_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, length: int, own: bool
) -> None:
    """A run for which all is set aside begins with the tokens of its estimate, and with one less it does not,
    whether lengths were measured or not, and whether the budget is the mixture's or the call's.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if length == 20:
        known(monkeypatch, tmp_path)
    estimated = described().estimate("Why is the sky blue?")
    whole = estimated["input_tokens"] + estimated["output_tokens"]
    assert estimated["output_tokens"] == 5 * length

    def limited(limit: int) -> Any:
        budget = Budget(tokens=limit, shared=True)
        return built(described(budget)) if own else built(described(), budget=budget)

    assert receipt_of(await run(limited(whole)))["calls"] == 5
    with pytest.raises(BudgetExceededError, match="from layer 1 on"):
        await run(limited(whole - 1))


async def test_a_budget_expects_that_references_are_made_to_fit(monkeypatch: Any, tmp_path: Any) -> None:
    """What a small window leaves of them is set aside, as it is estimated, and no more."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    small = {"model": "openai:b", "context_window": 1200}
    final = {**small, "model": "openai:c"}
    changes: dict[str, Any] = {"proposers": ["openai:a", small], "aggregator": final, "max_tokens": None}
    estimated = described(**changes).estimate("Why is the sky blue?")
    assert estimated["layers"][2]["input_tokens"] == 1200 - 1200 // 4
    whole = estimated["input_tokens"] + estimated["output_tokens"]
    assert receipt_of(await run(built(described(Budget(tokens=whole, shared=True), **changes))))["calls"] == 5
    with pytest.raises(BudgetExceededError, match="from layer 1 on"):
        await run(built(described(Budget(tokens=whole - 1, shared=True), **changes)))


@pytest.mark.parametrize("keep", [1, 2])
async def test_a_budget_expects_of_windows_what_an_estimate_does(monkeypatch: Any, tmp_path: Any, keep: int) -> None:
    """Each reads its part of the answers, and what those before it made of theirs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    windows = {"sequential": {"model": "openai:c", "window": 3, "keep": keep}}
    changes: dict[str, Any] = {"proposers": [{"model": "openai:a", "samples": 8}], "aggregator": windows, "layers": 2}
    estimated = described(**changes).estimate("Why is the sky blue?")
    whole = estimated["input_tokens"] + estimated["output_tokens"]
    bound = described(Budget(tokens=whole, shared=True), **changes)
    assert receipt_of(await run(built(bound)))["calls"] == estimated["calls"]
    with pytest.raises(BudgetExceededError, match="from layer 1 on"):
        await run(built(described(Budget(tokens=whole - 1, shared=True), **changes)))


MANY = [{"model": "openai:a", "samples": 6}]


@pytest.mark.parametrize("on_exceed", ["stop", "answer"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("proposers", [["openai:a", "openai:b"], [MANY, ["openai:b"]], [["openai:b"], MANY]])
async def test_what_was_estimated_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, on_exceed: Any, shared: bool, proposers: Any
) -> None:
    """Where answers are as long as they were measured, a budget of what was estimated leaves nothing out: what is read
    counts for what was written, not for the twice as much that its characters are taken for.
    """
    known(monkeypatch, tmp_path)
    config = described(proposers=proposers)
    estimated = config.estimate("Why is the sky blue?")
    assert about("word " * 20) > 2 * 20
    for limit in ({"usd": estimated["cost_usd"]}, {"tokens": estimated["input_tokens"] + estimated["output_tokens"]}):
        budget = Budget(**limit, on_exceed=on_exceed, shared=shared)  # type: ignore[arg-type]
        receipt = receipt_of(await run(built(config, budget=budget)))
        assert (receipt["calls"], receipt["stopped"]) == (estimated["calls"], None)


def test_a_reference_is_as_long_as_it_was_written() -> None:
    """As the provider counted it; estimated where that is more (somebody thought first), unknown, or was edited."""
    said: Any = {"content": "word " * 20, "usage": {"output_tokens": 25}}
    estimated = about(said["content"])
    assert about_reference(said) == 25
    assert about_reference({**said, "usage": {"output_tokens": 900}}) == estimated
    assert about_reference({**said, "usage": {}}) == about_reference({**said, "edited": True}) == estimated
    assert about_reference({**said, "critique": "Too short."}) > 25 + about("Too short.")


def test_lengths_are_read_for_a_budget_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The store is read where there is a budget, not otherwise, and not where it is switched off."""
    known(monkeypatch, tmp_path)
    lengths = [p.usual_output for p in described(Budget(calls=9)).arguments()["proposers"]]
    assert lengths == [20.0, 20.0]
    assert [p.usual_output for p in described().arguments()["proposers"]] == [None, None]
    monkeypatch.setenv("MOA_GRAPH_STATS", "off")
    assert [p.usual_output for p in described(Budget(calls=9)).arguments()["proposers"]] == [None, None]


async def test_a_proposer_may_say_how_long_its_answers_are() -> None:
    """`usual_output` goes before 500 tokens, `max_tokens` before it, and what is no number is refused."""
    for said, most, whole in ((1000, None, r"1,0\d\d"), (1000, 700, r"7\d\d")):
        one = Proposer(ScriptedChatModel(), usual_output=said, max_tokens=most)
        with pytest.raises(BudgetExceededError, match=f"about {whole} tokens more"):
            await run(mixture(Budget(tokens=600), [one]))
    with pytest.raises(MoAConfigError, match="usual_output is -1: a number of tokens is needed"):
        mixture(None, [Proposer(ScriptedChatModel(), usual_output=-1)])
