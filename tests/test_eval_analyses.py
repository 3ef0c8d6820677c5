"""The paper's analyses, from stored runs to tables and files."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from moa_graph.cli import run
from moa_graph.eval.analyses import front
from tests.evaluation import JudgingServer, evaluate, mixture, serving
from tests.server import Behaviour


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgingServer]:
    monkeypatch.chdir(tmp_path)
    with serving(JudgingServer(), layers=3) as server:
        yield server


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[dict[str, object]]]:
    capsys.readouterr()
    assert run(["eval", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_front() -> None:
    """On it is whom none beats that takes as little; who takes an unknown amount is not on it, and no 0."""
    points = [("a", 1.0, 50.0), ("b", 2.0, 40.0), ("c", 3.0, 60.0), ("d", None, 90.0), ("e", 1.0, 45.0)]
    assert front(points) == ["a", "c"]


def test_variations_are_added_later(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory takes variations later, one after the other: nothing is asked twice, and nothing is lost."""
    assert evaluate() == 0
    before = Path("out", "answers.jsonl").read_bytes()
    server.clear()
    assert evaluate("--vary", "layers") == 0
    asked = Counter(request.model for request in server.requests)
    assert asked == {"a": 3, "b": 3, "c": 3, "judge": 6}  # two layers, on three prompts, judged in both orders
    assert evaluate("--vary", "roles") == 0
    assert Path("out", "answers.jsonl").read_bytes().startswith(before)
    rows = told(capsys, "layers", "out")["rows"]
    assert [(row["layers"], row["contender"]) for row in rows] == [
        (1, "openai:c"),
        (2, "two.yaml, 2 layers"),
        (3, "two.yaml"),
    ]
    roles = [(row["model"], row["role"]) for row in told(capsys, "roles", "out")["rows"]]
    assert roles == [
        ("openai:a", "aggregator"), ("openai:a", "proposer"), ("openai:b", "aggregator"), ("openai:b", "proposer"),
        ("openai:c", "aggregator"),
    ]  # fmt: skip
    server.clear()
    assert evaluate("--vary", "layers", "--vary", "roles") == 0
    assert not server.requests


def test_files(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Every analysis writes its table and plots, and says so; the pipe's table has the contender last."""
    server.script("c", Behaviour(text='{"best": 2}'))
    assert evaluate(*["--vary", "layers", "--vary", "ranker", "--vary", "roles", "--vary", "proposers"]) == 0
    for name in ("proposers", "roles", "ranker", "layers", "budget"):
        capsys.readouterr()
        assert run(["eval", name, "out", "-o", "figures"]) == 0
        out, said = capsys.readouterr()
        assert said.startswith(f"written: figures/{name}.csv")
        assert out.splitlines()[1].split()[-1] == "contender"
        assert "The paper: AlpacaEval" in out
        with Path("figures", f"{name}.csv").open(encoding="utf-8") as file:
            assert {row["score"] for row in csv.DictReader(file)} == {"50.0"}
        if name != "budget":  # nothing is known of these models' cost: there is nothing to draw
            assert Path("figures", f"{name}.png").exists()
            assert Path("figures", f"{name}.svg").exists()
    assert "$ unknown of 14 of 14: the price of a model is not known, or no item was answered in one start." in out
    assert not list(Path("figures").glob("budget*.png"))


def test_runs_of_files_without_variations(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Mixtures that somebody wrote down, in two directories, make one line by their shape."""
    mixture(Path("shallow.yaml"), server.base_url, layers=2)
    arguments = ["-j", "judge.yaml", "-n", "2", "--baseline", "openai:c"]
    for config, out in (("two.yaml", "one"), ("shallow.yaml", "other")):
        assert run(["eval", "run", "own.jsonl", "-c", config, "-o", out, *arguments]) == 0
    rows = told(capsys, "layers", "one", "other")["rows"]
    assert [(row["layers"], row["contender"]) for row in rows] == [
        (1, "openai:c"),
        (2, "shallow.yaml"),
        (3, "two.yaml"),
    ]


def test_a_folder_of_data_that_nobody_reads(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says that --data-dir is AlpacaEval's, where a report is of something else; the report is there."""
    assert evaluate("--vary", "layers") == 0
    for command in ("score", "layers"):
        capsys.readouterr()
        assert run(["eval", command, "out", "--data-dir", "nowhere"]) == 0
        out, said = capsys.readouterr()
        assert out.startswith("own.jsonl: 3 items")
        assert said == "--data-dir is not needed: only AlpacaEval's report reads data, and this is one of own.jsonl\n"


def test_what_is_missing(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what a run has not, and how to get it; runs of other items are not read together."""
    assert evaluate("--no-singles", "--stage", "generate", "-n", "1") == 0
    capsys.readouterr()
    assert run(["eval", "layers", "out"]) == 2
    assert capsys.readouterr().err == "moa: out: nothing is judged yet: moa eval run … --judge MODEL\n"
    for out, limit in (("one", "1"), ("two", "2")):
        assert run(["eval", "run", "own.jsonl", "-c", "two.yaml", "-j", "judge.yaml", "-o", out, "-n", limit]) == 0
    capsys.readouterr()
    assert run(["eval", "ranker", "one"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("moa: ranker: no scored mixture is here beside itself with `rank` at its end;")
    assert "--vary ranker" in said
    assert run(["eval", "budget", "one", "two"]) == 2
    assert capsys.readouterr().err == "moa: one and two cannot be read together: they have not the same items\n"


def test_plots_of_a_report(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """`moa eval score --plots` writes the report's plots."""
    assert evaluate("-n", "2") == 0
    capsys.readouterr()
    assert run(["eval", "score", "out", "--plots", "figures"]) == 0
    assert "written: figures/intervals.png, figures/intervals.svg" in capsys.readouterr().err
    assert Path("figures", "intervals.svg").exists()
