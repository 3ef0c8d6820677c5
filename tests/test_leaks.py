"""What a thousand runs with faults leave behind: nothing."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_openai import ChatOpenAI

from moa_graph import FinalError, LayerPolicy, QuorumError, create_moa
from moa_graph.errors import MoARunError
from moa_graph.loops import run_sync
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why?")]}
AT_ONCE = 50
RUNS, GIVEN_UP, IN_THREADS = 950, 95, 50
FAULTS = [
    Behaviour(),
    Behaviour(hang=True),
    Behaviour(status=400),
    Behaviour(stall_after=1),
    Behaviour(status=429, retry_after="0"),
    Behaviour(close_after=1),
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.005)


def moa_of(server: RecordingServer) -> Any:
    """One proposer that answers and one that mostly does not; sometimes no final model, sometimes no quorum."""
    chat = {n: ChatOpenAI(model=n, base_url=server.base_url, api_key="key") for n in ("good", "faulty", "final")}
    policy = LayerPolicy(grace=0.02, timeout=5.0, retries=1)
    return create_moa([chat["good"], chat["faulty"]], chat["final"], 2, policy=policy)


def threads() -> set[threading.Thread]:
    """All but the pool behind the sync entry points, which is bounded and stays."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("moa-graph_")}


async def only(before: set[threading.Thread]) -> None:
    """Wait until no thread but those of before is there: an executor's last ones take a moment to end."""
    async with asyncio.timeout(5):
        while threads() - before:  # noqa: ASYNC110 - a thread tells no events
            await asyncio.sleep(0.01)


async def many(moa: Any) -> list[str]:
    """`RUNS` runs, `AT_ONCE` at a time, some given up in the middle: what came of each."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(k: int) -> str:
        async with places:
            try:
                async with asyncio.timeout(0.015 if k % (RUNS // GIVEN_UP) == 0 else 60):
                    await moa.ainvoke(ASK)
            except (MoARunError, TimeoutError) as error:
                return type(error).__name__
            return "ok"

    return await asyncio.gather(*(one(k) for k in range(RUNS)))


def one_in_a_thread(moa: Any) -> str:
    try:
        moa.invoke(ASK)
    except MoARunError as error:
        return type(error).__name__
    return "ok"


def script(server: RecordingServer, runs: int) -> None:
    server.script("faulty", *FAULTS * runs)
    server.script("good", *([Behaviour()] * 19 + [Behaviour(status=404)]) * runs)
    server.script("final", *([Behaviour()] * 18 + [Behaviour(status=400), Behaviour(close_after=1)]) * runs)


async def portal_tasks() -> int:
    return len(asyncio.all_tasks())


@pytest.mark.timeout(180)
def test_a_thousand_faulty_runs_leave_nothing(server: RecordingServer) -> None:
    """Async, given up and sync runs, with every fault: no task, thread or connection is left, and nothing in flight."""
    moa = moa_of(server)

    async def asynchronous() -> set[str]:
        tasks = asyncio.all_tasks()
        outcomes = set(await many(moa))
        await server.until(lambda: server.in_flight == 0)
        assert asyncio.all_tasks() == tasks
        assert server.open_connections <= 3 * AT_ONCE
        return outcomes

    one_in_a_thread(moa)
    script(server, RUNS)
    before = threads()
    outcomes = asyncio.run(asynchronous())
    assert {"ok", "TimeoutError", QuorumError.__name__, FinalError.__name__} == outcomes
    portal, open_before = run_sync(portal_tasks), server.open_connections
    assert open_before <= 3, "the loop's connections are closed with it"

    with ThreadPoolExecutor(8) as pool:
        ended = set(pool.map(lambda _: one_in_a_thread(moa), range(IN_THREADS)))
    assert "ok" in ended
    asyncio.run(server.until(lambda: server.in_flight == 0))
    assert run_sync(portal_tasks) == portal
    assert server.open_connections <= 3 * 8 + open_before
    asyncio.run(only(before))
