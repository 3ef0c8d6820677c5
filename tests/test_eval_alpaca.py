"""AlpacaEval within `moa eval`: answers kept, judged by alpaca_eval, scored as the leaderboard scores."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from moa_graph import MoAConfig, MoAConfigError
from moa_graph.errors import MoARunError
from moa_graph.eval import alpaca_eval
from moa_graph.eval import run as run_module
from moa_graph.eval.alpaca_judging import judge_of
from moa_graph.eval.score import score
from tests.evaluation import DATA, JudgingServer, evaluate, judge, lines, mixture, with_data


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgingServer]:
    """With `two.yaml` and `judge.yaml` beside it; the package that judges is taken to be installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "find_spec", lambda _: True)
    with JudgingServer() as server:
        mixture(Path("two.yaml"), server.base_url)
        judge(Path("judge.yaml"), server.base_url)
        yield server


class Annotator:
    """In the place of `annotate`: prefers the contender with 0.75; the third pair cannot be read."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fails_after = fails_after

    def __call__(
        self, outputs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]], *, judge: Any, on_judged: Any
    ) -> None:
        assert judge.model == "judge"
        for ours, theirs in zip(outputs, baseline, strict=True):
            if len(self.asked) == self.fails_after:
                raise MoARunError("the judge failed")
            assert ours["instruction"] == theirs["instruction"]
            self.asked.append(ours["instruction"])
            on_judged([{"instruction": ours["instruction"], "preference": None if len(self.asked) == 3 else 1.75}])


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
    assert evaluate(*ARGUMENTS, "--stage", "judge", benchmark="alpaca-eval") == 0
    said = "two.yaml: length-controlled win rate 71.50 ± 0.25 (reconstructed regularisation data)."
    assert said in capsys.readouterr().out
    [two] = score(Path("out"), DATA)["contenders"]
    assert (two["mean"], two["scored"], two["unparsed"], two["alpaca_eval"]) == (75, 4, 1, found)
    rows, gamed = told[-1]
    assert gamed.name.startswith("df_gamed")
    items = {item["id"]: item for item in lines("items.jsonl")}
    assert [row["index"] for row in rows] == [items[line["item"]]["index"] for line in lines("judgements.jsonl")]
    assert len(annotator.asked) == 5


@with_data
def test_judge_that_fails(server: JudgingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was judged before the judge failed is kept, and the same command asks for the rest."""
    monkeypatch.setattr(alpaca_eval, "annotate", first := Annotator(fails_after=2))
    assert evaluate(*ARGUMENTS, benchmark="alpaca-eval") == 1
    monkeypatch.setattr(alpaca_eval, "annotate", second := Annotator())
    evaluate(*ARGUMENTS, benchmark="alpaca-eval")
    assert len(first.asked) == 2
    assert len(second.asked) == 3
    assert not set(first.asked) & set(second.asked)


@with_data
def test_no_budget_for_its_judge(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A budget that its judge would not keep is refused, not ignored."""
    prices = {name: {"input": 0, "output": 1} for name in ("a", "b", "c", "judge")}
    mixture(Path("two.yaml"), server.base_url, prices=prices)
    model = {"model": "openai:judge", "base_url": server.base_url}
    text = json.dumps({"proposers": [model], "aggregator": model, "layers": 1, "prices": prices})
    Path("judge.yaml").write_text(text, encoding="utf-8")
    assert evaluate(*ARGUMENTS, "--budget", "1", benchmark="alpaca-eval") == 2
    assert "knows of no --budget" in capsys.readouterr().err
    assert not Path("out").exists()


def test_judge_elsewhere() -> None:
    """A judge that is not at an OpenAI-compatible address cannot be asked by alpaca_eval."""
    with pytest.raises(MoAConfigError, match="is asked at an OpenAI-compatible address"):
        judge_of(MoAConfig(proposers=["groq:x"], aggregator="groq:x", layers=1), "groq:x")
