"""`moa chat` with its questions from a pipe: turns, threads, commands, and what goes wrong."""

import io
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moa_graph.cli import run
from tests.server import Behaviour, RecordingServer
from tests.test_cli import Ran, write

Chat = Callable[..., Ran]


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the history is kept; there is none yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "moa_graph" / "threads.sqlite"


@pytest.fixture
def chat(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    server: RecordingServer,
    history: Path,
) -> Chat:
    """Say lines in a chat with two proposers, both needed, and a final model, all at the server."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "moa.yaml", server.base_url, policy={"retries": 0, "quorum": 2})

    def ran(*lines: str, options: tuple[str, ...] = ()) -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = run(["chat", *options])
        return Ran(code, *capsys.readouterr())

    return ran


def read(server: RecordingServer, model: str = "c") -> list[tuple[str, str]]:
    """The conversation that a model was last shown, without what the layers put before it."""
    messages = server.requests_for(model)[-1].messages
    return [(message["role"], message["content"]) for message in messages if message["role"] != "system"]


def refused(ran: Ran) -> str:
    assert (ran.code, ran.out) == (2, "")
    last = ran.err.splitlines()[-1]
    assert last.startswith("moa: ")
    assert "Traceback" not in ran.err
    return last


# Turns


def test_each_turn_reads_those_before(chat: Chat, server: RecordingServer):
    """The second question is asked with the first one and its answer before it."""
    ran = chat("Why?", "And then?")
    assert (ran.code, ran.out) == (0, "answer of c #1\nanswer of c #2\n")
    conversation = [("user", "Why?"), ("assistant", "answer of c #1"), ("user", "And then?")]
    assert read(server, "a") == read(server, "c") == conversation


def test_empty_lines_are_no_questions(chat: Chat, server: RecordingServer):
    """An empty line asks nobody."""
    assert chat("", "  ").code == 0
    assert server.requests == []


def test_a_thread_is_kept(chat: Chat, server: RecordingServer):
    """With `--thread` another run goes on with the thread, and says which one and what was last asked in it."""
    chat("Why is the sky blue?")
    ran = chat("And then?", options=("--thread", "why-is-the-sky-blue"))
    assert "thread why-is-the-sky-blue: 1 question, the last: Why is the sky blue?\n" in ran.err
    assert read(server)[0] == ("user", "Why is the sky blue?")


def test_a_thread_is_named_after_its_first_question(chat: Chat):
    """A new thread says its name; a question asked before gives another name, and one without words too."""
    told = "".join(
        chat(question).err for question in ("Why is the sky blue?", "Why is the sky blue?", "?!", "空は青い")
    )
    names = re.findall(r"^thread (.+)$", told, re.MULTILINE)
    assert names == ["why-is-the-sky-blue", "why-is-the-sky-blue-2", "thread", "空は青い"]


def test_a_thread_may_be_given_its_name(chat: Chat):
    """`--new NAME` starts a thread of that name."""
    chat("Why?", options=("--new", "mine"))
    assert chat("/retry", options=("--thread", "mine")).err.splitlines()[1].startswith("thread mine: 1 question")


def test_a_thread_that_nothing_was_asked_in_is_not_kept(chat: Chat):
    """Leaving before the first question leaves no thread."""
    chat(options=("--new", "mine"))
    assert "no thread is kept yet" in chat(options=("--list",)).err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--thread", "sky"), "there is no thread 'sky': did you mean skye? `moa chat --list` shows all"),
        (("--thread", "nothing-like-it"), "there is no thread 'nothing-like-it': `moa chat --list` shows all"),
        (("--new", "skye"), "there is a thread 'skye' already: `moa chat --thread skye` goes on with it"),
        (("--new", "a b"), "'a b' cannot be a thread's name"),
        (("--new", ""), "'' cannot be a thread's name"),
        (("--new", "x", "--thread", "skye"), "give one of them"),
        (("--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--layers", "0"), "a whole number of at least 1 is needed"),
    ],
)
def test_opened_wrongly(chat: Chat, options: tuple[str, ...], told: str):
    """A thread that is not there, or is, and whatever else is wrong, is one line and exit code 2."""
    chat("Why?", options=("--new", "skye"))
    assert told in refused(chat("Why?", options=options))


def test_list(chat: Chat, server: RecordingServer):
    """`--list` shows each thread's name, turns, time and last question, the latest last, and what has no answer."""
    server.script("a", Behaviour(), Behaviour(), Behaviour(status=400))
    chat("Why?", "And then?", options=("--new", "one"))
    chat("How\tso?", options=("--new", "another"))
    ran = chat(options=("--list",))
    assert re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "WHEN", ran.out).splitlines() == [
        "one        2  WHEN  And then?",
        "another    1  WHEN  How so? (not answered)",
    ]


def test_list_of_nothing(chat: Chat, history: Path):
    """Where nothing is kept yet, `--list` says so, and makes no file."""
    assert chat(options=("--list",)) == Ran(0, "", "no thread is kept yet: moa chat starts one\n")
    assert not history.exists()


def test_a_finished_turn_is_kept_once(chat: Chat, history: Path):
    """Of each finished turn one checkpoint stays, so that a long thread does not fill the disk; all of it is there."""
    chat("one", "two", "three", options=("--new", "mine"))
    with sqlite3.connect(history) as connection:
        kept = connection.execute("SELECT checkpoint_ns FROM checkpoints").fetchall()
    connection.close()
    assert kept == [("",)] * 3
    assert "mine: 3 questions" in chat("/retry", options=("--thread", "mine")).err


def test_cache(chat: Chat, server: RecordingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With `--cache` what was asked before, in another thread too, is not asked again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chat("Why?", options=("--cache",))
    assert "moa.yaml: 0 calls" in chat("Why?", options=("--cache",)).err
    assert len(server.requests) == 3


# A turn that fails


def test_a_failed_turn_is_one_line(chat: Chat, server: RecordingServer):
    """A turn that fails is told in one line, with who failed and why; from a pipe the exit code is 1 in the end."""
    server.script("b", Behaviour(status=400, error="too long", latency=0.3))
    ran = chat("Why?")
    assert (ran.code, ran.out) == (1, "")
    last = ran.err.splitlines()[-1]
    assert last.startswith("moa: layer 1: 1 of 2 proposers answered and 2 must; b: ")
    assert last.endswith("too long; /retry asks only those that have not answered")


def test_after_a_failed_turn_the_thread_goes_on(chat: Chat, server: RecordingServer):
    """A question that got no answer is left out of what the models read with the next one, and that is said."""
    server.script("b", Behaviour(status=400), Behaviour())
    ran = chat("Why?", "And then?")
    assert (ran.code, ran.out) == (1, "answer of c #1\n")
    assert read(server) == [("user", "And then?")]
    assert "the question before was not answered: it is left out" in ran.err


def test_retry_asks_only_who_has_not_answered(chat: Chat, server: RecordingServer):
    """`/retry` asks the proposer that failed; what was answered is not asked again."""
    server.script("b", Behaviour(status=400, latency=0.3), Behaviour())
    ran = chat("Why?", "/retry")
    assert ran.out == "answer of c #1\n"
    assert sorted(request.model for request in server.requests) == ["a", "b", "b", "c"]


def test_retry_in_another_run(chat: Chat, server: RecordingServer):
    """A thread whose last turn failed says so when it is taken up again, and `/retry` asks who had not answered."""
    server.script("c", Behaviour(status=400), Behaviour())
    chat("Why?", options=("--new", "mine"))
    server.requests.clear()
    ran = chat("/retry", options=("--thread", "mine"))
    assert "it was not answered: /retry asks it again" in ran.err
    assert [request.model for request in server.requests] == ["c"]
    assert read(server) == [("user", "Why?")]


def test_retry_with_another_mixture(chat: Chat, server: RecordingServer):
    """A turn that failed in a layer which the mixture at hand does not have is asked in full."""
    server.script("b", Behaviour(status=400))
    chat("Why?", options=("--new", "mine"))
    ran = chat("/retry", options=("--thread", "mine", "--layers", "1"))
    assert (ran.code, ran.out) == (0, "answer of c #1\n")
    assert read(server) == [("user", "Why?")]


@pytest.mark.parametrize("lines", [("/retry",), ("Why?", "/retry")])
def test_nothing_to_retry(chat: Chat, lines: tuple[str, ...], server: RecordingServer):
    """`/retry` with no question, or with one that was answered, says that there is nothing to do."""
    ran = chat(*lines)
    assert "moa: there is nothing to ask again" in ran.err.splitlines()[-1]
    assert len(server.requests) == 3 * (len(lines) - 1)


def test_a_stream_that_breaks_half_way(chat: Chat, server: RecordingServer):
    """What was written before a stream broke is shown and marked; `/retry` gets the answer whole."""
    server.script("c", Behaviour(text="one two three", close_after=2), Behaviour(text="one two three"))
    ran = chat("Why?", "/retry")
    assert ran.out == "one two\none two three\n"
    assert ran.err.count("[the answer breaks off here]\nmoa: the final model failed") == 1
    assert [len(server.requests_for(model)) for model in "abc"] == [1, 1, 2]


# Commands


def test_proposals(chat: Chat):
    """`/proposals` shows what each proposer said in the last turn."""
    told = chat("Why?", "And then?", "/proposals").err
    assert "layer 1, a (a)\nanswer of a #2\n\nlayer 1, b (b)\nanswer of b #2\n" in told
    assert "#1" not in told


def test_proposals_of_a_turn_that_failed(chat: Chat, server: RecordingServer):
    """What was answered in a turn that failed is shown as well: nothing paid for is lost."""
    server.script("b", Behaviour(status=400, latency=0.3))
    assert "layer 1, a (a)\nanswer of a #1\n" in chat("Why?", "/proposals").err


def test_receipt(chat: Chat):
    """`/receipt` shows who answered, as `moa ask --receipt` does."""
    rows = [line.split()[:4] for line in chat("Why?", "/receipt").err.splitlines()]
    assert [row for row in rows if row[:2] in (["1", "a"], ["2", "final"])] == [
        ["1", "a", "a", "ok"],
        ["2", "final", "c", "ok"],
    ]


def test_config(chat: Chat):
    """`/config` shows every layer's proposers with their models, the final model, and how the layers wait."""
    told = chat("/config", options=("--layers", "3")).err
    layer = "  a (openai:a)\n  b (openai:b)\n"
    assert f"layer 1\n{layer}layer 2\n{layer}final model\n  openai:c\nquorum: 2, " in told


def test_save(chat: Chat, tmp_path: Path, server: RecordingServer):
    """`/save` writes questions, answers, summaries and what is still open as Markdown."""
    server.script("a", Behaviour(), Behaviour(status=400))
    assert "saved to talk.md" in chat("Why?", "And then?", "/save talk.md", options=("--new", "mine")).err
    text = (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert re.sub(r"(?m)^\*3 calls.*\*$", "SUMMARY", text) == (
        "# mine\n\n## Question 1\n\nWhy?\n\n## Answer 1\n\nanswer of c #1\n\nSUMMARY\n\n"
        "## Question 2\n\nAnd then?\n\n*not answered*\n"
    )


def test_save_overwrites_nothing(chat: Chat, tmp_path: Path):
    """A file that is there already stays as it is."""
    (tmp_path / "talk.md").write_text("mine")
    assert "moa: talk.md is there already and stays as it is" in chat("Why?", "/save talk.md").err
    assert (tmp_path / "talk.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("/prosals",), "moa: there is no /prosals: /proposals, /receipt, /config, /save, /retry, /help, /quit; "),
        (("/proposals",), "moa: there are no proposals: nobody has been asked yet"),
        (("/receipt",), "moa: there is no receipt: nothing was asked yet"),
        (("/save talk.md",), "moa: there is nothing to save: nothing was asked yet"),
        (("/save",), "moa: /save wants a file: /save talk.md"),
        (("Why?", "/save no/such/folder/talk.md"), "talk.md cannot be written: No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_done(chat: Chat, lines: tuple[str, ...], told: str):
    """A command that is not known, or for which there is nothing, is one line, and the chat goes on."""
    ran = chat(*lines, "/help")
    assert told in ran.err
    assert "/quit       leave" in ran.err
    assert ran.code == 1


def test_quit(chat: Chat, server: RecordingServer):
    """`/quit` leaves at once."""
    assert chat("/quit", "Why?").code == 0
    assert server.requests == []


def test_a_question_that_begins_with_a_slash(chat: Chat, server: RecordingServer):
    """With a space before it, what begins with a slash is a question."""
    chat(" /etc/hosts: what is it?")
    assert read(server) == [("user", "/etc/hosts: what is it?")]


# A history that is none


def garbage(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be taken for one " * 50)


def torn(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE checkpoints (thread_id, checkpoint_ns, checkpoint_id)")
        connection.executemany("INSERT INTO checkpoints VALUES (?, '', ?)", [("x" * 500, i) for i in range(200)])
    connection.close()
    path.write_bytes(path.read_bytes()[:20_000])


def other(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (address)")
    connection.close()


@pytest.mark.parametrize("options", [(), ("--list",), ("--thread", "x")], ids=str)
@pytest.mark.parametrize("make", [garbage, torn, other])
def test_a_history_that_is_none(chat: Chat, history: Path, make: Callable[[Path], None], options: tuple[str, ...]):
    """A damaged file, or one of something else, is one line that names it; it is left as it is, byte for byte."""
    history.parent.mkdir(parents=True)
    make(history)
    before = history.read_bytes()
    assert f"{history}: cannot be used as the history of chats" in refused(chat("Why?", options=options))
    assert history.read_bytes() == before
    assert [file.name for file in history.parent.iterdir()] == ["threads.sqlite"]


def test_a_thread_that_cannot_be_read(chat: Chat, history: Path):
    """A thread whose checkpoint is damaged is one line that names the file and the thread."""
    chat("Why?", options=("--new", "mine"))
    with sqlite3.connect(history) as connection:
        connection.execute("UPDATE checkpoints SET checkpoint = x'c1c1'")
    connection.close()
    assert "threads.sqlite: the thread 'mine' cannot be read" in refused(chat("Why?", options=("--thread", "mine")))


def test_list_with_a_thread_that_cannot_be_read(chat: Chat, history: Path):
    """A damaged thread does not hide the others: it is told beside them, and the exit code is 1."""
    chat("Why?", options=("--new", "bad"))
    chat("Why?", options=("--new", "good"))
    with sqlite3.connect(history) as connection:
        connection.execute("UPDATE checkpoints SET checkpoint = x'c1c1' WHERE thread_id = 'bad'")
    connection.close()
    ran = chat(options=("--list",))
    assert (ran.code, ran.out[:4]) == (1, "good")
    assert ran.err.startswith(f"moa: {history}: the thread 'bad' cannot be read: ")


def test_no_place_for_a_history(chat: Chat, history: Path):
    """Where the history's folder cannot be made, one line says so."""
    history.parent.parent.write_text("a file where a folder should be")
    assert "cannot be used as the history of chats" in refused(chat("Why?"))


def test_standard_input_that_is_no_text(chat: Chat, monkeypatch: pytest.MonkeyPatch, server: RecordingServer):
    """A line that is not UTF-8 is one line on standard error; what was asked before is answered and kept."""
    monkeypatch.setattr(io, "StringIO", lambda text: io.TextIOWrapper(io.BytesIO(b"Why?\ncaf\xe9\n"), "utf-8"))
    ran = chat()
    assert (ran.code, ran.err.splitlines()[-1]) == (2, "moa: standard input is not UTF-8 text: convert it first")
