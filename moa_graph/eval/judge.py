"""The second stage: a model judges every answer. What it says and cannot be read is kept, and is no score."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from moa_graph.choose import choose
from moa_graph.config import MoAConfig, presets
from moa_graph.errors import MoAConfigError
from moa_graph.eval.contenders import Contender, adjusted, fingerprint
from moa_graph.eval.generate import AT_ONCE, OnProgress, Progress, answer, limit, seed_of, spread
from moa_graph.eval.items import Item
from moa_graph.eval.rubric import JUDGED, Ask, Rubric, UnparsedError
from moa_graph.eval.store import Lines, RunDirectory
from moa_graph.judging import is_embedded

__all__ = ["ask_each", "built_judge", "judge", "judge_config", "judge_told"]

_MAX_TOKENS: Final = 2048
_EMBEDDED_TOKENS: Final = 256  # where it makes no sense it does not stop


def judge_config(given: str) -> MoAConfig:
    """The judge: `"provider:model"`, a preset or a YAML file; asked with temperature 0, unless the file says another.

    Raises MoAConfigError for what is neither.
    """
    if given in presets() or given.endswith((".yaml", ".yml")):
        config = choose(given).config
        return config if "temperature" in config.model_fields_set else adjusted(config, 0.0, None, unsaid=True)
    if ":" not in given:
        raise MoAConfigError(f"--judge: {given!r} is no model: write it as provider:model, or give a YAML file")
    from moa_graph.models import _thinks

    one = {"model": given} if _thinks(given, {}) else {"model": given, "temperature": 0.0}
    most = _EMBEDDED_TOKENS if is_embedded(given) else _MAX_TOKENS
    return MoAConfig(proposers=[one], aggregator=one, layers=1, max_tokens=most)


def built_judge(name: str, config: MoAConfig, usd: float | None = None) -> Any:
    """The judge's graph. Raises MoAConfigError naming the judge."""
    try:
        return config.build(**limit(usd, 0.0))
    except MoAConfigError as error:
        said = str(error).removeprefix("aggregator: ") if config.finals[0].model == name else str(error)
        raise MoAConfigError(f"--judge {name}: {said}") from error


def judge_told(name: str, config: MoAConfig) -> dict[str, Any]:
    """The judge as run.json has it."""
    return {"name": name, "models": [model.model for model in config.finals], "fingerprint": fingerprint(config)}


async def judge(
    directory: RunDirectory,
    items: Sequence[Item],
    contenders: Sequence[Contender],
    rubric: Rubric,
    config: MoAConfig,
    *,
    seed: int,
    at_once: int = AT_ONCE,
    usd: float | None = None,
    done: Sequence[str] = JUDGED,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Have every answer judged that is there and is not judged yet. What fails is asked again at the next start.

    done: the states of a judgement that is not asked for again.

    Raises MoAConfigError where the judge cannot be built, or nothing is answered yet.
    """
    budget = limit(usd, directory.spent)
    if not len(directory.answers):
        raise MoAConfigError(f"{directory.path}: there is no answer to judge yet: run --stage generate first")
    asks = [
        ({"item": ask.item, "contender": ask.contender, "seed": seed, "turn": ask.turn, "order": ask.order}, ask)
        for ask in _asks(directory, items, contenders, rubric, seed)
    ]
    how: dict[str, Any] = {"seed": seed, "at_once": at_once, "done": done, "on_progress": on_progress}
    return await ask_each(directory.judgements, asks, lambda: config.build(**budget), **how)


async def ask_each(
    lines: Lines,
    asks: Sequence[tuple[Mapping[str, Any], Ask]],
    build: Callable[[], Any],
    *,
    seed: int,
    at_once: int = AT_ONCE,
    done: Sequence[str] = JUDGED,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Ask a judge what is not in the file yet. Each question goes with the fields that its line begins with.

    build: makes the judge's graph, where there is something to ask.
    """
    kept = [lines.status(lines.key(fields)) for fields, _ in asks]
    todo = [each for each, status in zip(asks, kept, strict=True) if status not in done]
    unread = kept.count("unparsed") if "unparsed" in done else 0
    progress = Progress("judge", len(asks), before=len(asks) - len(todo), unparsed=unread)
    on_progress(progress)
    graph = build() if todo else None

    async def one(each: tuple[Mapping[str, Any], Ask]) -> None:
        fields, ask = each
        record = await answer(graph, ask.messages, seed_of(seed, f"{ask.item}:{ask.order}", ask.turn))
        if reason := record.pop("stopped", None):
            progress.stopped = progress.stopped or reason
            return
        record = _read(ask, record)
        lines.append({**fields, **record})
        progress.usd += (record.get("receipt") or {}).get("cost_usd_at_least") or 0.0
        progress.done += record["status"] != "failed"
        progress.failed += record["status"] == "failed"
        progress.unparsed += record["status"] == "unparsed"
        on_progress(progress)

    await spread(todo, one, at_once, progress)
    return progress


def _asks(
    directory: RunDirectory, items: Sequence[Item], contenders: Sequence[Contender], rubric: Rubric, seed: int
) -> Iterator[Ask]:
    for item in items:
        known: dict[str, Sequence[str] | None] = {}

        def answers(contender: str, item: Item = item, known: dict[str, Any] = known) -> Sequence[str] | None:
            if contender not in known:
                known[contender] = _answered(directory, item, contender, seed)
            return known[contender]  # type: ignore[no-any-return]

        for contender in contenders:
            yield from rubric.asks(item, contender.name, answers)


def _answered(directory: RunDirectory, item: Item, contender: str, seed: int) -> list[str] | None:
    said = []
    for turn in range(1, len(item.turns) + 1):
        record = directory.answers.get((item.id, contender, seed, turn))
        if record is None or record["status"] != "ok":
            return None
        said.append(record["answer"])
    return said


def _read(ask: Ask, record: Mapping[str, Any]) -> dict[str, Any]:
    """A judgement as a line of the file has it: the reply whole, and what it says."""
    told = {name: record[name] for name in ("status", "error", "seconds", "receipt") if name in record}
    if record["status"] != "ok":
        return told
    told["reply"] = record["answer"]
    try:
        return {**told, **ask.read(record["answer"])}
    except UnparsedError as error:
        return {**told, "status": "unparsed", "error": str(error)}
