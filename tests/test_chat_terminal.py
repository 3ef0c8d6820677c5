"""`moa chat` at a keyboard: Ctrl-C, Ctrl-D, line editing, and a terminal that goes away."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Behaviour, RecordingServer
from tests.terminal import OnTerminal, on_terminal
from tests.test_chat import Chat, chat, history  # noqa: F401
from tests.test_cli import MOA

PROMPT = "> "


@pytest.fixture
def keyboard(chat: Chat, tmp_path: Path) -> Iterator[OnTerminal]:  # noqa: F811
    """A chat on a terminal of its own, in the thread `mine`, where one question was answered before."""
    assert chat("Why?", options=("--new", "mine")).code == 0
    with on_terminal("chat", "--thread", "mine", folder=tmp_path) as moa:
        yield moa


async def test_interrupting_a_turn(keyboard: OnTerminal, server: RecordingServer):
    """Ctrl-C stops the turn and its requests, not the chat; `/retry` then asks only who had not answered."""
    server.clear()
    server.script("b", Behaviour(hang=True), Behaviour())
    await keyboard.until(PROMPT)
    keyboard.type("And then?\r")
    await keyboard.until("✓ ")
    keyboard.type("\x03")
    await keyboard.until("stopped: /retry asks those that have not answered")
    await server.until(lambda: server.in_flight == 0)
    assert [request.outcome for request in server.requests_for("b")] == ["closed_by_client"]
    await keyboard.until(PROMPT, times=2)
    keyboard.type("/retry\r")
    await keyboard.until(PROMPT, times=3)
    keyboard.type("\x04")
    assert await keyboard.ended() == 0
    assert sorted(request.model for request in server.requests) == ["a", "b", "b", "c"]
    assert "Traceback" not in keyboard.text


async def test_leaving(keyboard: OnTerminal):
    """At the prompt Ctrl-C says how to leave, and Ctrl-D leaves and says how to come back."""
    await keyboard.until(PROMPT)
    keyboard.type("\x03")
    await keyboard.until("Ctrl-D or /quit leaves.")
    await keyboard.until(PROMPT, times=2)
    keyboard.type("\x04")
    assert await keyboard.ended() == 0
    assert "moa chat --thread mine  goes on with this thread." in keyboard.text


async def test_lines_are_edited_and_called_up_again(keyboard: OnTerminal, server: RecordingServer):
    """Up calls up what was asked in the thread before, Home goes to its start, Tab completes a command."""
    server.clear()
    await keyboard.until(PROMPT)
    keyboard.type("\x1b[A\x01Say: \r")
    await keyboard.until(PROMPT, times=2)
    assert server.requests_for("a")[0].messages[-1]["content"] == "Say: Why?"
    keyboard.type("/qu\t\r")
    assert await keyboard.ended() == 0


async def test_pasted_lines_are_one_question(keyboard: OnTerminal, server: RecordingServer):
    """A text of several lines that is pasted waits for Enter, and is asked as one question."""
    server.clear()
    await keyboard.until(PROMPT)
    keyboard.type("\x1b[200~one\ntwo\x1b[201~\r")
    await keyboard.until(PROMPT, times=2)
    assert [request.messages[-1]["content"] for request in server.requests_for("a")] == ["one\ntwo"]


async def test_a_terminal_that_goes_away(
    keyboard: OnTerminal,
    chat: Chat,  # noqa: F811
    server: RecordingServer,
):
    """When the window is closed in mid-turn the process ends and its requests too; the thread is resumed later."""
    server.clear()
    server.script("b", Behaviour(hang=True), Behaviour())
    await keyboard.until(PROMPT)
    keyboard.type("And then?\r")
    await keyboard.until("✓ ")
    keyboard.hang_up()
    assert await keyboard.ended() == -signal.SIGHUP
    await server.until(lambda: server.in_flight == 0)
    ran = await asyncio.to_thread(chat, "/retry", options=("--thread", "mine"))
    assert (ran.code, ran.out) == (0, "answer of c #1\n")
    assert sorted(request.model for request in server.requests) == ["a", "b", "b", "c"]


def test_a_reader_that_leaves(chat: Chat, tmp_path: Path):  # noqa: F811
    """A pipe that nobody reads to its end (`moa chat | head`) is no failure and no traceback; the thread is kept."""
    chat(options=("--list",))
    command = [*MOA, "chat", "--new", "mine"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate("Why?\n", timeout=60)
    assert (process.returncode, "Traceback" in err, "BrokenPipe" in err) == (0, False, False)
    assert "mine" in chat(options=("--list",)).out


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_outputs_do_not_get_into_the_history(chat: Chat, tmp_path: Path, closed: int):  # noqa: F811
    """With an output closed, no file that is opened takes its number; without standard output nothing is asked."""
    command = f"import os; os.close({closed}); os.execv({sys.executable!r}, {[*MOA, 'chat', '--new', 'mine']!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env=environment, input="Why?\n", text=True, capture_output=True
    )
    if closed == 2:
        assert (ran.returncode, ran.stdout) == (0, "answer of c #1\n")
        assert "1 question" in chat("/retry", options=("--thread", "mine")).err
    else:
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr == "moa: standard output is closed: there is nowhere to put the answers\n"
