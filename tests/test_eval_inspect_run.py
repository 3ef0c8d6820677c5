"""`moa eval run --engine inspect`, over loopback HTTP; inspect_ai runs in a process of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("inspect_ai") is None:
    pytest.skip('inspect_ai is not installed: pip install "moa-graph[inspect]"', allow_module_level=True)

import inspect_ai
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.event import ModelEvent, SpanBeginEvent
from inspect_ai.log import EvalConfig, EvalDataset, EvalError, EvalLog, EvalSample, EvalSpec, write_eval_log
from inspect_ai.model import GenerateConfig, ModelOutput
from inspect_ai.scorer import Score

from moa_graph.cli import run
from moa_graph.config import MoAConfig
from moa_graph.eval import inspect_run
from moa_graph.eval.contenders import fingerprint
from moa_graph.eval.inspect_logs import record
from moa_graph.eval.inspect_model import mixture_named
from moa_graph.eval.items import Item
from moa_graph.eval.score import score
from moa_graph.eval.store import RunDirectory
from tests.evaluation import judge, lines, mixture
from tests.server import Behaviour, RecordingServer

TASKS = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import model_graded_qa
from inspect_ai.solver import generate

@task
def questions(word="Question"):
    asked = [Sample(input=f"{word} {k}?", target="So.", id=k) for k in (1, 2, 3)]
    return Task(dataset=asked, solver=generate(), scorer=model_graded_qa(), config=GenerateConfig(top_p=0.9))
"""


@pytest.fixture
def two(server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `two.yaml`, `judge.yaml` and `tasks.py`."""
    monkeypatch.chdir(tmp_path)
    mixture(Path("two.yaml"), server.base_url)
    judge(Path("judge.yaml"), server.base_url)
    Path("tasks.py").write_text(TASKS, encoding="utf-8")
    return tmp_path


def evaluated(*starts: list[str]) -> subprocess.CompletedProcess[str]:
    """So many starts, one after the other; the last line on standard error has their exit codes."""
    given = [
        "eval",
        "run",
        "tasks.py@questions",
        "--engine",
        "inspect",
        "-c",
        "two.yaml",
        "-j",
        "judge.yaml",
        "-o",
        "out",
    ]
    each = [[*given, *options] for options in starts]
    script = f"import sys; from moa_graph.cli import run; print(*[run(each) for each in {each}], file=sys.stderr)"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)


def by_inspect(task: str, *options: str) -> int:
    """One start in this process, without a judge."""
    return run(["eval", "run", task, "--engine", "inspect", "-c", "two.yaml", "-o", "out", *options])


def test_a_task_compares_and_goes_on(server: RecordingServer, two: Path) -> None:
    """All contenders are asked and graded; the next start asks what failed alone; the report is the usual one."""
    server.script("c", Behaviour(text="good"), Behaviour(status=400), Behaviour(text="good"))
    server.script("judge", Behaviour(text="GRADE: C"))
    options = ["--limit", "2", "--concurrency", "1", "-T", "word=What"]
    ran = evaluated(options, [*options, "--json"])
    assert ran.stderr.splitlines()[-1] == "1 0", ran.stderr
    assert "1 answer failed; the same command asks again" in ran.stderr
    assert "top_p is left out" in ran.stderr
    assert [line.partition(", if")[0] for line in ran.stderr.splitlines() if ", if each sample asks once" in line] == [
        "answers: about 24 calls and $ unknown",
        "answers: about 3 calls and $ unknown",
    ]
    # for each sample three calls of the mixture, one of each model, two mixtures of three calls; all graded but one
    first = 2 * (3 + 3 + 6) + 11
    assert len(server.requests) == first + 3 + 1
    assert {request.body["temperature"] for request in server.requests if request.model == "judge"} == {0.0}
    report = json.loads(ran.stdout[ran.stdout.index("\n{") :])
    assert report == score(Path("out"))
    assert {one["name"]: (one["mean"], one["scored"], one["per_item"]["calls"]) for one in report["contenders"]} == {
        "two.yaml": (1.0, 2, 3),
        "openai:a": (1.0, 2, 1),
        "openai:b": (1.0, 2, 1),
        "openai:c": (1.0, 2, 1),
        "single-proposer openai:a": (1.0, 2, 3),
        "single-proposer openai:b": (1.0, 2, 3),
    }
    assert report["judge"] == "judge.yaml"
    assert [compared["items"] for compared in report["comparisons"]] == [2, 2]
    assert [len(answer["proposals"]) for answer in lines("answers.jsonl") if answer["status"] == "ok"].count(2) == 6
    assert [item["turns"][0][:5] for item in lines("items.jsonl")] == ["What ", "What "]


def test_what_inspect_ai_refuses_leaves_nothing(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one line, and the directory is free for the next start."""

    def refuse(*_: Any, **__: Any) -> None:
        raise PrerequisiteError("[bold]ERROR[/bold]: No tasks were found")

    monkeypatch.setattr(inspect_ai, "eval_set", refuse)
    assert by_inspect("tasks.py@questions") == 2
    assert "inspect_ai, tasks.py@questions: ERROR: No tasks were found" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["lock"]


MORE = """
@task
def many(n): return questions()

@task
def unscored(): return Task(dataset=[Sample(input="Why?")])

@task
def broken(): raise RuntimeError("no data")
"""


@pytest.mark.parametrize(
    ("given", "code", "why"),
    [
        ("none.py", 2, "none.py: inspect_ai finds no task there: give a registered name, FILE.py or FILE.py@TASK"),
        ("wrong.py@any", 2, "wrong.py is no Python: invalid syntax (wrong.py, line 1)"),
        ("more.py@nothing", 2, "inspect_ai, more.py@nothing: Task named 'nothing' not found"),
        ("more.py@many", 2, "many() missing 1 required positional argument: 'n' (-T KEY=VALUE gives a parameter)"),
        ("tasks.py@questions -T k=1", 2, "-T k: tasks.py@questions has no such parameter; it has word"),
        ("more.py@unscored", 2, "unscored has no scorer, so there is nothing to compare: give it one"),
        ("more.py@broken", 1, "more.py@broken cannot be loaded: RuntimeError: no data"),
    ],
)
def test_a_task_that_cannot_be_loaded(
    two: Path, given: str, code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong is one line, and nothing is written."""
    Path("wrong.py").write_text("import (", encoding="utf-8")
    Path("more.py").write_text(TASKS + MORE, encoding="utf-8")
    assert by_inspect(*given.split()) == code
    assert why in capsys.readouterr().err
    assert not Path("out").exists()


def test_another_task_has_another_directory(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its logs would be taken for those of the file as it is now, or of these parameters; nothing is overwritten."""
    monkeypatch.setattr(inspect_ai, "eval_set", lambda *_, **__: (False, []))
    assert by_inspect("tasks.py@questions") == 130
    before = Path("out/run.json").read_bytes()
    assert by_inspect("tasks.py@questions", "-T", "word=What") == 2
    assert "-T is not given there and {'word': 'What'} here; give a new directory" in capsys.readouterr().err
    Path("tasks.py").write_text(TASKS.replace("So.", "Thus."), encoding="utf-8")
    assert by_inspect("tasks.py@questions") == 2
    assert "out is another evaluation's: the task's file has changed since; give a" in capsys.readouterr().err
    assert Path("out/run.json").read_bytes() == before
    Path("tasks.py").write_text(TASKS, encoding="utf-8")
    assert by_inspect("tasks.py@questions") == 130


def test_an_interrupt_that_inspect_ai_keeps_to_itself(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives the logs of what has ended by then, and the exit code is that of an interrupt."""
    monkeypatch.setattr(inspect_ai, "eval_set", lambda *_, **__: (False, []))
    assert by_inspect("tasks.py@questions") == 130
    assert Path("out/run.json").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--budget", "1"], "--engine inspect knows no --budget: give the mixtures a budget of their own, in YAML"),
        (["--stage", "judge"], "--engine inspect knows no --stage"),
        (["--baseline", "openai:a"], "--engine inspect knows no --baseline"),
        (["--data-dir", "."], "--engine inspect knows no --data-dir"),
        (["--vary", "layers"], "--engine inspect knows no --vary"),
        (["-T", "epochs"], "-T epochs: this is no parameter of a task: write it as KEY=VALUE"),
        (["-T", "a=["], "-T: a value is no YAML"),
        (["-j", "nobody"], "'nobody' is no model"),
        (["--engine", "outspect"], "one of moa, inspect is needed, not 'outspect'"),
    ],
)
def test_what_it_cannot_do_is_said(two: Path, options: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that would be silently without effect are refused, before anything is loaded or written."""
    assert by_inspect("t.py", *options) == 2
    assert why in capsys.readouterr().err
    assert not Path("out").exists()


def test_without_inspect_ai(two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what to install."""
    monkeypatch.setattr(inspect_run, "find_spec", lambda _: None)
    assert by_inspect("t.py") == 2
    assert 'pip install "moa-graph[inspect]"' in capsys.readouterr().err


def test_contenders_of_several_mixtures_have_their_models(two: Path, server: RecordingServer) -> None:
    """One that goes by another name beside those of the first mixture is still found in its own."""
    mixture(Path("three.yaml"), server.base_url, layers=3)
    mixtures = {name: MoAConfig.from_yaml(name) for name in ("two.yaml", "three.yaml")}
    evaluation = inspect_run.InspectEvaluation("t.py", mixtures, Path("out"))
    models = evaluation.models()
    assert models["single-proposer openai:a in three.yaml"] == "moa/three.yaml#single-proposer openai:a"
    assert len(set(models.values())) == len(models)
    for one in evaluation.contenders:
        assert fingerprint(mixture_named(models[one.name].removeprefix("moa/"))) == fingerprint(one.config)


def receipt(calls: int) -> dict[str, Any]:
    counted = dict.fromkeys(["calls", "input_tokens", "cached_input_tokens", "output_tokens"], calls)
    maybe = {"cost_usd": 0.5 * calls, "tflops_critical": None, "tflops_total": 1.0}
    seconds = {"seconds": 1.0, "critical_path_seconds": 1.0, "cost_usd_at_least": 0.5 * calls}
    return {"layers": [], "final": {"cached": False, "resumed": False}, **counted, **maybe, **seconds}


def output(text: str, calls: int, **more: Any) -> ModelOutput:
    made = ModelOutput.from_content("moa/two.yaml", text)
    made.metadata, made.time = {"moa": receipt(calls), "proposals": [{"content": text}], **more}, 2.0
    return made


def called(of: ModelOutput, span: str, model: str = "moa/two.yaml") -> ModelEvent:
    said = {"input": [], "tools": [], "tool_choice": "auto", "config": GenerateConfig()}
    return ModelEvent(model=model, output=of, span_id=span, **said)


def sample(epoch: int, value: Any, *events: Any) -> EvalSample:
    spans = [SpanBeginEvent(id=name, name=name, type=name) for name in ("solvers", "scorers")]
    spans.append(SpanBeginEvent(id="mine", name="mine", type="scorer", parent_id="scorers"))
    scores = {"mine": Score(value=value, explanation="because"), "other": Score(value="C")}
    return EvalSample(
        id="one", epoch=epoch, input="Why?", target="So.", output=output(f"answer {epoch}", 3), scores=scores,
        events=[*spans, *events],
    )  # fmt: skip


def recorded(path: Path, *samples: EvalSample) -> dict[str, Any]:
    """The report of a log with these samples."""
    of = {"created": "2026-01-01T00:00:00+00:00", "task": "asked", "model": "moa/two.yaml"}
    spec = EvalSpec(**of, dataset=EvalDataset(sample_ids=["one"]), config=EvalConfig(epochs=len(samples)))
    log = EvalLog(eval=spec, samples=list(samples), status="success")
    log.location = str(path / "log.json")
    write_eval_log(log, log.location)
    told = {"name": "two.yaml", "kind": "mixture", "of": [], "model": "", "calls": 3, "fingerprint": "x"}
    run_of = {"benchmark": "inspect t.py", "seed": 0, "limit": None, "contenders": [told]}
    with RunDirectory.working(path / "out", run_of, []) as directory:
        record(directory, {"two.yaml": [log]}, 0)
    return score(path / "out")


def test_what_an_interrupted_start_has_in_its_logs_is_not_counted_again(two: Path) -> None:
    """An estimate is of what is neither in the files nor in inspect_ai's logs; one that failed is asked again."""
    evaluation = inspect_run.InspectEvaluation("t.py", {"two.yaml": MoAConfig.from_yaml("two.yaml")}, Path("out"))
    items = [Item(id=name, index=k, turns=["Why?"]) for k, name in enumerate(("one", "two"))]
    before = evaluation.plan(items)
    failed = sample(1, "C").model_copy(
        update={"id": "two", "error": EvalError(message="no", traceback="", traceback_ansi="")}
    )
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="asked",
        model="moa/two.yaml",
        dataset=EvalDataset(),
        config=EvalConfig(),
    )
    write_eval_log(
        EvalLog(eval=spec, samples=[sample(1, "C"), failed], status="cancelled"), "out/inspect/2026_asked_1.eval"
    )
    after = evaluation.plan(items)
    assert (before.left - after.left, before.calls - after.calls) == (1, 3)


def test_all_calls_of_a_sample_are_counted_and_its_judges_apart(tmp_path: Path, monkeypatch: Any) -> None:
    """Two calls in one epoch, and an attempt that failed; what the scorer asks is the judgement's."""
    monkeypatch.chdir(tmp_path)
    solved = called(output("first", 3), "solvers"), called(output("then", 3, failed=[receipt(2)]), "solvers")
    graded = called(output("GRADE: C", 7), "mine")
    report = recorded(tmp_path, sample(1, "C", *solved, graded), sample(2, "I", called(output("x", 3), "solvers")))
    [one] = report["contenders"]
    assert (one["mean"], one["scored"]) == (0.5, 1)
    assert one["parts"] == {"mine": 0.5, "other": 1.0}
    took = one["per_item"]
    assert (took["calls"], took["cost_usd"], took["tflops_critical"], took["seconds"]) == (11, 5.5, None, 6.0)
    assert report["spent_usd_at_least"] == 5.5 + 3.5
    assert [judgement["reply"] for judgement in lines("judgements.jsonl")] == ["because"] * 2


@pytest.mark.parametrize("value", ["refused", float("nan")])
def test_a_score_that_is_none_is_counted_and_not_made_up(tmp_path: Path, monkeypatch: Any, value: Any) -> None:
    """inspect_ai's own way is to take what it does not know for 0."""
    monkeypatch.chdir(tmp_path)
    [one] = recorded(tmp_path, sample(1, value, called(output("x", 3), "solvers")))["contenders"]
    assert (one["mean"], one["scored"], one["unparsed"], one["answered"]) == (None, 0, 1, 1)


def test_an_item_counts_with_all_its_epochs(tmp_path: Path, monkeypatch: Any) -> None:
    """Where one epoch has no score, the item is in no mean."""
    monkeypatch.chdir(tmp_path)
    asked = called(output("x", 3), "solvers")
    [one] = recorded(tmp_path, sample(1, "C", asked), sample(2, "refused", asked))["contenders"]
    assert (one["mean"], one["scored"], one["unparsed"]) == (None, 0, 1)


def test_a_score_of_parts_is_their_mean(tmp_path: Path, monkeypatch: Any) -> None:
    """Each part has a row of its own in the report."""
    monkeypatch.chdir(tmp_path)
    value = {"right": "C", "brief": 0.5}
    [one] = recorded(tmp_path, sample(1, value, called(output("x", 3), "solvers")))["contenders"]
    assert one["mean"] == 0.75
    assert one["parts"] == {"mine.brief": 0.5, "mine.right": 1.0, "other": 1.0}
