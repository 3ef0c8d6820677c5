"""AlpacaEval 2.0 within `moa eval`: judged by the package alpaca_eval, scored as the leaderboard scores."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.eval import alpaca_eval, data
from moa_graph.eval.contenders import Contender
from moa_graph.eval.generate import OnProgress, Progress
from moa_graph.eval.items import Item
from moa_graph.eval.judge import JUDGED, Answers, Ask
from moa_graph.eval.store import Lines, RunDirectory

__all__ = ["AlpacaEval", "Answered", "annotate_each", "judge_alpaca_eval", "judge_of", "length_controlled"]

_GAMED = ("alpaca_eval/df_gamed.csv", "alpaca_eval/df_gamed_reconstructed.csv")


class AlpacaEval:
    """Its rubric: how far each answer is preferred to the baseline's, in percent."""

    unit = "% win rate"

    def asks(self, item: Item, contender: str, answers: Answers) -> Sequence[Ask]:
        """Nothing: alpaca_eval asks by itself."""
        return []

    def score(self, item: Item, contender: str, judgements: Sequence[Mapping[str, Any]]) -> float | None:
        return next((judgement["score"] for judgement in judgements if judgement["status"] == "ok"), None)

    def parts(self, item: Item, judgement: Mapping[str, Any]) -> Mapping[str, float]:
        return {item.category: judgement["score"]}


def judge_of(config: MoAConfig, name: str, at_once: int = 5) -> alpaca_eval.Judge:
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
    judge: alpaca_eval.Judge,
    *,
    seed: int,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Have every answer judged that is there and is not judged yet: some dozens at a time, contender by contender.

    Raises MoARunError where the judge cannot be asked; what was judged before is kept.
    """
    answers, answered = directory.answers, {}
    for one in contenders:
        fields = [{"item": item.id, "contender": one.name, "seed": seed, "turn": 1, "order": ""} for item in items]
        answered[one.name] = [
            Answered(each, item, partial(_said, directory, each))
            for each, item in zip(fields, items, strict=True)
            if answers.status(answers.key(each)) == "ok"
        ]
    return await annotate_each(directory.judgements, answered, judge, on_progress=on_progress)


@dataclass(frozen=True)
class Answered:
    """An answer to judge beside the baseline's, and the fields that its line in the file begins with."""

    fields: Mapping[str, Any]
    item: Item
    text: Callable[[], str]


async def annotate_each(
    lines: Lines,
    answered: Mapping[str, Sequence[Answered]],
    judge: alpaca_eval.Judge,
    *,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Have judged what is not in the file yet, by who answered: some dozens at a time. None has an item twice.

    Raises MoARunError where the judge cannot be asked; what was judged before is kept.
    """
    progress, todo = Progress("judge", 0), {}
    for name, each in answered.items():
        kept = [lines.status(lines.key(one.fields)) for one in each]
        todo[name] = [one for one, status in zip(each, kept, strict=True) if status not in JUDGED]
        progress.total += len(each)
        progress.before += len(each) - len(todo[name])
        progress.unparsed += kept.count("unparsed")
    on_progress(progress)
    for name, pending in todo.items():
        if pending:
            await _annotate(lines, name, pending, judge, progress, on_progress)
    return progress


async def _annotate(
    lines: Lines,
    name: str,
    pending: Sequence[Answered],
    judge: alpaca_eval.Judge,
    progress: Progress,
    on_progress: OnProgress,
) -> None:
    by_instruction = {one.item.turns[0]: one.fields for one in pending}

    def keep(batch: Sequence[Mapping[str, Any]]) -> None:
        for found in batch:
            preference = found["preference"]
            said: dict[str, Any] = {"status": "unparsed", "error": "there is no preference in the logprobs"}
            if preference is not None:
                said = {"status": "ok", "preference": preference, "score": 100 * ((preference or 1.5) - 1)}
            lines.append({**by_instruction[found["instruction"]], **said})
            progress.done += 1
            progress.unparsed += preference is None
        on_progress(progress)

    pairs = [_pair(one.item, name, one.text()) for one in pending]
    ours = [{"instruction": p["instruction"], "output": p["output_2"], "generator": name} for p in pairs]
    theirs = [
        {"instruction": p["instruction"], "output": p["output_1"], "generator": alpaca_eval.BASELINE} for p in pairs
    ]
    await asyncio.to_thread(alpaca_eval.annotate, ours, theirs, judge=judge, on_judged=keep)


def _said(directory: RunDirectory, fields: Mapping[str, Any]) -> str:
    record = directory.answers.get(directory.answers.key(fields))
    assert record is not None, "only what is answered is judged"
    return str(record["answer"])


def _pair(item: Item, contender: str, said: str) -> dict[str, Any]:
    return {
        "index": item.index, "instruction": item.turns[0], "output_1": item.reference[0],
        "generator_1": alpaca_eval.BASELINE, "output_2": said, "generator_2": contender,
    }  # fmt: skip


def length_controlled(
    directory: RunDirectory, items: Mapping[str, Item], contenders: Sequence[str], data_dir: Path | None
) -> dict[str, dict[str, Any]]:
    """What the leaderboard says of each contender, its length-controlled win rate included.

    Where the packages for it are not installed, `reason` says so.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for judgement in directory.judgements.all():
        name = judgement["contender"]
        pair = _pair(items[judgement["item"]], name, _said(directory, judgement))
        rows[name].append({**pair, "preference": judgement.get("preference")})
    gamed = next((path for name in _GAMED if (path := data.find(name, data_dir)) is not None), None)
    return {name: _scored(found, gamed) for name, found in rows.items() if found}


def _scored(rows: Sequence[Mapping[str, Any]], gamed: Path | None) -> dict[str, Any]:
    try:
        return dict(alpaca_eval.score(rows, gamed=gamed))
    except MoAConfigError as error:
        return {"length_controlled_winrate": None, "reason": str(error)}
