"""What selecting and stopping without a model take, over a call of one second: `python -m tests.benchmarks.steps`.

Processor time on six answers of about 2,000 tokens (1,500 words) each. The call is a real wait in the same run.
"""

import asyncio
import random
import sys
import time
from typing import Any

from moa_graph.select import Cluster, Diverse
from moa_graph.state import Proposal
from moa_graph.steps import Situation
from moa_graph.stop import Agreement, Sentinel
from tests.benchmarks.table import Row, report

LIMIT = 0.01  # of a call of one second
ANSWERS, WORDS = 6, 1_500
ROUNDS = 15


def answers() -> list[str]:
    """Words as texts have them: a few often, many seldom, of 2 to 10 letters."""
    lots = random.Random(7)
    words = ["".join(lots.choices("abcdefghijklmnopqrstuvwxyz", k=lots.randint(2, 10))) for _ in range(4_000)]
    often = [1 / rank for rank in range(1, len(words) + 1)]
    return [" ".join(lots.choices(words, often, k=WORDS)) for _ in range(ANSWERS)]


def situation() -> Situation:
    made = [
        Proposal(layer=1, slot=k, proposer=f"p{k}", model="m", status="ok", content=text, seconds=0.0, attempts=1)
        for k, text in enumerate(answers(), 1)
    ]
    return Situation(1, [], made, [p["proposer"] for p in made])


async def timed(step: Any, given: Situation) -> float:
    started = time.thread_time()  # they wait for nothing; on a busy machine, wall time is the others' too
    await step.decide(given)
    return time.thread_time() - started


async def measure() -> list[Row]:
    given = situation()
    started = time.perf_counter()
    await asyncio.sleep(1.0)  # a call
    call = time.perf_counter() - started
    steps = [("Diverse(3)", Diverse(3)), ("Cluster()", Cluster()), ("Agreement()", Agreement())]
    steps += [('Sentinel("FINAL")', Sentinel("FINAL"))]
    return [Row(what, [await timed(step, given) for _ in range(ROUNDS)], call, LIMIT) for what, step in steps]


def main() -> int:
    return report(asyncio.run(measure()), over="a call")


if __name__ == "__main__":
    sys.exit(main())
