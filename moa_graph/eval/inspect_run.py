"""An evaluation by inspect_ai: each contender on a task of its, and what came of it in the files of an evaluation."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from moa_graph import __version__
from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError, clean
from moa_graph.eval.contenders import Contender, contenders, fingerprint, plain
from moa_graph.eval.generate import AT_ONCE, OnProgress, Progress, built
from moa_graph.eval.inspect_logs import ended, id_of, record
from moa_graph.eval.inspect_tasks import arguments, digest, errors_of, items_of
from moa_graph.eval.items import Item
from moa_graph.eval.judge import built_judge, judge_config, judge_told
from moa_graph.eval.run import Plan, planned
from moa_graph.eval.store import ANSWER, Lines, RunDirectory, check

__all__ = ["InspectEvaluation"]

_INSTALL: Final = 'inspect_ai is not installed, which --engine inspect needs: pip install "moa-graph[inspect]"'
_LOGS: Final = "inspect"
_OWN_SCORER: Final = "the task's own scorer"


@dataclass(frozen=True)
class InspectEvaluation:
    """Mixtures, and beside them whom they are compared with, on a task of inspect_ai.

    task: a task's name, such as `inspect_evals/gsm8k`, or `file.py`, or `file.py@task`. args: its parameters, each
    `KEY=VALUE`. judge: the model role `grader`. limit: so many samples, drawn with `seed`.

    Raises MoAConfigError: inspect_ai is not installed, a contender or the judge cannot be built, the directory is
    another evaluation's.
    """

    task: str
    mixtures: Mapping[str, MoAConfig]
    out: Path
    judge: str | None = None
    limit: int | None = None
    seed: int = 0
    singles: bool = True
    args: Sequence[str] = ()
    contenders: list[Contender] = field(init=False)
    _judge: dict[str, Any] = field(init=False)
    _args: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        if find_spec("inspect_ai") is None:
            raise MoAConfigError(_INSTALL)
        object.__setattr__(self, "_args", arguments(self.args))
        found = contenders(self.mixtures, singles=self.singles)
        object.__setattr__(self, "contenders", found)
        for one in found:
            built(one.config, one.name, None)
        told: dict[str, Any] = {"name": _OWN_SCORER}
        if self.judge is not None:
            config = judge_config(self.judge)
            built_judge(self.judge, config)
            told = judge_told(self.judge, config)
        object.__setattr__(self, "_judge", told)
        check(self.out, self.described())

    def described(self) -> dict[str, Any]:
        """What is compared, as run.json has it."""
        configs = {name: {"fingerprint": fingerprint(c), "config": plain(c)} for name, c in self.mixtures.items()}
        return {
            "version": __version__, "benchmark": f"inspect {self.task}", "items_sha256": None, "seed": self.seed,
            "limit": self.limit, "singles": self.singles, "judge": self._judge, "baseline": None, "configs": configs,
            "contenders": [one.told() for one in self.contenders], "task_sha256": digest(self.task),
            "task_args": json.loads(json.dumps(self._args, default=str)) or None,
        }  # fmt: skip

    def models(self) -> dict[str, str]:
        """Each contender's name -> that of its model in inspect_ai."""
        return {one.name: self._model(one) for one in self.contenders}

    def _model(self, one: Contender) -> str:
        if one.kind == "mixture":
            return f"moa/{one.name}"
        mixture = one.of[0]  # among the contenders of several mixtures it may go by another name
        there = contenders({mixture: self.mixtures[mixture]})
        same = next(o for o in there if o.kind == one.kind and fingerprint(o.config) == fingerprint(one.config))
        return f"moa/{mixture}#{same.name}"

    def items(self) -> list[Item]:
        """The samples that each contender is asked. Raises MoAConfigError: no such task, no such parameter of it."""
        from inspect_ai.model import get_model

        model = get_model(next(iter(self.models().values())), memoize=False)
        return items_of(self.task, self._args, model, self._roles(), limit=self.limit, shuffle=self._shuffle)

    def plan(self, items: Sequence[Item]) -> Plan:
        """What is still going to be asked of these, where a sample asks its model once and the scorer nobody."""
        lines, models = Lines(self.out / "answers.jsonl", ANSWER), self.models()
        logs = {
            (model, id_, epoch)
            for model, task, sample, epoch in ended(self.out / _LOGS)
            for id_ in (id_of("", sample), id_of(task, sample))
        }

        def is_done(one: Contender, item: Item) -> bool:
            return all(
                lines.status((item.id, one.name, self.seed, epoch)) == "ok"
                or (models[one.name], item.id, epoch) in logs
                for epoch in range(1, len(item.turns) + 1)
            )

        def estimates(one: Contender, item: Item) -> list[Any]:
            text = "\n".join([*(message["content"] for message in item.history), item.turns[0]])
            return [one.config.estimate(text)] * len(item.turns)

        pending = [(one, [item for item in items if not is_done(one, item)]) for one in self.contenders]
        return planned("generate", pending, estimates)

    @property
    def _shuffle(self) -> int | None:
        return None if self.limit is None else self.seed + 1  # 0 is no seed there

    def _roles(self) -> dict[str, Any]:
        from inspect_ai.model import get_model

        return {"grader": get_model(f"moa/{self.judge}", memoize=False, judge=True)} if self.judge else {}

    def run(self, at_once: int = AT_ONCE, on_progress: OnProgress = lambda _: None) -> Progress:
        """Ask and score what is not there yet. Raises MoAConfigError, and KeyboardInterrupt, which inspect_ai keeps."""
        begun = (self.out / "run.json").exists()
        with RunDirectory.working(self.out, self.described(), []) as directory:
            progress = Progress("generate", 0, before=max(_answered(directory), len(ended(self.out / _LOGS))))
            try:
                heads = self._evaluated(at_once, partial(_watch, progress, on_progress, len(self.contenders)))
            except Exception:
                if not begun:
                    self._forget()
                raise
            logs = {n: [head for head in heads if head.eval.model == model] for n, model in self.models().items()}
            record(directory, logs, self.seed)
            progress.failed = len(directory.answers) - _answered(directory)
            progress.stopped = next((why for one in heads if (why := _why(one)) and not progress.failed), "")
        if not all(logs.values()) or any(head.status not in ("success", "error") for head in heads):
            raise KeyboardInterrupt
        return progress

    def _forget(self) -> None:
        """Leave nothing behind of a start that asked nothing: the task may have been misspelt."""
        if any((self.out / _LOGS).glob("*.eval")):
            return
        shutil.rmtree(self.out / _LOGS, ignore_errors=True)
        for name in ("run.json", "items.jsonl"):
            (self.out / name).unlink(missing_ok=True)

    def _evaluated(self, at_once: int, watch: Callable[[], None]) -> list[Any]:
        from inspect_ai import eval_set
        from inspect_ai.model import get_model

        with errors_of(self.task):
            models = [get_model(model, memoize=False) for model in self.models().values()]
            watch()
            _, heads = eval_set(
                self.task, log_dir=str((self.out / _LOGS).absolute()), model=models, model_roles=self._roles(),
                task_args=self._args, retry_immediate=False, retry_attempts=1, continue_on_fail=True, max_tasks=1,
                max_samples=at_once, max_connections=at_once, seed=self.seed, limit=self.limit,
                sample_shuffle=self._shuffle, display=os.environ.get("INSPECT_DISPLAY", "none"), log_level="error",
                ctl_server=False,
            )  # fmt: skip
        return list(heads)


def _why(head: Any) -> str:
    """Why a task ended, if not because it was done."""
    return f"{head.eval.model}: {clean(head.error.message)}" if head.status == "error" and head.error else ""


def _answered(directory: RunDirectory) -> int:
    return sum(answer["status"] == "ok" for answer in directory.answers.all())


def _watch(progress: Progress, on_progress: OnProgress, contenders: int) -> None:
    """Have inspect_ai tell of each sample that ends."""
    from inspect_ai.hooks import Hooks, SampleEnd, TaskStart, hooks

    tasks: dict[str, int] = {}  # so many samples each, as far as they have begun

    @hooks("moa_progress", "how far an evaluation is")
    class _Watching(Hooks):
        async def on_task_start(self, data: TaskStart) -> None:
            epochs = data.spec.config.epochs or 1
            tasks[data.spec.task] = len(data.spec.dataset.sample_ids or ()) * epochs
            progress.total = sum(tasks.values()) * contenders
            on_progress(progress)

        async def on_sample_end(self, data: SampleEnd) -> None:
            if data.sample.error:
                progress.failed += 1
            else:
                progress.done += 1
            on_progress(progress)
