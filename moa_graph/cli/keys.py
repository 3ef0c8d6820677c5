"""Lines that are asked in `moa chat`: typed, with editing and history, or one after the other from a pipe."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Self

from moa_graph.cli.commands import COMMANDS
from moa_graph.cli.terminal import is_terminal, say

__all__ = ["Keys"]

_PROMPT = "> "


class Keys:
    """Reads lines. The questions of the thread so far can be called up again."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self.at_keyboard = is_terminal(sys.stdin)
        self._edits = self.at_keyboard and is_terminal(sys.stdout)
        self._asked = [" ".join(message.text.split()) for message in messages if message.type == "human"]
        self._readline: ModuleType | None = None

    def __enter__(self) -> Self:
        if self._edits:
            self._readline = _readline(self._asked)
        if self.at_keyboard:
            say("/help shows the commands, Ctrl-D leaves.")
        return self

    def __exit__(self, *_: object) -> None:
        if self._readline:
            self._readline.set_completer(None)

    def line(self) -> str | None:
        """The next line; None where there is no more. Raises MoAConfigError for one that is no text."""
        while True:
            try:
                line = self._typed() if self.at_keyboard else self._piped()
                if line is None or _is_text(line):
                    return line
                say("moa: that is not UTF-8 text")
            except KeyboardInterrupt:
                if not self.at_keyboard:
                    raise
                say("\nCtrl-D or /quit leaves.")

    def _typed(self) -> str | None:
        try:
            if self._edits:
                return input(_PROMPT)
            sys.stderr.write(_PROMPT)
            sys.stderr.flush()
            if line := sys.stdin.readline():
                return line
        except (EOFError, OSError):  # Ctrl-D; a terminal that has gone
            pass
        say()
        return None

    def _piped(self) -> str | None:
        from moa_graph.errors import MoAConfigError

        try:
            line = sys.stdin.readline() if sys.stdin else ""
        except UnicodeDecodeError as error:
            raise MoAConfigError(f"standard input is not {error.encoding.upper()} text: convert it first") from error
        if line.strip():
            say(f"{_PROMPT}{line.strip()}")
        return line or None


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readline(asked: Sequence[str]) -> ModuleType | None:
    """Line editing with what was asked before; Tab completes commands."""
    try:
        import readline
    except ImportError:
        return None
    for question in asked:
        readline.add_history(question)
    readline.set_completer_delims(" ")
    readline.set_completer(lambda text, state: _completion(text, state))
    readline.parse_and_bind("tab: complete")
    readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines are one question, not many
    return readline


def _completion(text: str, state: int) -> str | None:
    found = [name for name in COMMANDS if text and name.startswith(text)]
    return found[state] if state < len(found) else None
