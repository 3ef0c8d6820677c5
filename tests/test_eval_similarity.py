"""Whether the aggregators take up the better proposals: which are judged, and what it comes to."""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moa_graph.cli import run
from moa_graph.errors import MoAConfigError
from moa_graph.eval import alpaca_eval
from moa_graph.eval import run as run_module
from moa_graph.eval.proposals import aggregations, digest, items_of
from moa_graph.eval.store import RunDirectory
from moa_graph.eval.uptake import uptake
from tests.eval.published import needs_extra
from tests.evaluation import DATA, JudgingServer, evaluate, lines, mixture, serving, unfinished, with_data
from tests.server import Behaviour

pytestmark = needs_extra

NEAR, HALF, FAR = "red green blue", "red green sun", "one two three four"


class GradingServer(JudgingServer):
    """The judge prefers whatever is red."""

    def _next_behaviour(self, model: str) -> Behaviour:
        behaviour = super()._next_behaviour(model)
        if model == "judge" and behaviour.text == '{"better": "A"}':
            shown = self.requests[-1].messages[-1]["content"].split("<answer B ")
            said = ["red" in part for part in shown]
            return replace(behaviour, text=json.dumps({"better": "tie" if said[0] == said[1] else "BA"[said[0]]}))
        return behaviour


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgingServer]:
    """The three prompts are answered by script; the package that judges AlpacaEval is taken to be installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "find_spec", lambda _: True)
    with serving(GradingServer()) as server:
        for name, text in {"a": "one two three", "b": "red green blue", "c": "red green blue it is"}.items():
            server.script(name, Behaviour(text=text))
        yield server


def answered(server: JudgingServer) -> None:
    assert evaluate("--no-singles", "--baseline", "two.yaml", "--stage", "generate", "--concurrency", "1") == 0
    server.clear()


def similarity(*arguments: str) -> int:
    return run(["eval", "similarity", "out", "-j", "judge.yaml", "--concurrency", "1", *arguments])


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_nothing_is_judged_yet(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so, and how many calls it takes: two for each of six proposals. Nobody is asked."""
    answered(server)
    capsys.readouterr()
    assert run(["eval", "similarity", "out"]) == 2
    said = "moa: out: no proposal is judged yet: give --judge MODEL; that takes 12 calls\n"
    assert (capsys.readouterr().err, server.requests) == (said, [])


def test_what_was_stopped_counts_as_spent(server: JudgingServer) -> None:
    """What a process had spent that was killed while it generated is in the total of --budget."""
    answered(server)
    unfinished("out", usd=0.25)
    assert similarity("--budget", "0.2") == 2
    assert not server.requests
    assert similarity() == 0
    assert RunDirectory(Path("out")).spent == 0.25


def test_own_prompts(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Each proposal is judged beside the baseline's answer in both orders; where the answer is made of the preferred
    ones, the coefficient is 1.
    """
    answered(server)
    assert similarity("--json") == 0
    found = told(capsys)
    assert Counter(request.model for request in server.requests) == {"judge": 12}
    assert found["proposals"] == {"all": 6, "scored": 6, "unasked": 0, "unparsed": 0, "judge_failed": 0}
    [row] = found["rows"]
    assert (row["mixture"], row["layer"], row["into"], row["aggregator"]) == ("two.yaml", 1, "final", "c")
    assert {name: each["mean"] for name, each in row["measures"].items()} == pytest.approx(
        dict.fromkeys(found["paper"], 1)
    )
    assert row["says"].endswith("taken up by BLEU-3, BLEU-4, BLEU-5, Levenshtein, TF-IDF.")


def test_nothing_is_asked_twice(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Of fewer items first, then of all: only what is missing is asked, and without a judge nobody is."""
    answered(server)
    assert similarity("-n", "1") == 0
    assert len(server.requests) == 4
    assert "8 proposals" not in (few := capsys.readouterr().out)
    assert "4 proposals are not judged" in few
    assert similarity() == 0
    assert len(server.requests) == 12
    whole = capsys.readouterr().out
    assert run(["eval", "similarity", "out"]) == 0
    assert (capsys.readouterr().out, len(server.requests)) == (whole, 12)


def test_the_same_text_is_judged_once(server: JudgingServer) -> None:
    """Whoever proposed it."""
    server.script("a", Behaviour(text="the same"))
    server.script("b", Behaviour(text="the same"))
    answered(server)
    assert similarity() == 0
    assert len(server.requests) == 2 * 3
    assert [row["measures"]["TF-IDF"]["dropped"] for row in uptake(Path("out"))["rows"]] == [3]


def test_what_it_is_going_to_take(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said before anybody is asked; what is there is not counted."""
    answered(server)
    capsys.readouterr()
    assert similarity() == 0
    assert capsys.readouterr().err.splitlines()[0] == "6 proposals, judged by judge.yaml: about 12 calls and $ unknown"
    assert similarity() == 0
    assert capsys.readouterr().err.splitlines()[0] == "6 proposals, judged by judge.yaml: all there"


def test_budget(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """The judge's cost is counted with the run's own, and ends it before it is too much; a higher budget goes on."""
    answered(server)
    model = {"model": "openai:judge", "base_url": server.base_url, "max_tokens": 10}
    prices = {"judge": {"input": 0, "output": 20_000}}  # $0.04 a reply of two words, $0.20 expected
    described = {"proposers": [model], "aggregator": model, "layers": 1, "prices": prices, "policy": {"retries": 0}}
    Path("judge.yaml").write_text(json.dumps(described), encoding="utf-8")
    assert similarity("--budget", "0.3") == 1
    assert "judgements are missing: " in capsys.readouterr().err.splitlines()[-1]
    assert 0 < len(lines("proposals.jsonl")) < 12
    spent = RunDirectory(Path("out")).spent
    assert spent == pytest.approx(sum(line["receipt"]["cost_usd"] for line in lines("proposals.jsonl")))
    assert similarity("--budget", "0.01") == 2
    assert "the budget of $0.01 is spent" in capsys.readouterr().err
    assert similarity("--budget", "9") == 0
    assert len(server.requests) == 12


def test_unreadable_and_failed(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A reply without a verdict is no preference and is asked for again where one says so; a failure always."""
    answered(server)
    tie = Behaviour(text="[[tie]]")
    server.script("judge", Behaviour(text="well"), tie, Behaviour(status=400), tie)
    assert similarity() == 1
    shown = capsys.readouterr()
    assert "1 of the judge's replies say no score" in shown.out
    assert "1 judgements failed" in shown.out
    assert shown.err.splitlines()[-1] == "moa: 1 judgement failed; the same command asks again"
    assert similarity("--json") == 0
    assert told(capsys)["proposals"] == {"all": 6, "scored": 5, "unasked": 0, "unparsed": 1, "judge_failed": 0}
    assert len(server.requests) == 13
    assert similarity("--json", "--retry-unreadable") == 0
    assert told(capsys)["proposals"] == {"all": 6, "scored": 6, "unasked": 0, "unparsed": 0, "judge_failed": 0}
    assert len(server.requests) == 14


def test_another_judge(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said whose judge it is; a second one is refused, and nothing is written."""
    assert evaluate("--no-singles", "--stage", "generate", "--baseline", "two.yaml") == 0
    Path("other.yaml").write_text(Path("judge.yaml").read_text().replace("retries: 0", "retries: 1"))
    described = json.loads(Path("out/run.json").read_text())
    assert run(["eval", "similarity", "out", "-j", "other.yaml", "--json"]) == 0
    found = told(capsys)
    assert (found["judge"], found["run_judge"], found["own_judge"]) == (
        "other.yaml",
        described["judge"]["name"],
        False,
    )
    before = Path("out/proposals.jsonl").read_bytes()
    server.clear()
    assert similarity() == 2
    assert "out: its proposals are judged by other.yaml, and preferences of two" in capsys.readouterr().err
    assert (server.requests, Path("out/proposals.jsonl").read_bytes()) == ([], before)


def test_files(server: JudgingServer) -> None:
    """A line for each measure in the table, the paper's beside it, and a plot in two kinds."""
    answered(server)
    assert similarity("-o", "figures") == 0
    assert {path.name for path in Path("figures").iterdir()} == {
        "similarity.csv",
        "similarity.png",
        "similarity.svg",
    }
    with Path("figures/similarity.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["measure"] for row in rows] == ["BLEU-3", "BLEU-4", "BLEU-5", "Levenshtein", "TF-IDF"]
    assert float(rows[0]["spearman"]) == pytest.approx(1)
    assert (rows[0]["paper_low"], rows[0]["aggregator"]) == ("0.18", "c")


def test_own_prompts_without_a_baseline(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing stands beside a proposal there: it cannot be judged, and that is said."""
    assert evaluate("--no-singles", "--stage", "generate") == 0
    server.clear()
    assert similarity() == 2
    assert "out: it has no baseline to judge proposals beside" in capsys.readouterr().err
    assert not server.requests


def test_no_proposals(server: JudgingServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain call has none."""
    mixture(Path("two.yaml"), server.base_url, layers=1)
    answered(server)
    assert similarity() == 2
    assert "no mixture of more than one layer has answered" in capsys.readouterr().err


@with_data
@pytest.mark.parametrize("name", ["mt-bench", "flask"])
def test_benchmarks(server: JudgingServer, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Their proposals are judged once, by their own rubric; of MT-Bench, in the first turn alone."""
    arguments = ["--no-singles", "--data-dir", str(DATA), "-n", "2", "--stage", "generate"]
    assert evaluate(*arguments, benchmark=name) == 0
    server.clear()
    assert similarity("--data-dir", str(DATA), "--json") == 0
    assert len(server.requests) == 2 * 2
    assert told(capsys)["proposals"]["scored"] == 4


@with_data
def test_alpaca_eval(
    server: JudgingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its proposals are judged by alpaca_eval, each beside the baseline's answer, no instruction twice in a batch."""
    batches: list[list[str]] = []

    def annotate(outputs: Sequence[dict[str, Any]], _: Any, *, judge: Any) -> list[dict[str, Any]]:
        batches.append([ours["output"] for ours in outputs])
        assert len({ours["instruction"] for ours in outputs}) == len(outputs)
        told = {"usage": {"input_tokens": 9, "output_tokens": 1}}
        return [
            {"instruction": o["instruction"], "preference": 1.5 + ("red" in o["output"]) / 4, **told} for o in outputs
        ]

    monkeypatch.setattr(alpaca_eval, "annotate", annotate)
    arguments = ["--no-singles", "--data-dir", str(DATA), "-n", "3", "--stage", "generate", "--concurrency", "1"]
    assert evaluate(*arguments, benchmark="alpaca-eval") == 0
    capsys.readouterr()
    assert similarity("--json") == 0
    assert batches == [["one two three"] * 3, ["red green blue"] * 3]
    [row] = told(capsys)["rows"]
    assert [each["mean"] for each in row["measures"].values()] == pytest.approx([1] * 5)
    assert similarity() == 0
    assert len(batches) == 2


# --- what it comes to


def stored(
    *answers: Sequence[tuple[int, int, str, str]], judged: dict[str, float], benchmark: str = "mt-bench"
) -> RunDirectory:
    """A run of MT-Bench in `out`, with an item for each answer, which is given as its proposals; and what each text was
    judged with.
    """
    Path("out").mkdir()
    contender = {"name": "moa", "kind": "mixture"}
    described = {"format": 1, "benchmark": benchmark, "seed": 0, "judge": None, "baseline": None}
    Path("out/run.json").write_text(json.dumps({**described, "contenders": [contender]}), encoding="utf-8")
    items = [{"id": str(k), "index": k, "turns": ["Why?", "How?"]} for k in range(len(answers))]
    Path("out/items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    with RunDirectory.working(Path("out"), RunDirectory(Path("out")).run, ()) as directory:
        for k, proposals in enumerate(answers):
            key = {"item": str(k), "contender": "moa", "seed": 0, "turn": 1}
            made = [
                {"layer": layer, "slot": slot, "model": model, "status": "ok", "content": text}
                for layer, slot, model, text in proposals
            ]
            final = {"final": {"model": "last"}}
            directory.answers.append({**key, "status": "ok", "answer": NEAR, "proposals": made, "receipt": final})
            for text, score in judged.items():
                begun = {"item": str(k), "seed": 0, "proposal": digest(text), "order": ""}
                judge = {"judge": "x", "judge_fingerprint": "y"}
                directory.proposals.append({**begun, **judge, "status": "ok", "score": score})
    return RunDirectory(Path("out"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


FIRST = [(1, 1, "a", NEAR), (1, 2, "b", FAR), (1, 3, "c", HALF)]
THREE_LAYERS = [*FIRST, (2, 1, "a", NEAR + " now"), (2, 2, "b", FAR + " now")]


@pytest.mark.usefixtures("folder")
def test_what_is_made_of_what() -> None:
    """Each proposal of a layer is made of those below it, and the answer of the last ones; what was not read is left
    out.
    """
    directory = stored(THREE_LAYERS, judged={})
    made = list(aggregations(directory, items_of(directory)))
    below = [NEAR, FAR, HALF]
    assert [(one.layer, one.into, one.aggregator, one.proposals) for one in made] == [
        (1, "2", "a", below),
        (1, "2", "b", below),
        (2, "final", "last", [NEAR + " now", FAR + " now"]),
    ]
    record = directory.answers.get(("0", "moa", 0, 1))
    assert record is not None
    record["proposals"][1]["unread"] = "not chosen"
    record["proposals"][2]["status"] = "error"
    directory.answers.append(record)
    [first, *_] = aggregations(directory, items_of(directory))
    directory.answers.close()
    assert first.proposals == [NEAR]


@pytest.mark.usefixtures("folder")
def test_by_aggregator_and_over_all() -> None:
    """One takes up the better proposals, the other the worse ones: 1 and -1 alone, 0 together; an item counts once."""
    judged = {NEAR: 9.0, HALF: 5.0, FAR: 1.0, NEAR + " now": 4.0, FAR + " now": 6.0}
    stored(THREE_LAYERS, THREE_LAYERS, judged=judged)
    rows = {(row["layer"], row["aggregator"]): row["measures"]["Levenshtein"] for row in uptake(Path("out"))["rows"]}
    assert {place: (round(each["mean"], 6), each["items"]) for place, each in rows.items()} == {
        (1, "a"): (1, 2),
        (1, "b"): (-1, 2),
        (1, None): (0, 2),
        (2, "last"): (-1, 2),
    }


@pytest.mark.usefixtures("folder")
def test_what_is_dropped() -> None:
    """A judge that finds all alike says nothing: counted, in no mean; of one item there is no interval."""
    stored(FIRST, [*FIRST[:2]], judged={NEAR: 7.0, FAR: 7.0, HALF: 5.0})
    [row] = uptake(Path("out"))["rows"]
    measure = row["measures"]["Levenshtein"]
    assert (measure["items"], measure["dropped"], row["instances"]) == (1, 1, 2)
    assert (measure["low"], measure["high"]) == (None, None)
    assert row["says"] == "moa, layer 1 to final: too few items have a coefficient to say anything."


@pytest.mark.usefixtures("folder")
def test_a_task_of_inspect_ai() -> None:
    """Its own scorer gives scores to answers alone."""
    stored(FIRST, judged={}, benchmark="inspect task.py")
    with pytest.raises(MoAConfigError, match="out: the scorer of a task of inspect_ai is not asked of proposals"):
        uptake(Path("out"))


@pytest.mark.usefixtures("folder")
def test_no_evaluation() -> None:
    """A folder without one is told as such."""
    with pytest.raises(MoAConfigError, match=r"no run\.json in it"):
        uptake(Path())
