"""The command line on a terminal: drawn again in place, left as it was found, and gone when it goes."""

import re
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from moa_graph.cli.terminal import Pane, say, starting
from tests.server import Behaviour, RecordingServer
from tests.terminal import Screen, Terminal, on_terminal
from tests.test_cli import write


def pane(columns: int, rows: int) -> tuple[Pane, Console, Terminal]:
    terminal = Terminal()
    console = Console(file=terminal, width=columns, height=rows, force_terminal=True)
    return Pane(console), console, terminal


def test_a_pane_is_drawn_in_place():
    """What is drawn takes the place of what was drawn before, higher or lower; what is committed stays above."""
    drawn, _, terminal = pane(20, 10)
    drawn.draw(Text("one\ntwo\nthree"))
    drawn.commit(Text("kept\n"))
    drawn.draw(Text("four\nfive"))
    drawn.draw(Text("six"))
    assert Screen(terminal.getvalue(), 20, 10).lines == ["kept", "six", "", ""]


def test_a_pane_is_redrawn_after_the_window_was_made_narrower():
    """Lines that a narrower window broke into several are all taken away."""
    drawn, console, terminal = pane(20, 10)
    drawn.draw(Text("above it all\n" + "x" * 20))
    console.width = 10
    before = terminal.getvalue()
    drawn.draw(Text("new"))
    assert terminal.getvalue()[len(before) :].startswith("\r\x1b[4A")  # two lines of two rows each


def test_a_pane_does_not_clear_the_screen_at_once():
    """Rows are cleared one by one: cleared from its top to its end, tmux would keep the screen in its history."""
    drawn, _, terminal = pane(20, 4)
    drawn.draw(Text("\n".join("abcdefg")))
    drawn.commit(Text("done\n"))
    assert not re.search(r"\x1b\[\d*J", terminal.getvalue())


def test_the_same_picture_is_not_written_again():
    """Where nothing has changed, nothing is written."""
    drawn, _, terminal = pane(20, 10)
    drawn.draw(Text("one"))
    before = terminal.getvalue()
    drawn.draw(Text("one"))
    assert terminal.getvalue() == before


def test_something_is_said_at_once(monkeypatch: pytest.MonkeyPatch):
    """On a terminal a command says that it starts, and takes that away again; elsewhere it says nothing."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with starting():
        assert terminal.getvalue() == "starting …"
    assert Screen(terminal.getvalue()).lines == [""]


def test_long_lines_break_between_words(monkeypatch: pytest.MonkeyPatch):
    """On a terminal what is said breaks between words, not within one."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    say("moa: a line that is longer than the window")
    assert terminal.getvalue().splitlines() == ["moa: a line that is", "longer than the", "window"]


def test_nobody_at_standard_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """With standard error closed, what is said goes nowhere: not to standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    say("moa: hello")
    assert capsys.readouterr().out == ""


async def test_ask_on_a_terminal(server: RecordingServer, tmp_path: Path):
    """The tree, the answer rendered below it, an empty line, the summary: that is what is left on a terminal."""
    write(tmp_path / "two.yaml", server.base_url)
    server.script("c", Behaviour(text="# Title\n\nSome **bold** words."))
    with on_terminal("ask", "Why?", "-c", "two.yaml", folder=tmp_path) as moa:
        assert await moa.ended() == 0
    lines = Screen(re.sub(r"\d+\.\d s", "# s", moa.text)).lines
    assert lines[0] == "two.yaml (as asked)"
    assert [line[:6] for line in lines[2:4]] == ["├─ ✓ a", "└─ ✓ b"]
    assert lines[4:8] == ["final model", "└─ → openai:c  first words after # s", "", "Title"]
    assert lines[8:11] == ["", "Some bold words.", ""]
    assert lines[11].startswith("two.yaml: 3 calls, ")


async def test_keys_pressed_meanwhile_are_not_echoed(server: RecordingServer, tmp_path: Path):
    """What is typed while a run is drawn does not get into the picture."""
    write(tmp_path / "two.yaml", server.base_url)
    server.script("a", Behaviour(hang=True))
    with on_terminal("ask", "Why?", "-c", "two.yaml", folder=tmp_path) as moa:
        await moa.until("✓ ")
        moa.forget()
        moa.type("QWERTZ\n")
        await moa.until("\x1b[5A")  # drawn again
        assert "QWERTZ" not in moa.text
        moa.type("\x03")
        assert await moa.ended() == 130


async def test_an_answer_does_not_drive_the_terminal(server: RecordingServer, tmp_path: Path):
    """Escape sequences of an answer, and of an error that a server sends, arrive as visible characters."""
    write(tmp_path / "two.yaml", server.base_url)
    server.script("b", Behaviour(status=400, error="\x1b]0;owned\x07 no"))
    server.script("c", Behaviour(text="\x1b]0;owned\x07 yes"))
    with on_terminal("ask", "Why?", "-c", "two.yaml", "--receipt", "--show-proposals", folder=tmp_path) as moa:
        assert await moa.ended() == 0
    assert "\x1b]" not in moa.text
    assert "\x07" not in moa.text
    assert "␛]0;owned␇ yes" in moa.text
