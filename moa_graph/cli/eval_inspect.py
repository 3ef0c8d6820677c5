"""`moa eval run --engine inspect`: the contenders on a task of inspect_ai."""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moa_graph.cli.evaluating import DRAWN_EVERY, SAID_EVERY, Line, planned, raise_for
from moa_graph.cli.options import announce
from moa_graph.cli.terminal import draws, say, starting

if TYPE_CHECKING:
    from moa_graph.eval.generate import Progress

__all__ = ["evaluate"]


def evaluate(
    task: str,
    config: Sequence[str],
    out: Path,
    judge: str | None,
    *,
    limit: int | None,
    seed: int,
    singles: bool,
    at_once: int,
    args: Sequence[str],
    report: Callable[[], object],
    refused: Mapping[str, Any],
) -> None:
    """Ask and score what is not there yet, and `report`. Raises MoAConfigError; MoAError where a sample failed.

    args: parameters of the task, each KEY=VALUE. refused: options that inspect_ai cannot honour, and what was given.
    """
    with starting():
        from moa_graph.choose import choices
        from moa_graph.errors import MoAConfigError, MoAError
        from moa_graph.eval.inspect_run import InspectEvaluation

        if given := [name for name, value in refused.items() if value is not None]:
            raise MoAConfigError(f"--engine inspect knows no {given[0]}: {_INSTEAD[given[0]]}")
        chosen = choices(config)
        mixtures = {choice.name: choice.config for choice in chosen}
        evaluation = InspectEvaluation(
            task, mixtures, out, judge=judge, limit=limit, seed=seed, singles=singles, args=args
        )
        items = evaluation.items()
        plan = evaluation.plan(items)
    if not config:
        announce(chosen[0])
    asked, count = len(items), len(evaluation.contenders)
    said = f"{asked} sample{'s' * (asked != 1)} x {count} contender{'s' * (count != 1)}"
    say(f"{task} by inspect_ai: {said}, logs in {out / 'inspect'}")
    say(planned("answers", plan) + ", if each sample asks once; what a scorer asks comes on top" * bool(plan.left))
    line, heard = _Shown(), _Heard()
    models = logging.getLogger("moa_graph.eval.inspect_model")
    models.setLevel(logging.WARNING)  # inspect_ai sets that of all others
    models.addHandler(heard)
    try:
        ended = evaluation.run(at_once, line.take)
    finally:
        line.end()
        models.removeHandler(heard)
    for text in heard.said:
        say(text)
    report()
    if ended.stopped:
        raise MoAError(f"inspect_ai: {ended.stopped}")
    raise_for(ended)


class _Heard(logging.Handler):
    """What the contenders' models had to say, of all of them once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.said[record.getMessage().partition(": ")[2]] = None


class _Shown(Line):
    """How far it is, shown as it is told of: inspect_ai has an event loop of its own."""

    _next = 0.0

    def take(self, progress: "Progress") -> None:
        super().take(progress)
        if (now := time.monotonic()) >= self._next:
            self.show()
            self._next = now + (DRAWN_EVERY if draws(sys.stderr) else SAID_EVERY)


_INSTEAD = {
    "--stage": "answers are scored as they come; --stage score alone gives the report again",
    "--budget": "give the mixtures a budget of their own, in YAML",
    "--baseline": "the task has a scorer of its own",
    "--data-dir": "the task has data of its own",
    "--vary": "give each variant as a mixture of its own, with --config",
    "--retry-unreadable": "its samples are scored by the task's own scorer",
}
