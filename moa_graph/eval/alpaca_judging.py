"""AlpacaEval 2.0 within `moa eval`: its answers are judged by the package alpaca_eval."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.eval import alpaca_eval
from moa_graph.eval.alpaca_cost import Meter
from moa_graph.eval.alpaca_scoring import pair, said
from moa_graph.eval.alpaca_usage import Usage
from moa_graph.eval.contenders import Contender
from moa_graph.eval.generate import AT_ONCE, OnProgress, Progress, left_of
from moa_graph.eval.items import Item
from moa_graph.eval.rubric import JUDGED
from moa_graph.eval.store import Lines, RunDirectory

__all__ = ["Answered", "annotate_each", "judge_alpaca_eval", "judge_of"]

_BATCH: Final = 64
_WAVES: Final = 4  # calls after one another in a batch: fewer wait for each other more often, more are lost by a kill


def judge_of(config: MoAConfig, name: str, at_once: int = AT_ONCE) -> alpaca_eval.Judge:
    """The judge as alpaca_eval takes it. Raises MoAConfigError for a model that it cannot ask."""
    model = config.finals[0]
    provider, _, called = model.model.partition(":")
    if provider != "openai":
        raise MoAConfigError(
            f"--judge: alpaca-eval's judge is asked at an OpenAI-compatible address, and {model.model} is not: "
            "give openai:…, or a YAML file with openai:… and its base_url"
        )
    key = os.environ.get(model.api_key_env) if model.api_key_env else None
    return alpaca_eval.Judge(
        model=called, base_url=model.base_url or _address(), api_key=key, name=name, concurrency=at_once,
        options=model.params,
    )  # fmt: skip


def _address() -> str:
    """Where OpenAI's client would ask."""
    import openai

    return str(openai.OpenAI(api_key="none").base_url)


async def judge_alpaca_eval(
    directory: RunDirectory,
    items: Sequence[Item],
    contenders: Sequence[Contender],
    judge: tuple[str, MoAConfig],
    *,
    seed: int,
    at_once: int = AT_ONCE,
    usd: float | None = None,
    done: Sequence[str] = JUDGED,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Have every answer judged that is there and is not judged yet: some dozens at a time, contender by contender.

    usd: what the whole evaluation may spend, all that it has spent so far included.
    done: the states of a judgement that is not asked for again.
    Raises MoAConfigError where nothing is left to spend, MoARunError where the judge cannot be asked; what was judged
    before is kept.
    """
    answers, answered = directory.answers, {}
    for one in contenders:
        fields = [{"item": item.id, "contender": one.name, "seed": seed, "turn": 1, "order": ""} for item in items]
        answered[one.name] = [
            Answered(each, item, partial(said, directory, each))
            for each, item in zip(fields, items, strict=True)
            if answers.status(answers.key(each)) == "ok"
        ]
    left = left_of(usd, directory.spent)
    return await annotate_each(
        directory.judgements, answered, judge, at_once=at_once, left=left, done=done, on_progress=on_progress
    )


@dataclass(frozen=True)
class Answered:
    """An answer to judge beside the baseline's, and the fields that its line in the file begins with."""

    fields: Mapping[str, Any]
    item: Item
    text: Callable[[], str]


async def annotate_each(
    lines: Lines,
    answered: Mapping[str, Sequence[Answered]],
    judge: tuple[str, MoAConfig],
    *,
    at_once: int = AT_ONCE,
    left: float | None = None,
    done: Sequence[str] = JUDGED,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Have judged what is not in the file yet, by who answered: some dozens at a time. None has an item twice.

    left: $ that it may cost; it stops where one more judgement is expected to cost more.
    Raises MoARunError where the judge cannot be asked; what was judged before is kept.
    """
    progress, todo = Progress("judge", 0), {}
    for name, each in answered.items():
        kept = [lines.status(lines.key(one.fields)) for one in each]
        todo[name] = [one for one, status in zip(each, kept, strict=True) if status not in done]
        progress.total += len(each)
        progress.before += len(each) - len(todo[name])
        progress.unparsed += kept.count("unparsed") if "unparsed" in done else 0
    on_progress(progress)
    working = _Judging(lines, judge_of(judge[1], judge[0], at_once), Meter(judge[1], left), progress, on_progress)
    for name, pending in todo.items():
        await working.judge(name, pending)
    return progress


class _Judging:
    """The judge at work: batch by batch, as far as the money goes."""

    def __init__(
        self, lines: Lines, judge: alpaca_eval.Judge, meter: Meter, progress: Progress, on_progress: OnProgress
    ) -> None:
        self._lines, self._judge, self._meter = lines, judge, meter
        self._most = min(_BATCH, _WAVES * judge.concurrency)
        self._progress, self._on_progress = progress, on_progress

    async def judge(self, name: str, pending: Sequence[Answered]) -> None:
        """Everything that one contender has answered."""
        while pending and not self._progress.stopped:
            texts = ("\n".join([one.item.turns[0], one.item.reference[0], one.text()]) for one in pending)
            if not (count := self._meter.batch(texts, self._most)):
                self._progress.stopped = self._meter.stopped()
                return
            await self._batch(name, pending[:count])
            pending = pending[count:]

    async def _batch(self, name: str, batch: Sequence[Answered]) -> None:
        fields = {one.item.turns[0]: one.fields for one in batch}
        pairs = [pair(one.item, name, one.text()) for one in batch]
        ours = [{"instruction": p["instruction"], "output": p["output_2"], "generator": name} for p in pairs]
        theirs = [
            {"instruction": p["instruction"], "output": p["output_1"], "generator": alpaca_eval.BASELINE} for p in pairs
        ]
        try:
            found = await asyncio.to_thread(alpaca_eval.annotate, ours, theirs, judge=self._judge)
        except alpaca_eval.JudgeError as error:
            if error.used:  # it was paid for, though it says nothing
                self._keep(batch[0].fields, {"status": "failed", "error": str(error)}, error.used)
            raise
        for one in found:
            self._keep(fields[one["instruction"]], _told(one["preference"]), [one["usage"]])
            self._progress.done += 1
            self._progress.unparsed += one["preference"] is None
        self._on_progress(self._progress)

    def _keep(self, fields: Mapping[str, Any], said: Mapping[str, Any], usages: Sequence[Usage | None]) -> None:
        receipt = self._meter.receipt(usages)
        self._progress.usd += receipt["cost_usd_at_least"]
        self._lines.append({**fields, **said, "receipt": receipt})


def _told(preference: float | None) -> dict[str, Any]:
    if preference is None:
        return {"status": "unparsed", "error": "there is no preference in the logprobs"}
    return {"status": "ok", "preference": preference, "score": 100 * ((preference or 1.5) - 1)}
