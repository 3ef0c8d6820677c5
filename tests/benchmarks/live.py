"""Many runs at once, live: `python -m tests.benchmarks.live`, with `--quick` for a first look.

Six proposers in two layers and the final model, 13 calls, each of one second, on a server that has a process of its
own. What is measured of `create_moa` with `ChatOpenAI` objects, and over what it stands:

- Seconds to the final model's first token, over two layers and the final model's own latency.
- Processor time of a run, user and system, with 100 and with 200 runs in flight, over the same calls made by hand:
  `asyncio.gather` over `AsyncOpenAI`, layer after layer, with the SDK's default transport (httpx) and with its
  `DefaultAioHttpClient`. Before anything is measured, all of them are seen to send equal requests.
- The same at 100 in flight with streaming proposers, over streaming by hand, and with checkpointers.
- Memory of a run in flight at 200, and the process's memory after 10,000 small runs over that after 2,000.
- `mixture-llm`, where it is installed: the same calls, over the same by hand.

A ratio is the median over pairs of bursts. `create_moa` and the client on aiohttp have their processes at the same
time, and take turns burst by burst, in alternating order; the other sides take turns within a round, and what stands
over another is divided by that one's figure of the same round.
"""

import argparse
import asyncio
import gc
import importlib.util
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.faults import Server
from tests.benchmarks.table import Row, report
from tests.server import Behaviour, RecordingServer, server_process

LATENCY = 1.0  # seconds a call takes; of a streamed one, its first token
SPREAD = 2.0  # seconds over which the runs of a burst begin: less than a run takes, so all are in flight together
PROPOSERS, LAYERS, CALLS = 6, 3, 13
NAMES = [f"m{i}" for i in range(1, PROPOSERS + 1)]
FLOOR = LAYERS * LATENCY
FEW, SOME, MANY = 20, 100, 200  # runs in flight
CONNECTIONS = 1000  # the SDK's default clients open no more; the server never sees as many calls at once
WORDS = 10  # in an answer
BURSTS = 2  # of each size in a full turn
SMALL_CALLS, SMALL_AT_ONCE, SMALL_STEP = 3, 50, 50
QUESTION = "Why is the sky blue?"
FIRST_TOKEN, OVER_HTTPX, OVER_AIOHTTP, FLAT = 1.05, 0.8, 1.25, 1.05  # limits

Run = Callable[[], Awaitable[Any]]
Side = Callable[[str], AbstractAsyncContextManager[Run]]  # the server's address -> one run after another


# Ours


def chat(model: str, base_url: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=model, base_url=base_url, api_key="key")


def mixture(base_url: str, names: Sequence[str] = NAMES, layers: int = LAYERS, **options: Any) -> Any:
    from moa_graph import create_moa

    return create_moa([chat(name, base_url) for name in names], chat("final", base_url), layers, **options)


def asked() -> tuple[dict[str, Any], Any]:
    """A new conversation's input and config."""
    return {"messages": [("user", QUESTION)]}, {"configurable": {"thread_id": uuid.uuid4().hex}}


def invoking(moa: Any, calls: int = CALLS) -> Run:
    async def run() -> None:
        out = await moa.ainvoke(*asked())
        assert out["messages"][-1].response_metadata["moa"]["calls"] == calls, out
        assert all(proposal["status"] == "ok" for proposal in out["proposals"]), out

    return run


@asynccontextmanager
async def ours(base_url: str) -> AsyncGenerator[Run]:
    yield invoking(mixture(base_url))


@asynccontextmanager
async def ours_in_memory(base_url: str) -> AsyncGenerator[Run]:
    from langgraph.checkpoint.memory import InMemorySaver

    yield invoking(mixture(base_url, checkpointer=InMemorySaver()))


@asynccontextmanager
async def ours_in_sqlite(base_url: str) -> AsyncGenerator[Run]:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    with tempfile.TemporaryDirectory() as folder:
        async with AsyncSqliteSaver.from_conn_string(str(Path(folder, "checkpoints.sqlite"))) as saver:
            yield invoking(mixture(base_url, checkpointer=saver))


@asynccontextmanager
async def ours_streaming(base_url: str) -> AsyncGenerator[Run]:
    """Every token of every model is seen."""
    moa = mixture(base_url, stream_proposers=True)

    async def run() -> None:
        seen: dict[tuple[int, str], int] = {}
        async for _, (message, metadata) in moa.astream(asked()[0], stream_mode="messages", subgraphs=True):
            if message.text:
                key = metadata["moa_layer"], metadata["moa_model"]
                seen[key] = seen.get(key, 0) + 1
        assert len(seen) == CALLS, seen
        assert min(seen.values()) > 1, seen

    yield run


@asynccontextmanager
async def ours_first_token(base_url: str) -> AsyncGenerator[Run]:
    """A run gives the seconds to the final model's first token."""
    moa = mixture(base_url)

    async def run() -> float:
        started, first = time.perf_counter(), None
        async for message, metadata in moa.astream(asked()[0], stream_mode="messages"):
            if first is None and metadata.get("moa_role") == "final" and message.text:
                first = time.perf_counter() - started
        assert first is not None
        return first

    yield run


@asynccontextmanager
async def ours_small(base_url: str) -> AsyncGenerator[Run]:
    yield invoking(mixture(base_url, NAMES[:2], 2), SMALL_CALLS)


# By hand


def by_hand(client: Any, stream: bool = False) -> Run:
    """What one writes without us; `stream=False` is no default, but what `ChatOpenAI` sends."""
    from moa_graph import AGGREGATE_AND_SYNTHESIZE

    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {"stream": False}

    async def call(model: str, system: str | None) -> str:
        before = [{"role": "system", "content": system}] if system else []
        messages = [*before, {"role": "user", "content": QUESTION}]
        answer = await client.chat.completions.create(model=model, messages=messages, **options)
        if not stream:
            return str(answer.choices[0].message.content)
        return "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])

    async def run() -> None:
        system = None
        for _ in range(LAYERS - 1):
            answers = await asyncio.gather(*(call(name, system) for name in NAMES))
            system = AGGREGATE_AND_SYNTHESIZE + "".join(f"\n{k}. {text}" for k, text in enumerate(answers, 1))
        assert await call("final", system)

    return run


def sdk(base_url: str, *, aiohttp: bool = False) -> Any:
    """The client, with more time for a connection than its 5 s: with 200 runs in flight, the default transport
    needs it. On aiohttp, with limits that are never reached."""
    import httpx2
    from openai import AsyncOpenAI, DefaultAioHttpClient

    enough = 10 * CONNECTIONS
    limits = httpx2.Limits(max_connections=enough, max_keepalive_connections=enough, keepalive_expiry=60)
    options = {"http_client": DefaultAioHttpClient(limits=limits)} if aiohttp else {}
    return AsyncOpenAI(base_url=base_url, api_key="key", timeout=600, max_retries=0, **options)


@asynccontextmanager
async def raw(base_url: str) -> AsyncGenerator[Run]:
    async with sdk(base_url) as client:
        yield by_hand(client)


@asynccontextmanager
async def raw_aiohttp(base_url: str) -> AsyncGenerator[Run]:
    async with sdk(base_url, aiohttp=True) as client:
        yield by_hand(client)


@asynccontextmanager
async def raw_streaming(base_url: str) -> AsyncGenerator[Run]:
    async with sdk(base_url) as client:
        yield by_hand(client, stream=True)


# mixture-llm


def mixture_llm(client: Any) -> Run:
    """Its three steps with its README's client function, less what the others do not send either."""
    from mixture_llm import Aggregate, Propose, Synthesize, run

    from moa_graph import AGGREGATE_AND_SYNTHESIZE as PROMPT

    async def ask(*, model: str, messages: Any, temp: float, max_tokens: int) -> tuple[str, int, int]:
        answer = await client.chat.completions.create(model=model, messages=messages, stream=False)
        return answer.choices[0].message.content, answer.usage.prompt_tokens, answer.usage.completion_tokens

    pipeline = [Propose(NAMES), Synthesize(NAMES, PROMPT), Aggregate("final", PROMPT)]

    async def one() -> None:
        text, history = await run(pipeline, QUESTION, ask)
        calls = [call for step in history for call in step["llm_calls"]]
        assert text, history
        assert [call.get("error") for call in calls] == [None] * CALLS, history

    return one


@asynccontextmanager
async def mixture_llm_httpx(base_url: str) -> AsyncGenerator[Run]:
    async with sdk(base_url) as client:
        yield mixture_llm(client)


@asynccontextmanager
async def mixture_llm_aiohttp(base_url: str) -> AsyncGenerator[Run]:
    async with sdk(base_url, aiohttp=True) as client:
        yield mixture_llm(client)


# A side in its process


@dataclass(frozen=True)
class Burst:
    """What a burst took: milliseconds of processor time per run, and KB of memory before it and at its highest."""

    cpu: float
    before: int
    highest: int


class _Here:
    """The side that this process runs, on one event loop for as long as the process lives."""

    def __init__(self, side: Side, base_url: str) -> None:
        self.loop, self.stack = asyncio.Runner(), AsyncExitStack()
        self.run = self.loop.run(self.stack.enter_async_context(side(base_url)))

    def end(self) -> None:
        self.loop.run(self.stack.aclose())
        self.loop.close()


_here: _Here


def _begin(side: Side, base_url: str) -> None:
    global _here
    _here = _Here(side, base_url)


def _end() -> None:
    _here.end()


def _timed() -> tuple[float, Any]:
    """The seconds of one run, and what it gave."""
    started = time.perf_counter()
    given = _here.loop.run(_one())
    return time.perf_counter() - started, given


async def _one() -> Any:
    return await _here.run()


def _burst(runs: int) -> Burst:
    gc.collect()  # what the last burst left is not this one's
    before = _memory("VmRSS")
    started = time.process_time()
    _here.loop.run(_together(runs))
    return Burst(1000 * (time.process_time() - started) / runs, before, _memory("VmHWM"))


async def _together(runs: int) -> None:
    """Runs that are all in flight before the first one ends."""
    ended = 0

    async def one(k: int) -> None:
        nonlocal ended
        await asyncio.sleep(k * SPREAD / runs)
        assert not ended, "a run ended before the last one began"
        await _here.run()
        ended += 1

    await asyncio.gather(*(one(k) for k in range(runs)))


def _in_succession(runs: int) -> int:
    """`runs` runs, always `SMALL_AT_ONCE` of them in flight. Gives the memory then in use, in KB."""
    _here.loop.run(_queued(runs))
    gc.collect()
    return _memory("VmRSS")


async def _queued(runs: int) -> None:
    left = iter(range(runs))

    async def place() -> None:
        for _ in left:
            await _here.run()

    await asyncio.gather(*(place() for _ in range(SMALL_AT_ONCE)))


def _memory(field: str) -> int:
    """KB, from Linux; `ru_maxrss` would count what the parent had before it started us."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0])


class Worker:
    """A side in a fresh process."""

    def __init__(self, pool: ProcessPoolExecutor, server: Server) -> None:
        self._pool, self._server = pool, server

    def run(self) -> tuple[float, Any]:
        return self._pool.submit(_timed).result()

    def begin(self) -> None:
        """Import everything, and make what is made once, in a run that the server answers without delay."""
        for model in (*NAMES, "final"):
            self._server.script(model, {})
        self.run()
        self._server.clear()

    def burst(self, runs: int) -> Burst:
        """`runs` runs together. Raises AssertionError where a call failed, was repeated, or waited to be sent."""
        self._server.clear()
        burst = self._pool.submit(_burst, runs).result()
        stats = self._server.stats()
        assert stats["ok"] == stats["requests"] == runs * CALLS, stats
        assert stats["max_in_flight"] < CONNECTIONS, stats
        return burst

    def succession(self, runs: int) -> int:
        self._server.clear()
        return self._pool.submit(_in_succession, runs).result()

    def end(self) -> None:
        self._pool.submit(_end).result()


@contextmanager
def worker(side: Side, base_url: str) -> Iterator[Worker]:
    """Run `side` in a process of its own.

    In one process, a collection of garbage on either side walks the other's heap too (LangGraph's is the larger by
    far), and memory that one has freed serves the other. And each turn has a fresh one: a process shows only once
    how its memory grows, and the median is over several heaps instead of one.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(side, base_url)) as pool:
        one = Worker(pool, Server(base_url))
        one.begin()
        try:
            yield one
        finally:
            one.end()


# The rounds


@dataclass(frozen=True)
class Turn:
    """What a side showed in one turn."""

    some: float  # milliseconds of processor time per run, SOME in flight
    many: float = 0.0  # the same with MANY
    memory: float = 0.0  # KB per run in flight, with MANY

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.1f}" for name, value in vars(self).items() if value)


def full_turns(sides: Sequence[Side], base_url: str) -> list[list[Turn]]:
    """`BURSTS` turns of each side, after a burst that opens the connections; the default transport keeps but 100.

    The sides' processes are there together, and their bursts take turns, in alternating order: what else the machine
    does meets a burst of each side alike. Memory is that of a process's first burst with MANY.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(side, base_url)) for side in sides]
        idle = [one.burst(FEW if side is raw else SOME).before for side, one in zip(sides, workers, strict=True)]
        some = [bursts_in_turn(workers, SOME, k) for k in range(BURSTS)]
        many = [bursts_in_turn(workers, MANY, k) for k in range(BURSTS)]
    memory = [(burst.highest - before) / MANY for burst, before in zip(many[0], idle, strict=True)]
    return [
        [Turn(some[k][side].cpu, many[k][side].cpu, memory[side]) for k in range(BURSTS)] for side in range(len(sides))
    ]


def bursts_in_turn(workers: Sequence[Worker], runs: int, number: int) -> list[Burst]:
    """A burst of each worker; who begins depends on the number."""
    order = range(len(workers))
    done = {k: workers[k].burst(runs) for k in (order if number % 2 else reversed(order))}
    return [done[k] for k in order]


def short_turn(side: Side, base_url: str) -> Turn:
    """One burst, most of whose connections are new: these sides are only told, and a turn takes long enough."""
    with worker(side, base_url) as one:
        return Turn(one.burst(SOME).cpu)


Turns = Mapping[Side, Sequence[Turn]]


def take_turns(base_url: str, rounds: int) -> Turns:
    full: list[list[Side]] = [[raw], [ours, raw_aiohttp]]
    short: list[Side] = [ours_streaming, raw_streaming, ours_in_memory]
    if importlib.util.find_spec("aiosqlite"):
        short.append(ours_in_sqlite)
    if importlib.util.find_spec("mixture_llm"):
        short += [mixture_llm_httpx, mixture_llm_aiohttp]
    turns: dict[Side, list[Turn]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for sides in [*full, *([side] for side in short)]:
            started = time.monotonic()
            made = full_turns(sides, base_url) if sides in full else [[short_turn(sides[0], base_url)]]
            for side, own in zip(sides, made, strict=True):
                turns[side] += own
                shown = "; ".join(map(str, own))
                print(f"round {number}, {side.__name__}: {shown} ({time.monotonic() - started:.0f} s)", file=sys.stderr)
    return turns


def compared(turns: Turns) -> list[Row]:
    def row(what: str, side: Side, over: Side, field: str, limit: float | None = None) -> list[Row]:
        mine, theirs = ([getattr(turn, field) for turn in turns.get(s, ())] for s in (side, over))
        if len(theirs) > len(mine):  # a short turn stands over a full one's first burst
            theirs = theirs[::BURSTS]
        return [Row(what, mine, theirs, limit, "KB" if field == "memory" else "ms")] if mine else []

    return [
        *row(f"CPU of a run, {SOME} in flight, over AsyncOpenAI", ours, raw, "some", OVER_HTTPX),
        *row(f"CPU of a run, {SOME} in flight, over the same on aiohttp", ours, raw_aiohttp, "some", OVER_AIOHTTP),
        *row(f"CPU of a run, {MANY} in flight, over AsyncOpenAI", ours, raw, "many", OVER_HTTPX),
        *row(f"CPU of a run, {MANY} in flight, over the same on aiohttp", ours, raw_aiohttp, "many", OVER_AIOHTTP),
        *row(
            f"streaming proposers, {WORDS} words each, over streaming AsyncOpenAI",
            ours_streaming,
            raw_streaming,
            "some",
        ),
        *row("with InMemorySaver, over AsyncOpenAI", ours_in_memory, raw, "some"),
        *row("with AsyncSqliteSaver, over AsyncOpenAI", ours_in_sqlite, raw, "some"),
        *row("mixture-llm, over AsyncOpenAI", mixture_llm_httpx, raw, "some"),
        *row("mixture-llm on aiohttp, over AsyncOpenAI", mixture_llm_aiohttp, raw, "some"),
        *row(f"memory of a run, {MANY} in flight, over AsyncOpenAI", ours, raw, "memory"),
        *row(f"memory of a run, {MANY} in flight, over the same on aiohttp", ours, raw_aiohttp, "memory"),
    ]


def first_token(base_url: str, rounds: int) -> Row:
    with worker(ours_first_token, base_url) as one:
        seconds = [one.run()[1] for _ in range(rounds)]
    return Row("first token of a run, over its floor", seconds, FLOOR, FIRST_TOKEN)


def alone(base_url: str, rounds: int) -> list[Row]:
    """The wall time of one run of mixture-llm, and of ours; they take turns."""
    with worker(mixture_llm_httpx, base_url) as theirs, worker(ours, base_url) as mine:
        seconds = [(theirs.run()[0], mine.run()[0]) for _ in range(rounds)]
    return [
        Row(f"one run of {what}, over its floor", [pair[k] for pair in seconds], FLOOR)
        for k, what in enumerate(("mixture-llm", "moa_graph"))
    ]


def memory_over_time(base_url: str, early: int, late: int) -> Row:
    """Medians of the last five readings, `SMALL_STEP` runs apart, before `early` and before `late` runs."""
    readings = []
    with worker(ours_small, base_url) as one:
        for runs in (early, late - early):
            one.succession(runs - 5 * SMALL_STEP)
            readings.append([one.succession(SMALL_STEP) for _ in range(5)])
    then, now = readings
    return Row(f"memory after {late:,} small runs, over that after {early:,}", now, median(then), FLAT, "KB")


# Equal requests


def check_requests() -> None:
    """Ours and those made by hand ask the same: model, messages, options."""
    whole = [requests_of(side) for side in (ours, raw, raw_aiohttp)]
    streamed = [requests_of(side) for side in (ours_streaming, raw_streaming)]
    for first, *others in (whole, streamed):
        assert len(first) == CALLS
        assert all(other == first for other in others), "the requests differ"


def requests_of(side: Side) -> list[str]:
    async def once() -> None:
        async with side(server.base_url) as run:
            await run()

    with RecordingServer(Behaviour(text="an answer of five words")) as server:
        asyncio.run(once())
        return sorted(json.dumps(request.body, sort_keys=True) for request in server.requests)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.live", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, and 1,000 small runs")
    quick = parser.parse_args().quick
    rounds, early, late = (1, 500, 1_000) if quick else (4, 2_000, 10_000)
    os.environ |= {"LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))  # a connection is a file
    installed = importlib.util.find_spec("mixture_llm")
    check_requests()
    with server_process("--latency", str(LATENCY), "--per-token", "0.02", "--tokens", "20") as base_url:
        rows = [first_token(base_url, rounds)]
        rows += alone(base_url, rounds) if installed else []
    with server_process("--latency", str(LATENCY), "--tokens", str(WORDS)) as base_url:
        rows += compared(take_turns(base_url, rounds))
    with server_process("--tokens", str(WORDS)) as base_url:
        rows.append(memory_over_time(base_url, early, late))
    if not installed:
        print("mixture-llm is not installed, so it is not compared: pip install mixture-llm")
    return report(rows, over="over")


if __name__ == "__main__":
    sys.exit(main())
