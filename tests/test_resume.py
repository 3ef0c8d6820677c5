"""Nothing paid for is lost: failed, interrupted and killed runs are resumed where they stopped."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from moa_graph import FinalError, LayerPolicy, QuorumError, create_layer, create_moa
from moa_graph.testing import ScriptedChatModel, bad_request, server_error
from tests.interrupted import ASK, THREAD, mixture, opened
from tests.postgres import postgres
from tests.server import Behaviour, RecordingServer

ROOT = Path(__file__).parents[1]
LONG = 30.0  # seconds nobody waits for
SAVERS = pytest.mark.parametrize("saver", ["memory", "memory, sync", "sqlite, sync", "sqlite"])


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


@asynccontextmanager
async def checkpointer_of(saver: str, directory: Path) -> AsyncIterator[Any]:
    where = str(directory / "checkpoints.sqlite")
    if saver == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(where) as checkpointer:
            yield checkpointer
    elif saver == "sqlite, sync":
        with SqliteSaver.from_conn_string(where) as checkpointer:
            yield checkpointer
    else:
        yield InMemorySaver()


async def run(graph: Any, saver: str, asked: Any, thread: Any = THREAD) -> Any:
    """As the saver allows: SQLite's sync one works with `invoke` alone."""
    async with asyncio.timeout(LONG):
        if "sync" in saver:
            return await asyncio.to_thread(graph.invoke, asked, thread)
        return await graph.ainvoke(asked, thread)


def calls(*models: ScriptedChatModel) -> list[int]:
    return [each.calls for each in models]


# A quorum missed


@SAVERS
@pytest.mark.parametrize("layer", [1, 2])
async def test_a_missed_quorum_is_resumed_with_those_that_did_not_answer(
    saver: str, layer: int, tmp_path: Path
) -> None:
    """After QuorumError, `invoke(None, config)` asks only those that failed, in the first and in a later layer."""
    fine = ["fine"] * (layer - 1)
    a, b, c, final = model("a"), model("b", *fine, bad_request(), "now", latency=0.1), model("c"), model("final")
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        moa = create_moa([a, b, c], final, layer + 1, policy=LayerPolicy(quorum=3), checkpointer=checkpointer)
        with pytest.raises(QuorumError, match=f"layer {layer}: 2 of 3"):
            await run(moa, saver, ASK)
        assert calls(a, b, c, final) == [layer, layer, layer, 0]
        out = await run(moa, saver, None)
    assert calls(a, b, c, final) == [layer, layer + 1, layer, 1]
    said = [p["content"] for p in out["proposals"] if p["layer"] == layer]
    assert said == ["It is a.", "now", "It is c."]


@SAVERS
async def test_a_thread_may_fail_again_and_again(saver: str, tmp_path: Path) -> None:
    """Each resumed run keeps what it got; the error always tells everyone, and who failed before is asked anew."""
    a = model("a")
    b, c = model("b", "late", bad_request(), "b", latency=0.3), model("c", bad_request(), "c", latency=0.1)
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        moa = create_moa([a, b, c], model("final"), 2, policy=LayerPolicy(quorum=3), checkpointer=checkpointer)
        for asked, told in ((ASK, ["ok", "cut", "error"]), (None, ["ok", "error", "ok"])):
            with pytest.raises(QuorumError) as caught:
                await run(moa, saver, asked)
            assert [p["status"] for p in caught.value.proposals] == told
        out = await run(moa, saver, None)
    assert calls(a, b, c) == [1, 3, 2]
    assert [p["content"] for p in out["proposals"]] == ["It is a.", "b", "c"]


@SAVERS
async def test_what_was_answered_before_is_part_of_the_quorum(saver: str, tmp_path: Path) -> None:
    """A resumed layer counts the earlier answers: with quorum met by them and one more, a new failure is forgiven."""
    a = model("a")
    b, c = model("b", bad_request(), latency=0.1), model("c", bad_request(), "c", latency=0.1)
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        moa = create_moa([a, b, c], model("final"), 2, policy=LayerPolicy(quorum=2), checkpointer=checkpointer)
        with pytest.raises(QuorumError):
            await run(moa, saver, ASK)
        out = await run(moa, saver, None)
    assert [p["status"] for p in out["proposals"]] == ["ok", "error", "ok"]
    assert calls(a, b, c) == [1, 2, 2]


@SAVERS
async def test_answers_are_kept_before_the_error_is_raised(saver: str, tmp_path: Path) -> None:
    """Whatever the order in which they end, an answer given before QuorumError is never asked for again: 40 times."""
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        for turn in range(40):
            good = [model(f"g{k}") for k in range(4)]
            bad = model("bad", bad_request(), "now", latency=0.001 * (turn % 4))
            policy = LayerPolicy(quorum=5)
            moa = create_moa([*good[:2], bad, *good[2:]], model("c"), 2, policy=policy, checkpointer=checkpointer)
            thread = {"configurable": {"thread_id": f"turn {turn}"}}
            with pytest.raises(QuorumError) as caught:
                await run(moa, saver, ASK, thread)
            told = {p["proposer"] for p in caught.value.proposals if p["status"] == "ok"}
            await run(moa, saver, None, thread)
            again = {each.model_name for each in good if each.calls > 1}
            assert not told & again, turn


@SAVERS
async def test_a_layer_alone_is_resumed(saver: str, tmp_path: Path) -> None:
    """A compiled layer with a checkpointer of its own keeps its answers too."""
    a, b = model("a"), model("b", bad_request(), "now", latency=0.05)
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        layer = create_layer([a, b], policy=LayerPolicy(quorum=2), checkpointer=checkpointer)
        with pytest.raises(QuorumError):
            await run(layer, saver, ASK)
        out = await run(layer, saver, None)
    assert calls(a, b) == [1, 2]
    assert [p["content"] for p in out["proposals"]] == ["It is a.", "now"]


@SAVERS
async def test_a_mixture_within_a_graph_is_resumed_through_it(saver: str, tmp_path: Path) -> None:
    """Embedded, a mixture keeps its answers with its parent's checkpointer, and the parent's thread is resumed."""
    a, b = model("a"), model("b", bad_request(), "now", latency=0.05)
    moa = create_moa([a, b], model("c"), 2, policy=LayerPolicy(quorum=2))
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        graph = StateGraph(MessagesState).add_node("moa", moa).add_edge(START, "moa").add_edge("moa", END)
        parent = graph.compile(checkpointer=checkpointer)
        with pytest.raises(QuorumError):
            await run(parent, saver, ASK)
        out = await run(parent, saver, None)
    assert calls(a, b) == [1, 2]
    assert out["messages"][-1].text == "It is c."


# The final model


@SAVERS
async def test_proposals_survive_the_final_model(saver: str, tmp_path: Path) -> None:
    """FinalError carries the proposals, the checkpoint holds them, and resuming asks the final model alone."""
    a, b, final = model("a"), model("b"), model("final", bad_request(), "Done.")
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        moa = create_moa([a, b], final, 3, checkpointer=checkpointer)
        with pytest.raises(FinalError) as caught:
            await run(moa, saver, ASK)
        get = moa.get_state if "sync" in saver else None
        kept = await asyncio.to_thread(get, THREAD) if get else await moa.aget_state(THREAD)
        assert kept.values["proposals"] == caught.value.proposals
        assert [(p["layer"], p["content"]) for p in caught.value.proposals] == [
            (1, "It is a."), (1, "It is b."), (2, "It is a."), (2, "It is b."),
        ]  # fmt: skip
        out = await run(moa, saver, None)
    assert calls(a, b, final) == [2, 2, 2]
    assert out["messages"][-1].text == "Done."
    assert len(final.prompts[1]) == len(final.prompts[0])


async def test_proposals_are_in_the_error_without_a_checkpointer() -> None:
    """Where nothing is kept, the errors are: QuorumError and FinalError hold every proposal."""
    with pytest.raises(FinalError) as final:
        await create_moa([model("a")], model("c", bad_request()), 2).ainvoke(ASK)
    assert [p["content"] for p in final.value.proposals] == ["It is a."]
    slow_failure = model("b", bad_request(), latency=0.05)
    with pytest.raises(QuorumError) as quorum:
        await create_moa([model("a"), slow_failure], model("c"), 2, policy=LayerPolicy(quorum=2)).ainvoke(ASK)
    assert [p["content"] for p in quorum.value.proposals] == ["It is a.", ""]


# The receipt of a resumed run


@SAVERS
async def test_resumed_answers_are_marked_and_not_counted_again(saver: str, tmp_path: Path) -> None:
    """The receipt of a resumed run tells every answer, marks those of the run before, and counts its own calls."""
    a, b = model("a"), model("b", bad_request(), "now", latency=0.05)
    async with checkpointer_of(saver, tmp_path) as checkpointer:
        moa = create_moa([a, b], model("c"), 2, policy=LayerPolicy(quorum=2), checkpointer=checkpointer)
        with pytest.raises(QuorumError):
            await run(moa, saver, ASK)
        out = await run(moa, saver, None)
    receipt = out["messages"][-1].response_metadata["moa"]
    told = {call["proposer"]: call["resumed"] for call in receipt["layers"][0]["proposals"]}
    assert told == {"a": True, "b": False}
    assert receipt["layers"][0]["answered"] == 2
    assert not receipt["final"]["resumed"]
    assert receipt["calls"] == 2
    used = [out["proposals"][1]["usage"], receipt["final"]["usage"]]
    for name in ("input_tokens", "output_tokens"):
        assert receipt[name] == sum(usage[name] for usage in used)


async def test_a_second_turn_is_no_resumed_run() -> None:
    """A new question on a thread is asked, and counted, in full."""
    moa = create_moa([model("a")], model("c"), 3, checkpointer=InMemorySaver())
    for _ in range(2):
        out = await moa.ainvoke(ASK, THREAD)
        receipt = out["messages"][-1].response_metadata["moa"]
        assert receipt["calls"] == 3
        assert not any(call["resumed"] for layer in receipt["layers"] for call in layer["proposals"])


async def test_a_new_question_after_a_failure_is_asked_of_everyone() -> None:
    """A new input instead of `None` drops what the failed run had: nothing of it is in the new answer."""
    a, b = model("a", "old", "new"), model("b", bad_request(), "new", latency=0.05)
    moa = create_moa([a, b], model("c"), 2, policy=LayerPolicy(quorum=2), checkpointer=InMemorySaver())
    with pytest.raises(QuorumError):
        await moa.ainvoke(ASK, THREAD)
    out = await moa.ainvoke({"messages": [("user", "And now?")]}, THREAD)
    assert [p["content"] for p in out["proposals"]] == ["new", "new"]
    assert out["messages"][-1].response_metadata["moa"]["calls"] == 3


# Killed


@pytest.fixture(scope="module")
def a_postgres() -> Iterator[str]:
    with postgres() as where:
        yield where


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A saver, and where it keeps its checkpoints."""
    if request.param == "postgres":
        return "postgres", request.getfixturevalue("a_postgres")
    return "sqlite", str(tmp_path / "checkpoints.sqlite")


async def kept_of(moa: Any, layer: int) -> set[str]:
    """Who, of the layer that is at work, has an answer in the checkpoint."""
    state = await moa.aget_state(THREAD, subgraphs=True)
    at_work = [task.state for task in state.tasks if task.name == f"layer_{layer}" and task.state is not None]
    return {task.name for inner in at_work for task in inner.tasks if task.result}


async def test_a_killed_run_is_resumed_in_another_process(server: RecordingServer, place: tuple[str, str]) -> None:
    """After `kill -9` in mid-layer, another process asks only who had not answered, and gets a whole answer."""
    server.script("d", Behaviour(hang=True))
    async with opened(*place) as checkpointer:
        moa = mixture(server.base_url, checkpointer)
        command = [sys.executable, "-m", "tests.interrupted", *place, server.base_url]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                async with asyncio.timeout(60):
                    while await kept_of(moa, 2) != {"a", "b"}:
                        assert process.poll() is None
                        await asyncio.sleep(0.02)
            finally:
                process.kill()
        await server.until(lambda: server.in_flight == 0)
        assert Counter(request.model for request in server.requests) == {"a": 2, "b": 2, "d": 1}
        server.clear()
        out = await moa.ainvoke(None, THREAD)
    assert [request.model for request in server.requests] == ["d", "final"]
    assert [(p["layer"], p["proposer"], p["status"]) for p in out["proposals"]] == [
        (1, "a", "ok"), (1, "b", "ok"), (2, "a", "ok"), (2, "b", "ok"), (2, "d", "ok"),
    ]  # fmt: skip
    receipt = out["messages"][-1].response_metadata["moa"]
    resumed = [call["resumed"] for layer in receipt["layers"] for call in layer["proposals"]]
    assert resumed == [True, True, True, True, False]
    assert receipt["calls"] == 2
    shown = server.requests_for("final")[0].messages[0]["content"]
    assert shown.endswith("1. answer of a #2\n2. answer of b #2\n3. answer of d #1")


async def test_a_failure_in_a_resumed_layer_waits_for_nobody_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed layer whose earlier answers meet the quorum forgives a failure at once."""
    monkeypatch.setattr("moa_graph.waiting._ARRIVE", LONG)  # waiting for those that never come would be seen
    a, b = model("a"), model("b", server_error(), latency=0.1)
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as checkpointer:
        strict = create_moa([a, b], model("c"), 2, policy=LayerPolicy(quorum=2, retries=0), checkpointer=checkpointer)
        with pytest.raises(QuorumError):
            await run(strict, "sync", ASK)
        lenient = create_moa([a, b], model("c"), 2, policy=LayerPolicy(quorum=1, retries=0), checkpointer=checkpointer)
        out = await run(lenient, "sync", None)
    assert [p["status"] for p in out["proposals"]] == ["ok", "error"]
    assert a.calls == 1
