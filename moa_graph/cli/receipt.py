"""What came of a run, on standard error: one line, a table, every proposal."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moa_graph.cli.terminal import draws, is_terminal, safe, say
from moa_graph.cli.tree import decided
from moa_graph.money import dollars, money

if TYPE_CHECKING:
    from moa_graph.receipt import Call, Receipt
    from moa_graph.state import Fitting, Proposal

__all__ = ["show", "show_proposals", "summary"]

_NUMBERS = 45  # columns that everything but names and status takes
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
        f"{receipt['output_tokens']:,} out, {_cost(receipt)}{receipt['seconds']:.1f} s"
        + (f"; {receipt['stopped']}" if receipt.get("stopped") else "")
        + ("; references did not fit: " + "; ".join(cut) if (cut := [*_cut(receipt)]) else "")
        + ("; the answer ends at max_tokens" if receipt["final"].get("finish_reason") == "length" else "")
    )


def _cut(receipt: "Receipt") -> Iterator[str]:
    """For each layer, window and the final model, in words: how many references were not read, or not whole."""
    given = 0  # references that the layer before has for the next
    for layer in receipt["layers"]:
        fits = [call["fit"] for call in layer["proposals"] if "fit" in call]
        alone = sum(len(fit["dropped"]) == given for fit in fits)
        said = {
            "shortened": sum(bool(fit["trimmed"]) for fit in fits),
            "left out": sum(bool(fit["dropped"]) for fit in fits) - alone,
            "all left out": alone,
        }
        if fits:
            parts = ", ".join(f"{what} for {many}" for what, many in said.items() if many)
            yield f"layer {layer['layer']}: {parts} of {layer['asked']}"
        given = sum(call["status"] == "ok" and "unread" not in call for call in layer["proposals"])
    made = [decision.get("call") or {} for decision in receipt.get("decisions") or ()]
    windows = [(call["proposer"].replace("_", " "), call["fit"]) for call in made if "fit" in call]
    for who, fit in [*windows, *([("final model", receipt["final"]["fit"])] if "fit" in receipt["final"] else [])]:
        if len(fit["dropped"]) == given:
            yield f"{who}: all {given} left out, it read the question alone"
        else:
            counts = {"shortened": len(fit["trimmed"]), "left out": len(fit["dropped"])}
            yield f"{who}: {', '.join(f'{many} {what}' for what, many in counts.items() if many)}"


def _cost(receipt: "Receipt") -> str:
    """Nothing where it is known to be nothing: the embedded model."""
    if "cost_usd" not in receipt or receipt["cost_usd"] == 0:
        return ""
    return money(receipt["cost_usd"], receipt["cost_usd_at_least"]) + ", "


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
        if critique := proposal.get("critique"):
            say(f"critique: {critique}")
        if unread := proposal.get("unread"):
            say(f"not read on: {unread}")
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
    for _, call in calls:
        if fitting := call.get("fit"):
            say(f"{call['proposer']}: {_unread(fitting)}")
    for decision in receipt.get("decisions") or ():
        say(f"{decided(decision)}{_asked(decision.get('call'))}")
    reasons = [f"{call['proposer']}: {call['error']}" for _, call in calls if call.get("error")]
    for reason in dict.fromkeys(reasons):
        say(reason)


def _asked(call: Mapping[str, Any] | None) -> str:
    """What a decision took, where a model was asked for it."""
    if not call:
        return ""
    calls = call.get("calls", call["attempts"])
    return f" ({call['model']}: {calls} call{'s' * (calls != 1)}, {call['seconds']:.1f} s)"


def _unread(fitting: "Fitting") -> str:
    """Which references somebody did not read whole."""
    parts = [("shortened", fitting["trimmed"]), ("left out", fitting["dropped"])]
    told = [f"{what}: {', '.join(map(str, numbers))}" for what, numbers in parts if numbers]
    return f"its references did not fit its context window; {'; '.join(told)}"


def _table(receipt: "Receipt", calls: Sequence["Call"], width: int) -> Table:
    """The empty table. Where `width` is too small for both names, the model's gives way first."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_footer=True)
    cached = bool(receipt.get("cached_input_tokens"))
    room = width - _NUMBERS - _CACHED * cached - max(len(_status(call)) for call in calls)
    proposer = max(cell_len(name) for name in ("proposer", *(call["proposer"] for call in calls)))
    proposer = min(proposer, max(_SHORTEST, room - _SHORTEST))
    table.add_column("layer", footer="in all", no_wrap=True)
    table.add_column("proposer", no_wrap=True, max_width=proposer)
    table.add_column("model", no_wrap=True, max_width=max(_SHORTEST, room - proposer))
    table.add_column("status", no_wrap=True)
    for name, total in (
        ("seconds", f"{receipt['seconds']:.1f}"),
        ("calls", str(receipt["calls"])),
        ("in", f"{receipt['input_tokens']:,}"),
        *([("cached", f"{receipt['cached_input_tokens']:,}")] if cached else []),
        ("out", f"{receipt['output_tokens']:,}"),
        ("$", dollars(receipt.get("cost_usd"), receipt.get("cost_usd_at_least", 0.0))),
    ):
        table.add_column(name, footer=total, justify="right", no_wrap=True)
    return table


def _row(table: Table, layer: str, call: "Call", *, cached: bool) -> None:
    usage, unknown = call["usage"], "?" if call["attempts"] or call["cached"] else "0"
    tokens = ["input_tokens", *(["cached_input_tokens"] if cached else []), "output_tokens"]
    table.add_row(
        layer,
        Text(safe(call["proposer"])),
        Text(safe(call["model"])),
        Text(_status(call), style=_STYLES.get(call["status"], "red")),
        f"{call['seconds']:.1f}",
        str(call.get("calls", call["attempts"])),
        *(f"{usage[name]:,}" if name in usage else "" if name.startswith("cached") else unknown for name in tokens),
        dollars(call.get("cost_usd"), call.get("cost_usd_at_least", 0.0)),
    )


def _status(call: "Call") -> str:
    ends = " (max_tokens)" if call.get("finish_reason") == "length" else ""
    ends = " (unread)" if call.get("unread") else ends
    return call["status"] + (" (cached)" if call["cached"] else " (resumed)" if call["resumed"] else ends)
