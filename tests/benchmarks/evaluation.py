"""`moa eval` on many items: `python -m tests.benchmarks.evaluation`, with `--quick` for a first look.

805 items, each asked of six proposers and the final model, 7 calls, at a server that answers in 50 ms and has a process
of its own; 64 items in flight. That is more than a processor can do in the time the server takes, so what is judged is
the processor time over that of the same calls by hand: `asyncio.gather` over `AsyncOpenAI` on its
`DefaultAioHttpClient`, the last one streamed too, nothing kept. The wall time stands beside it, over the same and over
the server's own floor. Then: a finished run started again, and the process's memory at the end over that after 200
items. Each side has a process of its own, and the sides take turns; a ratio is the median of the rounds.
Where the benchmarks' data are beside this repository: `moa eval score` on a published model's answers to AlpacaEval.
"""

import argparse
import asyncio
import gzip
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.benchmarks.table import Row, report
from tests.evaluation import DATA
from tests.server import server_process

LATENCY = 0.05
AT_ONCE, PROPOSERS, WORDS = 64, 6, 20
OVER_BY_HAND, AGAIN, SCORED, FLAT = 1.2, 2.0, 5.0, 1.05  # limits


class Took(NamedTuple):
    wall: float
    cpu: float
    again: float = 0.0
    early: float = 0.0
    late: float = 0.0


def memory() -> float:
    """KB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4


def by_hand(base_url: str, items: int) -> Took:
    from openai import AsyncOpenAI, DefaultAioHttpClient

    async def all_of_them() -> Took:
        async with AsyncOpenAI(base_url=base_url, api_key="key", http_client=DefaultAioHttpClient()) as client:
            places = asyncio.Semaphore(AT_ONCE)
            sampling: Any = {"temperature": 0.7, "max_completion_tokens": 2048}

            async def call(model: str, text: str) -> str:
                said: Any = [{"role": "user", "content": text}]
                answer = await client.chat.completions.create(model=model, messages=said, **sampling)
                return str(answer.choices[0].message.content)

            async def one(text: str) -> None:
                async with places:
                    answers = await asyncio.gather(*(call(f"m{k}", text) for k in range(PROPOSERS)))
                    said: Any = [{"role": "system", "content": str(answers)}, {"role": "user", "content": text}]
                    usage: Any = {"stream_options": {"include_usage": True}}
                    stream = await client.chat.completions.create(
                        model="final", messages=said, stream=True, **sampling, **usage
                    )
                    async for _ in stream:
                        pass

            await asyncio.gather(*(one(f"{k}?") for k in range(AT_ONCE)))  # opens the connections
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(one(f"Why is the sky blue? {k}") for k in range(items)))
            return Took(time.perf_counter() - began, time.process_time() - cpu)

    return asyncio.run(all_of_them())


def evaluated(base_url: str, items: int) -> Took:
    from moa_graph.cli import evaluating, run
    from moa_graph.eval import score as _  # noqa: F401 - loaded before anything is measured

    seen: dict[int, float] = {}

    class Line(evaluating.Line):
        def take(self, progress: Any) -> None:
            seen.setdefault(progress.done, memory())

    evaluating.Line = Line  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nobody, redirect_stderr(nobody):
        model = {f"m{k}": {"model": f"openai:m{k}", "base_url": base_url} for k in range(PROPOSERS)}
        final = {"model": "openai:final", "base_url": base_url}
        described = {"proposers": list(model.values()), "aggregator": final, "layers": 2}
        Path(folder, "lite.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")

        def once(what: str, number: int) -> tuple[float, float]:
            lines = (json.dumps({"question": f"Why is the sky blue? {k}"}) + "\n" for k in range(number))
            Path(folder, f"{what}.jsonl").write_text("".join(lines), encoding="utf-8")
            began, cpu = time.perf_counter(), time.process_time()
            arguments = ["-c", f"{folder}/lite.yaml", "-o", f"{folder}/{what}", "--concurrency", str(AT_ONCE)]
            code = run(["eval", "run", f"{folder}/{what}.jsonl", *arguments, "--no-singles", "--stage", "generate"])
            assert code == 0
            return time.perf_counter() - began, time.process_time() - cpu

        once("first", AT_ONCE)  # opens the connections, loads what is loaded late
        seen.clear()
        wall, cpu = once("all", items)
        again, _cpu = once("all", items)
    return Took(wall, cpu, again, seen[min(200, items // 2)], seen[items])


def scored() -> float:
    """Seconds of `moa eval score`, from its start to its end, on what was judged of a model's 805 answers."""
    from moa_graph.eval.items import load

    name, items = "gpt-3.5-turbo-1106", load("alpaca-eval", DATA)
    places = {item.turns[0]: item.id for item in items}
    about = {"name": name, "kind": "mixture", "of": [], "model": "", "calls": 1, "fingerprint": "", "shape": {}}
    run = {"format": 1, "benchmark": "alpaca-eval", "seed": 0, "limit": None, "contenders": [about]}
    sums = ("calls", "input_tokens", "output_tokens", "cost_usd", "tflops_critical", "tflops_total")
    receipt = {**dict.fromkeys(sums, 1), "final": {"cached": False}, "layers": []}
    took = {"seconds": 1.0, "first_token": 0.1, "receipt": receipt, "proposals": []}
    lines: dict[str, list[Any]] = {"items": [item.told() for item in items], "answers": [], "judgements": []}
    for each in json.loads(gzip.decompress((DATA / f"alpaca_eval/annotations/{name}.json.gz").read_bytes())):
        key = {"item": places[each["instruction"]], "contender": name, "seed": 0, "turn": 1, "status": "ok"}
        said = each["preference"]
        lines["answers"].append({**key, "answer": each["output_2"], **took})
        lines["judgements"].append({**key, "order": "", "preference": said, "score": 100 * ((said or 1.5) - 1)})
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "run.json").write_text(json.dumps(run), encoding="utf-8")
        for what, those in lines.items():
            Path(folder, f"{what}.jsonl").write_text(
                "".join(json.dumps(each) + "\n" for each in those), encoding="utf-8"
            )
        command = [sys.executable, "-m", "moa_graph", "eval", "score", folder, "--data-dir", str(DATA)]
        began = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
    assert "length-controlled win rate" in ended.stdout
    return seconds


def measured(side: Any, *given: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(side, *given).result()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.evaluation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 items, once")
    quick = parser.parse_args().quick
    items, rounds = (200, 1) if quick else (805, 3)
    os.environ |= {"OPENAI_API_KEY": "made-up", "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    theirs, ours = list[Took](), list[Took]()
    with server_process("--latency", str(LATENCY), "--tokens", str(WORDS)) as base_url:
        for _ in range(rounds):
            theirs.append(measured(by_hand, base_url, items))
            ours.append(measured(evaluated, base_url, items))
    times = [scored() for _ in range(rounds)] if DATA.is_dir() else []
    scoring = [Row("AlpacaEval's 805 items scored, over 5 s", times, SCORED, 1.0)] if times else []
    floor = items * (PROPOSERS + 1) * LATENCY / AT_ONCE
    said = f"{items} items"
    return report(
        [
            Row(f"{said}: CPU over the calls by hand", [x.cpu for x in ours], [x.cpu for x in theirs], OVER_BY_HAND),
            Row(f"{said}: wall time over the calls by hand", [x.wall for x in ours], [x.wall for x in theirs]),
            Row(f"{said}: wall time over 64 calls in flight of 50 ms", [x.wall for x in ours], floor),
            Row("the calls by hand over the same", [x.wall for x in theirs], floor),
            Row("a finished run again, over 2 s", [x.again for x in ours], AGAIN, 1.0),
            *scoring,
            Row(
                f"memory after {said}, over that after 200", [x.late for x in ours], [x.early for x in ours], FLAT, "KB"
            ),
        ],
        "over",
    )


if __name__ == "__main__":
    sys.exit(main())
