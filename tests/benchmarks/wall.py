"""Wall time of a mixture over its floor: `python -m tests.benchmarks.wall`.

Three layers, six proposers, 13 calls of one second each: no run can take less than 3 s. The models are real
`openai:` clients, and the server they ask has a process of its own.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.benchmarks.table import Row, report
from tests.server import server_process

LATENCY = 1.0  # seconds a call takes
LAYERS, PROPOSERS, CALLS = 3, 6, 13
FLOOR = LAYERS * LATENCY
LIMIT = 1.03  # for ainvoke
RUNS = 5
QUESTION = {"messages": [("user", "Why is the sky blue?")]}


def mixture(base_url: str) -> Any:
    from moa_graph import Proposer, create_moa

    proposers = [Proposer(f"openai:m{i}", base_url=base_url) for i in range(1, PROPOSERS + 1)]
    return create_moa(proposers, Proposer("openai:final", base_url=base_url), layers=LAYERS)


def check(state: Mapping[str, Any]) -> None:
    receipt = state["messages"][-1].response_metadata["moa"]
    assert receipt["calls"] == CALLS, receipt


def timed(run: Callable[[], float]) -> list[float]:
    """The seconds of `RUNS` runs, after one that opens the connections and is not counted."""
    return [run() for _ in range(RUNS + 1)][1:]


def invoked(moa: Any) -> float:
    started = time.perf_counter()
    state = moa.invoke(QUESTION)
    seconds = time.perf_counter() - started
    check(state)
    return seconds


async def ainvoked(moa: Any) -> float:
    started = time.perf_counter()
    state = await moa.ainvoke(QUESTION)
    seconds = time.perf_counter() - started
    check(state)
    return seconds


async def astreamed(moa: Any) -> tuple[float, float]:
    """Seconds to the final model's first token, and to the end."""
    started, first, state = time.perf_counter(), None, {}
    async for mode, data in moa.astream(QUESTION, stream_mode=["messages", "values"]):
        if mode == "values":
            state = data
        elif first is None and data[1].get("moa_role") == "final" and data[0].text:
            first = time.perf_counter() - started
    seconds = time.perf_counter() - started
    check(state)
    assert first is not None
    return first, seconds


def measure(moa: Any) -> list[Row]:
    with asyncio.Runner() as runner:  # one event loop for all runs, as in a service
        awaited = timed(lambda: runner.run(ainvoked(moa)))
        streams = [runner.run(astreamed(moa)) for _ in range(RUNS + 1)][1:]
    return [
        Row("ainvoke", awaited, FLOOR, LIMIT),
        Row("invoke", timed(lambda: invoked(moa)), FLOOR),
        Row("astream, first token", [first for first, _ in streams], FLOOR),
        Row("astream, to the end", [end for _, end in streams], FLOOR),
    ]


def main() -> int:
    os.environ |= {"OPENAI_API_KEY": "made-up", "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    with server_process("--latency", str(LATENCY), "--tokens", "20") as base_url:
        rows = measure(mixture(base_url))
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
