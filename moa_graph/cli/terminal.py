"""What stands between a command and a terminal: text made safe, lines redrawn in place, keys kept off the picture."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

from moa_graph.errors import MoAError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "OutputError",
    "Pane",
    "between",
    "draws",
    "is_terminal",
    "output_errors",
    "quiet_keys",
    "safe",
    "say",
    "starting",
    "write",
]

_SHOWN: Final = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"},
    0x7F: "␡",
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
}
_LINE = "\r\x1b[2K"  # line by line: cleared at once from its top, a screen would go to tmux's history as well


class OutputError(MoAError):
    """The answer has nowhere to go."""


def safe(text: str) -> str:
    """The same text with control characters made visible: what a model sends must not drive a terminal."""
    return text.replace("\r\n", "\n").translate(_SHOWN)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at it."""
    return stream is not None and not stream.closed and stream.isatty()


def draws(stream: TextIO | None) -> bool:
    """Whether it is a terminal that can go back and draw again."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in ("dumb", "unknown", "")


def say(text: str = "") -> None:
    """A line on standard error, on a terminal broken between words. Nobody there to read it is no failure."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.write((_folded(safe(text)) if is_terminal(sys.stderr) else text) + "\n")
            sys.stderr.flush()


def between() -> None:
    """An empty line between an answer and what is told of it, where both are seen together."""
    if is_terminal(sys.stdout) and is_terminal(sys.stderr):
        say()


def _folded(text: str) -> str:
    import textwrap

    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) if len(line) > width else line
        for line in text.split("\n")
    )


def write(text: str) -> None:
    """A part of an answer on standard output, at once: its own bytes, on a terminal made safe. Raises OutputError."""
    if sys.stdout is not None:
        with output_errors():
            sys.stdout.write(safe(text) if is_terminal(sys.stdout) else text)
            sys.stdout.flush()


@contextmanager
def output_errors() -> Iterator[None]:
    """Raises OutputError where standard output cannot be written; not where nobody reads on: that is no failure."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


@contextmanager
def starting() -> Iterator[None]:
    """Say on a terminal that something is happening, until it has."""
    if not is_terminal(sys.stderr):
        yield
        return
    gone = _LINE if draws(sys.stderr) else "\n"
    with suppress(OSError):
        sys.stderr.write("starting …")
        sys.stderr.flush()
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stderr.write(gone)
            sys.stderr.flush()


@contextmanager
def quiet_keys() -> Iterator[None]:
    """While a picture is drawn, keys pressed are not echoed into it: they wait for whoever reads next."""
    try:
        import termios
    except ImportError:  # not on Windows
        yield
        return
    before = _settings(termios) if draws(sys.stderr) and is_terminal(sys.stdin) else None
    if before is None:
        yield
        return
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    try:
        _set(termios, silent)
        yield
    finally:
        _set(termios, before)


def _settings(termios: Any) -> list[Any] | None:
    try:
        return list(termios.tcgetattr(sys.stdin))
    except (OSError, termios.error):
        return None


def _set(termios: Any, settings: list[Any]) -> None:
    with suppress(OSError, termios.error):
        if os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp():  # in the background it would stop us
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


class Pane:
    """The last lines of a terminal, drawn again in place; what is committed stands above them for good."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._drawn: list[int] = []  # the cells of each line
        self._frame: tuple[str, tuple[int, int]] | None = None

    def draw(self, what: "RenderableType") -> None:
        """Draw; where it is higher than the screen, its end."""
        from rich.segment import Segment, SegmentLines

        size = self._console.size
        lines = self._console.render_lines(what, pad=False)[-max(1, size.height - 1) :]
        text = self._printed(SegmentLines(lines, new_lines=True))
        if self._frame == (text, tuple(size)):
            return
        rows = self._rows()
        shown = "".join(f"{_LINE}{line}\n" for line in text.split("\n")[:-1])
        self._put(_up(rows) + shown + _cleared(rows - len(lines)))
        self._drawn = [Segment.get_line_length(line) for line in lines]
        self._frame = text, (size.width, size.height)

    def commit(self, what: "RenderableType | None" = None) -> None:
        """Take the drawn lines away and print this, whole, in their place."""
        rows = self._rows()
        self._put(_up(rows) + _cleared(rows) + ("" if what is None else self._printed(what)))
        self._drawn, self._frame = [], None

    def _rows(self) -> int:
        """How many rows the drawn lines take: a window made narrower has broken them into more."""
        width = max(1, self._console.size.width)
        return sum(max(1, -(-cells // width)) for cells in self._drawn)

    def _printed(self, what: "RenderableType") -> str:
        with self._console.capture() as captured:
            self._console.print(what, end="")
        return captured.get()

    def _put(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


def _up(rows: int) -> str:
    return f"\r\x1b[{rows}A" if rows > 0 else ""


def _cleared(rows: int) -> str:
    return f"{_LINE}\n" * rows + _up(rows)
