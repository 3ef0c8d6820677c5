"""inspect_ai's logs as the files that an evaluation writes: items, answers with their receipts, judgements.

So what reads those files - the report, the analyses - reads a run of inspect_ai too.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from moa_graph.errors import clean
from moa_graph.eval.items import Item
from moa_graph.eval.rubric import Answers, Ask
from moa_graph.eval.store import RunDirectory
from moa_graph.receipt import known, total

__all__ = ["Inspect", "ended", "id_of", "item_of", "record"]

_WORTH: Final = {"C": 1.0, "CORRECT": 1.0, "P": 0.5, "I": 0.0, "INCORRECT": 0.0, "N": 0.0}
_COUNTED: Final = (
    "calls", "input_tokens", "cached_input_tokens", "output_tokens", "seconds", "critical_path_seconds",
)  # fmt: skip
_MAYBE_UNKNOWN: Final = ("cost_usd", "tflops_critical", "tflops_total")


class Inspect:
    """Its rubric: the score that the task's own first scorer gave, the mean over epochs; 1 is right, 0 is wrong."""

    unit = "as the task gives it"

    def asks(self, item: Item, contender: str, answers: Answers) -> Sequence[Ask]:
        return []

    def score(self, item: Item, contender: str, judgements: Sequence[Mapping[str, Any]]) -> float | None:
        scores = [judgement["score"] for judgement in judgements if judgement["status"] == "ok"]
        return sum(scores) / len(scores) if len(scores) == len(item.turns) else None

    def parts(self, item: Item, judgement: Mapping[str, Any]) -> Mapping[str, float]:
        own = {item.category: judgement["score"]} if item.category else {}
        return {**own, **judgement["parts"]}


def ended(folder: Path) -> set[tuple[str, str, str, int]]:
    """Model, task, sample and epoch of what ended well by the logs in a folder, those of interrupted starts too."""
    from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_sample_summaries

    found = set()
    for log in list_eval_logs(str(folder)) if folder.is_dir() else ():
        if (head := read_eval_log(log, header_only=True)).status != "started":
            done = [one for one in read_eval_log_sample_summaries(log) if one.completed and not one.error]
            found |= {(head.eval.model, head.eval.task, str(one.id), one.epoch) for one in done}
    return found


def record(directory: RunDirectory, logs: Mapping[str, Sequence[Any]], seed: int) -> None:
    """Write down what the logs of each contender have, where that is not written yet. An epoch is a turn.

    logs: the contender's name -> the heads of its logs, one for each task.
    """
    from inspect_ai.log import read_eval_log_samples

    items = {item.id: item for item in map(Item.of, directory.items())}
    several = len({log.eval.task for heads in logs.values() for log in heads}) > 1
    for contender, heads in logs.items():
        for log in heads:
            epochs, task = log.eval.config.epochs or 1, log.eval.task if several else ""
            asked = [id_of(task, id_) for id_ in log.eval.dataset.sample_ids or ()]
            keys = [(id_, contender, seed, epoch) for id_ in asked for epoch in range(1, epochs + 1)]
            if keys and all(directory.answers.status(key) == "ok" for key in keys):
                continue
            for sample in read_eval_log_samples(log.location, all_samples_required=False):
                item = item_of(sample, task, len(items), epochs)
                items.setdefault(item.id, item)
                key = (item.id, contender, seed, sample.epoch)
                if directory.answers.status(key) == "ok":
                    continue
                told = dict(zip(directory.answers.fields, key, strict=True))
                directory.answers.append({**told, **_answer(sample, log.eval.model)})
                if judgement := _judgement(sample):
                    directory.judgements.append({**told, "order": "", **judgement})
    told_items = [items[id_].told() for id_ in items]
    _write(directory.path / "items.jsonl", told_items)


def _write(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    new = path.with_name(path.name + ".new")
    new.write_text(lines, encoding="utf-8", errors="backslashreplace")
    new.replace(path)


def id_of(task: str, sample: Any) -> str:
    """A sample's as an item. task: its name, where there are several."""
    return f"{task}/{sample}" if task else str(sample)


def item_of(sample: Any, task: str, index: int, epochs: int) -> Item:
    """A sample as an item. task: its name, where there are several."""
    given = sample.input if isinstance(sample.input, list) else None
    said = (
        [{"role": m.role, "content": m.text} for m in given] if given else [{"role": "user", "content": sample.input}]
    )
    target = [sample.target] if isinstance(sample.target, str) else list(sample.target)
    return Item(
        id=id_of(task, sample.id), index=index, turns=[said[-1]["content"]] * epochs,
        category=task, reference=[text for text in target if text], history=said[:-1],
    )  # fmt: skip


def _answer(sample: Any, model: str) -> dict[str, Any]:
    ours = [event.output for event in _asked(sample, scoring=False) if event.model == model and _moa(event.output)]
    receipts = [receipt for output in ours for receipt in (*output.metadata.get("failed", ()), _moa(output))]
    told: dict[str, Any] = {
        "seconds": round(sum(output.time or 0.0 for output in ours), 3),
        "first_token": None,
        "receipt": _sum(receipts) if receipts else None,
        "proposals": ours[-1].metadata["proposals"] if ours else [],
    }
    if sample.error or not receipts:
        why = sample.error.message if sample.error else "it asked the model nothing"
        return {"status": "failed", "error": clean(why), **told}
    return {"status": "ok", "answer": sample.output.completion, **told}


def _moa(output: Any) -> Any:
    """The receipt in an output; `None`: no mixture gave it, or it is an error's."""
    return (output.metadata or {}).get("moa") if output else None


def _asked(sample: Any, *, scoring: bool) -> Iterator[Any]:
    """The calls of a sample, those of its scorers or the others."""
    spans = {event.id: event for event in sample.events if event.event == "span_begin"}

    def scores(event: Any) -> bool:
        span = spans.get(event.span_id)
        while span is not None and span.type != "scorers":
            span = spans.get(span.parent_id)
        return span is not None

    yield from (event for event in sample.events if event.event == "model" and scores(event) is scoring)


def _sum(receipts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last call's receipt, with what all calls took."""
    counted = {name: sum(receipt[name] for receipt in receipts) for name in _COUNTED}
    maybe = {name: total(receipt[name] for receipt in receipts) for name in _MAYBE_UNKNOWN}
    least = known(receipt["cost_usd_at_least"] for receipt in receipts)
    return {**receipts[-1], **counted, **maybe, "cost_usd_at_least": least}


def _judgement(sample: Any) -> dict[str, Any] | None:
    """What the task's scorers say; `None`: nothing, as of a sample that failed."""
    if sample.error or not sample.scores:
        return None
    worths = {name: _worths(score.value) for name, score in sample.scores.items()}
    first = next(iter(sample.scores.values()))
    head = list(next(iter(worths.values())).values())
    judges = [receipt for event in _asked(sample, scoring=True) if (receipt := _moa(event.output))]
    told = {"reply": first.explanation or "", "receipt": _sum(judges) if judges else None}
    if not head or None in head:
        return {"status": "unparsed", "error": f"the scorer gave {clean(str(first.value))}", **told}
    finer = {".".join(filter(None, pair)): w for pair, w in _flat(worths) if w is not None}
    numbers = [worth for worth in head if worth is not None]
    return {"status": "ok", "score": sum(numbers) / len(numbers), "parts": finer if len(finer) > 1 else {}, **told}


def _flat(worths: Mapping[str, Mapping[str, float | None]]) -> Iterator[tuple[tuple[str, str], float | None]]:
    for scorer, parts in worths.items():
        for part, worth in parts.items():
            yield (scorer, part), worth


def _worths(value: Any) -> dict[str, float | None]:
    """A scorer's value, by what it is of where it has parts; `None` where that is no number."""
    if isinstance(value, Mapping):
        return {str(name): _worth(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return {str(number): _worth(each) for number, each in enumerate(value, 1)}
    return {"": _worth(value)}


def _worth(value: Any) -> float | None:
    if isinstance(value, str) and value.upper() in _WORTH:
        return _WORTH[value.upper()]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
