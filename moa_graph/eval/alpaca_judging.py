"""AlpacaEval 2.0 within `moa eval`: judged by the package alpaca_eval, scored as the leaderboard scores."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.eval import alpaca_eval, data
from moa_graph.eval.contenders import Contender
from moa_graph.eval.generate import OnProgress, Progress
from moa_graph.eval.items import Item
from moa_graph.eval.judge import Answers, Ask
from moa_graph.eval.store import RunDirectory

__all__ = ["AlpacaEval", "judge_alpaca_eval", "judge_of", "length_controlled"]

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
    todo: dict[str, list[Item]] = {}
    progress = Progress("judge", 0)
    for one in contenders:
        answered = [item for item in items if directory.answers.status((item.id, one.name, seed, 1)) == "ok"]
        kept = [directory.judgements.status((item.id, one.name, seed, 1, "")) for item in answered]
        todo[one.name] = [item for item, status in zip(answered, kept, strict=True) if status is None]
        progress.total += len(answered)
        progress.before += len(answered) - len(todo[one.name])
        progress.unparsed += kept.count("unparsed")
    on_progress(progress)
    for name, pending in todo.items():
        if pending:
            await _judge_one(directory, name, pending, judge, seed, progress, on_progress)
    return progress


async def _judge_one(
    directory: RunDirectory,
    contender: str,
    pending: Sequence[Item],
    judge: alpaca_eval.Judge,
    seed: int,
    progress: Progress,
    on_progress: OnProgress,
) -> None:
    by_instruction = {item.turns[0]: item for item in pending}

    def keep(batch: Sequence[Mapping[str, Any]]) -> None:
        for found in batch:
            item, preference = by_instruction[found["instruction"]], found["preference"]
            key = {"item": item.id, "contender": contender, "seed": seed, "turn": 1, "order": ""}
            said: dict[str, Any] = {"status": "unparsed", "error": "there is no preference in the logprobs"}
            if preference is not None:
                said = {"status": "ok", "preference": preference, "score": 100 * ((preference or 1.5) - 1)}
            directory.judgements.append({**key, **said})
            progress.done += 1
            progress.unparsed += preference is None
        on_progress(progress)

    answers = [_pair(directory, contender, item, seed) for item in pending]
    ours = [{"instruction": a["instruction"], "output": a["output_2"], "generator": contender} for a in answers]
    theirs = [
        {"instruction": a["instruction"], "output": a["output_1"], "generator": alpaca_eval.BASELINE} for a in answers
    ]
    await asyncio.to_thread(alpaca_eval.annotate, ours, theirs, judge=judge, on_judged=keep)


def _pair(directory: RunDirectory, contender: str, item: Item, seed: int) -> dict[str, Any]:
    record = directory.answers.get((item.id, contender, seed, 1))
    assert record is not None, "only what is answered is judged"
    return {
        "index": item.index, "instruction": item.turns[0], "output_1": item.reference[0],
        "generator_1": alpaca_eval.BASELINE, "output_2": record["answer"], "generator_2": contender,
    }  # fmt: skip


def length_controlled(
    directory: RunDirectory, items: Mapping[str, Item], contenders: Sequence[str], seed: int, data_dir: Path | None
) -> dict[str, dict[str, Any]]:
    """What the leaderboard says of each contender, its length-controlled win rate included.

    Where the packages for it are not installed, `reason` says so.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for judgement in directory.judgements.all():
        pair = _pair(directory, judgement["contender"], items[judgement["item"]], seed)
        rows[judgement["contender"]].append({**pair, "preference": judgement.get("preference")})
    gamed = next((path for name in _GAMED if (path := data.find(name, data_dir)) is not None), None)
    return {name: _scored(found, gamed) for name, found in rows.items() if found}


def _scored(rows: Sequence[Mapping[str, Any]], gamed: Path | None) -> dict[str, Any]:
    try:
        return dict(alpaca_eval.score(rows, gamed=gamed))
    except MoAConfigError as error:
        return {"length_controlled_winrate": None, "reason": str(error)}
