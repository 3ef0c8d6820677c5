"""`max_concurrency`: how many calls are in flight, over layers, runs, threads and event loops."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from moa_graph import Layer, LayerPolicy, Proposer, QuorumError, create_moa
from moa_graph.limit import Limiter
from moa_graph.testing import Answer, ScriptedChatModel, bad_request

ASK = {"messages": [("user", "Why?")]}
HANG = Answer("never", stall_after=0)
LONG = 30.0  # seconds nobody waits for


def shared(*answers: Any, **how: Any) -> ScriptedChatModel:
    """One model for every seat: its `max_in_flight` is that of everything together."""
    return ScriptedChatModel(answers=list(answers) or ["ok"], **({"latency": 0.005} | how))


def moa_of(model: ScriptedChatModel, layers: int = 3, **policy: Any) -> Any:
    return create_moa([Proposer(model, samples=4)], model, layers, policy=LayerPolicy(**policy))


# Over layers, runs, threads


@pytest.mark.parametrize("limit", [1, 3])
async def test_runs_of_one_loop_share_the_limit(limit: int) -> None:
    """Many runs at once, three layers each, never have more in flight than allowed, and use all that is."""
    model = shared()
    moa = moa_of(model, max_concurrency=limit)
    await asyncio.gather(*(moa.ainvoke(ASK) for _ in range(8)))
    assert model.max_in_flight == limit
    assert model.calls == 8 * 9


def test_threads_and_loops_share_the_limit() -> None:
    """Sync calls in threads and event loops of their own keep one limit together."""
    model = shared()
    moa = moa_of(model, max_concurrency=3)

    async def several() -> None:
        await asyncio.gather(*(moa.ainvoke(ASK) for _ in range(3)))

    with ThreadPoolExecutor(6) as threads:
        jobs = [threads.submit(moa.invoke, ASK) for _ in range(4)]
        jobs += [threads.submit(asyncio.run, several()) for _ in range(2)]
        for job in jobs:
            job.result(LONG)
    assert model.max_in_flight == 3
    assert model.calls == (4 + 6) * 9


async def test_a_batch_keeps_the_limit() -> None:
    """`abatch` over many questions is bounded by the policy alone."""
    model = shared()
    await moa_of(model, 2, max_concurrency=5).abatch([ASK] * 30)
    assert model.max_in_flight == 5


async def test_mixtures_that_share_a_policy_share_its_limit() -> None:
    """The limit belongs to the policy object: two graphs made with one keep it together."""
    model, policy = shared(), LayerPolicy(max_concurrency=2)
    graphs = [create_moa([Proposer(model, samples=4)], model, 2, policy=policy) for _ in range(2)]
    await asyncio.gather(*(graph.ainvoke(ASK) for graph in graphs * 3))
    assert model.max_in_flight == 2


async def test_a_layers_own_policy_has_its_own_limit() -> None:
    """A layer with a policy of its own waits in that policy's queue."""
    first, second = shared(), shared()
    panels = [Layer([Proposer(first, samples=4)], LayerPolicy(max_concurrency=1)), [Proposer(second, samples=4)]]
    await create_moa(panels, shared(), policy=LayerPolicy(max_concurrency=3)).ainvoke(ASK)
    assert (first.max_in_flight, second.max_in_flight) == (1, 3)


async def test_a_proposers_own_time_and_retries_stay_in_the_queue() -> None:
    """A proposer with a timeout and retries of its own keeps to the mixture's limit all the same."""
    model = shared()
    own = Proposer(model, name="own", samples=3, timeout=LONG, retries=0)
    policy = LayerPolicy(max_concurrency=2)
    await create_moa([own, Proposer(model, name="other", samples=3)], model, 2, policy=policy).ainvoke(ASK)
    assert model.max_in_flight == 2


async def test_a_limit_that_is_not_set_limits_nothing() -> None:
    """By default a panel is asked all at once, in every run."""
    model = shared(HANG)
    runs = asyncio.gather(*(moa_of(model, 2).ainvoke(ASK) for _ in range(3)))
    async with asyncio.timeout(LONG):
        while model.in_flight < 12:  # noqa: ASYNC110 - a model tells no events
            await asyncio.sleep(0.002)
    runs.cancel()
    await asyncio.gather(runs, return_exceptions=True)


async def test_a_failed_call_gives_its_place_back() -> None:
    """Failures, timeouts and cuts free their place: a limit of 1 is still 1, and free, after each of them."""
    for answers, policy in (
        ([bad_request()], {}),
        ([HANG], {"timeout": 0.2}),
        (["ok", HANG], {"grace": 0.02, "timeout": 0.5}),
    ):
        model = shared(*answers, latency=0)
        moa = moa_of(model, 2, max_concurrency=1, **policy)
        async with asyncio.timeout(LONG):
            await asyncio.gather(*(moa.ainvoke(ASK) for _ in range(2)), return_exceptions=True)
            model.answers = ["ok"]
            await moa.ainvoke(ASK)
        assert model.max_in_flight == 1


async def test_a_run_cancelled_in_the_queue_leaves_it() -> None:
    """Runs given up while they wait, or while they are asked, give their places back."""
    model = shared(HANG, HANG, "ok")
    moa = moa_of(model, 2, max_concurrency=2, timeout=LONG)
    runs = [asyncio.create_task(moa.ainvoke(ASK)) for _ in range(5)]
    async with asyncio.timeout(LONG):
        while model.in_flight < 2:  # noqa: ASYNC110 - a model tells no events
            await asyncio.sleep(0.002)
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        assert model.calls == 2
        await moa.ainvoke(ASK)
    assert model.max_in_flight == 2


async def test_a_queue_behind_a_missed_quorum_goes_on() -> None:
    """Other runs get the places of a run that failed."""
    said = lambda prompt: bad_request() if prompt[-1].text == "bad" else "ok"  # noqa: E731
    moa = moa_of(ScriptedChatModel(answers=said, latency=0.002), 2, max_concurrency=1)
    asked = [{"messages": [("user", "bad" if k % 2 else "good")]} for k in range(10)]
    async with asyncio.timeout(LONG):
        outs = await asyncio.gather(*(moa.ainvoke(each) for each in asked), return_exceptions=True)
    assert [isinstance(out, QuorumError) for out in outs] == [False, True] * 5


# The limiter by itself


async def take(limiter: Limiter, events: list[str], name: str) -> None:
    async with limiter:
        events.append(name)


async def ticks(n: int = 10) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_first_come_first_served() -> None:
    """Whoever waits longest is next."""
    limiter, events = Limiter(1), list[str]()
    async with limiter:
        waiting = [asyncio.create_task(take(limiter, events, name)) for name in "abc"]
        await ticks()
        assert events == []
    await asyncio.gather(*waiting)
    assert events == ["a", "b", "c"]


async def test_cancelled_while_queued() -> None:
    """Who is cancelled in the queue is skipped."""
    limiter, events = Limiter(1), list[str]()
    async with limiter:
        waiting = [asyncio.create_task(take(limiter, events, name)) for name in "abc"]
        await ticks()
        waiting[0].cancel()
        await ticks()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert events == ["b", "c"]
    async with asyncio.timeout(LONG), limiter:
        pass


@pytest.mark.parametrize("passed", range(4))
async def test_cancelled_as_the_turn_comes(passed: int) -> None:
    """Who is cancelled at the moment its turn comes passes it on, at each step of the hand-over."""
    limiter, events = Limiter(1), list[str]()
    await limiter.__aenter__()
    first, second = (asyncio.create_task(take(limiter, events, name)) for name in "ab")
    await ticks()
    await limiter.__aexit__()
    await ticks(passed)
    first.cancel()
    async with asyncio.timeout(LONG):
        await asyncio.gather(first, second, return_exceptions=True)
        assert events[-1] == "b"
        async with limiter:
            pass


async def test_a_loop_that_was_closed_is_passed_over() -> None:
    """A waiter whose event loop is gone does not take the turn with it into its grave."""
    limiter, events = Limiter(1), list[str]()
    await limiter.__aenter__()

    def waits_in_a_loop_that_is_closed() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(take(limiter, events, "gone"))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.run_until_complete(ticks())
        loop.close()
        tasks.append(task)

    tasks: list[Any] = []
    thread = threading.Thread(target=waits_in_a_loop_that_is_closed)
    thread.start()
    await asyncio.to_thread(thread.join)
    alive = asyncio.create_task(take(limiter, events, "alive"))
    await ticks()
    await limiter.__aexit__()
    async with asyncio.timeout(LONG):
        await alive
    assert events == ["alive"]
    tasks.clear()
    gc.collect()
    async with asyncio.timeout(LONG), limiter:
        pass


async def test_a_loop_that_ends_with_places_taken_gives_them_back() -> None:
    """`asyncio.run` that is over, with calls in flight and in the queue, leaves every place free."""
    limiter = Limiter(1)

    async def held(started: asyncio.Event) -> None:
        async with limiter:
            started.set()
            await asyncio.Event().wait()

    async def abandons() -> None:
        started = asyncio.Event()
        abandoned.append(asyncio.create_task(held(started)))
        await started.wait()
        abandoned.append(asyncio.create_task(take(limiter, [], "never")))
        await ticks()

    abandoned: list[Any] = []
    await asyncio.to_thread(asyncio.run, abandons())
    async with asyncio.timeout(LONG), limiter:
        pass


def test_many_threads_lose_no_place() -> None:
    """Loops in many threads, each cancelling a part of its waiters, end with every place free."""
    limiter, most, now, lock = Limiter(3), 0, 0, threading.Lock()

    async def call(k: int) -> None:
        nonlocal most, now
        async with limiter:
            with lock:
                now += 1
                most = max(most, now)
            await asyncio.sleep(0.0005 * (k % 3))
            with lock:
                now -= 1

    async def loop() -> None:
        tasks = [asyncio.create_task(call(k)) for k in range(60)]
        await ticks(3)
        for task in tasks[::7]:
            task.cancel()
        await asyncio.gather(*(t for k, t in enumerate(tasks) if k % 7), return_exceptions=False)

    with ThreadPoolExecutor(4) as threads:
        for job in [threads.submit(asyncio.run, loop()) for _ in range(8)]:
            job.result(LONG)
    assert most <= 3
    assert (limiter._free, len(limiter._waiting)) == (3, 0)


async def test_waiting_blocks_no_event_loop() -> None:
    """Nothing in the queue blocks the loop, also while another thread holds the lock for an instant."""
    model = shared(latency=0.001)
    moa = moa_of(model, 2, max_concurrency=2)
    await moa.ainvoke(ASK)

    def busy() -> None:
        while not stop.is_set():
            asyncio.run(use())

    async def use() -> None:
        await asyncio.gather(*(take(moa_limiter, [], "x") for _ in range(50)))

    policy = LayerPolicy(max_concurrency=2)
    moa_limiter: Any = policy._limiter
    stop = threading.Event()
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        with blockbuster_ctx("moa_graph"):
            await asyncio.gather(*(use() for _ in range(20)))
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
