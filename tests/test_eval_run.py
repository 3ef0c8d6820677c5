"""Evaluations from end to end, against a server whose judge grades by script."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from moa_graph import MoAConfig
from moa_graph import local as embedded
from moa_graph.cli import run
from moa_graph.eval.generate import Progress, seed_of, spread
from moa_graph.eval.score import interval, kinds, score
from tests.evaluation import DATA, JudgingServer, evaluate, judge, lines, mixture, serving, unfinished, with_data
from tests.server import Behaviour

ROOT = Path(__file__).parents[1]
local = pytest.mark.skipif(not embedded.available(), reason='needs pip install "moa-graph[local]"')


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(folder: None) -> Iterator[JudgingServer]:
    with serving(JudgingServer()) as server:
        yield server


def asked(server: JudgingServer) -> Counter[str]:
    return Counter(request.model for request in server.requests)


def test_own_prompts(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Each contender answers each prompt, each answer but the baseline's is judged in both orders, and all is told."""
    assert evaluate("--json") == 0
    report = json.loads(capsys.readouterr().out)
    # two: 3, the models alone: 3 x 1, single-proposer: 2 x 3
    assert asked(server) == {"a": 3 * (1 + 1 + 2), "b": 3 * (1 + 1 + 2), "c": 3 * (1 + 1 + 2), "judge": 3 * 2 * 5}
    assert report["baseline"] == "openai:c"
    assert {one["mean"] for one in report["contenders"]} == {50.0}
    assert [compared["what"] for compared in report["comparisons"]] == [
        "the best single model",
        "the best single-proposer mixture",
    ]
    assert all("cannot be told apart" in compared["says"] for compared in report["comparisons"])


def test_what_is_kept_of_an_answer(server: JudgingServer) -> None:
    """A line holds the answer, all proposals of all layers, the receipt and how long it took."""
    assert evaluate("--no-singles", "--stage", "generate", "-n", "1") == 0
    [line] = lines("answers.jsonl")
    assert line["answer"] == "answer of c #1"
    assert [(p["layer"], p["proposer"], p["content"]) for p in line["proposals"]] == [
        (1, "a", "answer of a #1"),
        (1, "b", "answer of b #1"),
    ]
    assert line["receipt"]["calls"] == 3
    assert 0 < line["first_token"] <= line["seconds"]


def test_nothing_is_asked_twice(server: JudgingServer) -> None:
    """The same command again asks nobody, and says the same."""
    assert evaluate() == 0
    before = score(Path("out")), len(server.requests)
    assert evaluate() == 0
    assert (score(Path("out")), len(server.requests)) == before


def test_a_finished_run_builds_no_model(server: JudgingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is left to ask, no client is loaded: that alone takes a second. Who has something left is built."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model is built that nobody asks")

    assert evaluate() == 0
    monkeypatch.setattr(MoAConfig, "build", refuse)
    assert evaluate() == 0
    assert evaluate("--vary", "proposers") != 0


def test_killed_and_started_again(server: JudgingServer) -> None:
    """After kill -9 only what was not answered is asked again, of an unfinished mixture its open call alone; what its
    other calls cost is counted, once.
    """
    mixture(Path("two.yaml"), server.base_url, prices={name: {"input": 0, "output": 10_000} for name in "abc"})
    server.script("c", Behaviour(), Behaviour(), Behaviour(hang=True))
    arguments = ["-c", "two.yaml", "-o", "out", "--no-singles", "--stage", "generate", "--concurrency", "1"]
    command = [sys.executable, "-m", "moa_graph", "eval", "run", "own.jsonl", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 90
        while asked(server) != {"a": 3, "b": 3, "c": 3} or server.in_flight != 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.1)  # the last proposals come to the file
        process.send_signal(signal.SIGKILL)
    server.script("c", Behaviour())
    assert run(["eval", "run", "own.jsonl", *arguments]) == 0
    assert asked(server) == {"a": 3, "b": 3, "c": 4}
    assert [line["status"] for line in lines("answers.jsonl")] == ["ok", "ok", "failed", "ok"]
    assert not Path("out", "calls.jsonl").exists()
    report = score(Path("out"))
    [one] = report["contenders"]
    assert (one["answered"], one["per_item"]["of"]) == (3, 2)  # what took two starts says nothing of cost and time
    assert report["spent_usd_at_least"] == pytest.approx(9 * 0.04)


def test_what_was_stopped_is_booked_where_only_judging_goes_on(server: JudgingServer) -> None:
    """What calls within an unfinished answer cost counts as spent before anything is judged, and in the report."""
    assert evaluate("-n", "1", "--stage", "generate") == 0
    unfinished("out", usd=0.25)
    assert evaluate("-n", "1", "--stage", "judge", "--budget", "0.2") == 2
    assert asked(server)["judge"] == 0
    assert evaluate("-n", "1", "--stage", "judge") == 0
    assert score(Path("out"))["spent_usd_at_least"] == 0.25


def test_killed_while_judging(server: JudgingServer) -> None:
    """After kill -9 no judgement that is in the file is asked for again, and a line that is not whole is none."""
    arguments = ["-c", "two.yaml", "-o", "out", "--no-singles", "--baseline", "two.yaml", "--concurrency", "1"]
    mixture(Path("one.yaml"), server.base_url, layers=1)
    judged = ["eval", "run", "own.jsonl", *arguments, "-c", "one.yaml", "-j", "judge.yaml"]
    server.script("judge", *[Behaviour(text="[[A]]")] * 3, Behaviour(hang=True))
    command = [sys.executable, "-m", "moa_graph", *judged]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 90
        while asked(server)["judge"] != 4 or server.in_flight != 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    with Path("out/judgements.jsonl").open("a") as file:
        file.write('{"item": "0", "contend')
    server.script("judge", Behaviour(text="[[A]]"))
    assert run(judged) == 0
    assert asked(server) == {"a": 3, "b": 3, "c": 6, "judge": 3 * 2 + 1}
    assert [line["status"] for line in lines("judgements.jsonl")] == ["ok"] * 6


@pytest.fixture
def no_model_stays() -> Iterator[None]:
    yield
    embedded.close()


@local
@with_data
@pytest.mark.usefixtures("no_model_stays")
@pytest.mark.parametrize("name", ["mt-bench", "flask"])
def test_on_the_embedded_model(name: str, server: JudgingServer) -> None:
    """A real model answers, in all layers and turns, and the judge over HTTP grades it."""
    model = {"model": "local:smollm2", "max_tokens": 8}
    described = {"proposers": [model], "aggregator": model, "layers": 2}
    Path("two.yaml").write_text(json.dumps(described), encoding="utf-8")
    assert evaluate("--no-singles", "--data-dir", str(DATA), "-n", "1", benchmark=name) == 0
    [one] = score(Path("out"), DATA)["contenders"]
    assert (one["scored"], one["mean"]) == (1, 7 if name == "mt-bench" else 4)
    assert all(line["answer"] and line["proposals"][0]["content"] for line in lines("answers.jsonl"))


def test_one_failure_stops_nobody(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """An item that fails is told, the others go on, and the same command asks it again, and nothing else."""
    server.script("c", Behaviour(), Behaviour(status=400), Behaviour())
    arguments = ["--no-singles", "--stage", "generate", "--concurrency", "1"]
    assert evaluate(*arguments) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "moa: 1 answer failed; the same command asks again"
    assert [line["status"] for line in lines("answers.jsonl")] == ["ok", "failed", "ok"]
    assert evaluate(*arguments) == 0
    assert asked(server) == {"a": 3, "b": 3, "c": 4}
    assert Counter(line["item"] for line in lines("answers.jsonl")) == {"0": 1, "1": 2, "2": 1}


@pytest.mark.parametrize(
    ("changed", "said"),
    [(["-s", "5"], "seed is 0 there and 5 here"), (["-n", "2"], "limit is not given there and 2 here")],
)
def test_directory_of_another_run(
    changed: list[str], said: str, server: JudgingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed, another limit: one line, exit code 2, nothing asked and nothing written."""
    assert evaluate("--no-singles", "--stage", "generate") == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    server.clear()
    capsys.readouterr()
    assert evaluate("--no-singles", "--stage", "generate", *changed) == 2
    assert capsys.readouterr().err == f"moa: out is another evaluation's: {said}; give a new directory\n"
    assert not server.requests
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_unreadable_judgement(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A reply that says no verdict is counted and shown, is in no mean, and is asked for again where one says so."""
    server.script("judge", Behaviour(text="[[A]]"), Behaviour(text="well, well"), Behaviour(text="[[A]]"))
    mixture(Path("one.yaml"), server.base_url, layers=1)
    arguments = ["-c", "one.yaml", "--no-singles", "--baseline", "one.yaml", "--concurrency", "1"]
    assert evaluate(*arguments) == 0
    assert "1 of the judge's replies say no score: they count in no mean (--retry" in capsys.readouterr().out
    [two, _] = score(Path("out"))["contenders"]
    assert (two["scored"], two["unparsed"]) == (2, 1)
    assert [line["reply"] for line in lines("judgements.jsonl")][1] == "well, well"
    before = len(server.requests)
    assert evaluate(*arguments) == 0
    assert len(server.requests) == before
    server.script("judge", Behaviour(text="[[A]]"))
    assert evaluate(*arguments, "--retry-unreadable") == 0
    assert "judgements: 6 of 6\n" in capsys.readouterr().err
    assert (len(server.requests), score(Path("out"))["contenders"][0]["scored"]) == (before + 1, 3)


def test_no_reply_of_the_judge_can_be_read(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing was scored, the exit code says so, and the line how to get out of it."""
    server.script("judge", Behaviour(text="Both are fine."))
    for _ in range(2):
        assert evaluate("-n", "1") == 1
        said = capsys.readouterr()
        assert "none of the 10 replies of the judge could be read" in said.err.splitlines()[-1]
        assert "\n5 contenders: 10 times the judge gave no verdict\n" in said.out


def test_a_judge_that_changed(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Another judge in a file of the same name is another judge."""
    assert evaluate("-n", "1") == 0
    judge(Path("judge.yaml"), server.base_url, temperature=0.5)
    assert evaluate("-n", "1") == 2
    assert "the file of the judge says something else there" in capsys.readouterr().err


def test_below_a_file(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that cannot be one is told before anybody is asked."""
    assert run(["eval", "run", "own.jsonl", "-c", "two.yaml", "-j", "judge.yaml", "-o", "own.jsonl/below"]) == 2
    assert "moa: own.jsonl/below: own.jsonl is a file; give a directory" in capsys.readouterr().err
    assert not server.requests


def test_the_mixture_that_nobody_named(
    server: JudgingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without `--config` the first line says which mixture is asked, and why."""
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    assert run(["eval", "run", "own.jsonl", "-j", "judge.yaml", "-o", "out", "--stage", "judge"]) == 2
    assert capsys.readouterr().err.startswith("openai (")


def test_failed_judgement_is_asked_again(server: JudgingServer) -> None:
    """Where the judge fails, the rest is judged, and the same command asks for what is missing alone."""
    server.script("judge", Behaviour(text="[[A]]"), Behaviour(status=400), Behaviour(text="[[A]]"))
    mixture(Path("one.yaml"), server.base_url, layers=1)
    arguments = ["-c", "one.yaml", "--no-singles", "--baseline", "one.yaml", "--concurrency", "1"]
    assert evaluate(*arguments) == 1
    assert evaluate(*arguments) == 0
    assert asked(server)["judge"] == 3 * 2 + 1


def test_without_a_score(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Who has no score is named; the sentences stand below the table and above the finer scores."""
    Path("own.jsonl").write_text('{"question": "Why?", "category": "sky"}\n')
    server.script("a", Behaviour(status=400))
    assert evaluate() == 1
    said = "Without a score, and so compared with nobody: openai:a; single-proposer openai:a."
    assert score(Path("out"))["uncompared"] == said
    out = capsys.readouterr().out
    assert out.index("contender\n") < out.index("too few items") < out.index(said) < out.index("sky")
    assert "\nopenai:a: 1 time the final model failed: openai:a: " in out


def test_kinds_of_errors() -> None:
    """What differs in its numbers, names and quotations alone is one kind, told once."""
    told = {
        "the score for Factuality is '7': from 1 to 5": 2,
        "the score for Logical Robustness is 'six': from 1 to 5": 1,
        "RateLimitError: req_12ab, try again in 3.5s": 1,
        "RateLimitError: req_98zz, try again in 0.2s": 1,
        "RateLimitError: no more today": 1,
    }
    assert kinds(told) == {
        "the score for Factuality is '7': from 1 to 5 (and alike)": 3,
        "RateLimitError: req_12ab, try again in 3.5s (and alike)": 2,
        "RateLimitError: no more today": 1,
    }


def test_budget(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A total budget stops the evaluation before it is exceeded; a higher one goes on."""
    prices = {name: {"input": 0, "output": 10_000} for name in "abc"}  # $0.04 an answer, five expected: $5
    mixture(Path("two.yaml"), server.base_url, prices=prices, max_tokens=10)
    arguments = ["--no-singles", "--stage", "generate", "--concurrency", "1"]
    assert evaluate(*arguments, "--budget", "0.35") == 1
    assert "answers are missing: " in capsys.readouterr().err.splitlines()[-1]
    assert [line["status"] for line in lines("answers.jsonl")] == ["ok"]
    assert evaluate(*arguments, "--budget", "0.1") == 2
    assert "the budget of $0.1 is spent: $0.12 so far" in capsys.readouterr().err
    assert evaluate(*arguments, "--budget", "5") == 0
    assert asked(server) == {"a": 3, "b": 3, "c": 3}


def test_what_it_is_going_to_take(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Before it starts it says how many calls it takes and about what $, of what is not done yet."""
    prices = {name: {"input": 0, "output": 1000} for name in "abc"}
    mixture(Path("two.yaml"), server.base_url, prices=prices, max_tokens=10)
    assert evaluate("--no-singles", "--stage", "generate") == 0
    assert capsys.readouterr().err.splitlines()[:2] == [
        "own.jsonl: 3 items x 1 contender",
        "answers: about 9 calls and $0.09",
    ]
    assert evaluate("--no-singles", "--stage", "generate") == 0
    assert capsys.readouterr().err.splitlines()[1] == "answers: all there"


@with_data
def test_mt_bench(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Two turns, each through all layers; the history keeps the final answers alone; each turn is judged."""
    arguments = ["--no-singles", "--data-dir", str(DATA), "-n", "2", "--concurrency", "1"]
    assert evaluate(*arguments, "--json", benchmark="mt-bench") == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert told.err.splitlines()[1] == "data: MT-Bench (LMSYS): Apache-2.0"
    assert asked(server) == {"a": 4, "b": 4, "c": 4, "judge": 4}
    first, second = server.requests_for("a")[:2]
    assert [message["role"] for message in first.messages] == ["user"]
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1]["content"] == "answer of c #1"
    [two] = report["contenders"]
    assert (two["mean"], two["parts"]["turn 1"], two["parts"]["turn 2"]) == (7, 7, 7)
    assert report["radar"]["axes"][0] == "writing"


@with_data
def test_second_turn_goes_on_after_a_failure(server: JudgingServer) -> None:
    """A second turn that failed is asked again with the first one's kept answer, and the first is not."""
    server.script("c", Behaviour(), Behaviour(status=400), Behaviour())
    arguments = ["--no-singles", "--data-dir", str(DATA), "-n", "1", "--stage", "generate"]
    assert evaluate(*arguments, benchmark="mt-bench") == 1
    assert evaluate(*arguments, benchmark="mt-bench") == 0
    assert asked(server) == {"a": 2, "b": 2, "c": 3}
    assert server.requests_for("c")[2].messages[-2]["content"] == "answer of c #1"


@with_data
def test_flask(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Each item is graded in its own skills, and the report has a mean for each skill."""
    arguments = ["--no-singles", "--data-dir", str(DATA), "-n", "5"]
    assert evaluate(*arguments, "--json", benchmark="flask") == 0
    report = json.loads(capsys.readouterr().out)
    [two] = report["contenders"]
    assert (two["mean"], two["scored"], set(two["parts"].values())) == (4, 5, {4})
    assert len(report["radar"]["axes"]) == 12


def test_plain_in_a_pipe(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe the table has one line for each contender, the name last."""
    assert evaluate("-n", "1") == 0
    head, names, *rows = capsys.readouterr().out.splitlines()
    assert head == "own.jsonl: 1 item, drawn with seed 0, judged by judge.yaml, beside openai:c; score % preferred"
    assert names.split()[0] == "score"
    assert {row.split()[-1] for row in rows[:6]} == {"two.yaml", "openai:a", "openai:b", "openai:c"}
    assert not any(mark in "".join(rows) for mark in "🅰🅱")  # `:b:` is no picture


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mtbench"], "there is no benchmark 'mtbench'"),
        (["none.jsonl"], "none.jsonl: cannot be read"),
        (["own.jsonl", "--baseline", "x"], "there is no contender 'x' for a baseline"),
        (["own.jsonl", "--stage", "x"], "one of generate, judge, score is needed"),
        (["own.jsonl", "--limit", "0"], "a whole number of at least 1 is needed"),
        (["own.jsonl", "--budget", "-1"], "a number of $ above 0 is needed"),
        (["own.jsonl", "-c", "nothing.yaml"], "nothing.yaml"),
        (["own.jsonl", "-c", "two.yaml"], "--config two.yaml is given twice"),
        (["own.jsonl", "-j", "gpt"], "write it as provider:model"),
        (["own.jsonl", "-j", "nosuch:x"], "moa: --judge nosuch:x: 'nosuch:x' does not begin with a known provider"),
        (["own.jsonl", "--data-dir", "."], "--data-dir is where a benchmark's data lie: leave it out for own.jsonl"),
        (["own.jsonl", "--no-singles"], "there is nobody beside two.yaml"),
        (["own.jsonl", "--budget", "1"], "budget: usd needs the price of every model"),
    ],
)
def test_asked_wrongly(
    arguments: list[str], said: str, server: JudgingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done is one line on standard error and exit code 2, before anything is asked or written."""
    benchmark, *rest = arguments
    assert evaluate(*rest, benchmark=benchmark) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err.splitlines()[-1]
    assert told.err.splitlines()[-1].startswith("moa: ")
    assert not server.requests
    assert not Path("out").exists()


def test_scoring_nothing(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without an evaluation is told as such."""
    assert run(["eval", "score", "."]) == 2
    assert "there is no evaluation: no run.json in it" in capsys.readouterr().err


async def test_what_stops_everything() -> None:
    """What is nobody's answer, such as a full disk, ends the stage as the error that it is, not as a group."""

    async def one(item: int) -> None:
        if item == 3:
            raise OSError("no space left")
        await asyncio.sleep(60)

    with pytest.raises(OSError, match="no space left"):
        await spread([1, 2, 3, 4], one, 3, Progress("generate", 4))


def test_seeds_differ_by_item() -> None:
    """Each run has a seed of its own, the same in every start: one for all would shuffle all references alike."""
    seeds = [seed_of(seed, item, turn) for seed in (0, 1) for item in ("1", "2") for turn in (1, 2)]
    assert len(set(seeds)) == 8
    assert seeds[0] == seed_of(0, "1", 1)


def test_interval() -> None:
    """The interval of a mean is that of its resamples, the same for the same seed; of one value there is none."""
    low, high = interval([0.0, 1.0] * 50, 1)
    assert low is not None
    assert high is not None
    assert 0.3 < low < 0.5 < high < 0.7
    assert (low, high) == interval([0.0, 1.0] * 50, 1)
    assert interval([1.0], 1) == (None, None)
