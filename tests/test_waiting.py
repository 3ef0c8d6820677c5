"""How a layer waits: quorum, grace, cut, and the quorum that cannot be met."""

import asyncio
import time
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from moa_graph import Layer, LayerPolicy, MoAConfigError, Proposer, QuorumError, create_layer, create_moa
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, server_error

ASK = {"messages": [("user", "Why?")]}
HANG = Answer("too late", stall_after=0)
LONG = 30.0  # seconds nobody waits for: a test that does fails by its own limit
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


async def run(graph: Any, way: str, config: Any = None, asked: Any = ASK) -> Any:
    async with asyncio.timeout(LONG):
        if way == "ainvoke":
            return await graph.ainvoke(asked, config)
        return await asyncio.to_thread(graph.invoke, asked, config)


def statuses(out: Any) -> list[str]:
    return [proposal["status"] for proposal in out["proposals"]]


# Quorum and grace


@WAYS
async def test_without_a_grace_everyone_is_waited_for(way: str) -> None:
    """A met quorum cuts nobody where no grace is set."""
    moa = create_moa([model("a"), model("b", latency=0.2)], model("c"), 2, policy=LayerPolicy(quorum=1))
    assert statuses(await run(moa, way)) == ["ok", "ok"]


@WAYS
@pytest.mark.parametrize("grace", [0, 0.05])
async def test_stragglers_are_cut_after_the_grace(way: str, grace: float) -> None:
    """With its quorum met and the grace over, a layer goes on: who still answers is cancelled, told, and left out."""
    slow, final = model("slow", HANG), model("c")
    policy = LayerPolicy(quorum=2, timeout=None, grace=grace)
    out = await run(create_moa([model("a"), slow, model("b")], final, 2, policy=policy), way)
    assert statuses(out) == ["ok", "cut", "ok"]
    assert (slow.cancelled, slow.in_flight) == (slow.calls, 0)
    cut = out["proposals"][1]
    assert cut["content"] == ""
    assert cut["error"].startswith("cut after ")
    if way == "ainvoke":  # in threads it may have begun after the quorum was met
        assert cut["seconds"] >= grace
    assert final.prompts[0][0].text.endswith("\n1. It is a.\n2. It is b.")


@WAYS
async def test_an_answer_within_the_grace_counts(way: str) -> None:
    """The grace is for answers: one that comes in it is used, and the layer does not wait for its end."""
    moa = create_moa([model("a"), model("b", latency=0.1)], model("c"), 2, policy=LayerPolicy(quorum=1, grace=2 * LONG))
    assert statuses(await run(moa, way)) == ["ok", "ok"]


@WAYS
async def test_the_grace_begins_with_the_quorum(way: str) -> None:
    """Below the quorum nobody is cut, however long the first answer has been there."""
    moa = create_moa(
        [model("a"), model("b", latency=0.3), model("d", HANG)],
        model("c"), 2, policy=LayerPolicy(quorum=2, grace=0.05),
    )  # fmt: skip
    assert statuses(await run(moa, way)) == ["ok", "ok", "cut"]


@WAYS
async def test_failures_do_not_make_a_quorum(way: str) -> None:
    """A failure starts no grace: the layer waits for the answer it needs, and then tells the failure."""
    moa = create_moa([model("bad", bad_request()), model("a", latency=0.2)], model("c"), 2, policy=LayerPolicy(grace=0))
    assert statuses(await run(moa, way)) == ["error", "ok"]


@WAYS
async def test_a_proposers_own_time_may_end_before_the_grace(way: str) -> None:
    """Out of its own time within the grace is "timeout", not "cut"; a Proposer's `timeout` goes first."""
    hasty = Proposer(model("b", HANG), timeout=0.1)
    policy = LayerPolicy(timeout=LONG, grace=LONG)
    out = await run(create_moa([model("a"), hasty], model("c"), 2, policy=policy), way)
    assert [(p["status"], p.get("error")) for p in out["proposals"]][1] == ("timeout", "no answer within 0.1 s")


async def test_a_patient_proposer_is_cut_all_the_same() -> None:
    """A Proposer with a longer time of its own does not hold up the layer beyond the grace."""
    patient = Proposer(model("b", HANG), timeout=2 * LONG)
    out = await run(create_moa([model("a"), patient], model("c"), 2, policy=LayerPolicy(grace=0.05)), "ainvoke")
    assert statuses(out) == ["ok", "cut"]


@WAYS
async def test_each_layer_has_its_own_grace(way: str) -> None:
    """A layer's policy goes before the mixture's; a cut in layer 1 cuts nobody in layer 2."""
    slow, steady = model("slow", HANG), model("steady")
    panels = [Layer([model("a"), slow], LayerPolicy(grace=0)), [model("a"), steady]]
    out = await run(create_moa(panels, model("c"), policy=LayerPolicy(quorum=2)), way)
    assert statuses(out) == ["ok", "cut", "ok", "ok"]


# The quorum that cannot be met


@WAYS
async def test_an_impossible_quorum_is_told_at_once(way: str) -> None:
    """QuorumError comes when too many have failed, not at the last one's timeout; who still answers is cancelled."""
    slow = model("slow", HANG)
    panel = [model("a"), model("bad", bad_request(), latency=0.1), slow]
    moa = create_moa(panel, model("c"), 2, policy=LayerPolicy(quorum=3, timeout=2 * LONG))
    with pytest.raises(QuorumError) as caught:
        await run(moa, way)
    assert (slow.cancelled, slow.in_flight) == (1, 0)
    assert [p["status"] for p in caught.value.proposals] == ["ok", "error", "cut"]
    said = str(caught.value)
    assert said.startswith("layer 1: 1 of 3 proposers answered and 3 must; bad: BadRequestError")
    assert "slow: cut after " in said


@WAYS
async def test_a_quorum_missed_by_timeouts(way: str) -> None:
    """Proposers that all hang end in one QuorumError that names each, with how long it was waited for."""
    panel = [Proposer(model(name, HANG), name=name) for name in "ab"]
    with pytest.raises(QuorumError) as caught:
        await run(create_moa(panel, model("c"), 2, policy=LayerPolicy(timeout=0.1)), way)
    assert str(caught.value).endswith("a, b: no answer within 0.1 s")


@WAYS
async def test_a_later_layer_may_miss_its_quorum(way: str) -> None:
    """A layer that fails after one that did not says so with its number; the final model is not asked."""
    final = model("c")
    moa = create_moa([model("a", "fine", server_error())], final, 3, policy=LayerPolicy(retries=0))
    with pytest.raises(QuorumError, match="layer 2: 0 of 1"):
        await run(moa, way)
    assert final.calls == 0


# No deadlock


@WAYS
@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_langgraphs_max_concurrency_is_kept_without_a_deadlock(way: str, at_once: int) -> None:
    """`config["max_concurrency"]` bounds a layer's calls; those that failed do not keep the others from their turn."""
    asked = ScriptedChatModel(answers=[bad_request(), bad_request(), "yes"], latency=0.01)
    moa = create_moa([Proposer(asked, samples=6)], model("c"), 3, policy=LayerPolicy(quorum=4, timeout=LONG))
    out = await run(moa, way, {"max_concurrency": at_once})
    assert sorted(statuses(out)) == ["error"] * 2 + ["ok"] * 10
    assert asked.max_in_flight == at_once


@WAYS
@pytest.mark.parametrize("at_once", [1, 2])
async def test_an_impossible_quorum_is_told_at_any_concurrency(way: str, at_once: int) -> None:
    """With failures in front of a queue, QuorumError comes all the same, and nobody behind them is asked."""
    last = model("z")  # LangGraph starts nodes by name
    panel = [model(f"m{k}", bad_request(), latency=0.01) for k in range(4)]
    moa = create_moa([*panel, last], model("c"), 2, policy=LayerPolicy(quorum=5))
    with pytest.raises(QuorumError, match="0 of 5"):
        await run(moa, way, {"max_concurrency": at_once})
    assert last.calls == 0


@WAYS
@pytest.mark.parametrize("at_once", [1, 2])
async def test_a_queue_is_cut_after_the_grace(way: str, at_once: int) -> None:
    """A proposer still in the queue when the grace ends is cut and never asked."""
    slow, last = model("slow", HANG), model("last", HANG)
    moa = create_moa([model("a"), slow, last], model("c"), 2, policy=LayerPolicy(grace=0.05, timeout=LONG))
    out = await run(moa, way, {"max_concurrency": at_once})
    assert statuses(out).count("cut") == 2
    assert slow.calls + last.calls == at_once


@WAYS
@pytest.mark.parametrize("limit", [1, 2])
async def test_our_max_concurrency_makes_no_deadlock(way: str, limit: int) -> None:
    """`LayerPolicy.max_concurrency` with failing proposers in three layers, the final model in the same queue."""
    asked = ScriptedChatModel(answers=[bad_request(), bad_request(), "yes"], latency=0.01)
    policy = LayerPolicy(quorum=2, timeout=LONG, max_concurrency=limit)
    out = await run(create_moa([Proposer(asked, samples=4)], asked, 4, policy=policy), way)
    assert sorted(statuses(out)) == ["error"] * 2 + ["ok"] * 10
    assert asked.max_in_flight <= limit


async def test_a_queued_proposers_time_begins_with_its_turn() -> None:
    """Waiting in the queue uses nothing of a proposer's timeout."""
    asked = model("a", latency=0.15)
    policy = LayerPolicy(quorum=4, timeout=0.4, max_concurrency=1)
    assert (
        statuses(await run(create_moa([Proposer(asked, samples=4)], model("c"), 2, policy=policy), "ainvoke"))
        == ["ok"] * 4
    )


@WAYS
async def test_a_person_is_asked_while_another_proposer_fails(way: str) -> None:
    """A layer that cannot go on before a person has answered is interrupted, not hung; resumed, it asks the rest."""
    person = Proposer(RunnableLambda(lambda _: f"She says {interrupt('Yes or no?')}."), name="person")
    bad = model("bad", bad_request())
    moa = create_moa([person, bad], model("c"), 2, checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    stopped = await run(moa, way, thread)
    assert [each.value for each in stopped["__interrupt__"]] == ["Yes or no?"]
    out = await run(moa, way, thread, Command(resume="yes"))
    assert [(p["status"], p["content"]) for p in out["proposals"]] == [("ok", "She says yes."), ("error", "")]


async def test_a_run_given_up_leaves_nothing_running() -> None:
    """Cancelling `ainvoke` cancels the calls in flight and those that wait for a quorum."""
    slow = model("slow", HANG)
    moa = create_moa([Proposer(slow, samples=2), model("bad", bad_request())], model("c"), 2)
    before = asyncio.all_tasks()
    task = asyncio.create_task(moa.ainvoke(ASK))
    async with asyncio.timeout(LONG):
        while slow.in_flight < 2:  # noqa: ASYNC110 - a model tells no events
            await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (slow.cancelled, slow.in_flight) == (2, 0)
    assert asyncio.all_tasks() == before


@WAYS
async def test_a_layer_alone_keeps_its_policy(way: str) -> None:
    """`create_layer` waits as a layer of a mixture does."""
    layer = create_layer([model("a"), model("slow", HANG)], policy=LayerPolicy(grace=0))
    assert statuses(await run(layer, way)) == ["ok", "cut"]


async def test_runs_at_once_wait_each_for_itself() -> None:
    """A run whose proposers fail does not decide for another run of the same graph."""
    said = lambda prompt: bad_request() if prompt[-1].text == "bad" else "fine"  # noqa: E731
    moa = create_moa([ScriptedChatModel(answers=said, latency=0.01)], model("c"), 2)
    asked = [{"messages": [("user", "bad" if k % 2 else "good")]} for k in range(20)]
    outs = await asyncio.gather(*(moa.ainvoke(each) for each in asked), return_exceptions=True)
    assert [isinstance(out, QuorumError) for out in outs] == [False, True] * 10


# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quorum": 0}, "quorum is 0: a whole number of at least 1"),
        ({"quorum": True}, "quorum is True"),
        ({"quorum": 1.5}, r"quorum is 1\.5"),
        ({"timeout": 0}, "timeout is 0: it must be more than 0 seconds"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": float("nan")}, "timeout is nan: seconds as a number, or None"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"grace": -0.1}, r"grace is -0\.1: it must be 0 or more seconds"),
        ({"retries": -1}, "retries is -1: a whole number of at least 0"),
        ({"max_concurrency": 0}, "max_concurrency is 0: a whole number of at least 1"),
    ],
    ids=str,
)
def test_a_policy_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    """What no layer can keep is told when the policy is made, with the name, the value and what would be valid."""
    with pytest.raises(MoAConfigError, match=message):
        LayerPolicy(**values)


@pytest.mark.parametrize(
    ("proposer", "message"), [({"timeout": -1.0}, r"timeout is -1\.0"), ({"retries": -1}, "retries is -1")], ids=str
)
def test_a_proposers_own_times_are_checked_too(proposer: dict[str, Any], message: str) -> None:
    """A Proposer's timeout and retries are held to the same ranges, when the mixture is built."""
    with pytest.raises(MoAConfigError, match=message):
        create_moa([Proposer(model("a"), **proposer)], model("c"), 2)
    with pytest.raises(MoAConfigError, match=message):
        create_moa([model("a")], Proposer(model("c"), **proposer), 2)


def test_a_quorum_above_the_panel_counts_samples() -> None:
    """The panel's size is how many are asked, samples included."""
    create_moa([Proposer(model("a"), samples=3)], model("c"), 2, policy=LayerPolicy(quorum=3))
    with pytest.raises(MoAConfigError, match="a quorum of 4 needs more than its 3 proposers"):
        create_moa([Proposer(model("a"), samples=3)], model("c"), 2, policy=LayerPolicy(quorum=4))


def test_seconds_are_told_as_they_passed() -> None:
    """A proposal's seconds are wall time: at least the model's, at most the run's."""
    moa = create_moa([model("a", latency=0.05)], model("c"), 2)
    started = time.monotonic()
    out = moa.invoke(ASK)
    assert 0.05 <= out["proposals"][0]["seconds"] <= time.monotonic() - started
