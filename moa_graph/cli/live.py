"""Who is answering, who has, for how long: drawn on standard error while the layers run."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from moa_graph.errors import clean

__all__ = ["Progress"]

_MARKS = {"ok": ("✓", "green"), "error": ("✗", "red"), "timeout": ("✗", "red"), "cut": ("-", "yellow")}


@dataclass
class _Row:
    layer: str
    name: str
    started: float = field(default_factory=time.monotonic)
    status: str = ""
    said: str = ""

    @property
    def seconds(self) -> str:
        return f"{time.monotonic() - self.started:.1f} s"

    def draw(self, spinner: Spinner) -> tuple[RenderableType, ...]:
        mark, style = _MARKS.get(self.status, ("?", "red"))
        said = Text(self.said if self.status else self.seconds, style="dim", overflow="ellipsis", no_wrap=True)
        return Text(mark, style=style) if self.status else spinner, Text(self.name), said


class Progress:
    """Fed with LangGraph's `tasks` stream. On a terminal it redraws itself; elsewhere it says a line per answer."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._rows: dict[str, _Row] = {}
        self._spinner = Spinner("dots")
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=10)
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop("cut", "stopped")

    def answering(self) -> None:
        """The final model has begun: leave the last picture standing, the answer comes below it."""
        self._stop("ok", "first word")

    def _stop(self, status: str, why: str) -> None:
        for row in self._rows.values():
            if not row.status:
                row.said, row.status = f"{why} after {row.seconds}", status
        if self._live:
            self._live.stop()
            self._live = None

    def task(self, namespace: tuple[str, ...], data: Mapping[str, Any]) -> None:
        """One event of the `tasks` stream: a model has started, or has answered."""
        name, final = data["name"], not namespace and data["name"] == "final"
        if name == "aggregate" or not (final or len(namespace) == 1):
            return
        layer = "final" if final else namespace[0].partition(":")[0].replace("_", " ")
        known = _Row(layer, data.get("metadata", {}).get("moa_model", "") if final else name)
        row = self._rows.setdefault(data["id"], known)
        if "result" not in data or row.status:
            return
        row.status, row.said = _ended(data, layer)
        if not self._live and not final:
            print(f"{layer}, {name}: {row.said}", file=sys.stderr, flush=True)  # noqa: T201

    def _draw(self) -> RenderableType:
        if not self._rows:
            return Text("starting …", style="dim")
        table, above = Table.grid(padding=(0, 1)), ""
        for column in range(4):
            table.add_column(no_wrap=column < 3)
        for row in list(self._rows.values()):  # drawn in a thread of its own
            table.add_row(Text("" if row.layer == above else row.layer, style="bold"), *row.draw(self._spinner))
            above = row.layer
        return table


def _ended(data: Mapping[str, Any], layer: str) -> tuple[str, str]:
    """How a model ended, and the words for it."""
    error = data.get("error")
    proposals = dict(data["result"] or {}).get("proposals") or getattr(error, "proposals", [])
    for proposal in proposals:
        if (f"layer {proposal['layer']}", proposal["proposer"]) == (layer, data["name"]):
            return proposal["status"], _said(proposal)
    return ("error", clean(str(error))) if error else ("ok", "")


def _said(proposal: Mapping[str, Any]) -> str:
    if proposal["status"] != "ok":
        return f"{proposal.get('error', proposal['status'])} ({proposal['seconds']:.1f} s)"
    tokens = proposal.get("usage", {}).get("output_tokens")
    return f"{proposal['seconds']:.1f} s" + (f", {tokens} tokens" if tokens else "")
