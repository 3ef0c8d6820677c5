"""Does the aggregator take up the better proposals? The paper's section 3.3, of a stored run.

table = uptake(Path("runs/mt"))
table["rows"][0]["measures"]["BLEU-3"]["mean"]  # 0.2: what was made of the proposals is more like the better ones

Each layer's proposals against each answer of the next layer, and the last ones against the final answer. It reads the
run's directory alone: `moa_graph.eval.proposals` has the proposals judged.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval.proposals import Aggregation, aggregations, calls, digest, distinct, items_of, preferences
from moa_graph.eval.similarity import MEASURES, PAPER, Instance, coefficients
from moa_graph.eval.statistics import mean
from moa_graph.eval.store import RunDirectory

__all__ = ["SOURCE", "uptake"]

SOURCE: Final = "arXiv 2406.04692, section 3.3, first aggregation, by aggregator; read off its figure"
"""Where `PAPER` is from."""

Coefficients = Mapping[str, float | None]


def uptake(path: Path) -> dict[str, Any]:
    """Spearman's coefficient within the instance: its mean and 95% interval, by aggregator and over all of a layer.

    An instance is what was made once of an item's proposals. An item counts once, with the mean of its instances.
    Raises MoAConfigError where nothing is judged, with how many calls of a judge it takes.
    """
    directory = RunDirectory(path)
    run, items = directory.run, items_of(directory)
    proposed = distinct(directory, items)
    if not len(directory.proposals):
        about = calls(run) * len(proposed)
        raise MoAConfigError(f"{path}: no proposal is judged yet: give --judge MODEL; that takes {about:,} calls")
    preferred = preferences(directory, items)
    judged_items = {item for item, _ in preferred}
    judge = next(directory.proposals.all())
    return {
        "benchmark": run["benchmark"], "seed": run["seed"], "items": len(items), "judged_items": len(judged_items),
        "judge": judge["judge"], "run_judge": (run["judge"] or {}).get("name"),
        "own_judge": (run["judge"] or {}).get("fingerprint") == judge["judge_fingerprint"],
        "proposals": _counts(directory, proposed, preferred),
        "rows": _rows(aggregations(directory, [i for i in items if i.id in judged_items]), preferred, run["seed"]),
        "paper": {measure: list(PAPER[measure]) for measure in MEASURES}, "source": SOURCE,
    }  # fmt: skip


def _counts(directory: RunDirectory, proposed: Sequence[Any], preferred: Mapping[Any, float | None]) -> dict[str, int]:
    """How many proposals there are, and how many of them have a score."""
    states = Counter(record["status"] for record in directory.proposals.all())
    keys = [(fields["item"], fields["proposal"]) for fields, _, _ in proposed]
    return {
        "all": len(keys), "scored": sum(preferred.get(key) is not None for key in keys),
        "unasked": sum(key not in preferred for key in keys),
        "unparsed": states["unparsed"], "judge_failed": states["failed"],
    }  # fmt: skip


def _rows(made: Iterable[Aggregation], preferred: Mapping[Any, float | None], seed: int) -> list[dict[str, Any]]:
    found: dict[tuple[str, int, str], list[tuple[str, str, Coefficients]]] = defaultdict(list)
    for one in made:
        said = [preferred.get((one.item.id, digest(text))) for text in one.proposals]
        instance = Instance(one.text, one.proposals, said)
        found[one.mixture, one.layer, one.into].append((one.aggregator, one.item.id, coefficients(instance)))
    return [row for place, each in found.items() for row in _of_a_layer(place, each, seed)]


def _of_a_layer(
    place: tuple[str, int, str], made: Sequence[tuple[str, str, Coefficients]], seed: int
) -> Iterator[dict[str, Any]]:
    told = dict(zip(("mixture", "layer", "into"), place, strict=True))
    aggregators = list(dict.fromkeys(aggregator for aggregator, _, _ in made))
    for name in [*aggregators, None] if len(aggregators) > 1 else aggregators:
        of_this = [(item, found) for aggregator, item, found in made if name in (aggregator, None)]
        measures = {measure: _summed_up([(i, c[measure]) for i, c in of_this], seed) for measure in MEASURES}
        whole = name is None or len(aggregators) == 1
        says = _said(told, measures) if whole else None
        yield {**told, "aggregator": name, "instances": len(of_this), "measures": measures, "says": says}


def _said(place: Mapping[str, Any], measures: Mapping[str, Mapping[str, Any]]) -> str:
    """What the numbers of a layer say in words: which of them are more than chance."""
    where = f"{place['mixture']}, layer {place['layer']} to {place['into']}"
    sure = {name: each for name, each in measures.items() if each["low"] is not None}
    if not sure:
        return f"{where}: too few items have a coefficient to say anything."
    found = {
        "the preferred proposals are taken up by": [name for name, each in sure.items() if each["low"] > 0],
        "the less preferred ones are taken up by": [name for name, each in sure.items() if each["high"] < 0],
        "these items show neither by": [name for name, each in sure.items() if each["low"] <= 0 <= each["high"]],
    }
    said = [f"{what} {', '.join(names)}" for what, names in found.items() if names]
    items = sorted({each["items"] for each in sure.values()})
    of = str(items[0]) if len(items) == 1 else f"{items[0]} to {items[-1]}"
    return f"{where}, over {of} items: {'; '.join(said)}."


def _summed_up(found: Sequence[tuple[str, float | None]], seed: int) -> dict[str, Any]:
    by_item: dict[str, list[float]] = defaultdict(list)
    for item, coefficient in found:
        if coefficient is not None:
            by_item[item].append(coefficient)
    values = [sum(each) / len(each) for each in by_item.values()]
    estimate = mean(values, seed=seed) if values else None
    sure = estimate if len(values) > 1 else None
    return {
        "mean": estimate and estimate.mean, "low": sure and sure.low, "high": sure and sure.high,
        "items": len(values), "dropped": sum(coefficient is None for _, coefficient in found),
    }  # fmt: skip
