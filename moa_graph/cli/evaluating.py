"""How far an evaluation is: one line on standard error, drawn again in place; elsewhere a line now and then."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from moa_graph.cli.terminal import Pane, draws, say
from moa_graph.money import dollars, money

if TYPE_CHECKING:
    from moa_graph.eval.generate import Progress
    from moa_graph.eval.run import Plan

__all__ = ["DRAWN_EVERY", "SAID_EVERY", "Line", "planned", "raise_for", "shown", "told"]

DRAWN_EVERY: Final = 0.2  # seconds
SAID_EVERY: Final = 15.0


class Line:
    """Takes how far a stage is, and shows it."""

    def __init__(self) -> None:
        self._pane = Pane(Console(stderr=True)) if draws(sys.stderr) else None
        self._progress: Progress | None = None
        self._said = ""

    def take(self, progress: "Progress") -> None:
        self._progress = progress

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(DRAWN_EVERY if self._pane else SAID_EVERY)
            self.show()

    def show(self) -> None:
        if self._progress is None or (text := told(self._progress)) == self._said:
            return
        self._said = text
        if self._pane is None:
            say(text)
            return
        with suppress(OSError):
            self._pane.draw(Text(text, no_wrap=True, overflow="ellipsis"))

    def end(self) -> None:
        """Leave the last line standing."""
        if self._pane is None:
            self.show()
        elif self._progress is not None:
            with suppress(OSError):
                self._pane.commit(Text(told(self._progress) + "\n"))


@asynccontextmanager
async def shown() -> AsyncIterator[Line]:
    """A line that is shown until its stage has ended."""
    line = Line()
    ticking = asyncio.create_task(line.tick())
    try:
        yield line
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])
        line.end()


def told(progress: "Progress") -> str:
    """How far it is, in one line."""
    what = "answers" if progress.stage == "generate" else "judgements"
    parts = [f"{what}: {progress.before + progress.done:,} of {progress.total:,}"]
    parts += [f"{progress.failed:,} failed"] if progress.failed else []
    parts += [f"{progress.unparsed:,} not readable"] if progress.unparsed else []
    parts += [f"${dollars(progress.usd)}, ${dollars(progress.usd_per_second)}/s"] if progress.usd else []
    left = progress.seconds_left
    if progress.left and left is not None and not progress.stopped:
        parts.append(f"{_duration(left)} left")
    return ", ".join(parts)


def planned(what: str, plan: "Plan") -> str:
    """What a stage is going to take, in one line."""
    if not plan.left:
        return f"{what}: all there"
    calls = f"{plan.calls:,} call{'s' * (plan.calls != 1)}"
    return f"{what}: about {calls} and {money(plan.cost_usd, plan.cost_usd_at_least, up=True)}"


def raise_for(progress: "Progress") -> None:
    """Raises MoAError where something is missing: the exit code says so."""
    from moa_graph.errors import MoAError

    what = "answer" if progress.stage == "generate" else "judgement"
    if progress.stopped:
        raise MoAError(f"{progress.left:,} {what}s are missing: {progress.stopped}; a higher --budget goes on")
    if progress.failed:
        told = f"{progress.failed:,} {what}{'s' * (progress.failed != 1)} failed"
        raise MoAError(f"{told}; the same command asks again")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
