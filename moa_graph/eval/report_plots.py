"""The plots of a report's page, as SVG that takes its colours from the page and brings no style of its own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval import figures, plots
from moa_graph.eval.analyses import front
from moa_graph.eval.analysis_files import KINDS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["illustrated", "plain", "save"]

_SCALES: Final = {"flask": (1.0, 5.0), "mt-bench": (1.0, 10.0)}
_FONT: Final = re.compile(
    r"(?:(?P<style>italic|oblique) )?(?:(?P<weight>bold|\d00) )?(?P<size>[\d.]+px) (?P<family>.+)"
)


def illustrated(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Each plot that this run has enough for: its SVG, and what it shows."""
    for name, (figure, says) in _figures(report).items():
        yield {"svg": plain(figures.svg(figure, name)), "says": says}


def save(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write each of them to a folder as PNG and SVG; gives the paths.

    Raises MoAConfigError where there is nothing to draw, or it cannot be written.
    """
    if not (made := _figures(report)):
        raise MoAConfigError("there is nothing to draw: two contenders with scores are needed")
    return [path for name, (figure, _) in made.items() for path in plots.save(figure, folder / name)]


def plain(svg: str) -> str:
    """The same picture without style elements and attributes, which the page's policy does not let in."""
    svg = re.sub(r"<style.*?</style>|<metadata.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'\bstyle="([^"]*)"', lambda found: _attributes(found[1]), svg)


def _attributes(style: str) -> str:
    said = dict(part.strip().split(": ", 1) for part in style.split(";") if part.strip())
    if font := _FONT.fullmatch(said.pop("font", "")):
        said |= {f"font-{name}": value for name, value in font.groupdict().items() if value}
    return " ".join(f'{name}="{value}"' for name, value in said.items())


def _figures(report: Mapping[str, Any]) -> "dict[str, tuple[Figure, str]]":
    made: dict[str, tuple[Figure, str]] = {}
    scored = sorted((one for one in report["contenders"] if one["mean"] is not None), key=lambda one: -one["mean"])
    values = {one["name"]: plots.Value(one["mean"], one["low"], one["high"]) for one in scored}
    label = f"score, {report['unit']}"
    if len(scored) > 1:
        strong = [one["name"] for one in scored if one["kind"] == "mixture"]
        figure = plots.intervals(values, x=label, strong=strong)
        made["intervals"] = figure, "Mean and 95% bootstrap interval over the items; mixtures are bold."
    paid = [one for one in scored if one["per_item"]["cost_usd"]]
    if len(paid) > 1:
        paid.sort(key=lambda one: str(one["kind"]))  # each kind has its colour, whoever is best
        points = {one["name"]: _point(one, values[one["name"]]) for one in paid}
        best = front([(one["name"], one["per_item"]["cost_usd"], one["mean"]) for one in paid])
        figure = plots.pareto(points, best, x="$ per item", y=label)
        told = "Score against $ per item. The line joins those that none beats for less."
        rest = len(report["contenders"]) - len(paid)
        made["cost"] = figure, told + (f" {rest} without known costs are not shown." if rest else "")
    if report["benchmark"] in _SCALES and (radar := _radar(report, scored)):
        made["radar"] = radar, "Mixtures, and what they are compared with."
    return made


def _point(one: Mapping[str, Any], value: plots.Value) -> plots.Point:
    return plots.Point(one["per_item"]["cost_usd"], value, KINDS.get(one["kind"], one["kind"]))


def _radar(report: Mapping[str, Any], scored: Sequence[Mapping[str, Any]]) -> "Figure | None":
    named = {name for compared in report["comparisons"] for name in (compared["mixture"], compared["other"])}
    named |= {one["name"] for one in scored if one["kind"] == "mixture"}
    series = {one["name"]: report["radar"]["contenders"][one["name"]] for one in scored if one["name"] in named}
    known = [k for k in range(len(report["radar"]["axes"])) if any(each[k] is not None for each in series.values())]
    if len(known) < 3:
        return None
    low, high = _SCALES[report["benchmark"]]
    axes = [report["radar"]["axes"][k] for k in known]
    return plots.radar(axes, {name: [each[k] for k in known] for name, each in series.items()}, low=low, high=high)
