"""An answer on standard output, as it is written: rendered Markdown on a terminal, elsewhere its own bytes."""

import sys
import time
from collections.abc import Iterator
from typing import ClassVar, Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.text import Text

from moa_graph.cli.terminal import Pane, draws, output_errors, safe, say, write

__all__ = ["Answer", "Document", "split"]

# Nothing of an answer may go missing: HTML, link definitions and pictures are shown as they were written
_PARSER: Final = MarkdownIt(options_update={"html": False}).enable(["strikethrough", "table"])
_PARSER.disable(["reference", "image", "autolink"])
_PAUSE: Final = 5  # a long block takes longer to draw: at most a sixth of the time is spent on it


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar = {**Heading.LEVEL_ALIGN, "h1": "left"}


class _Block(Markdown):
    """A link's address is beside its text: not every terminal can follow a hidden one."""

    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading}

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.parsed = tokens


class Document:
    """Markdown without loss, with one empty line between two blocks."""

    def __init__(self, text: str) -> None:
        self._tokens = _PARSER.parse(safe(text))

    def _blocks(self) -> Iterator[_Block]:
        block: list[Token] = []
        for token in self._tokens:
            block.append(token)
            if token.level == 0 and token.nesting <= 0:
                yield _Block(block)
                block = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for k, block in enumerate(self._blocks()):
            lines = console.render_lines(block, options, pad=False)
            said = [i for i, line in enumerate(lines) if any(part.text.strip() for part in line)]
            if k and said:
                yield Segment.line()
            for line in lines[said[0] : said[-1] + 1] if said else ():
                yield from line
                yield Segment.line()


def split(text: str) -> tuple[str, str]:
    """The blocks that are finished, and the one that is still being written."""
    whole = text[: text.rfind("\n") + 1]  # how a line begins may yet say that it goes on with the block before
    starts = [token.map[0] for token in _PARSER.parse(whole) if token.level == 0 and token.map]
    if len(starts) < 2:
        return "", text
    at = sum(len(line) + 1 for line in whole.split("\n")[: starts[-1]])
    return text[:at], text[at:]


class Answer:
    """Takes an answer piece by piece. On a terminal finished blocks stand for good, the last one is redrawn."""

    def __init__(self) -> None:
        self.text = ""
        self.drawn = draws(sys.stdout)
        self._pane = Pane(Console(file=sys.stdout)) if self.drawn else None
        self._open = ""  # what is not committed
        self._began = False
        self._not_before = 0.0

    def write(self, text: str) -> None:
        self.text += text
        if self._pane is None:
            write(text)
        else:
            self._open += text

    def draw(self, *, last: bool = False) -> None:
        """Show what has been written so far; `last`: there is no more."""
        if self._pane is None or (not last and time.monotonic() < self._not_before):
            return
        began = time.monotonic()
        done, rest = (self._open, "") if last else split(self._open.replace("\r\n", "\n"))
        with output_errors():
            if done.strip():
                self._pane.commit(self._below(done))
                self._began = True
            if rest.strip():
                self._pane.draw(self._below(rest))
        self._open = rest
        self._not_before = time.monotonic() + _PAUSE * (time.monotonic() - began)

    def end(self, *, whole: bool) -> None:
        """There is no more: what follows begins a line of its own. An answer that broke off is marked."""
        self.draw(last=True)
        if self._pane is None and self.text and not self.text.endswith("\n"):
            write("\n")
        if self.text and not whole:
            say("[the answer breaks off here]")

    def _below(self, text: str) -> RenderableType:
        document = Document(text)
        return Group(Text(""), document) if self._began else document
