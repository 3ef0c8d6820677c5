"""What came of a run, on standard error: one line, a table, every proposal."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moa_graph.cli.terminal import draws, is_terminal, safe, say

if TYPE_CHECKING:
    from moa_graph.receipt import Call, Receipt
    from moa_graph.state import Proposal

__all__ = ["show", "show_proposals", "summary"]

_NUMBERS = 36  # columns that everything but names and status takes
_CACHED = 8  # and how many more where providers' prefix caches were hit
_SHORTEST = 12
_WIDE = 200  # columns where nobody looks on
_STYLES = {"ok": "green", "cut": "yellow"}


def summary(receipt: "Receipt") -> str:
    """A run in one line: calls, who answered, tokens, seconds."""
    layers = "".join(f", layer {x['layer']}: {x['answered']} of {x['asked']} answered" for x in receipt["layers"])
    calls, tokens = receipt["calls"], receipt["input_tokens"]
    return (
        f"{calls} call{'s' * (calls != 1)}{layers}, {tokens:,} token{'s' * (tokens != 1)} in and "
        f"{receipt['output_tokens']:,} out, {receipt['seconds']:.1f} s"
    )


def show_proposals(proposals: Sequence["Proposal"]) -> None:
    """Show each proposer's answer, or why it has none."""
    for proposal in proposals:
        say(f"\nlayer {proposal['layer']}, {proposal['proposer']} ({proposal['model']})")
        if proposal["status"] != "ok":
            say(f"{proposal['status']}: {proposal.get('error')}")
        elif draws(sys.stderr):
            from moa_graph.cli.answer import Document

            Console(stderr=True).print(Document(proposal["content"]), end="")
        else:
            say(proposal["content"])
    say()


def show(receipt: "Receipt") -> None:
    """Print a run's receipt."""
    console = Console(stderr=True, width=None if is_terminal(sys.stderr) else _WIDE)
    calls = [(layer["layer"], call) for layer in receipt["layers"] for call in layer["proposals"]]
    calls.append((len(receipt["layers"]) + 1, receipt["final"]))
    table = _table(receipt, [call for _, call in calls], console.size.width)
    for number, call in calls:
        _row(table, str(number), call, cached=bool(receipt.get("cached_input_tokens")))
    console.print(table)
    reasons = [f"{call['proposer']}: {call['error']}" for _, call in calls if call.get("error")]
    for reason in dict.fromkeys(reasons):
        say(reason)


def _table(receipt: "Receipt", calls: Sequence["Call"], width: int) -> Table:
    """The empty table. Where `width` is too small for both names, the model's gives way first."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_footer=True)
    cached = bool(receipt.get("cached_input_tokens"))
    room = width - _NUMBERS - _CACHED * cached - max(len(_status(call)) for call in calls)
    proposer = max(cell_len(name) for name in ("proposer", *(call["proposer"] for call in calls)))
    proposer = min(proposer, max(_SHORTEST, room - _SHORTEST))
    table.add_column("layer", no_wrap=True)
    table.add_column("proposer", no_wrap=True, max_width=proposer)
    table.add_column("model", no_wrap=True, max_width=max(_SHORTEST, room - proposer))
    table.add_column("status", no_wrap=True)
    for name, total in (
        ("seconds", f"{receipt['seconds']:.1f}"),
        ("calls", str(receipt["calls"])),
        ("in", f"{receipt['input_tokens']:,}"),
        *([("cached", f"{receipt['cached_input_tokens']:,}")] if cached else []),
        ("out", f"{receipt['output_tokens']:,}"),
    ):
        table.add_column(name, footer=total, justify="right", no_wrap=True)
    return table


def _row(table: Table, layer: str, call: "Call", *, cached: bool) -> None:
    usage = call["usage"]
    tokens = ["input_tokens", *(["cached_input_tokens"] if cached else []), "output_tokens"]
    table.add_row(
        layer,
        Text(safe(call["proposer"])),
        Text(safe(call["model"])),
        Text(_status(call), style=_STYLES.get(call["status"], "red")),
        f"{call['seconds']:.1f}",
        str(call.get("calls", call["attempts"])),
        *(f"{usage[name]:,}" if name in usage else "" if name.startswith("cached") else "?" for name in tokens),
    )


def _status(call: "Call") -> str:
    return call["status"] + (" (cached)" if call["cached"] else " (resumed)" if call["resumed"] else "")
