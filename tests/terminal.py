"""A terminal to test with: what is written to it, as a person sees it, and a process that runs on one."""

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PART = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[[\d;?]*[A-Za-z]|\x1b.|[\s\S]")


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"


class Screen:
    """The lines that a terminal of this size shows and has scrolled away, after `text` was written to it."""

    def __init__(self, text: str, columns: int = 80, rows: int = 24) -> None:
        self._lines, self._columns, self._rows = [""], columns, rows
        self._row = self._column = 0
        for part in _PART.finditer(text):
            self._take(part)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._lines]

    def _take(self, part: re.Match[str]) -> None:
        count, command = part[1], part[2]
        if command == "A":
            top = max(0, len(self._lines) - self._rows)
            self._row = max(top, self._row - int(count or 1))
        elif command == "K":
            self._lines[self._row] = ""
        elif part[0] == "\r":
            self._column = 0
        elif part[0] == "\n":
            self._down()
        elif not part[0].startswith("\x1b"):
            self._put(part[0])

    def _down(self) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._lines):
            self._lines.append("")

    def _put(self, character: str) -> None:
        if self._column == self._columns:
            self._down()
        line = self._lines[self._row].ljust(self._column)
        self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
        self._column += 1


class OnTerminal:
    """A command on a pseudo-terminal of its own, with everything that it wrote so far."""

    def __init__(self, command: list[str], folder: Path, columns: int = 80, rows: int = 24, **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=_own_terminal
        )
        os.close(theirs)
        self._read = b""
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # the command has ended, or we hung up
            while some := os.read(self._ours, 65536):
                self._read += some

    @property
    def text(self) -> str:
        return self._read.decode(errors="replace")

    async def until(self, text: str, times: int = 1, timeout: float = 60.0) -> None:
        """Wait for `text` to be written, so many times."""
        async with asyncio.timeout(timeout):
            while self.text.count(text) < times:
                assert self.process.poll() is None, self.text
                await asyncio.sleep(0.01)

    def forget(self) -> None:
        """Leave out of `text` what was written so far."""
        self._read = b""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self._ours)

    async def ended(self, timeout: float = 30.0) -> int:
        """Its exit code."""
        return await asyncio.to_thread(self.process.wait, timeout)


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def on_terminal(*arguments: str, folder: Path, **how: Any) -> Iterator[OnTerminal]:
    """`moa` with these arguments on a terminal of its own."""
    running = OnTerminal([sys.executable, "-m", "moa_graph", *arguments], folder, **how)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        with contextlib.suppress(OSError):
            running.hang_up()
