"""A run's directory: nothing that was paid for is lost, and nothing of another run is overwritten."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from moa_graph import MoAConfigError
from moa_graph.eval.calls import STOPPED, Calls, asking_for
from moa_graph.eval.store import ANSWER, Lines, RunDirectory, differences

RUN: dict[str, Any] = {
    "benchmark": "mt-bench", "seed": 1, "limit": 3, "singles": True, "items_sha256": "x", "judge": None,
    "configs": {"two.yaml": {"fingerprint": "1", "config": {"layers": 2, "temperature": 0.7}}}, "contenders": [],
}  # fmt: skip
HOLDER = """
import sys
from pathlib import Path
from moa_graph.eval.store import RunDirectory
import json
with RunDirectory.working(Path(sys.argv[1]), json.loads(sys.argv[2]), []):
    print("held", flush=True)
    sys.stdin.read()
"""


def record(item: str, **rest: Any) -> dict[str, Any]:
    return {"item": item, "contender": "two", "seed": 0, "turn": 1, "status": "ok", **rest}


def opened(path: Path, run: dict[str, Any] = RUN, items: Sequence[dict[str, Any]] = ()) -> Any:
    return RunDirectory.working(path, run, items)


def test_last_line_of_a_key_counts(tmp_path: Path) -> None:
    """A failure that was asked again is as if it had not been."""
    with closing(Lines(tmp_path / "x.jsonl", ANSWER)) as lines:
        lines.append(record("1", status="failed"))
        lines.append(record("1", answer="äh"))
    for read in (lines, Lines(tmp_path / "x.jsonl", ANSWER)):
        assert read.status(("1", "two", 0, 1)) == "ok"
        assert [line["answer"] for line in read.all()] == ["äh"]


def test_what_was_stopped_is_booked_once(tmp_path: Path) -> None:
    """What calls within an unfinished answer cost is in the files once, however often it is started and stopped."""
    key, other = ("1", "two", 0, 1), ("2", "two", 0, 1)

    @contextmanager
    def started(*calls: tuple[Any, str, float]) -> Iterator[tuple[Calls, Lines]]:
        answers = Lines(tmp_path / "answers.jsonl", ANSWER)
        with closing(answers), closing(Calls(tmp_path / "calls.jsonl", answers)) as made:
            made.book()
            for whose, call, usd in calls:
                with asking_for(whose):
                    made.set({("", call): ({"text": "x", "model": "m", "usage": None, "usd": usd}, None)})
            yield made, answers

    with started((key, "a", 0.25), (key, "b", 0.5), (other, "a", 4.0)) as (_, answers):
        assert answers.spent == 0
    with started((key, "c", 1.0)) as (_, answers):
        assert answers.spent == 4.75
        answers.append(record("2", status="failed", receipt={"cost_usd_at_least": 2.0}))
    with started() as (made, answers):
        assert answers.spent == 4.75 + 1.0 + 2.0
        assert [line["error"] for line in answers.all() if line["item"] == "1"] == [STOPPED]
        with asking_for(key):
            assert set(made.get([("", "a"), ("", "c")])) == {("", "a"), ("", "c")}
    with started() as (_, answers):
        assert answers.spent == 7.75


@pytest.mark.parametrize("torn", [b'{"item": "2", "conten', b'{"item": "2"}', b"\xc3", b"\x00\x00\x00"])
def test_torn_line_is_dropped(torn: bytes, tmp_path: Path) -> None:
    """Where a process was killed within a line, that line is dropped, and the next one stands in its place."""
    path = tmp_path / "x.jsonl"
    with closing(Lines(path, ANSWER)) as lines:
        lines.append(record("1"))
    with path.open("ab") as file:
        file.write(torn)
    with closing(Lines(path, ANSWER)) as lines:
        assert len(lines) == 1
        lines.append(record("2"))
    assert [json.loads(line)["item"] for line in path.read_text(encoding="utf-8").splitlines()] == ["1", "2"]


def test_line_of_something_else_is_named(tmp_path: Path) -> None:
    """A line within the file that no evaluation writes is an error that names file and line."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"item": "1"}\n' + json.dumps(record("2")) + "\n", encoding="utf-8")
    with pytest.raises(MoAConfigError, match=r"x\.jsonl, line 1: "):
        Lines(path, ANSWER)


def test_money_of_failures_is_counted(tmp_path: Path) -> None:
    """What was spent is the sum over all lines, those too that were asked again."""
    with closing(Lines(tmp_path / "x.jsonl", ANSWER)) as lines:
        for status in ("failed", "ok"):
            lines.append(record("1", status=status, receipt={"cost_usd_at_least": 0.25}))
    assert lines.spent == 0.5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"benchmark": "flask"}, "benchmark is mt-bench there and flask here"),
        ({"seed": 2}, "seed is 1 there and 2 here"),
        ({"limit": None}, "limit is 3 there and not given here"),
        ({"items_sha256": "y"}, "the items differ"),
        (
            {"configs": {"two.yaml": {"fingerprint": "2", "config": {"layers": 3, "temperature": 0.7}}}},
            "two.yaml.layers is 2 there and 3 here",
        ),
        ({"configs": {"a.yaml": {"fingerprint": "1", "config": {}}}}, "--config is two.yaml there and a.yaml here"),
    ],
)
def test_another_run_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    """A directory of another evaluation is an error that says what differs, and nothing in it is written."""
    with opened(tmp_path / "out"):
        pass
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with (
        pytest.raises(MoAConfigError, match="is another evaluation's: " + said.replace(".", r"\.")),
        opened(tmp_path / "out", {**RUN, **changed}),
    ):
        pass
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    """A directory that holds something else is left alone."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(MoAConfigError, match=r"holds other files and no run\.json"), opened(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_judge_may_come_later_once(tmp_path: Path) -> None:
    """Answers may be made before it is said who judges them; another judge is another evaluation."""
    first, other = {"name": "x:y", "fingerprint": "1"}, {"name": "x:z", "fingerprint": "2"}
    with opened(tmp_path / "out"):
        pass
    with opened(tmp_path / "out", {**RUN, "judge": first}) as directory:
        assert directory.run["judge"] == first
    assert differences({**RUN, "judge": first}, {**RUN, "judge": other}) == ["judge.name is x:y there and x:z here"]


def test_a_task_with_a_scorer_of_its_own_goes_on() -> None:
    """Such a run has no judge of ours: the scorer's name is all that tells it from another."""
    own, ours = {"name": "the task's own scorer"}, {"name": "x:y", "fingerprint": "1"}
    assert differences({**RUN, "judge": own}, {**RUN, "judge": own}) == []
    assert differences({**RUN, "judge": own}, {**RUN, "judge": ours}) != []


def test_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    """One process at a time works on a directory; the lock of one that was killed is taken over."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out"), json.dumps(RUN)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(MoAConfigError, match=f"in use by process {process.pid}: "), opened(tmp_path / "out"):
            pass
        process.kill()
    assert (tmp_path / "out" / "lock").read_text(encoding="utf-8").strip() == str(process.pid)
    with opened(tmp_path / "out"):
        assert (tmp_path / "out" / "lock").read_text(encoding="utf-8").strip() == str(os.getpid())
