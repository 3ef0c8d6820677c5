"""The store of runs: what is kept of each, what is not, and what happens where it cannot be written."""

import json
import os
import re
import resource
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from moa_graph import Critique, FinalError, Layer, LayerPolicy, QuorumError, Sequential, TopK, create_moa, stats
from moa_graph.errors import MoAConfigError, MoAError
from moa_graph.stats import Store, place, record, setting, usual_output
from moa_graph.testing import Answer, ScriptedChatModel, bad_request

ASK: Any = {"messages": [("user", "Why is the sky blue?")]}
DOCS = Path(__file__).parents[1] / "docs" / "stats.md"


@pytest.fixture(autouse=True)
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the store is; there is none yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return place()


WRITER = """
import json, sys
from moa_graph.stats import record
for _ in range(int(sys.argv[1])):
    record(json.loads(sys.argv[2]), config=sys.argv[3])
"""


def writer(times: int, config: str = "mine") -> list[str]:
    """A command that records so many runs."""
    return [sys.executable, "-c", WRITER, str(times), json.dumps(made(call())), config]


def rows(query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(place())) as connection:
        return connection.execute(query).fetchall()


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


def call(name: str = "a", **changes: Any) -> Any:
    """A model's part in a run, as a receipt has it."""
    used = {"usage": {"input_tokens": 10, "output_tokens": 20}, "cost_usd": 0.5, "tflops": 1.0, "error": None}
    told = {"proposer": name, "model": name, "status": "ok", "seconds": 1.5, "attempts": 1, **used}
    return {**told, "cached": False, "resumed": False, **changes}


def made(*calls: Any, **changes: Any) -> Any:
    """A receipt of one layer and a final model, each of whose calls had 10 tokens in and 20 out."""
    layer = {"layer": 1, "asked": len(calls), "answered": len(calls), "seconds": 1.5, "proposals": list(calls)}
    sums = {"calls": 2, "input_tokens": 20, "cached_input_tokens": 0, "output_tokens": 40, "seconds": 3.0}
    money = {"cost_usd": 1.0, "cost_usd_at_least": 1.0, "tflops_total": 2.0}
    return {"layers": [layer], "final": call("c", proposer="final"), **sums, **money, **changes}


# What is kept


async def test_a_run_is_a_row_and_so_is_each_call():
    """What the receipt of a run tells stands in the two tables, for proposers that failed or were cut as well."""
    panel = [model("a"), model("b", bad_request()), model("d", Answer("late", stall_after=0))]
    moa = create_moa(panel, model("c"), 2, policy=LayerPolicy(grace=0.5))
    receipt = (await moa.ainvoke(ASK))["messages"][-1].response_metadata["moa"]
    record(receipt, config="mine", graph=moa)
    [run] = rows("SELECT id, config, status, error, calls, input_tokens, output_tokens, seconds FROM runs")
    assert run == (1, "mine", "ok", None, *(receipt[k] for k in ("calls", "input_tokens", "output_tokens", "seconds")))
    assert rows("SELECT run, layer, role, proposer, asked, model, status, attempts FROM calls") == [
        (1, 1, "proposer", "a", "a", "a", "ok", 1),
        (1, 1, "proposer", "b", "b", "b", "error", 1),
        (1, 1, "proposer", "d", "d", "d", "cut", 1),
        (1, 2, "final", "final", "c", "c", "ok", 1),
    ]
    [[at]] = rows("SELECT at FROM runs")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", at)


async def test_what_a_step_asked_is_a_row_too():
    """Of the calls in a run none is missing: a judge's, a window's; how long verdicts are says nothing of answers."""
    pick, critic = TopK(3, model("judge", "[1, 2, 4]")), Critique(model("critic"))
    layer = Layer([model(name) for name in "abde"], select=pick, critique=critic)
    moa = create_moa(layer, Sequential(model("c"), window=2), 2)
    receipt = (await moa.ainvoke(ASK))["messages"][-1].response_metadata["moa"]
    record(receipt, config="mine", graph=moa)
    kept = rows("SELECT layer, role, proposer, asked, calls FROM calls WHERE role NOT IN ('proposer', 'final')")
    assert kept == [
        (1, "select", "select", "judge", 1), (1, "critique", "critique", "critic", 3),
        (2, "aggregator", "window_1", "c", 1),
    ]  # fmt: skip
    assert rows("SELECT sum(calls), sum(output_tokens) FROM calls") == [(receipt["calls"], receipt["output_tokens"])]
    assert usual_output(["judge", "critic", "a"]).keys() == {"a"}


async def test_what_a_step_asked_in_an_earlier_run_is_not_counted_again():
    """On a resumed thread the row says so, and its numbers are 0."""
    layer = Layer([model("a"), model("b")], select=TopK(1, model("judge", "[1]")))
    moa = create_moa(layer, model("c", bad_request(), "So."), 2, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(FinalError) as failed:
        await moa.ainvoke(ASK, thread)
    record(None, config="mine", error=failed.value, graph=moa)
    record((await moa.ainvoke(None, thread))["messages"][-1].response_metadata["moa"], config="mine", graph=moa)
    assert rows("SELECT run, calls, resumed FROM calls WHERE role = 'select'") == [(1, 1, 0), (2, 0, 1)]


async def test_a_judge_that_fails_is_a_failed_call():
    """Whether or not the mixture goes on without it."""
    layer = Layer([model("a"), model("b")], select=TopK(1, model("judge", bad_request()), otherwise="all"))
    moa = create_moa(layer, model("c"), 2)
    record((await moa.ainvoke(ASK))["messages"][-1].response_metadata["moa"], config="mine", graph=moa)
    assert rows("SELECT status, asked FROM calls WHERE role = 'select'") == [("error", "judge")]


def test_what_is_unknown_is_null():
    """A price and tokens that are not known are NULL, not 0; what is known of the price stands beside it."""
    unknown = call("b", cost_usd=None, cost_usd_at_least=0.2, usage={}, status="cut")
    record(made(call(), unknown, cost_usd=None, cost_usd_at_least=1.2), config="mine")
    assert rows("SELECT cost_usd, cost_usd_at_least FROM runs") == [(None, 1.2)]
    assert rows("SELECT cost_usd, cost_usd_at_least, input_tokens FROM calls WHERE model = 'b'") == [(None, 0.2, None)]


def test_a_receipt_without_prices():
    """A receipt that says nothing of prices has unknown ones."""
    money = ("cost_usd", "cost_usd_at_least", "tflops_total", "tflops")
    receipt = {key: value for key, value in made(call()).items() if key not in money}
    receipt["layers"][0]["proposals"] = [{k: v for k, v in call().items() if k not in money}]
    record(receipt, config="mine")
    assert rows("SELECT cost_usd, cost_usd_at_least, tflops_total FROM runs") == [(None, 0.0, None)]
    assert rows("SELECT cost_usd, cost_usd_at_least FROM calls WHERE role = 'proposer'") == [(None, 0.0)]


async def test_what_was_not_asked_counts_as_nothing():
    """Answers from the cache and of an earlier run have 0 in all numbers: sums over calls are those of the runs."""
    moa = create_moa([model("a")], model("c"), 2, cache=InMemoryCache())
    for _ in range(2):
        record((await moa.ainvoke(ASK))["messages"][-1].response_metadata["moa"], config="mine")
    record(made(call(resumed=True), calls=1, input_tokens=10, output_tokens=20, cost_usd=0.5), config="mine")
    sums = "SELECT sum(calls), sum(input_tokens), sum(output_tokens) FROM"
    assert rows(f"{sums} calls") == rows(f"{sums} runs")
    assert rows("SELECT cached, resumed, attempts, calls, output_tokens FROM calls WHERE cached OR resumed") == [
        (1, 0, 0, 0, 0),
        (1, 0, 0, 0, 0),
        (0, 1, 0, 0, 0),
    ]


def test_a_run_that_failed_has_its_error_and_its_calls():
    """Of a run that failed the error's own receipt is kept, without a final model that was never asked."""
    error = QuorumError("layer 1: 0 of 1 proposers answered and 1 must; a: Error: sk-secret123456")
    error.receipt = made(call(status="error", usage={}), final=call("", status="unasked", attempts=0))  # type: ignore[attr-defined, unused-ignore]
    record(None, config="mine", error=error)
    why = "QuorumError: layer 1: 0 of 1 proposers answered and 1 must; a: Error: ***"
    assert rows("SELECT status, error, calls FROM runs") == [("failed", why, 2)]
    assert rows("SELECT proposer, status FROM calls") == [("a", "error")]


def test_a_run_that_failed_without_a_receipt():
    """Where nothing is known of what a failed run asked, its numbers are unknown."""
    record(None, config="mine", error="it broke")
    found = rows("SELECT status, error, calls, input_tokens, cost_usd, cost_usd_at_least, seconds FROM runs")
    assert found == [("failed", "it broke", None, None, None, 0.0, None)]


def test_an_answer_that_a_person_wrote_is_no_call():
    """What a person put between the layers was asked of no model."""
    record(made(call(), call("person", attempts=0, usage={})), config="mine")
    assert rows("SELECT proposer FROM calls") == [("a",), ("final",)]


async def test_a_fallback_is_not_the_model_that_was_asked_first():
    """Where the final model's fallback answered, it goes by the name that it reported."""
    moa = create_moa([model("a")], [model("x", bad_request()), model("c")], 2)
    record((await moa.ainvoke(ASK))["messages"][-1].response_metadata["moa"], config="mine", graph=moa)
    assert rows("SELECT asked, model FROM calls WHERE role = 'final'") == [(None, "c")]


async def test_a_final_model_that_failed_is_the_one_that_was_asked():
    """Nobody answered in its place, so whoever is counted by `asked` finds it."""
    moa = create_moa([model("a")], model("x", bad_request()), 2)
    with pytest.raises(FinalError) as failed:
        await moa.ainvoke(ASK)
    record(failed.value.receipt, config="mine", graph=moa, error=failed.value)
    assert rows("SELECT asked, status FROM calls WHERE role = 'final'") == [("x", "error")]


# Text


TEXT = [((None, None), None), (("Why is the sky blue?", "Because."), "text")]


@pytest.mark.parametrize(("kept", "wanted"), TEXT, ids=["unset", "text"])
def test_no_text_unless_asked_to(kept: tuple[Any, Any], wanted: str | None, monkeypatch: pytest.MonkeyPatch):
    """Question and answer are kept where the setting says so, and nowhere in the file otherwise."""
    if wanted:
        monkeypatch.setenv("MOA_GRAPH_STATS", wanted)
    record(made(call()), config="mine", question="Why is the sky blue?", answer="Because.")
    assert rows("SELECT question, answer FROM runs") == [kept]
    assert (b"sky blue" in place().read_bytes()) == bool(wanted)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("BadRequestError: 'Why is the sky\n blue?' is refused", "BadRequestError: '…' is refused"),
        ("blocked: Why is the sky b… (too long)", "blocked: …… (too long)"),
        ("no word of it", "no word of it"),
        ("400 - no sky of why 42 is BLUE", "400 - no sky of … 42 is …"),
    ],
)
def test_an_error_does_not_tell_the_question(said: str, kept: str):
    """Where an error quotes the question, whole or cut short, those words are not kept."""
    record(None, config="mine", question="Why is the\nsky blue?", error=said)
    assert rows("SELECT error FROM runs") == [(kept,)]


# The setting


def test_off(monkeypatch: pytest.MonkeyPatch, file: Path):
    """With `off` nothing is written, and nothing that was written is read."""
    record(made(call()), config="mine")
    before = file.read_bytes()
    monkeypatch.setenv("MOA_GRAPH_STATS", "off")
    record(made(call()), config="mine")
    assert usual_output(["a"]) == {}
    assert file.read_bytes() == before
    monkeypatch.setenv("XDG_DATA_HOME", str(file.parents[1] / "another"))
    record(made(call()), config="mine")
    assert not place().parent.exists()


def test_another_setting_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """A value that means nothing is an error that names those that do."""
    monkeypatch.setenv("MOA_GRAPH_STATS", "false")
    for use in (setting, lambda: record(made(call()), config="mine"), lambda: usual_output(["a"])):
        with pytest.raises(MoAConfigError, match=r"MOA_GRAPH_STATS is 'false': off .*, text .*, or unset"):
            use()


def test_the_setting_is_known_without_sqlite():
    """To know the setting nothing is loaded that takes time: it is asked for before the first token."""
    code = "import sys; from moa_graph.stats import setting; setting(); print('sqlite3' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


# The file


def test_nobody_else_reads_it(file: Path):
    """The folder and the file are the user's own."""
    record(made(call()), config="mine")
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_every_column_is_documented(file: Path):
    """The module and the page on it name each column of both tables."""
    record(made(call()), config="mine")
    columns = {name for table in ("runs", "calls") for _, name, *_ in rows(f"PRAGMA table_info({table})")}
    assert len(columns) == 24
    assert columns <= set(re.findall(r"\w+", str(stats.__doc__)))
    assert columns <= set(re.findall(r"`(\w+)`", DOCS.read_text(encoding="utf-8")))
    assert rows("PRAGMA user_version") == [(1,)]


def test_the_queries_of_the_page_are_true():
    """Each query that the page shows has an answer."""
    record(made(call(), call("b", status="cut")), config="mine")
    queries = re.findall(r'sqlite "\n(SELECT .*?)"', DOCS.read_text(encoding="utf-8"), re.DOTALL)
    found = [[row[-2:] for row in rows(query)] for query in queries]
    assert found == [[(40, 1.0)], [(1, 100.0), (1, 0.0)], [("a", 1.5)]]


def garbage(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be taken for one " * 50)


def other(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (address)")


def other_runs(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE runs (miles); CREATE TABLE calls (number)")


def newer(path: Path) -> None:
    record(made(call()), config="mine")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (garbage, "file is not a database"),
        (other, "it is a database of something else"),
        (other_runs, "it is a database of something else"),
        (newer, "a newer moa_graph made it: version 2, and this one knows 1"),
    ],
)
def test_a_file_that_is_no_store_stays_as_it_is(make: Callable[[Path], None], why: str, file: Path):
    """A file of another kind is an error that names it, for whoever writes and whoever reads, and is not touched."""
    file.parent.mkdir(parents=True)
    make(file)
    before = file.read_bytes()
    for use in (lambda: record(made(call()), config="mine"), Store().totals, Store().models):
        with pytest.raises(MoAConfigError) as caught:
            use()
        told = str(caught.value)
        assert told.startswith(f"{file}: cannot be used as the store of runs ({why}); move it away, ")
    assert usual_output(["a"]) == {}
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_a_folder_that_cannot_be_made(file: Path):
    """Where there can be no folder, the error says why."""
    file.parents[1].write_text("a file")
    with pytest.raises(MoAConfigError, match="Not a directory"):
        record(made(call()), config="mine")


def test_a_store_that_stays_locked(file: Path, monkeypatch: pytest.MonkeyPatch):
    """Where another program keeps the store for itself, that is an error in the end."""
    record(made(call()), config="mine")
    monkeypatch.setattr(stats, "_WAIT", 0.05)
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(MoAConfigError, match="database is locked"):
            record(made(call()), config="mine")
        assert usual_output(["a"]) == {}
    assert rows("SELECT count(*) FROM runs") == [(1,)]


def test_a_full_disk(file: Path):
    """Where there is no room, that is an error, and what was kept before is still there."""
    record(made(call()), config="mine")
    size = file.stat().st_size
    ran = subprocess.run(
        [sys.executable, "-B", *writer(9, "x" * 9000)[1:]],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert re.search(r"MoAConfigError: .*runs\.sqlite: cannot be used as the store of runs \(d", ran.stderr), ran.stderr
    assert rows("SELECT config FROM runs") == [("mine",)]


def test_a_run_is_kept_whole_or_not_at_all():
    """Where one of its calls cannot be kept, nothing of the run is."""
    record(made(call()), config="mine")
    with pytest.raises(KeyError):
        record(made(call(), {"proposer": "b"}), config="broken")
    assert rows("SELECT config FROM runs") == [("mine",)]
    assert rows("SELECT count(*) FROM calls") == [(2,)]


def test_many_processes_at_once():
    """Processes that begin a store and write to it at the same time do not fail, and lose nothing."""
    running = [subprocess.Popen(writer(25), stderr=subprocess.PIPE) for _ in range(6)]
    told = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 6, told
    assert rows("SELECT count(*) FROM runs") == [(150,)]
    assert rows("SELECT count(*) FROM calls") == [(300,)]


# What is read


def test_totals():
    """Sums over runs; where the price of one is unknown, what is known of all; of the last days, of one mixture."""
    record(made(call()), config="mine")
    record(made(call(), cost_usd=None, cost_usd_at_least=0.25), config="mine")
    record(made(call()), config="other", error="it broke")
    with closing(sqlite3.connect(place())) as connection:
        connection.execute("UPDATE runs SET at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-6 days') WHERE id = 1")
        connection.execute("UPDATE runs SET at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-8 days') WHERE id = 2")
        connection.commit()
    wanted = ("runs", "failed", "calls", "output_tokens", "cost_usd", "cost_usd_at_least", "unpriced")
    found = [Store().totals(days, config) for days, config in ((None, None), (7, None), (None, "mine"), (7, "mine"))]
    assert [tuple(one[name] for name in wanted) for one in found] == [
        (3, 1, 6, 120, None, 2.25, 1),
        (2, 1, 4, 80, 2.0, 2.0, 0),
        (2, 0, 4, 80, None, 1.25, 1),
        (1, 0, 2, 40, 1.0, 1.0, 0),
    ]
    assert Store().configs() == ["mine", "other"]


def test_models():
    """Of each model: calls, how they ended, the mean seconds of answers and the most of all, tokens, and $."""
    slow = call("b", seconds=9.0, status="timeout", cost_usd=None, usage={})
    record(made(call(), slow, call("b"), call("b", status="cut"), call("b", status="error", calls=3)), config="mine")
    record(made(call(seconds=2.5), call("b", cached=True), call("b", resumed=True)), config="mine")
    wanted = ("model", "calls", "answered", "failed", "cut", "timeouts", "mean_seconds", "slowest_seconds")
    assert [tuple(one[name] for name in wanted) for one in Store().models()] == [
        ("a", 2, 2, 0, 0, 0, 2.0, 2.5),
        ("b", 6, 1, 1, 1, 1, 1.5, 9.0),
        ("c", 2, 2, 0, 0, 0, 1.5, 1.5),
    ]
    money = ("output_tokens", "cost_usd", "cost_usd_at_least", "unpriced")
    assert [one[name] for name in money for one in Store().models()[1:2]] == [60, None, 1.5, 1]
    assert Store().models(config="none") == []


async def test_a_model_goes_by_what_was_asked():
    """One that failed and one that answered under another name are the same model, where the mixture is given."""
    moa = create_moa([model("a"), model("a2", bad_request())], model("c"), 2)
    receipt = (await moa.ainvoke(ASK))["messages"][-1].response_metadata["moa"]
    receipt["layers"][0]["proposals"][0]["model"] = "a-2026-01-31"
    record(receipt, config="mine", graph=moa)
    assert [one["model"] for one in Store().models()] == ["a", "a2", "c"]
    assert rows("SELECT asked, model FROM calls LIMIT 1") == [("a", "a-2026-01-31")]


def test_a_graph_that_is_no_mixture():
    """A graph around a mixture knows nothing of the models: they go by the names that they reported."""
    moa = create_moa([model("a")], model("c"), 2)
    around = StateGraph(MessagesState).add_node("final", moa).add_edge(START, "final").compile()
    record(made(call()), config="mine", graph=around)
    assert rows("SELECT asked, model FROM calls") == [(None, "a"), (None, "c")]


def test_usual_output():
    """The mean of a model's last 200 answers, by the id that was asked; nothing of those that never answered."""
    for tokens in (1000, 10, 30):
        many = [call(usage={"output_tokens": tokens}) for _ in range(100)]
        record(made(*many, call("b", status="error"), call("d", usage={})), config="mine")
    assert usual_output(["a", "b", "c", "d", "e"]) == {"a": 20.0, "c": 20.0}


def test_usual_output_without_a_store(file: Path):
    """Where nothing is kept, nothing is known, and nothing is made."""
    assert usual_output(["a"]) == {}
    assert not file.parent.parent.exists()


async def test_a_resumed_run_counts_what_it_asked():
    """A run that failed and was resumed is two; what the first had answered is not counted again."""
    moa = create_moa([model("a"), model("b")], model("c", bad_request(), "It is c."), 2, checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(MoAError) as caught:
        await moa.ainvoke(ASK, thread)
    record(None, config="mine", error=caught.value, graph=moa)
    record((await moa.ainvoke(None, thread))["messages"][-1].response_metadata["moa"], config="mine", graph=moa)
    found = rows("SELECT proposer, calls, resumed FROM calls WHERE run = 2")
    assert found == [("a", 0, 1), ("b", 0, 1), ("final", 1, 0)]
    assert rows("SELECT status FROM runs") == [("failed",), ("ok",)]
