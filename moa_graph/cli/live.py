"""Who is answering, who has, for how long: drawn on standard error while the layers run."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

__all__ = ["Progress"]

_MARKS = {"ok": ("✓", "green"), "error": ("✗", "red"), "timeout": ("✗", "red"), "cut": ("-", "yellow")}


@dataclass
class _Row:
    layer: str
    name: str
    started: float = field(default_factory=time.monotonic)
    status: str = ""
    said: str = ""

    def draw(self, spinner: Spinner) -> tuple[RenderableType, ...]:
        if not self.status:
            return spinner, self.name, Text(f"{time.monotonic() - self.started:.1f} s", style="dim")
        mark, style = _MARKS.get(self.status, ("?", "red"))
        return (
            Text(mark, style=style),
            self.name,
            Text(self.said, style="dim", overflow="ellipsis", no_wrap=True),
        )


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
        self.stop()

    def stop(self) -> None:
        """Leave the last picture standing: the answer comes below it."""
        if self._live:
            self._live.stop()
            self._live = None

    def task(self, namespace: tuple[str, ...], data: Mapping[str, Any]) -> None:
        """One event of the `tasks` stream: a proposer has started, or has answered."""
        if not namespace or data["name"] == "aggregate":
            return
        row = self._rows.setdefault(data["id"], _Row(namespace[-1].partition(":")[0], data["name"]))
        if "result" not in data:
            return
        proposal = (dict(data["result"] or {}).get("proposals") or [{}])[0]
        row.status = proposal.get("status", "error")
        row.said = _said(proposal) if proposal else str(data.get("error") or "")
        if not self._live:
            print(f"{row.layer} {row.name}: {row.said}", file=sys.stderr, flush=True)  # noqa: T201

    def _draw(self) -> RenderableType:
        tables: list[RenderableType] = []
        for layer in dict.fromkeys(row.layer for row in self._rows.values()):
            table = Table.grid(padding=(0, 1))
            for row in self._rows.values():
                if row.layer == layer:
                    table.add_row(" ", *row.draw(self._spinner))
            tables += [Text(layer.replace("_", " "), style="bold"), table]
        return Group(*tables) if tables else Text("starting …", style="dim")


def _said(proposal: Mapping[str, Any]) -> str:
    if proposal["status"] != "ok":
        return f"{proposal.get('error', proposal['status'])} ({proposal['seconds']:.1f} s)"
    tokens = proposal.get("usage", {}).get("output_tokens")
    return f"{proposal['seconds']:.1f} s" + (f", {tokens} tokens" if tokens else "")
