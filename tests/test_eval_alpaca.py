"""AlpacaEval within `moa eval`: answers kept, judged by alpaca_eval, scored as the leaderboard scores."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from moa_graph import MoAConfig, MoAConfigError
from moa_graph.cli import run
from moa_graph.eval import alpaca_eval, alpaca_judging
from moa_graph.eval import run as run_module
from moa_graph.eval.alpaca_eval import JudgeError
from moa_graph.eval.alpaca_judging import judge_of
from moa_graph.eval.alpaca_usage import NOTHING, whole
from moa_graph.eval.score import score
from tests.evaluation import DATA, JudgingServer, evaluate, judge, lines, mixture, serving, with_data


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgingServer]:
    """The package that judges is taken to be installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "find_spec", lambda _: True)
    with serving(JudgingServer()) as server:
        yield server


class Annotator:
    """In the place of `annotate`: prefers the contender with 0.75, for 1,000 tokens in and one out; the third pair
    cannot be read.
    """

    def __init__(self, fails_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.batches: list[int] = []
        self.fails_after = fails_after

    def __call__(
        self, outputs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]], *, judge: Any
    ) -> list[dict[str, Any]]:
        assert judge.model == "judge"
        self.batches.append(len(outputs))
        usage, found = {"input_tokens": 1000, "output_tokens": 1}, list[dict[str, Any]]()
        for ours, theirs in zip(outputs, baseline, strict=True):
            if len(self.asked) == self.fails_after:
                failed = JudgeError("the judge failed")
                failed.used = [usage] * len(found)
                raise failed
            assert ours["instruction"] == theirs["instruction"]
            self.asked.append(ours["instruction"])
            preference = None if len(self.asked) == 3 else 1.75
            found.append({"instruction": ours["instruction"], "preference": preference, "usage": usage})
        return found


def priced(server: JudgingServer) -> None:
    """$0.1 for a judgement, nothing for an answer."""
    mixture(Path("two.yaml"), server.base_url, prices={name: {"input": 0, "output": 0} for name in "abc"})
    judge(Path("judge.yaml"), server.base_url, prices={"judge": {"input": 100, "output": 0}})


ARGUMENTS = ["--no-singles", "--data-dir", str(DATA), "-n", "5"]


@with_data
def test_judged_and_scored(
    server: JudgingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each answer is judged beside the baseline's; what could not be read is counted, and in no mean."""
    monkeypatch.setattr(alpaca_eval, "annotate", annotator := Annotator())
    told: list[Any] = []
    found = {"length_controlled_winrate": 71.5, "lc_standard_error": 0.25, "regularisation": "reconstructed"}
    monkeypatch.setattr(alpaca_eval, "score", lambda rows, gamed: told.append((list(rows), gamed)) or found)
    assert evaluate(*ARGUMENTS, "--stage", "generate", benchmark="alpaca-eval") == 0
    assert evaluate(*ARGUMENTS, "--stage", "judge", "--concurrency", "1", benchmark="alpaca-eval") == 0
    assert annotator.batches == [4, 1]  # what a kill can lose
    said = "two.yaml: length-controlled win rate 71.50 ± 0.25 (reconstructed regularisation data)."
    assert said in capsys.readouterr().out
    [two] = score(Path("out"), DATA)["contenders"]
    assert (two["mean"], two["scored"], two["unparsed"], two["alpaca_eval"]) == (75, 4, 1, found)
    rows, gamed = told[-1]
    assert gamed.name.startswith("df_gamed")
    items = {item["id"]: item for item in lines("items.jsonl")}
    assert [row["index"] for row in rows] == [items[line["item"]]["index"] for line in lines("judgements.jsonl")]
    assert len(annotator.asked) == 5
    capsys.readouterr()
    assert run(["eval", "budget", "out"]) == 0
    _, names, row, *words = capsys.readouterr().out.splitlines()
    assert dict(zip(names.split(), row.split(), strict=True))["lc"] == "71.5"
    assert "LC: the length-controlled win rate, with reconstructed regularisation data" in " ".join(words)


@with_data
def test_judge_that_fails(server: JudgingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that were judged before it failed are kept, what was paid for in the last one is counted, and the same
    command asks for the rest.
    """
    monkeypatch.setattr(alpaca_judging, "_BATCH", 2)
    priced(server)
    monkeypatch.setattr(alpaca_eval, "annotate", first := Annotator(fails_after=3))
    assert evaluate(*ARGUMENTS, benchmark="alpaca-eval") == 1
    assert [(line["status"], line["receipt"]["cost_usd"]) for line in lines("judgements.jsonl")] == [
        ("ok", 0.1),
        ("ok", 0.1),
        ("failed", 0.1),
    ]
    monkeypatch.setattr(alpaca_eval, "annotate", second := Annotator())
    evaluate(*ARGUMENTS, benchmark="alpaca-eval")
    assert (len(first.asked), len(second.asked)) == (3, 3)
    assert set(first.asked) & set(second.asked) == {first.asked[2]}


@with_data
def test_budget(server: JudgingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its judge's cost is counted, and it is asked no further than the money goes; a higher budget goes on."""
    priced(server)
    assert evaluate(*ARGUMENTS, "--stage", "generate", benchmark="alpaca-eval") == 0
    monkeypatch.setattr(alpaca_eval, "annotate", annotator := Annotator())
    capsys.readouterr()
    assert evaluate(*ARGUMENTS, "--stage", "judge", "--budget", "0.35", benchmark="alpaca-eval") == 1
    assert "judgements are missing: $" in capsys.readouterr().err.splitlines()[-1]
    asked = len(annotator.asked)
    assert 0 < asked < 5
    assert score(Path("out"))["spent_usd_at_least"] == pytest.approx(0.1 * asked)
    assert evaluate(*ARGUMENTS, "--stage", "judge", "--budget", "0.05", benchmark="alpaca-eval") == 2
    assert "the budget of $0.05 is spent" in capsys.readouterr().err
    assert evaluate(*ARGUMENTS, "--stage", "judge", "--budget", "5", benchmark="alpaca-eval") == 0
    assert len(annotator.asked) == 5


@with_data
def test_budget_without_a_price(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A budget that cannot be kept is refused, not ignored."""
    assert evaluate(*ARGUMENTS, "--stage", "judge", "--budget", "1", benchmark="alpaca-eval") == 2
    assert "budget: usd needs the price of every model" in capsys.readouterr().err
    assert not Path("out").exists()


def test_what_a_batch_used() -> None:
    """Of what the package drops an equal share of the rest, to the token; where the server told nothing, nothing."""
    known, some = {"input_tokens": 10, "output_tokens": 1}, {"input_tokens": 15, "output_tokens": 1}
    found = whole([known, None, NOTHING, None], [known, some, {**some, "input_tokens": 20}])
    assert found[0] == known
    assert found[2] == NOTHING
    assert [found[1], found[3]] == [{"input_tokens": 17, "output_tokens": 1}, {"input_tokens": 18, "output_tokens": 1}]
    assert whole([known, None], [known, None]) == [known, None]


def test_judge_elsewhere() -> None:
    """A judge that is not at an OpenAI-compatible address cannot be asked by alpaca_eval."""
    with pytest.raises(MoAConfigError, match="is asked at an OpenAI-compatible address"):
        judge_of(MoAConfig(proposers=["groq:x"], aggregator="groq:x", layers=1), "groq:x")
