"""Wall time of a layer with faults over its floor: `python -m tests.benchmarks.faults`.

Of six proposers one hangs, one answers after ten times the median, and one is rate-limited twice with a
Retry-After; four answers are needed, so the rate-limited one is among them. Against it, the same panel asked
with `asyncio.gather` over the OpenAI SDK, its own retries and the same timeout for each call. Both have 200 runs
at 50 in flight, the first 50 spread over the floor of one, after 200 without a fault that open the connections
and are not counted; the server has a process of its own.

Lost: answers the server gave in full that are not in a run's result, and runs without a result. Orphaned:
requests still open on the server when the last run is over.
"""

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from tests.server import server_process

RUNS, IN_FLIGHT = 200, 50
LATENCY = 1.0  # seconds, the median of a call
RETRY_AFTER = 1.0
TIMEOUT = 12 * LATENCY
QUORUM = 4
FLOOR = 2 * RETRY_AFTER + LATENCY + LATENCY  # the rate-limited proposer, then the final model
LIMIT = 1.2  # of the floor, for the 99th percentile
QUESTION = "Why is the sky blue?"
PANEL = ("a", "b", "d", "hanging", "slow")  # and the rate-limited one, which has a script for each run


@dataclass(frozen=True)
class Result:
    """`answers`: how many came back in each run, the final one's too; a run without a final answer failed."""

    what: str
    times: list[float]
    answers: int
    failed: int
    given: int
    orphaned: int

    @property
    def p99(self) -> float:
        return quantiles(self.times, n=100, method="inclusive")[98]

    @property
    def lost(self) -> int:
        return self.given - self.answers + self.failed

    def cells(self) -> tuple[str, ...]:
        p50 = median(self.times)
        ratios = (f"{p50 / FLOOR:.3f}", f"{self.p99 / FLOOR:.3f}")
        return (self.what, f"{p50:.3f} s", f"{self.p99:.3f} s", *ratios, str(self.lost), str(self.orphaned))


class Server:
    """The server's other side: scripts and counts."""

    def __init__(self, base_url: str) -> None:
        self._root = base_url.removesuffix("/v1")

    def script(self, model: str, *behaviours: dict[str, Any]) -> None:
        self._ask("/script", {"model": model, "behaviours": behaviours})

    def clear(self) -> None:
        self._ask("/clear", {})

    def stats(self) -> dict[str, int]:
        return self._ask("/stats", None)

    def _ask(self, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self._root + path, data) as response:
            return json.load(response)

    def prepare(self, runs: int) -> None:
        self.clear()
        self.script("hanging", {"hang": True})
        self.script("slow", {"latency": 10 * LATENCY})
        limited = {"status": 429, "retry_after": f"{RETRY_AFTER:g}"}
        for run in range(runs):
            self.script(f"limited-{run}", limited, limited, {"latency": LATENCY})

    async def orphaned(self) -> int:
        """Requests still open, after the second that a disconnect may take to be seen."""
        for _ in range(20):
            if not (open_ := self.stats()["in_flight"]):
                break
            await asyncio.sleep(0.05)
        return open_


Ask = Callable[[int], Awaitable[int]]  # the run's number -> how many answers it got; raises where it has none


def mixtures(base_url: str, runs: int) -> Ask:
    from langchain_openai import ChatOpenAI

    from moa_graph import LayerPolicy, Proposer, create_moa

    models = {name: ChatOpenAI(model=name, base_url=base_url, api_key="key") for name in (*PANEL, "final")}
    policy = LayerPolicy(quorum=QUORUM, grace=0, timeout=TIMEOUT)

    def mixture(run: int) -> Any:
        limited = Proposer(models["a"], name="limited", parameters={"model": f"limited-{run}"})
        return create_moa([*(models[name] for name in PANEL), limited], models["final"], 2, policy=policy)

    made = [mixture(run) for run in range(runs)]

    async def ask(run: int) -> int:
        out = await made[run].ainvoke({"messages": [("user", QUESTION)]})
        return sum(p["status"] == "ok" for p in out["proposals"]) + bool(out["messages"][-1].text)

    return ask


def gathered(base_url: str, _: int) -> Ask:
    """What one writes without us."""
    from openai import AsyncOpenAI

    from moa_graph import AGGREGATE_AND_SYNTHESIZE

    client = AsyncOpenAI(base_url=base_url, api_key="key", timeout=TIMEOUT)

    async def call(model: str, *system: str) -> str:
        messages: Any = [{"role": "system", "content": text} for text in system]
        async with asyncio.timeout(TIMEOUT):
            answer = await client.chat.completions.create(
                model=model, messages=[*messages, {"role": "user", "content": QUESTION}]
            )
        return str(answer.choices[0].message.content)

    async def ask(run: int) -> int:
        said = await asyncio.gather(*(call(name) for name in (*PANEL, f"limited-{run}")), return_exceptions=True)
        answers = [text for text in said if isinstance(text, str)]
        references = "".join(f"\n{k}. {text}" for k, text in enumerate(answers, 1))
        return len(answers) + bool(await call("final", AGGREGATE_AND_SYNTHESIZE + references))

    return ask


async def all_runs(ask: Ask, runs: int) -> tuple[list[float], int, int]:
    """Seconds of each run, how many answers came back, and how many runs failed."""
    places = asyncio.Semaphore(IN_FLIGHT)
    times: list[float] = []
    answers = failed = 0

    async def one(run: int) -> None:
        nonlocal answers, failed
        async with places:
            if run < IN_FLIGHT:
                await asyncio.sleep(run * FLOOR / IN_FLIGHT)
            started = time.perf_counter()
            try:
                got = await ask(run)
                answers += got
            except Exception as error:
                failed += 1
                print(f"run {run}: {type(error).__name__}: {error}", file=sys.stderr)
            times.append(time.perf_counter() - started)

    await asyncio.gather(*(one(run) for run in range(runs)))
    return times, answers, failed


async def measure(what: str, make: Callable[[str, int], Ask], base_url: str) -> Result:
    server = Server(base_url)
    ask = make(base_url, RUNS)
    server.clear()
    await all_runs(ask, RUNS)
    server.prepare(RUNS)
    times, answers, failed = await all_runs(ask, RUNS)
    orphaned = await server.orphaned()
    return Result(what, times, answers, failed, server.stats()["ok"], orphaned)


def report(results: list[Result]) -> None:
    head = ("what", "p50", "p99", "p50/floor", "p99/floor", "lost", "orphaned")
    table = [head, *(result.cells() for result in results)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"{RUNS} runs at {IN_FLIGHT} in flight; floor {FLOOR:.1f} s; goal: p99/floor at most {LIMIT}, nothing lost")
    for what, *numbers in table:
        print("  ".join((what.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)))))


def main() -> int:
    os.environ |= {"LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    with server_process("--latency", str(LATENCY), "--tokens", "20") as base_url:
        ours = asyncio.run(measure("moa_graph", mixtures, base_url))
        theirs = asyncio.run(measure("asyncio.gather", gathered, base_url))
    report([ours, theirs])
    return int(ours.p99 > LIMIT * FLOOR or ours.lost != 0 or ours.orphaned != 0)


if __name__ == "__main__":
    sys.exit(main())
