"""`moa stats`, and what `moa ask` and `moa chat` keep for it."""

import io
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from moa_graph import stats
from moa_graph.cli import run
from moa_graph.stats import place, record
from tests.server import Behaviour, RecordingServer
from tests.terminal import Screen, on_terminal
from tests.test_cli import Ran, write
from tests.test_stats import call, garbage, made, rows

Moa = Callable[..., Ran]
CALLS = "SELECT role, coalesce(asked, model), status, cached, resumed FROM calls WHERE run = {} ORDER BY 1 DESC, 2"


@pytest.fixture
def moa(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: RecordingServer
) -> Moa:
    """Run a command where moa.yaml has two proposers, both needed, and a final model; no run is kept yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "moa.yaml", server.base_url, policy={"retries": 0, "quorum": 2})

    def ran(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(list(arguments))
        return Ran(code, *capsys.readouterr())

    return ran


def table(ran: Ran) -> list[list[str]]:
    """The cells of each model's line, the name first."""
    lines = [line.split(maxsplit=11) for line in ran.out.splitlines()[5:]]
    return [[line[-1], *line[:-1]] for line in lines]


# What is kept of a run


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_question_is_kept_once(moa: Moa, options: tuple[str, ...]):
    """A run of `moa ask` is kept, with each call by the model that was asked, and without the text."""
    assert moa("ask", "Why?", *options).code == 0
    assert rows("SELECT config, status, calls, question, answer FROM runs") == [("moa.yaml", "ok", 3, None, None)]
    assert rows(CALLS.format(1)) == [
        ("proposer", "openai:a", "ok", 0, 0),
        ("proposer", "openai:b", "ok", 0, 0),
        ("final", "openai:c", "ok", 0, 0),
    ]


def test_a_failed_question_is_kept(moa: Moa, server: RecordingServer):
    """A run that fails is kept with its calls and the reason, which the command tells as it does otherwise."""
    server.script("b", Behaviour(status=400, error="Why? is no question", latency=0.3))
    assert "Why? is no question" in moa("ask", "Why?").failed()
    [[status, error]] = rows("SELECT status, error FROM runs")
    assert (status, error.partition(": ")[0]) == ("failed", "QuorumError")
    assert "Why?" not in error
    assert rows(CALLS.format(1)) == [("proposer", "openai:a", "ok", 0, 0), ("proposer", "openai:b", "error", 0, 0)]


def test_an_answer_from_the_cache_is_kept_as_such(moa: Moa, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What comes from the cache is no call."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        moa("ask", "Why?", "--cache")
    assert rows("SELECT calls, output_tokens FROM runs WHERE id = 2") == [(0, 0)]
    assert {cached for _, _, _, cached, _ in rows(CALLS.format(2))} == {1}


def test_a_review_is_kept_whole(moa: Moa):
    """A run with a person between the layers counts all its calls, and none for what the person wrote."""
    assert moa("ask", "Why?", "--review", stdin="add Ask ann.\ngo\n").code == 0
    assert rows("SELECT calls FROM runs") == [(3,)]
    assert [model for _, model, *_ in rows(CALLS.format(1))] == ["openai:a", "openai:b", "openai:c"]


def test_an_answer_that_cannot_be_written_was_paid_for(moa: Moa, monkeypatch: pytest.MonkeyPatch):
    """A run whose answer then has nowhere to go is kept."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert moa("ask", "Why?", "--json").code == 1
        with pytest.raises(OSError):  # noqa: PT011 - what was not written is still there
            full.close()
    assert rows("SELECT status, calls FROM runs") == [("ok", 3)]


def test_a_run_that_is_interrupted_is_not_kept(moa: Moa):
    """A run that a person stops is neither an answer nor a failure."""
    assert moa("ask", "Why?", "--review", stdin="quit\n").code == 130
    assert not place().exists()


def test_each_turn_of_a_chat_is_kept(moa: Moa, server: RecordingServer):
    """Each turn is a run, one that failed too; one that is resumed counts only what it asked."""
    server.script("c", Behaviour(), Behaviour(status=400), Behaviour())
    assert moa("chat", stdin="Why?\nAnd then?\n/retry\n").code == 1
    assert rows("SELECT config, status FROM runs") == [("moa.yaml", s) for s in ("ok", "failed", "ok")]
    assert rows("SELECT calls FROM runs WHERE id <> 2") == [(3,), (1,)]
    assert [resumed for *_, resumed in rows(CALLS.format(3))] == [1, 1, 0]


# The setting


def test_text(moa: Moa, server: RecordingServer, monkeypatch: pytest.MonkeyPatch):
    """With `text` questions and answers are kept, of each turn its own, of a resumed turn the question asked first."""
    monkeypatch.setenv("MOA_GRAPH_STATS", "text")
    server.script("c", Behaviour(), Behaviour(), Behaviour(status=400), Behaviour())
    moa("ask", "Why?")
    moa("chat", stdin="How?\nAnd then?\n/retry\n")
    assert rows("SELECT question, answer FROM runs") == [
        ("Why?", "answer of c #1"),
        ("How?", "answer of c #2"),
        ("And then?", None),
        ("And then?", "answer of c #4"),
    ]
    assert "questions and answers too" in moa("stats").err


def test_off(moa: Moa, monkeypatch: pytest.MonkeyPatch):
    """With `off` nothing is kept, and `moa stats` says so."""
    monkeypatch.setenv("MOA_GRAPH_STATS", "off")
    assert moa("ask", "Why?").code == 0
    assert not place().exists()
    with monkeypatch.context() as before:
        before.delenv("MOA_GRAPH_STATS")
        record(made(call()), config="mine")
    ran = moa("stats")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "MOA_GRAPH_STATS is off: no run is kept, and none is read\n"


@pytest.mark.parametrize("command", [("ask", "Why?"), ("chat",), ("stats",)])
def test_another_setting(moa: Moa, command: tuple[str, ...], server: RecordingServer, monkeypatch: pytest.MonkeyPatch):
    """A setting that means nothing is told before anybody is asked."""
    monkeypatch.setenv("MOA_GRAPH_STATS", "no")
    assert "MOA_GRAPH_STATS is 'no': off (keep nothing), text (" in moa(*command, stdin="Why?\n").refused()
    assert server.requests == []


# A store that cannot be written


def file_for_folder(path: Path) -> None:
    path.parents[1].write_text("a file")


def garbage_for_store(path: Path) -> None:
    path.parent.mkdir(parents=True)
    garbage(path)


@pytest.mark.parametrize("make", [file_for_folder, garbage_for_store])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_answer_is_there_all_the_same(moa: Moa, make: Callable[[Path], None], options: tuple[str, ...]):
    """Where the store cannot be written, one line says so below all else; answer and exit code are as ever."""
    make(place())
    ran = moa("ask", "Why?", *options)
    assert ran.code == 0
    assert "answer of c #1" in ran.out
    *_, summary, last = ran.err.splitlines()
    assert summary.startswith("moa.yaml: 3 calls")
    assert last.startswith(f"not recorded: {place()}: cannot be used as the store of runs (")
    assert ran.err.count("not recorded") == 1


def test_the_reason_is_there_all_the_same(moa: Moa, server: RecordingServer):
    """A run that fails where nothing can be kept ends with its own reason."""
    file_for_folder(place())
    server.script("c", Behaviour(status=400, error="too long"))
    assert "too long" in moa("ask", "Why?").failed()


def test_a_locked_store_does_not_stop_a_chat(moa: Moa, monkeypatch: pytest.MonkeyPatch):
    """While another program keeps the store for itself every turn is answered, with one line each."""
    record(made(call()), config="mine")
    monkeypatch.setattr(stats, "_WAIT", 0.05)
    with closing(sqlite3.connect(place(), isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        ran = moa("chat", stdin="Why?\nHow?\n")
    assert (ran.code, ran.out) == (0, "answer of c #1\nanswer of c #2\n")
    assert ran.err.count("not recorded: ") == ran.err.count("database is locked") == 2


# moa stats


def test_nothing_is_kept_yet(moa: Moa):
    """Without a store one line says so, none is made, and a script gets JSON all the same."""
    for options, out in (((), ""), (("--json",), '{"runs": 0, "models": []}\n')):
        ran = moa("stats", *options)
        assert (ran.code, ran.out) == (0, out)
        assert ran.err == f"no run is kept yet: moa ask, moa chat and moa compare keep theirs in {place()}\n"
    assert not place().parent.parent.exists()


def test_sums_and_models(moa: Moa, server: RecordingServer):
    """The sums are told first, then a line for each model; where it is kept, and the switch, on standard error."""
    moa("ask", "Why?")
    server.script("b", Behaviour(status=400, latency=0.3))
    moa("ask", "Why?")
    ran = moa("stats")
    first, calls, *_ = ran.out.splitlines()
    assert first.startswith("2 runs since 20")
    assert first.endswith(", 1 failed")
    assert " calls, " in calls
    assert {line[0]: line[1:4] for line in table(ran)[1:]} == {
        "openai:a": ["2", "2", "0"],
        "openai:b": ["2", "1", "1"],
        "openai:c": ["1", "1", "0"],
    }
    told = f"kept in {place()}: no text of questions and answers; MOA_GRAPH_STATS=off switches it off\n"
    assert (ran.code, ran.err) == (0, told)


def three_models() -> None:
    """b is slow, d fails and is cut, c is the most expensive."""
    failing = [call("d", status=status, usage={}, cost_usd=0.0) for status in ("error", "timeout", "cut", "cut", "ok")]
    record(made(call("b", seconds=20.0, cost_usd=None), *failing), config="mine")
    record(made(call("b", seconds=10.0, cost_usd=None)), config="other")


def test_columns_in_a_pipe(moa: Moa):
    """In a pipe each model is a line of the same columns of plain numbers, the name last."""
    three_models()
    *_, header, columns, b, c, d = moa("stats").out.splitlines()
    assert header == "models, the slowest answers first, by their mean (--sort seconds|failed|cost)"
    assert " ".join(columns.split()) == (
        "calls answered failed cut timeouts mean_seconds slowest_seconds input_tokens output_tokens cost_usd_at_least "
        "unpriced model"
    )
    assert " ".join(b.split()) == "2 2 0 0 0 15 20 20 40 0 2 b"
    assert " ".join(c.split()) == "2 2 0 0 0 1.5 1.5 20 40 1 0 c"
    assert " ".join(d.split()) == "5 1 1 2 1 1.5 1.5 0 0 0 0 d"


@pytest.mark.parametrize(
    ("options", "first", "how"),
    [((), "b", "slowest"), (("--sort", "failed"), "d", "most failing"), (("-s", "cost"), "c", "most expensive")],
)
def test_sorted(moa: Moa, options: tuple[str, ...], first: str, how: str):
    """The slowest stand first, or the most failing, or the most expensive, and the header says which."""
    three_models()
    ran = moa("stats", *options)
    assert table(ran)[1][0] == first
    assert f"models, the {how}" in ran.out


@pytest.mark.parametrize(
    ("costs", "told"),
    [
        ([(0.25, 0.25), (0.5, 0.5)], "$0.7500"),
        ([(0.25, 0.25), (None, 0.5)], "at least $0.7500 (unknown in 1 of 2 runs)"),
        ([(None, 0.0), (None, 0.0)], "$ unknown (unknown in 2 of 2 runs)"),
        ([(1000.0, 1000.0)], "$1,000.00"),
    ],
)
def test_cost_is_told_honestly(moa: Moa, costs: list[Any], told: str):
    """Where the price of a call is unknown the sum is a lower bound, and says so."""
    for cost, known in costs:
        record(made(call(), cost_usd=cost, cost_usd_at_least=known), config="mine")
    assert moa("stats").out.splitlines()[2] == told


def test_days_and_config(moa: Moa):
    """`--days` counts the last days alone, `--config` one mixture; a time without a run is told."""
    three_models()
    with closing(sqlite3.connect(place())) as connection:
        connection.execute("UPDATE runs SET at = '2020-01-01T00:00:00Z' WHERE config = 'mine'")
        connection.commit()
    assert moa("stats").out.startswith("2 runs since 2020-01-01, ")
    assert moa("stats", "--days", "7").out.startswith("1 run since ")
    assert [line[0] for line in table(moa("stats", "--config", "other"))[1:]] == ["b", "c"]
    assert moa("stats", "--days", "7", "--config", "mine").out == "no run in that time\n"


def test_json(moa: Moa):
    """`--json` has the same sums and models, unknown prices as null, and the same order."""
    three_models()
    told = json.loads(moa("stats", "--json", "--sort", "failed").out)
    assert (told["runs"], told["failed"], told["cost_usd"], told["cost_usd_at_least"]) == (2, 0, 2.0, 2.0)
    assert next((m["model"], m["failed"], m["cost_usd"]) for m in told["models"]) == ("d", 1, 0.0)
    assert {m["model"]: m["cost_usd"] for m in told["models"]}["b"] is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--days", "0"), "a whole number of days, 1 or more, is needed, not '0'"),
        (("--days", "1.5"), "a whole number of days, 1 or more, is needed, not '1.5'"),
        (("--days", "9" * 30), "a whole number of days, 1 or more, is needed, not '999"),
        (("--sort", "name"), "one of seconds, failed, cost is needed, not 'name'"),
        (("--config", "yours"), "no run of 'yours' is kept: one of mine, other"),
    ],
)
def test_asked_wrongly(moa: Moa, options: tuple[str, ...], why: str):
    """An option that cannot be followed is one line that says what can."""
    three_models()
    assert why in moa("stats", *options).refused()


def test_a_file_that_is_no_store(moa: Moa):
    """A file of another kind is one line that names it."""
    garbage_for_store(place())
    assert f"{place()}: cannot be used as the store of runs (file is not a database)" in moa("stats").refused()


@pytest.mark.parametrize("columns", [80, 120])
async def test_on_a_terminal(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a terminal a table fits the width: a long name is broken into lines, counts are shortened."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    name = "together:meta-llama/Llama-3.3-70B-Instruct-Turbo"
    record(made(call(name, usage={"input_tokens": 1_234_567, "output_tokens": 0}, cost_usd=None)), config="mine")
    with on_terminal("stats", folder=tmp_path, columns=columns) as moa:
        assert await moa.ended() == 0
    lines = Screen(moa.text, columns + 1).lines
    head = next(k for k, line in enumerate(lines) if line.lstrip().startswith("model "))
    assert max(len(line) for line in lines[head:] if str(tmp_path) not in line) <= columns
    assert " ".join(lines[head].split()) == "model calls ok failed cut timeout mean s max s tokens $"
    row = next(line for line in lines if "1.2M" in line).split()
    assert row[-3:] == ["1.5", "1.2M", "?"]
    width = lines[head].index(" calls") if columns == 80 else len(name)
    assert name in "".join(line[:width].strip() for line in lines)
