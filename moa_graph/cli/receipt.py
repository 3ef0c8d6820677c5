"""`moa ask --receipt`: who answered, in how many attempts, seconds and tokens, as a table."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from moa_graph.receipt import Call, Receipt

__all__ = ["show"]

_STYLES = {"ok": "green", "cut": "yellow"}


def show(receipt: "Receipt") -> None:
    """Print a run's receipt on standard error."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_footer=True)
    for name in ("layer", "proposer", "model", "status"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name, total in (
        ("seconds", f"{receipt['seconds']:.1f}"),
        ("calls", str(receipt["calls"])),
        ("in", f"{receipt['input_tokens']:,}"),
        ("out", f"{receipt['output_tokens']:,}"),
    ):
        table.add_column(name, footer=total, justify="right")
    calls = [(layer["layer"], call) for layer in receipt["layers"] for call in layer["proposals"]]
    calls.append((len(receipt["layers"]) + 1, receipt["final"]))
    for number, call in calls:
        _row(table, str(number), call)
    console = Console(stderr=True)
    console.print(table)
    for _, call in calls:
        if call["error"]:
            console.print(Text(f"{call['proposer']}: {call['error']}"))


def _row(table: Table, layer: str, call: "Call") -> None:
    mark = " (cached)" if call["cached"] else " (resumed)" if call["resumed"] else ""
    usage = call["usage"]
    table.add_row(
        layer,
        Text(call["proposer"]),
        Text(call["model"]),
        Text(call["status"] + mark, style=_STYLES.get(call["status"], "red")),
        f"{call['seconds']:.1f}",
        str(call.get("calls", call["attempts"])),
        f"{usage['input_tokens']:,}" if "input_tokens" in usage else "?",
        f"{usage['output_tokens']:,}" if "output_tokens" in usage else "?",
    )
