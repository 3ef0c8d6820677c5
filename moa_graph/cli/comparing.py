"""A comparison while it runs: one line on a terminal, drawn again in place."""

import asyncio
import sys
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from moa_graph.cli.recording import keep_all
from moa_graph.cli.terminal import Pane, draws, quiet_keys
from moa_graph.compare import Match, Progress
from moa_graph.money import dollars
from moa_graph.standing import Comparison

__all__ = ["compared"]


def compared(match: Match) -> Comparison:
    """Play a match, and show how far it is. Its runs are kept, also where it is interrupted."""
    line = _Line()
    try:
        with quiet_keys():
            return asyncio.run(match.play(line.draw))
    finally:
        line.end()
        keep_all(match)


class _Line:
    """How far it is."""

    def __init__(self) -> None:
        self._pane = Pane(Console(stderr=True)) if draws(sys.stderr) else None

    def draw(self, progress: Progress) -> None:
        if self._pane is not None:
            with suppress(OSError):  # nobody looks on
                self._pane.draw(Text(said(progress), no_wrap=True, overflow="ellipsis"))

    def end(self) -> None:
        if self._pane is not None:
            with suppress(OSError):
                self._pane.commit()


def said(progress: Progress) -> str:
    """A line: done, failed, judged, $."""
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    cost = f", ${dollars(progress.usd)}" if progress.usd else ""
    done = progress.answered + progress.failed
    return f"{done:,} of {progress.runs:,} runs{failed}; {progress.judged:,} of {progress.pairs:,} pairs judged{cost}"
