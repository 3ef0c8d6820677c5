"""Plots that a paper could print: matplotlib figures in one style, and their files.

    figure = lines({"moa": [Point(1, Value(43.9, 42.1, 45.5)), …]}, x="layers", y="% preferred")
    save(figure, Path("layers"))  # layers.png and layers.svg

The palette is Okabe and Ito's, which the colour-blind tell apart; each series has a marker of its own too. Lines and
points are named where they are. Nothing here reads a run or computes a score.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval.extra import load
from moa_graph.eval.figures import GRID, INK, PALE, PALETTE, WIDTH, drawn, looks, save, short, shortened, svg
from moa_graph.eval.placing import Box, apart, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Point", "Value", "bars", "intervals", "lines", "pareto", "radar", "save", "svg"]

_NAMED: Final = 16
"""Points that have room for their names beside them."""


@dataclass(frozen=True)
class Value:
    """A mean, and its interval where there is one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """A value at a place; `group`: the kind of points that it is shown as one of."""

    x: float
    value: Value
    group: str = ""


def radar(
    axes: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    low: float = 0.0,
    high: float | None = None,
    title: str = "",
) -> "Figure":
    """One closed line for each series over the axes, from `low` in the middle to `high`; `None`: a gap.

    Raises MoAConfigError for fewer than three axes.
    """
    if len(axes) < 3:
        raise MoAConfigError(f"a radar plot needs at least three axes, not {len(axes)}")
    angles = [2 * math.pi * k / len(axes) for k in range(len(axes))]
    below = (len(series) + 1) // 2 * 0.2 + 0.15  # inches of legend
    with drawn(WIDTH, 4.9 + below, title, projection="polar") as (figure, ax):
        for (name, values), look in zip(shortened(series).items(), looks(), strict=False):
            numbers = [math.nan if value is None else value for value in values]
            ax.plot([*angles, angles[0]], [*numbers, numbers[0]], label=name, lw=1.6, ms=3.5, **look)
        known = [value for values in series.values() for value in values if value is not None]
        most = max([*known, low + 1e-9]) if high is None else high
        ticks = load("matplotlib.ticker").MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, most)
        ax.set(theta_offset=math.pi / 2, theta_direction=-1, rlabel_position=180 / len(axes), ylim=(low, most))
        ax.set_yticks([tick for tick in ticks if low < tick <= most])
        ax.set_xticks(angles, [axis.replace(" ", "\n") if len(axis) > 12 else axis for axis in axes])
        for label, angle in zip(ax.get_xticklabels(), angles, strict=True):
            across = round(math.sin(angle), 6)
            label.set_horizontalalignment("left" if across > 0 else "right" if across < 0 else "center")
        ax.tick_params(axis="y", labelsize=7, labelcolor=PALE)
        ax.tick_params(axis="x", pad=1)
        ax.spines["polar"].set_color(GRID)
        ax.grid(True)
        figure.legend(loc="outside lower center", ncols=2 if len(series) > 1 else 1)
    return figure


def lines(series: Mapping[str, Sequence[Point]], *, x: str, y: str, title: str = "") -> "Figure":
    """One line for each series, with its intervals, over whole numbers such as layers; named where it ends."""
    series = {name: points for name, points in series.items() if points}
    with drawn(WIDTH, 3.9, title) as (figure, ax):
        places = sorted({point.x for points in series.values() for point in points})
        step = min((b - a for a, b in pairwise(places)), default=1.0)
        ends, colours = [], []
        for k, (points, look) in enumerate(zip(series.values(), looks(), strict=False)):
            aside = (k - (len(series) - 1) / 2) * 0.035 * step  # that no interval hides another
            at = sorted(points, key=lambda point: point.x)
            xs, ys = [point.x + aside for point in at], [point.value.mean for point in at]
            ax.errorbar(xs, ys, yerr=_errors([point.value for point in at]), lw=1.6, ms=5, elinewidth=1, **look)
            ends.append((xs[-1], ys[-1]))
            colours.append(look["color"])
        ax.set_xticks(places, [f"{place:g}" for place in places])
        ax.set(xlabel=x, ylabel=y)
        ax.set_xlim(places[0] - 0.3 * step, places[-1] + 0.2 * step)
        ax.grid(axis="y")
        _name_ends(figure, ax, shortened(series), ends, colours)
    return figure


def bars(series: Mapping[str, Mapping[str, Value | None]], *, x: str, start: float = 0.0, title: str = "") -> "Figure":
    """Lying bars in groups, from `start` on: `{"as aggregator": {model: value}, …}`; `None`, or no value: no bar."""
    rows = list(dict.fromkeys(row for values in series.values() for row in values))
    height = 0.8 / max(1, len(series))
    with drawn(WIDTH, 1.2 + 0.26 * len(rows) * max(1.4, len(series)), title) as (figure, ax):
        for k, ((name, values), look) in enumerate(zip(series.items(), looks(), strict=False)):
            there = [(n, value) for n, row in enumerate(rows) if (value := values.get(row)) is not None]
            at = [n + (k - (len(series) - 1) / 2) * height for n, _ in there]
            means = [value.mean - start for _, value in there]
            ax.barh(at, means, height * 0.92, left=start, color=look["color"], label=name)
            known = [value for _, value in there]
            ax.errorbar([v.mean for v in known], at, xerr=_errors(known), fmt="none", ecolor=INK, elinewidth=1)
        ax.set_yticks(range(len(rows)), short(rows))
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(x)
        ax.margins(y=0.02)
        ends = [end for values in series.values() for v in values.values() if v for end in (v.mean, v.low) if end]
        if min(ends, default=start) < start:
            ax.axvline(start, color=INK, lw=0.8)
        else:
            ax.set_xlim(left=start)
        ax.grid(axis="x")
        if len(series) > 1:
            figure.legend(loc="outside lower center" if title else "outside upper center", ncols=len(series))
    return figure


def intervals(rows: Mapping[str, Value], *, x: str, strong: Sequence[str] = (), title: str = "") -> "Figure":
    """A mean and its interval in a line for each row, in this order; `strong`: those that stand out."""
    with drawn(WIDTH, 0.9 + 0.26 * len(rows), title) as (figure, ax):
        for n, (name, value) in enumerate(rows.items()):
            colour = PALETTE[0] if name in strong or not strong else PALE
            ax.errorbar([value.mean], [n], xerr=_errors([value]), color=colour, marker="o", ms=5, elinewidth=1.6)
        ax.set_yticks(range(len(rows)), short(list(rows)))
        for label, name in zip(ax.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if name in strong else "normal")
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(x)
        ax.grid(axis="x")
        low, high = ax.get_xlim()
        if low < 0 < high:
            ax.axvline(0, color=PALE, lw=0.8, zorder=0)
    return figure


def pareto(points: Mapping[str, Point], front: Sequence[str] = (), *, x: str, y: str, title: str = "") -> "Figure":
    """A named point for each, with its interval; through those of the `front`, in order of x, a stepped line.

    Of more than 16 points each has a number, from the highest one down, and its name stands below the plot. x is
    logarithmic where the largest is more than twenty times the smallest.
    """
    groups = list(dict.fromkeys(point.group for point in points.values()))
    own = dict(zip(groups, looks(), strict=False))
    called = dict(zip(points, short(list(points)), strict=True))
    keyed = len(points) > _NAMED
    columns = max(1, min(3, 108 // (4 + max(map(len, called.values()), default=0))))
    with drawn(WIDTH, 4.4 + keyed * 0.17 * -(-len(points) // columns), title) as (figure, ax):
        for group in groups:
            those = [point for point in points.values() if point.group == group]
            spread = _errors([point.value for point in those])
            look = {**own[group], "ls": "none", "label": group or None}
            ax.errorbar([p.x for p in those], [p.value.mean for p in those], yerr=spread, ms=6, elinewidth=0.8, **look)
        best = sorted((points[name] for name in front), key=lambda point: point.x)
        step = ax.plot(
            [p.x for p in best], [p.value.mean for p in best], color=PALE, lw=1.2, drawstyle="steps-post", zorder=0
        )
        step[0].set_linestyle((0, (4, 2)))
        xs = [point.x for point in points.values()]
        if xs and min(xs) > 0 and max(xs) > 20 * min(xs):
            ax.set_xscale("log")
            ticker = load("matplotlib.ticker")
            ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_locator(ticker.NullLocator())
        ax.set(xlabel=x, ylabel=y)
        ax.margins(x=0.12, y=0.12)
        ax.grid(True)
        if any(groups):
            figure.legend(loc="outside upper center", ncols=len(groups))
        colours = {name: own[point.group]["color"] for name, point in points.items()}
        if keyed:
            order = sorted(points, key=lambda name: -points[name].value.mean)
            numbers = {name: str(n) for n, name in enumerate(order, 1)}
            rows = {f"{n}  {called[name]}": (colours[name], name in front) for name, n in numbers.items()}
            _key(figure, rows, columns)
            called = numbers
        _name_points(figure, ax, points, [called[name] for name in points], [*colours.values()], front)
    return figure


def _key(figure: Any, rows: Mapping[str, tuple[str, bool]], columns: int) -> None:
    """What the numbers in a plot stand for, below it: text -> colour, and whether it is bold."""
    nothing = load("matplotlib.lines").Line2D
    key = figure.legend(
        [nothing([], [], ls="none") for _ in rows], list(rows), loc="outside lower center", ncols=columns, fontsize=7.5,
        labelcolor=[colour for colour, _ in rows.values()], handlelength=0, handletextpad=0, labelspacing=0.3,
        columnspacing=1.5,
    )  # fmt: skip
    for text, (_, bold) in zip(key.get_texts(), rows.values(), strict=True):
        text.set_fontweight("bold" if bold else "normal")


def _errors(values: Sequence[Value]) -> list[list[float]]:
    below = [max(0.0, value.mean - _ends(value)[0]) for value in values]
    above = [max(0.0, _ends(value)[1] - value.mean) for value in values]
    return [below, above]


def _ends(value: Value) -> tuple[float, float]:
    """Of its interval, or of itself."""
    return value.mean if value.low is None else value.low, value.mean if value.high is None else value.high


def _name_ends(
    figure: Any, ax: Any, names: Mapping[str, Any], ends: Sequence[tuple[float, float]], colours: Sequence[str]
) -> None:
    """The name of each line right of its end; of one that was moved, with a line to it."""
    figure.draw_without_rendering()
    tall = ax.get_window_extent().height * 72 / figure.dpi  # points
    low, high = ax.get_ylim()
    wanted = [(y - low) / (high - low) for _, y in ends]
    last = max(x for x, _ in ends)
    for name, end, own, at, colour in zip(names, ends, wanted, apart(wanted, 11 / tall), colours, strict=True):
        moved = abs(at - own) * tall > 3 or end[0] < last - 0.5
        leader = {"arrowstyle": "-", "color": PALE, "lw": 0.6, "shrinkA": 1, "shrinkB": 4}
        ax.annotate(
            name, end, (1.01, at), textcoords="axes fraction", va="center", color=colour, fontsize=8,
            arrowprops=leader if moved else None, annotation_clip=False,
        )  # fmt: skip


def _name_points(
    figure: Any,
    ax: Any,
    points: Mapping[str, Point],
    called: Sequence[str],
    colours: Sequence[str],
    front: Sequence[str],
) -> None:
    """What each point is called beside it, where nothing else is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # where names stand is computed for just this layout
    ax.autoscale(False)
    scale = 72 / figure.dpi

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = ax.transData.transform((x, y))
        return float(across) * scale, float(up) * scale

    spots = [at(point.x, point.value.mean) for point in points.values()]
    texts = [
        ax.annotate(name, (p.x, p.value.mean), (0, 0), textcoords="offset points", fontsize=7.5, color=colour)
        for name, p, colour in zip(called, points.values(), colours, strict=True)
    ]
    for text, name in zip(texts, points, strict=True):
        text.set(verticalalignment="bottom", fontweight="bold" if name in front else "normal")
    extents = [text.get_window_extent(figure.canvas.get_renderer()) for text in texts]
    sizes = [(extent.width * scale, extent.height * scale) for extent in extents]
    frame = Box(*(float(edge) * scale for edge in ax.get_window_extent().extents))
    for text, (x, y), box in zip(texts, spots, place(spots, sizes, frame, [*_covered(points, front, at)]), strict=True):
        side = "left" if box.left >= x else "right" if box.right <= x else "center"
        edge = {"left": box.left, "right": box.right, "center": (box.left + box.right) / 2}[side]
        text.set(position=(edge - x, box.low - y), horizontalalignment=side)
        near = min(max(x, box.left), box.right), min(max(y, box.low), box.high)
        if math.dist((x, y), near) > 10:
            ends = [ax.transData.inverted().transform((a / scale, b / scale)) for a, b in ((x, y), near)]
            ax.plot(*zip(*ends, strict=True), color=PALE, lw=0.5, zorder=0)


def _covered(
    points: Mapping[str, Point], front: Sequence[str], at: Callable[[float, float], tuple[float, float]]
) -> Iterator[Box]:
    """What of the intervals and the front no name is to cover."""
    for point in points.values():
        (x, low), (_, high) = (at(point.x, end) for end in _ends(point.value))
        yield Box(x - 1.5, low, x + 1.5, high)
    best = sorted((points[name] for name in front), key=lambda point: point.x)
    for one, following in pairwise(best):
        (x, y), (right, top) = at(one.x, one.value.mean), at(following.x, following.value.mean)
        yield Box(x, y - 1, right, y + 1)
        yield Box(right - 1, min(y, top), right + 1, max(y, top))
