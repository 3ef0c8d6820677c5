"""Plots: what is in them, where their names stand, and their files."""

import math
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from moa_graph import MoAConfigError
from moa_graph.eval.figures import looks, short
from moa_graph.eval.placing import Box, apart, place
from moa_graph.eval.plots import Point, Value, bars, intervals, lines, pareto, radar, save, svg

QWEN, KIMI = "together:Qwen/Qwen3.7-Max", "together:moonshotai/Kimi-K2.6"


def words(text: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(text).iter() if element.tag.endswith("text")]


def test_names_are_shortened_as_far_as_they_stay_different() -> None:
    """Provider and folders go, unless two names would be the same without them."""
    given = [QWEN, f"single-proposer {QWEN}", "a:x", "b:x", "runs/two.yaml", f"n ({KIMI})", "openai:b #2"]
    made = ["Qwen3.7-Max", "single-proposer Qwen3.7-Max", "a:x", "b:x", "two.yaml", "n (Kimi-K2.6)", "b #2"]
    assert short(given) == made


def test_apart() -> None:
    """What is far enough apart stays where it is; what is not moves evenly to both sides, in the same order."""
    assert apart([5.0, 1.0], 2) == [5.0, 1.0]
    assert apart([1.0, 1.0, 1.5], 1) == pytest.approx([1 / 6, 7 / 6, 13 / 6])
    assert apart([], 1) == []


def test_names_lie_on_nothing() -> None:
    """Nine close points: no name covers another one, a point, or leaves the frame."""
    points = [(100.0 + 5 * k, 100.0 + 7 * (k % 3)) for k in range(9)]
    boxes = place(points, [(50.0, 9.0)] * 9, Box(0, 0, 300, 200))
    assert all(one.shared(other) == 0 for one, other in combinations(boxes, 2))
    assert not any(box.left < x < box.right and box.low < y < box.high for box in boxes for x, y in points)
    assert all(box.left >= 0 and box.low >= 0 and box.right <= 300 and box.high <= 200 for box in boxes)


def test_series_look_different() -> None:
    """No two of the first eight have a colour or a marker in common; more than 32 are refused."""
    some = [look for look, _ in zip(looks(), range(8), strict=False)]
    assert len({look["color"] for look in some}) == len({look["marker"] for look in some}) == 8
    with pytest.raises(MoAConfigError, match="no more than 32 series"):
        list(looks())


def test_radar() -> None:
    """A value on each axis, closed; what was not judged is a gap, and no 0."""
    figure = radar(["math", "coding", "stem"], {"moa": [7.0, None, 8.0], QWEN: [1.0, 2.0, 3.0]}, high=10)
    [ax] = figure.axes
    moa, _ = ax.get_lines()
    ys = list(moa.get_ydata())
    assert ys[0] == ys[3] == 7.0
    assert math.isnan(ys[1])
    assert {"math", "coding", "stem", "moa", "Qwen3.7-Max"} <= set(words(svg(figure)))
    with pytest.raises(MoAConfigError, match="at least three axes, not 2"):
        radar(["a", "b"], {"moa": [1, 2]})


def test_lines_are_named_where_they_end() -> None:
    """Each name is there once, in the colour of its line, and no two of them overlap."""
    series = {name: [Point(1, Value(40)), Point(2, Value(50 + 0.1 * k, 49, 52))] for k, name in enumerate((QWEN, KIMI))}
    figure = lines(series, x="layers", y="score")
    qwen, kimi = figure.axes[0].texts
    assert (qwen.get_text(), kimi.get_text()) == ("Qwen3.7-Max", "Kimi-K2.6")
    assert qwen.get_color() != kimi.get_color()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    assert not qwen.get_window_extent(renderer).overlaps(kimi.get_window_extent(renderer))


def test_bars() -> None:
    """A bar for each value, none for what is not there."""
    figure = bars({"as aggregator": {"a": Value(60, 58, 62), "b": Value(50)}, "as proposer": {"a": Value(40)}}, x="%")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [60, 50, 40]


def test_bars_below_the_start() -> None:
    """They are seen whole, and the title stands apart from the legend."""
    figure = bars({"a": {"x": Value(-0.2, -0.4, 0.1)}, "b": {"x": Value(0.3)}}, x="rho", title="moa-lite")
    [ax] = figure.axes
    assert ax.get_xlim()[0] < -0.4
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    figure.canvas.draw()
    title, legend = figure._suptitle, figure.legends[0]  # type: ignore[attr-defined]
    assert not title.get_window_extent(renderer).overlaps(legend.get_window_extent(renderer))


def test_pareto() -> None:
    """The front goes in steps through its points; far apart costs get a logarithmic axis."""
    points = {"a": Point(0.001, Value(40), "single"), "b": Point(1.0, Value(60), "mixture")}
    figure = pareto(points, ["b", "a"], x="$ per item", y="score")
    [ax] = figure.axes
    front = next(line for line in ax.get_lines() if line.get_drawstyle() == "steps-post")
    assert list(front.get_xdata()) == [0.001, 1.0]
    assert ax.get_xscale() == "log"
    assert {"a", "b", "single", "mixture", "$ per item"} <= set(words(svg(figure)))


def test_many_points_have_numbers() -> None:
    """Of more than sixteen, each has a number beside it, 1 the highest, and below stands who it is."""
    points = {f"openai:m{k}": Point(1.0 + k, Value(50.0 - k)) for k in range(17)}
    figure = pareto(points, ["openai:m0"], x="$ per item", y="score")
    [key] = figure.legends
    assert [text.get_text() for text in key.get_texts()] == [f"{k + 1}  m{k}" for k in range(17)]
    assert [text.get_text() for text in figure.axes[0].texts] == [str(k + 1) for k in range(17)]
    assert [text.get_fontweight() for text in key.get_texts()][:2] == ["bold", "normal"]


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    """Two figures of the same data are the same bytes, with text as text, and without a date."""
    rows = {QWEN: Value(50, 45, 55), "a $ and a $": Value(-1, -2, 1)}
    made = [save(intervals(rows, x="points"), tmp_path / "plots" / name) for name in ("one", "two")]
    [(png, vector), again] = made
    assert [path.name for path in made[0]] == ["one.png", "one.svg"]
    assert [path.read_bytes() for path in again] == [png.read_bytes(), vector.read_bytes()]
    assert {"Qwen3.7-Max", "a $ and a $"} <= set(words(vector.read_text(encoding="utf-8")))
    assert "<dc:date>" not in vector.read_text(encoding="utf-8")


def test_within_html() -> None:
    """An element without a prologue; every id begins with its name, and what is referred to is there."""
    text = svg(intervals({"a": Value(1, 0, 2)}, x="points"), "scores")
    assert text.startswith("<svg")
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    assert all(found.startswith("scores-") for found in ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= ids


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """One line says which folder, and why."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MoAConfigError, match="file: cannot be written to"):
        save(intervals({"a": Value(1)}, x="points"), tmp_path / "file" / "plot")


def test_importing_it_loads_no_matplotlib() -> None:
    """It is loaded when something is drawn."""
    script = "import sys, moa_graph.eval.plots; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
