"""What `uptake` found, as files: a table, and plots of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from moa_graph.eval.analysis_files import by_mixture, table
from moa_graph.eval.plots import Value, bars, save

__all__ = ["write"]

_PLOTTED: Final = ("BLEU-3", "Levenshtein", "TF-IDF")  # the longer n-grams say nearly the same
_COLUMNS: Final = (
    "mixture", "layer", "into", "aggregator", "measure", "spearman", "low", "high", "items", "dropped", "instances",
    "paper_low", "paper_high",
)  # fmt: skip


def write(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """similarity.csv, and for each mixture a plot as PNG and SVG; gives the paths.

    Raises MoAConfigError where they cannot be written.
    """
    made = [table(folder / "similarity.csv", [_COLUMNS, *_lines(found)])]
    for named, mixture, rows in by_mixture(found["rows"]):
        made += save(_plot(mixture, rows), folder / f"similarity{named}")
    return made


def _lines(found: Mapping[str, Any]) -> Iterator[list[Any]]:
    for row in found["rows"]:
        for measure, each in row["measures"].items():
            numbers = [each["mean"], each["low"], each["high"], each["items"], each["dropped"], row["instances"]]
            place = [row["mixture"], row["layer"], row["into"], row["aggregator"] or "all"]
            yield [*place, measure, *numbers, *found["paper"][measure]]


def _plot(mixture: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    several = len({row["layer"] for row in rows}) > 1
    series: dict[str, dict[str, Value | None]] = {measure: {} for measure in _PLOTTED}
    for row in rows:
        name = row["aggregator"] or "all"
        place = f"{name}, {row['layer']} to {row['into']}" if several else name
        for measure, values in series.items():
            each = row["measures"][measure]
            values[place] = None if each["mean"] is None else Value(each["mean"], each["low"], each["high"])
    return bars(series, x="Spearman: similarity and the judge's preference", title=mixture)
