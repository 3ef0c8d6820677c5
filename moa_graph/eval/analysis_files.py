"""What an analysis found, as files: a table, and plots of it."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "by_mixture", "table", "write"]

KINDS: Final = {"single": "single model", "single-proposer": "single-proposer mixture"}
_ENDS: Final = {"synthesize": "writes an answer", "rank": "names the best"}
_STARTS: Final = {"mt-bench": 1.0, "flask": 1.0}
_PER_ITEM: Final = {"usd": "$ per item", "tflops": "TFLOPs per item, of each layer the largest"}


def write(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """A CSV named after the analysis, and its plots as PNG and SVG; gives the paths.

    Raises MoAConfigError where they cannot be written.
    """
    columns = list(dict.fromkeys(name for row in found["rows"] for name in row))
    rows = [[row.get(name) for name in columns] for row in found["rows"]]
    made = [table(folder / f"{found['analysis']}.csv", [columns, *rows])]
    for name, figure in _figures(found):
        made += plots.save(figure, folder / name)
    return made


def table(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    """Write a CSV, its folder too. Raises MoAConfigError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            csv.writer(file).writerows(rows)
    except OSError as error:
        raise MoAConfigError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def by_mixture(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Each mixture's rows, its name, and what tells its files from those of the others, if there are any."""
    mixtures = list(dict.fromkeys(row["mixture"] for row in rows))
    for number, mixture in enumerate(mixtures, 1):
        named = f"-{number}-{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(mixture).stem)}" if len(mixtures) > 1 else ""
        yield named, mixture, [row for row in rows if row["mixture"] == mixture]


def _figures(found: Mapping[str, Any]) -> "Iterator[tuple[str, Figure]]":
    label = f"score, {found['unit']}"
    if found["analysis"] == "budget":
        yield from _budget(found["rows"], label)
        return
    if found["analysis"] == "layers":
        yield "layers", _lines(found["rows"], "mixture", "layers", label)
        return
    start = _STARTS.get(found["benchmark"], 0.0)
    for named, mixture, rows in by_mixture(found["rows"]):
        if found["analysis"] == "proposers":
            yield f"proposers{named}", _lines(rows, "which", "proposers", label, mixture)
        elif found["analysis"] == "roles":
            yield f"roles{named}", _roles(rows, label, start, mixture)
        else:
            yield f"ranker{named}", _ranker(rows, label, start, mixture)


def _lines(rows: Sequence[Mapping[str, Any]], by: str, x: str, label: str, title: str = "") -> "Figure":
    series: dict[str, list[plots.Point]] = {}
    for row in rows:
        series.setdefault(row[by], []).append(plots.Point(row[x], _value(row)))
    return plots.lines(series, x=x, y=label, title=title)


def _roles(rows: Sequence[Mapping[str, Any]], label: str, start: float, title: str) -> "Figure":
    series: dict[str, dict[str, plots.Value | None]] = {"as aggregator": {}, "as proposer": {}}
    for row in rows:
        series[f"as {row['role']}"][row["model"]] = _value(row)
    order = {row["model"]: None for row in rows}
    return plots.bars(
        {name: {model: values.get(model) for model in order} for name, values in series.items()},
        x=label, start=start, title=title,
    )  # fmt: skip


def _ranker(rows: Sequence[Mapping[str, Any]], label: str, start: float, title: str) -> "Figure":
    told = [{**row, "end": _ENDS[row["end"]]} for row in rows]
    if len({row["layers"] for row in rows}) > 1:
        return _lines(told, "end", "layers", label, title)
    return plots.bars(
        {row["end"]: {f"{row['layers']} layers": _value(row)} for row in told}, x=label, start=start, title=title
    )


def _budget(rows: Sequence[Mapping[str, Any]], label: str) -> "Iterator[tuple[str, Figure]]":
    for what, x in _PER_ITEM.items():
        known = sorted((row for row in rows if row[what] is not None), key=lambda row: str(row["kind"]))
        points = {
            row["contender"]: plots.Point(row[what], _value(row), KINDS.get(row["kind"], row["kind"])) for row in known
        }
        if points:
            front = [row["contender"] for row in known if row[f"front_{what}"]]
            yield f"budget-{what}", plots.pareto(points, front, x=x, y=label)


def _value(row: Mapping[str, Any]) -> plots.Value:
    return plots.Value(row["score"], row["low"], row["high"])
