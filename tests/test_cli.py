"""The command line, as a person and as a pipe see it."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from moa_graph import MoAConfig, __version__, local
from moa_graph.cli import run
from moa_graph.cli.live import Live
from moa_graph.cli.tree import Tree
from moa_graph.config import preset_text, presets
from tests.server import Behaviour, RecordingServer

MOA = [sys.executable, "-c", "from moa_graph.cli import main; main()"]


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one line on standard error with which a command that was asked wrongly ends."""
        assert (self.code, self.out) == (2, "")
        assert self.err.count("\n") == 1
        assert self.err.startswith("moa: ")
        return self.err

    def failed(self) -> str:
        """The last line on standard error of a command that failed: the only one that tells of its failure."""
        assert self.code == 1
        assert "Traceback" not in self.err
        *progress, last = self.err.splitlines()
        assert last.startswith("moa: ")
        assert not [line for line in progress if line.startswith("moa: ")]
        return last


Moa = Callable[..., Ran]


@pytest.fixture
def moa(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Moa:
    """Run a command in an empty folder, with its standard input and outputs redirected."""
    monkeypatch.chdir(tmp_path)

    def ran(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(list(arguments))
        return Ran(code, *capsys.readouterr())

    return ran


@pytest.fixture
def mixture(server: RecordingServer, tmp_path: Path) -> Path:
    """Two proposers, two layers, and a final model, all at the server."""
    return write(tmp_path / "two.yaml", server.base_url)


def write(path: Path, base_url: str, **changes: Any) -> Path:
    models = [{"model": f"openai:{name}", "base_url": base_url} for name in ("a", "b", "c")]
    described = {"proposers": models[:2], "aggregator": models[2], "layers": 2, "policy": {"retries": 0}, **changes}
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# moa ask


def test_answer_alone_on_standard_output(moa: Moa, mixture: Path):
    """Only the answer is on standard output; what is asked, who has answered, and one line of summary are beside it."""
    ran = moa("ask", "Why?", "--config", "two.yaml")
    assert (ran.code, ran.out) == (0, "answer of c #1\n")
    first, *answered, summary = ran.err.splitlines()
    assert first == "two.yaml (as asked)"
    assert sorted(line.partition(":")[0] for line in answered) == ["layer 1, a", "layer 1, b"]
    assert summary.startswith("two.yaml: 3 calls, layer 1: 2 of 2 answered, ")


def test_description_and_retirement_are_told(moa: Moa, server: RecordingServer, tmp_path: Path):
    """What a mixture says of itself, and that its models are retired, stands before the run."""
    write(tmp_path / "old.yaml", server.base_url, description="Two of a kind", retired="use new.yaml")
    lines = moa("ask", "Why?", "-c", "old.yaml").err.splitlines()
    assert lines[:2] == ["old.yaml (as asked): Two of a kind", "retired: use new.yaml"]


@pytest.mark.parametrize(
    ("windows", "fit", "layers", "told"),
    [
        ((None, None, 450), "trim", 2, "final model: 2 shortened"),
        ((None, None, 450), "drop", 2, "final model: 1 left out"),
        ((None, None, 30), "trim", 2, "final model: all 2 left out, it read the question alone"),
        ((450, 30, None), "trim", 3, "layer 2: shortened for 1, all left out for 1 of 2"),
        ((None, 450, 30), "drop", 3, "layer 2: left out for 1 of 2; final model: all 2 left out, it read the question"),
        ((5000, 5000, 5000), "trim", 2, ""),
    ],
)
def test_references_that_did_not_fit_are_told(
    moa: Moa, server: RecordingServer, tmp_path: Path, windows: Any, fit: str, layers: int, told: str
):
    """Whoever did not read all of its references stands in the summary, without --receipt."""
    models = [
        {"model": f"openai:{name}", "base_url": server.base_url, "context_window": window}
        for name, window in zip(("a", "b", "c"), windows, strict=True)
    ]
    own = {"proposers": models[:2], "aggregator": models[2], "layers": layers, "max_tokens": 20}
    write(tmp_path / "narrow.yaml", server.base_url, **own, prompt={"text": "Merge:", "fit": fit})
    for name, words in (("a", 120), ("b", 150)):
        server.script(name, *[Behaviour(text="Blue light scatters the most. " * (words // 5))] * (layers - 1))
    ran = moa("ask", "Why?", "-c", "narrow.yaml")
    summary = ran.err.splitlines()[-1]
    assert (ran.code, f"references did not fit: {told}" in summary, "did not fit" in summary) == (0, *[bool(told)] * 2)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_question_from_standard_input(arguments: list[str], moa: Moa, mixture: Path, server: RecordingServer):
    """Without a question, or with `-` for it, standard input is the question."""
    assert moa("ask", *arguments, "-c", "two.yaml", stdin="Why is\nthe sky blue?\n").code == 0
    assert server.requests_for("a")[0].messages == [{"role": "user", "content": "Why is\nthe sky blue?"}]


def test_layers(moa: Moa, mixture: Path, server: RecordingServer):
    """`--layers` counts as the paper counts: 1 is a plain call, 3 asks the panel twice."""
    assert moa("ask", "Why?", "-c", "two.yaml", "--layers", "1").code == 0
    assert [request.model for request in server.requests] == ["c"]
    server.clear()
    assert moa("ask", "Why?", "-c", "two.yaml", "--layers", "3").code == 0
    assert sorted(request.model for request in server.requests) == ["a", "a", "b", "b", "c"]


def test_json(moa: Moa, mixture: Path):
    """`--json` prints the answer, every proposal and the receipt as one JSON document, and nothing else."""
    ran = moa("ask", "Why?", "-c", "two.yaml", "--json")
    told = json.loads(ran.out)
    assert sorted(told) == ["answer", "config", "proposals", "receipt"]
    assert (told["answer"], told["config"], told["receipt"]["calls"]) == ("answer of c #1", "two.yaml", 3)
    assert [(p["proposer"], p["content"]) for p in told["proposals"]] == [
        ("a", "answer of a #1"),
        ("b", "answer of b #1"),
    ]


def test_show_proposals(moa: Moa, mixture: Path, server: RecordingServer):
    """`--show-proposals` shows each proposer's answer, or why it has none, beside the answer."""
    server.script("b", Behaviour(status=400, error="no such model"))
    ran = moa("ask", "Why?", "-c", "two.yaml", "--show-proposals")
    assert ran.out == "answer of c #1\n"
    assert "layer 1, a (a)\nanswer of a #1\n" in ran.err
    assert "layer 1, b (openai:b)\nerror: " in ran.err
    assert "no such model" in ran.err
    assert "layer 1: 1 of 2 answered" in ran.err


def test_moa_yaml_in_the_folder(moa: Moa, server: RecordingServer, tmp_path: Path):
    """Without `--config` the folder's moa.yaml is asked, and it is said why."""
    write(tmp_path / "moa.yaml", server.base_url)
    ran = moa("ask", "Why?")
    assert ran.out == "answer of c #1\n"
    assert ran.err.startswith("moa.yaml (it lies in this folder)\n")


def test_stream_that_breaks_half_way(moa: Moa, mixture: Path, server: RecordingServer):
    """What had been said before the connection broke is shown, then one line, then exit code 1."""
    server.script("c", Behaviour(text="one two three four", close_after=2))
    ran = moa("ask", "Why?", "-c", "two.yaml")
    assert ran.out == "one two\n"
    assert "the final model failed: openai:c: " in ran.failed()


def test_receipt(moa: Moa, mixture: Path, server: RecordingServer):
    """`--receipt` shows a row for each model with its status, attempts and tokens, their sums, and each reason."""
    server.script("b", Behaviour(status=400, error="no such model"))
    ran = moa("ask", "Why?", "-c", "two.yaml", "--receipt")
    rows = [line.split() for line in ran.err.splitlines()]
    assert ["1", "a", "a", "ok"] in [row[:4] for row in rows]
    assert ["1", "b", "openai:b", "error"] in [row[:4] for row in rows]
    assert ["2", "final", "c", "ok"] in [row[:4] for row in rows]
    sums = next(row for row in rows if row[:2] == ["in", "all"])
    assert [int(n.replace(",", "")) for n in sums[4:6]] == [
        sum(r.prompt_tokens for r in server.requests if r.outcome == "ok"),
        sum(r.completion_tokens for r in server.requests if r.outcome == "ok"),
    ]
    assert any(line.startswith("b: ") and "no such model" in line for line in ran.err.splitlines())
    assert ran.out == "answer of c #1\n"


def test_decisions_below_the_receipt(moa: Moa, server: RecordingServer, tmp_path: Path):
    """`--receipt` says what was decided and what that took, `--show-proposals` what was said of an answer."""
    judge = {"model": "openai:j", "base_url": server.base_url}
    server.script("j", Behaviour(text="[1]"))
    write(
        tmp_path / "two.yaml",
        server.base_url,
        select={"top_k": {"k": 1, "judge": judge}},
        critique={"model": judge},
    )
    ran = moa("ask", "Why?", "-c", "two.yaml", "--receipt", "--show-proposals")
    assert len(re.findall(r"^layer 1, select \(top_k\): kept 1 of 2, the best$", ran.err, re.MULTILINE)) == 1
    assert re.search(r"^layer 1, select \(top_k\): kept 1 of 2, the best \(j: 1 call, .* s\)$", ran.err, re.MULTILINE)
    assert re.search(r"^1 +b +b +ok \(unread\)", ran.err, re.MULTILINE)
    assert "answer of a #1\ncritique: [1]\n" in ran.err
    assert "answer of b #1\nnot read on: top_k: kept 1 of 2, the best\n" in ran.err


def test_receipt_tells_what_prefix_caches_had(moa: Moa, mixture: Path, server: RecordingServer):
    """Where a provider read input tokens from its cache, `--receipt` has a column for them."""
    server.script("b", Behaviour(cached_tokens=1))
    lines = moa("ask", "Why?", "-c", "two.yaml", "--receipt").err.splitlines()
    head = next(line for line in lines if line.split()[:2] == ["layer", "proposer"])
    row = next(line for line in lines if line.split()[:2] == ["1", "b"])
    assert head.split()[-4:] == ["in", "cached", "out", "$"]
    assert row.split()[-3] == "1"


def test_cache(moa: Moa, mixture: Path, server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With `--cache` the same question is answered from disk: the second run asks nobody."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, again = (moa("ask", "Why?", "-c", "two.yaml", "--cache") for _ in range(2))
    assert (again.code, again.out) == (0, first.out)
    assert len(server.requests) == 3
    assert "two.yaml: 0 calls" in again.err


def test_cache_that_is_no_cache(moa: Moa, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache file that SQLite cannot read is one line that names it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "moa_graph").mkdir()
    (tmp_path / "moa_graph" / "answers.sqlite").write_text("not a database, but long enough to be read as one" * 9)
    ran = moa("ask", "Why?", "-c", "two.yaml", "--cache")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert "answers.sqlite cannot be used as a cache" in ran.err


def test_json_of_a_run_that_fails(moa: Moa, mixture: Path, server: RecordingServer):
    """With `--json` a run that fails prints why, what was answered until then, and what that took."""
    server.script("c", Behaviour(text="one two three four", close_after=2))
    ran = moa("ask", "Why?", "-c", "two.yaml", "--json")
    told = json.loads(ran.out)
    assert ran.code == 1
    assert (told["answer"], [p["content"] for p in told["proposals"]]) == (None, ["answer of a #1", "answer of b #1"])
    assert "the final model failed" in told["error"]
    assert told["receipt"]["final"]["status"] == "error"


def test_what_was_answered_before_a_run_failed_is_shown(moa: Moa, mixture: Path, server: RecordingServer):
    """It has been paid for: it stands on standard error, above the reason."""
    server.script("c", Behaviour(status=400))
    ran = moa("ask", "Why?", "-c", "two.yaml")
    assert "answer of a #1" in ran.err
    assert (ran.code, ran.out) == (1, "")


def test_nobody_at_that_address(moa: Moa, tmp_path: Path):
    """A model server that is not there is one line that names each model asked in vain."""
    write(tmp_path / "gone.yaml", f"http://127.0.0.1:{closed_port()}/v1")
    told = moa("ask", "Why?", "-c", "gone.yaml").failed()
    assert "layer 1: 0 of 2 proposers answered and 1 must" in told
    assert "a: " in told
    assert "b: " in told


def test_every_proposer_fails(moa: Moa, mixture: Path, server: RecordingServer):
    """Each failed proposer is told once as it fails, with its own reason, and the last line sums up."""
    server.script("a", Behaviour(status=400, error="too long"))
    server.script("b", Behaviour(status=401, error="who are you"))
    ran = moa("ask", "Why?", "-c", "two.yaml")
    told = ran.failed()
    assert "too long" in told
    assert "who are you" in told
    first, *progress, _ = ran.err.splitlines()
    assert [line[:10] for line in sorted(progress)] == ["layer 1, a", "layer 1, b"], first


@pytest.mark.skipif(not local.available(), reason='needs pip install "moa-graph[local]"')
def test_question_too_long_for_the_embedded_model(moa: Moa):
    """A question that overflows the embedded model's context is one line that says so, never a traceback."""
    told = moa("ask", "word " * 12_000, "-c", "local", "--layers", "1").failed()
    assert "exceeds the available context size (8192 tokens)" in told


def test_layers_are_told_where_they_are_other_than_described(moa: Moa, mixture: Path):
    """What is announced says how many layers are asked, where that is not what the description counts."""
    assert moa("ask", "Why?", "-c", "two.yaml", "-l", "1").err.startswith("two.yaml (as asked; 1 layer, not 2)\n")
    assert moa("ask", "Why?", "-c", "two.yaml", "-l", "2").err.startswith("two.yaml (as asked)\n")


def test_many_calls_are_told_before(moa: Moa, mixture: Path):
    """Where a question takes more than a hundred calls, it is said when the mixture is, as before the first of them."""
    many = moa("estimate", "Why?", "-c", "two.yaml", "-l", "51").err
    assert many.startswith("two.yaml (as asked; 51 layers, not 2)\neach question takes 101 calls\n")
    assert "each question takes" not in moa("estimate", "Why?", "-c", "two.yaml", "-l", "50").err


def test_one_is_no_plural(moa: Moa, mixture: Path):
    """A single call is told as one."""
    assert "two.yaml: 1 call, 1 token in and " in moa("ask", "Why?", "-c", "two.yaml", "-l", "1").err


@pytest.mark.parametrize("arguments", [("ask",), ("ask", "caf\udce9")])
def test_a_question_that_is_no_text(moa: Moa, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]):
    """A question in another encoding, from standard input or as an argument, is one line that says so."""
    monkeypatch.setattr(io, "StringIO", lambda text: io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    assert "is not UTF-8 text" in moa(*arguments).refused()


def test_nowhere_to_put_the_answer(mixture: Path, monkeypatch: pytest.MonkeyPatch, server: RecordingServer):
    """With standard output closed nothing is asked."""
    monkeypatch.chdir(mixture.parent)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", told := io.StringIO())
    assert run(["ask", "Why?", "-c", "two.yaml"]) == 2
    assert told.getvalue() == "moa: standard output is closed: there is nowhere to put the answer\n"
    assert server.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written(moa: Moa, mixture: Path, monkeypatch: pytest.MonkeyPatch):
    """Where standard output cannot be written, one line says why, and the exit code is 1."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        told = moa("ask", "Why?", "-c", "two.yaml").failed()
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert told == "moa: standard output cannot be written: No space left on device"


# In a process of its own


def test_presets_do_not_wait_for_langgraph():
    """`moa presets` reads YAML and nothing else: it is there at once."""
    code = "import sys; from moa_graph.cli import run; run(['presets']); print('langgraph' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


def test_as_a_module():
    """`python -m moa_graph` is `moa`."""
    ran = subprocess.run([sys.executable, "-m", "moa_graph", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{__version__}\n"


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MOA, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, and what they start, ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


async def test_answer_streams_as_it_is_written(mixture: Path, server: RecordingServer):
    """The first words are on standard output while the model is still writing the others."""
    server.script("c", Behaviour(text="one two three four five six seven eight", per_token=0.3))
    with start("ask", "Why?", "-c", "two.yaml", folder=mixture.parent) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == "one"
        assert server.requests_for("c")[0].outcome is None
        assert process.stdout.read() == " two three four five six seven eight\n"
    assert process.returncode == 0


async def test_interrupt_stops_at_once(mixture: Path, server: RecordingServer):
    """Ctrl-C ends a run that would hang for ever with exit code 130, no traceback, and the requests closed."""
    for model in ("a", "b"):
        server.script(model, Behaviour(hang=True))
    with start("ask", "Why?", "-c", "two.yaml", folder=mixture.parent) as process:
        await server.until(lambda: server.in_flight == 2, timeout=60)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "two.yaml (as asked)")
    await server.until(lambda: server.in_flight == 0)
    assert {request.outcome for request in server.requests} == {"closed_by_client"}


def test_reader_that_leaves(mixture: Path):
    """A pipe that nobody reads to its end (`moa ask … | head -0`) is no failure and no traceback."""
    with start("ask", "Why?", "-c", "two.yaml", folder=mixture.parent) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


# On a terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(kind: str, slot: int, name: str, **more: Any) -> dict[str, Any]:
    return {"type": f"moa.proposer_{kind}", "run": "1", "layer": 1, "slot": slot, "proposer": name, **more}


async def shown(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """What a terminal gets to see of a layer in which one answers, one fails, and one is stopped."""
    for name, value in {"COLUMNS": "80", "TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with contextlib.suppress(asyncio.CancelledError):
        async with Live(Tree(["abc"], "d"), None) as live:
            for name in "cab":
                live.event(told("started", "abc".index(name) + 1, name))
            how = {"status": "ok", "seconds": 1.2, "attempts": 1, "usage": {"output_tokens": 7}}
            live.event(told("answered", 1, "a", **how))
            bad = {"status": "timeout", "seconds": 2.0, "attempts": 1, "usage": {}, "error": "no answer [in \x1btime]"}
            live.event(told("failed", 2, "b", **bad))
            raise asyncio.CancelledError
    return terminal.getvalue()


async def test_picture_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    """On a terminal the last picture says, in declared order, who answered, who failed and why, and who was stopped."""
    picture = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", await shown(monkeypatch)).strip().splitlines()
    assert [line.rstrip() for line in picture[-4:-1]] == [
        "layer 1",
        "├─ ✓ a  1.2 s, 7 tokens",
        "├─ ✗ b  no answer [in ␛time] (2.0 s)",
    ]
    assert picture[-1].startswith("└─ - c  stopped after 0.")


async def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch):
    """NO_COLOR takes the colours away, and without it there are some."""
    green = "\x1b[32m"
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert green in await shown(monkeypatch)
    assert green not in await shown(monkeypatch, NO_COLOR="1")


async def test_plain_lines_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch):
    """A dumb terminal gets one plain line per answer, without a single escape sequence."""
    assert (await shown(monkeypatch, TERM="dumb")).splitlines() == [
        "layer 1, a: 1.2 s, 7 tokens",
        "layer 1, b: no answer [in ␛time] (2.0 s)",
    ]


# Asked wrongly


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ask"], ["the question is empty"]),
        (["ask", "  "], ["the question is empty"]),
        (["ask", "Why?", "--config", "moa-lit"], ["'moa-lit'", "did you mean moa-lite?", "self-moa"]),
        (["ask", "Why?", "--config", "nowhere.yaml"], ["nowhere.yaml: cannot be read (No such file or directory)"]),
        (["ask", "Why?", "--config", "moa-lite"], ["preset moa-lite", "together needs a key: set TOGETHER_API_KEY"]),
        (["ask", "Why?", "--layers", "0"], ["--layers", "a whole number of at least 1 is needed, not '0'"]),
        (["ask", "Why?", "--layers", "two"], ["--layers", "a whole number of at least 1 is needed, not 'two'"]),
        (["ask", "Why?", "--layer", "2"], ["No such option: --layer", "--layers"]),
        (["ask", "Why?", "--config"], ["'--config' requires an argument"]),
        (["ask", "Why", "not?"], ["the question is 2 words: put quotes around it"]),
        (["aks", "Why?"], ["No such command 'aks'", "'ask'"]),
        (["presets", "show"], ["Missing argument"]),
        (["presets", "show", "moalite"], ["'moalite'", "did you mean moa-lite?"]),
        (["draw", "--config", "nope"], ["'nope' is neither a YAML file nor a preset: one of local, moa, moa-lite"]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, list) else "",
)
def test_asked_wrongly(arguments: list[str], told: list[str], moa: Moa):
    """A wrong word on the command line is one line that names it and what would be right, and exit code 2."""
    line = moa(*arguments).refused()
    assert [part for part in told if part not in line] == []


MODELS = "proposers: [openai:a]\naggregator: openai:b\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["a mapping with `proposers` and `aggregator` is needed, not an empty file"]),
        ("[1, 2]", ["is needed, not a list"]),
        ("proposers: [a\n", ["not YAML at line 2"]),
        ("aggregator: openai:b", ["proposers: this key is missing"]),
        ("proposers: []\naggregator: openai:b", ["the panel is empty"]),
        ("proposers: [openai:a]\naggregator: []", ["there is no aggregator"]),
        (MODELS + "layers: 0", ["layers is 0: a whole number of at least 1"]),
        (MODELS + "layers: two", ["layers: a whole number is needed, not 'two'"]),
        (MODELS + "policy: {quorum: 2}", ["layer 1: a quorum of 2"]),
        (MODELS + "policy: {quorom: 1}", ["policy.quorom: unknown key; did you mean quorum?", "grace", "timeout"]),
        (MODELS.replace("proposers", "proposer"), ["proposer: unknown key; did you mean proposers?", "aggregator"]),
        ("proposers: [opnai:a]\naggregator: openai:b", ["proposer 1 (opnai:a)", "known provider", "openai", "local"]),
        ("proposers: [anthropic:a]\naggregator: openai:b", ["anthropic needs a key: set ANTHROPIC_API_KEY"]),
        (
            "proposers: [{model: openai:a, name: x}, {model: openai:b, name: x}]\naggregator: openai:b",
            ["layer 1: two proposers are named 'x'"],
        ),
    ],
)
def test_described_wrongly(text: str, told: list[str], moa: Moa, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Whatever is wrong in a YAML file is one line that names the file and the culprit, and exit code 2."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up-key")
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    line = moa("ask", "Why?", "-c", "bad.yaml").refused()
    assert line.startswith("moa: bad.yaml: ")
    assert [part for part in told if part not in line] == []


def test_help_where_nothing_is_asked(moa: Moa):
    """`moa` alone shows what it can do, with no word of failure on standard error."""
    ran = moa()
    assert (ran.code, ran.err) == (2, "")
    assert [command for command in ("ask", "chat", "presets", "draw", "doctor") if command not in ran.out] == []


def test_version(moa: Moa):
    """`moa --version` says the package's version."""
    assert moa("--version") == Ran(0, f"{__version__}\n", "")


# The other commands


def test_presets(moa: Moa):
    """`moa presets` lists every preset with a description, and marks those whose models are retired."""
    lines = moa("presets").out.splitlines()
    assert [line.split()[0] for line in lines] == presets()
    assert [line.split()[0] for line in lines if line.endswith("[retired]")] == [
        "moa-paper",
        "moa-paper-gpt4o",
        "moa-paper-lite",
    ]


@pytest.mark.parametrize("name", presets())
def test_copied_preset_is_the_preset(name: str, moa: Moa, tmp_path: Path):
    """`moa presets show NAME > moa.yaml` gives a file that describes the same mixture, comments and all."""
    ran = moa("presets", "show", name)
    assert ran == Ran(0, preset_text(name), "")
    copy = tmp_path / "moa.yaml"
    copy.write_text(ran.out, encoding="utf-8")
    assert MoAConfig.from_yaml(copy) == MoAConfig.preset(name)


def test_draw(moa: Moa):
    """`moa draw` prints Mermaid and nothing else, without any key, with as many layers as asked for."""
    ran = moa("draw", "-c", "moa-paper", "--layers", "4")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("---\nconfig:")
    assert "subgraph layer_3" in ran.out
    assert "subgraph layer_4" not in ran.out


def test_doctor(moa: Moa, mixture: Path, monkeypatch: pytest.MonkeyPatch):
    """`moa doctor` asks every model of the mixture, and tells which keys are set without showing one."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up-key")
    ran = moa("doctor", "-c", "two.yaml")
    assert ran.code == 0
    assert "✓ openai: OPENAI_API_KEY is set" in ran.out
    assert "· together: TOGETHER_API_KEY" in ran.out
    assert [ran.out.count(f"✓ openai:{name} at http://127.0.0.1") for name in "abc"] == [1, 1, 1]
    assert "made-up" not in ran.out + ran.err


def test_doctor_finds_what_does_not_answer(moa: Moa, mixture: Path, server: RecordingServer):
    """A model that does not answer is named with the reason, and the exit code is 1."""
    server.script("b", Behaviour(status=404, error="no such model"))
    ran = moa("doctor", "-c", "two.yaml")
    assert ran.code == 1
    [told] = [line for line in ran.out.splitlines() if "openai:b at " in line]
    assert told.startswith("  ✗ ")
    assert "no such model" in told


def test_doctor_without_asking(moa: Moa, mixture: Path, server: RecordingServer):
    """`--no-ask` makes every model and asks none."""
    assert moa("doctor", "-c", "two.yaml", "--no-ask").code == 0
    assert server.requests == []


# Between the layers


def read_by(server: RecordingServer, model: str) -> str:
    """The references that the last request to `model` began with."""
    return str(server.requests_for(model)[-1].messages[0]["content"]).partition("Responses from models:")[2]


def test_review_edits_drops_and_adds(moa: Moa, mixture: Path, server: RecordingServer):
    """`--review` stops behind a layer; the next one reads what a person has left of it."""
    ran = moa("ask", "Why?", "-c", "two.yaml", "--review", stdin="drop 1\nedit 1 It is b, surely.\nadd Ask ann.\ngo\n")
    assert ran.out == "answer of c #1\n"
    assert "layer 1, 2. b (b)\nanswer of b #1" in ran.err
    assert read_by(server, "c") == "\n1. It is b, surely.\n2. Ask ann."


@pytest.mark.parametrize("stdin", ["", "go\n", "\n", "show\n"])
def test_review_may_leave_all_as_it_is(moa: Moa, mixture: Path, server: RecordingServer, stdin: str):
    """Without a change, and at the end of standard input, the next layer reads every answer; nobody is asked twice."""
    ran = moa("ask", "Why?", "-c", "two.yaml", "--layers", "3", "--review", stdin=stdin)
    assert (ran.code, ran.out) == (0, "answer of c #1\n")
    assert read_by(server, "c") == "\n1. answer of a #2\n2. answer of b #2"
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("drop 3", "'3' is no proposal's number: 1 to 2"),
        ("drop", "nothing is no proposal's number: 1 to 2"),
        ("add", "'add' is none of: edit N"),
        ("delete 1", "'delete' is none of: edit N"),
        ("drop 1\ndrop 1\ngo", "0 of 2 proposers answered and 1 must"),
    ],
)
def test_review_says_what_it_does_not_understand(moa: Moa, mixture: Path, line: str, why: str):
    """A line that cannot be done is told, and the review goes on."""
    ran = moa("ask", "Why?", "-c", "two.yaml", "--review", stdin=f"{line}\nadd Ask ann.\n")
    assert why in ran.err
    assert (ran.code, ran.out) == (0, "answer of c #1\n")


def test_review_can_be_left(moa: Moa, mixture: Path, server: RecordingServer):
    """`quit` ends the command as an interrupt does: nobody else is asked."""
    assert moa("ask", "Why?", "-c", "two.yaml", "--review", stdin="quit\n").code == 130
    assert server.requests_for("c") == []


def test_review_in_an_editor(moa: Moa, mixture: Path, server: RecordingServer, monkeypatch: pytest.MonkeyPatch):
    """`edit N` without a text opens the editor that VISUAL names."""
    monkeypatch.setattr("moa_graph.cli.review.is_terminal", lambda stream: True)
    monkeypatch.setenv("VISUAL", f"{sys.executable} -c \"import sys; open(sys.argv[1], 'a').write(', I think')\"")
    moa("ask", "Why?", "-c", "two.yaml", "--review", stdin="edit 2\n")
    assert read_by(server, "c") == "\n1. answer of a #1\n2. answer of b #1\n, I think"


def test_an_editor_wants_a_terminal(moa: Moa, mixture: Path, monkeypatch: pytest.MonkeyPatch):
    """In a pipe `edit N` alone is one line, not an editor: and the review goes on."""
    monkeypatch.setenv("VISUAL", "false")
    ran = moa("ask", "Why?", "-c", "two.yaml", "--review", stdin="edit 2\ngo\n")
    assert "an editor wants a terminal" in ran.err
    assert ran.out == "answer of c #1\n"


def test_a_review_is_counted_as_a_whole(moa: Moa, mixture: Path):
    """What was asked before a stop is in the receipt and the last line, and a person's proposal costs nothing."""
    ran = moa("ask", "Why?", "-c", "two.yaml", "--review", "--json", stdin="add Ask Ada.\ngo\n")
    receipt = json.loads(ran.out)["receipt"]
    assert receipt["calls"] == 3
    assert receipt["layers"][0]["proposals"][2]["cost_usd"] == 0
    assert "two.yaml: 3 calls" in ran.err


def test_an_answer_that_stops_at_max_tokens(moa: Moa, mixture: Path, server: RecordingServer):
    """It is said below the answer, and in the receipt of whoever's answer is cut short."""
    for name in ("a", "c"):
        server.script(name, Behaviour(finish_reason="length"))
    ran = moa("ask", "Why?", "-c", "two.yaml", "--receipt")
    assert ran.err.splitlines()[-1].endswith("; the answer ends at max_tokens")
    assert sum("ok (max_tokens)" in line for line in ran.err.splitlines()) == 2
