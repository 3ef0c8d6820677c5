"""An answer on a terminal: rendered as it comes, whole in the end, and never in command of the terminal."""

import io
import re
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from moa_graph.cli.answer import Answer, Document, split
from tests.terminal import Screen, Terminal

Terminals = Callable[[], Terminal]

ANSWER = """# Title

A paragraph with **bold**, `code` and a [link](https://example.org/a).

1. one
2. two
   - nested

   still two

3. three

| a | b |
|---|---|
| 1 | 2 |

```python
def f():

    return 1
```

> quoted
> on two lines

Setext
------

The end.
"""


@pytest.fixture
def terminals(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Put a terminal in the place of both outputs; within a test, for pytest does so too before each."""
    for name, value in {"COLUMNS": "60", "LINES": "12", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)

    def put() -> Terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setattr(sys, "stdout", terminal := Terminal())
        return terminal

    return put


def shown(text: str) -> list[str]:
    """A document, rendered at once."""
    console = Console(file=io.StringIO(), width=60, color_system=None)
    with console.capture() as captured:
        console.print(Document(text), end="")
    return [line.rstrip() for line in captured.get().splitlines()]


def streamed(terminal: Terminal, text: str, size: int, *, whole: bool = True) -> list[str]:
    """What stands on the terminal, scrolled away or not, after the text has come in pieces of this size."""
    answer = Answer()
    for start in range(0, len(text), size):
        answer.write(text[start : start + size])
        answer._not_before = 0.0
        answer.draw()
    answer.end(whole=whole)
    return Screen(terminal.getvalue(), columns=60, rows=12).lines[:-1]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_make_the_whole(terminals: Terminals, size: int):
    """However an answer is cut into pieces, the terminal shows in the end what it shows of the whole."""
    assert streamed(terminals(), ANSWER, size) == shown(ANSWER)


def test_every_block_is_finished_once():
    """Of any beginning of a text, the finished blocks and the open one together are that beginning."""
    for end in range(len(ANSWER)):
        done, rest = split(ANSWER[:end])
        assert done + rest == ANSWER[:end]
        assert ANSWER.startswith(done)


def test_an_answer_higher_than_the_screen_scrolls_away_whole(terminals: Terminals):
    """Of a block with more lines than the screen, every line stands once, in order, in what was scrolled away."""
    numbers = [f"line {i}" for i in range(40)]
    lines = streamed(terminals(), "Before.\n\n```\n" + "\n".join(numbers) + "\n```\n\nAfter.\n", 11)
    assert [line.strip() for line in lines if "line" in line] == numbers
    assert (lines[0], lines[-1]) == ("Before.", "After.")


def test_the_last_words_are_seen_while_they_are_written(terminals: Terminals):
    """Before an answer is whole its last line is on the terminal, also of a block higher than the screen."""
    terminal, answer = terminals(), Answer()
    answer.write("".join(f"- item {i}\n" for i in range(40)))
    answer.draw()
    assert "item 39" in Screen(terminal.getvalue(), 60, 12).lines[-2]


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J\x1b]0;title\x07red",
        "\x9b31mred",
        "&#27;[31mred",
        "`\x1b[31mred`",
        "```\n\x1b[31mred\n```",
        "a\rb\x08\x7f",
    ],
)
def test_control_characters_do_not_reach_the_terminal(terminals: Terminals, text: str):
    """Escape sequences and control characters of an answer are shown, not obeyed, wherever they stand."""
    terminal, answer = terminals(), Answer()
    answer.write(text)
    answer.end(whole=True)
    written = terminal.getvalue()
    for ours in ("\r\x1b[2K", "\r\x1b[1A", "\x1b[0m", "\x1b[1;36;40m", "\n"):
        written = written.replace(ours, "")
    assert not [character for character in written if character < " " or "\x7f" <= character < "\xa0"], written


def test_on_a_dumb_terminal_nothing_is_rendered_or_obeyed(terminals: Terminals, monkeypatch: pytest.MonkeyPatch):
    """A dumb terminal gets the answer as it was written, with control characters made visible."""
    monkeypatch.setenv("TERM", "dumb")
    terminal, answer = terminals(), Answer()
    answer.write("# **Title** \x1b[31m")
    answer.end(whole=True)
    assert terminal.getvalue() == "# **Title** ␛[31m\n"


def test_in_a_pipe_an_answer_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch):
    """In a pipe nothing is rendered or escaped, whatever the terminal beside it and the environment say."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    answer = Answer()
    answer.write("# **Title** \x1b[31m\r\n")
    answer.end(whole=True)
    assert pipe.getvalue() == "# **Title** \x1b[31m\r\n"


@pytest.mark.parametrize(
    "text",
    [
        "<div>HTML</div>",
        "a <b>bold</b> word",
        "[1]: https://example.org",
        "![picture](https://example.org/p.png)",
        "<https://example.org>",
        "[text](https://example.org/page)",
    ],
)
def test_nothing_of_an_answer_goes_missing(text: str):
    """What Markdown would hide, a link's address or HTML, is shown."""
    said = " ".join(shown(text))
    assert [word for word in re.findall(r"[\w:/.]+", text) if word not in said] == []


def test_an_answer_that_broke_off_is_marked(terminals: Terminals):
    """What was written before a stream broke stands on the terminal, and below it that it is not whole."""
    assert streamed(terminals(), "One **two", 3, whole=False) == ["One **two"]
    assert sys.stderr.getvalue() == "[the answer breaks off here]\n"  # type: ignore[attr-defined]
