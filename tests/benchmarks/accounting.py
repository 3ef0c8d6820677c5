"""What receipts say and what they cost: `python -m tests.benchmarks.accounting`.

Sums: 1,000 mixtures with faults (`tests/accounts.py`) and every receipt of theirs, those of failed and of resumed runs
too, beside the server's own count of requests and of the tokens in every usage that it sent in full. Two things only
a server can count, and they are told apart: answers sent while their call was cut or its connection lost; and calls
that were cut before their request had left are counted by us alone. Both are taken from what LangChain tells of each
model's runs, not from the receipts.

Overhead: processor time of bursts of runs with usage, bills and receipts, over the same bursts with those parts
swapped for nothing, in the same process, on the same mixture and connections. The two take turns, and so does who
begins; the ratio is the median over the pairs. The server has a process of its own.
"""

import argparse
import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from tests.accounts import Count, FaultyServer, ask_all
from tests.benchmarks.table import Row, report
from tests.server import server_process

SEED, RUNS, AT_ONCE = 1, 1000, 20
PAIRS, BURST = 150, 10  # pairs of bursts, runs in a burst
PROPOSERS, LAYERS, CALLS = 6, 3, 13
LIMIT = 1.02
QUESTION = {"messages": [("user", "Why is the sky blue?")]}


# Sums


def sums(runs: int, seed: int) -> bool:
    """Print both counts. Returns whether they are equal."""
    logging.disable()  # LangGraph's and asyncio's words on threads and connections that end early
    with FaultyServer(seed) as server:
        threads, heard = asyncio.run(ask_all(server, seed, runs, AT_ONCE))
        counted, missed = Count.by(server.requests), heard.missed(server.requests)
        faults = sum(server.faults.values()) - server.faults["none"]
    logging.disable(logging.NOTSET)
    receipts = [receipt for thread in threads for receipt in thread.receipts]
    told, difference = Count.of(receipts), counted.plus(missed, -1).plus(Count.of(receipts), -1)
    failed = sum(receipt["final"]["status"] != "ok" for receipt in receipts)
    print(
        f"{len(threads)} mixtures, {len(receipts)} runs ({failed} failed), {counted.calls} requests ({faults} faults)"
    )
    lines = (
        ("counted by the server", counted),
        ("of that: of calls given up meanwhile", missed),
        ("receipts", told),
        ("difference", difference),
    )
    print(f"{'':37}{'calls':>9}{'tokens in':>12}{'tokens out':>12}")
    for what, (calls, given, said) in lines:
        print(f"{what:37}{calls:>9,}{given:>12,}{said:>12,}")
    return not any(difference)


# Overhead


def mixture(base_url: str) -> Any:
    from moa_graph import Proposer, create_moa
    from moa_graph.prices import Price

    price = Price(input=0.1, output=0.4)
    proposers = [Proposer(f"openai:m{i}", base_url=base_url, price=price) for i in range(1, PROPOSERS + 1)]
    return create_moa(proposers, Proposer("openai:final", base_url=base_url, price=price), layers=LAYERS)


@contextmanager
def without_accounting() -> Iterator[None]:
    """Nobody listens for usage, nothing is priced, and no receipt is made."""
    from moa_graph import asking, final, nodes, transport
    from moa_graph.bill import NOTHING
    from moa_graph.budget import Amount

    heard_by = asking._heard_by

    def only_first_tokens(handlers: Any, config: Any) -> Any:
        first = [handler for handler in handlers if isinstance(handler, asking._FirstToken)]
        return heard_by(first, config) if first else config

    with (
        patch.object(asking, "_heard_by", only_first_tokens),
        patch.object(transport, "Listening", lambda _: nullcontext()),
        patch.object(asking._Usage, "received", lambda *_: None),
        patch.object(asking.Asking, "usage", {}),
        patch.object(asking.Asking, "bill", lambda *_: NOTHING),
        patch.object(nodes, "spent", lambda _: Amount()),
        patch.object(final, "spent", lambda _: Amount()),
        patch.object(final, "receipt", lambda *_, **__: {}),
    ):
        yield


@contextmanager
def with_accounting() -> Iterator[None]:
    yield


async def burst(moa: Any) -> None:
    outs = await asyncio.gather(*(moa.ainvoke(QUESTION) for _ in range(BURST)))
    for out in outs:
        receipt = out["messages"][-1].response_metadata["moa"]
        assert not receipt or (receipt["calls"] == CALLS and receipt["cost_usd"] > 0), receipt
        assert len(out["proposals"]) == CALLS - 1


def overhead(base_url: str, pairs: int) -> Row:
    moa = mixture(base_url)
    sides = [with_accounting, without_accounting]
    times: dict[Any, list[float]] = {side: [] for side in sides}
    with asyncio.Runner() as runner:
        for number in range(pairs + 2):  # the first two open the connections, and are not counted
            for side in sides if number % 2 else sides[::-1]:
                gc.collect()
                with side():
                    started = time.process_time()
                    runner.run(burst(moa))
                    times[side].append(1000 * (time.process_time() - started) / BURST)
    on, off = (times[side][2:] for side in sides)
    return Row("CPU of a run, over the same without accounting", on, off, LIMIT, "ms")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.accounting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 mixtures, 40 pairs")
    quick = parser.parse_args().quick
    runs, pairs = (100, 40) if quick else (RUNS, PAIRS)
    os.environ |= {"OPENAI_API_KEY": "made-up", "LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1"}
    equal = sums(runs, SEED)
    with server_process("--tokens", "20") as base_url:
        rows = [overhead(base_url, pairs)]
    return report(rows, over="over") or int(not equal)


if __name__ == "__main__":
    sys.exit(main())
