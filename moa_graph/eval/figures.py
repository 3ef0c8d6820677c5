"""How every figure of an evaluation looks, what series are called in it, and how it is written down."""

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval.extra import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GRID", "INK", "PALE", "PALETTE", "WIDTH", "drawn", "looks", "save", "short", "shortened", "svg"]

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito's, a brown in the place of the yellow, which is not seen on white."""

INK, PALE, GRID = "#222222", "#8a8a8a", "#e3e3e3"
WIDTH: Final = 6.4
"""In inches: a page's width between its margins."""

_MARKERS: Final = "osD^vPX*"
_STYLE: Final[Mapping[str, Any]] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": PALE, "axes.linewidth": 0.8, "xtick.color": PALE, "ytick.color": PALE,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.7, "legend.frameon": False,
    "text.parse_math": False, "axes.unicode_minus": False, "svg.fonttype": "none", "svg.hashsalt": "moa_graph",
}  # fmt: skip


@contextmanager
def _style() -> Iterator[None]:
    """The style, also while a figure is written; what a font lacks is drawn as a box, without a word."""
    with load("matplotlib").rc_context(dict(_STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


@contextmanager
def drawn(width: float, height: float, title: str, **axes: Any) -> "Iterator[tuple[Figure, Any]]":
    """A figure and its axes, to draw within: no window, no state of matplotlib's own."""
    with _style():
        figure = load("matplotlib.figure").Figure((width, height), layout="constrained", facecolor="white")
        load("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, fontsize=10, fontweight="bold")
        yield figure, figure.add_subplot(**axes)


def looks() -> Iterator[dict[str, Any]]:
    """A colour and a marker; after all of them the same again with broken lines."""
    for style in ("-", "--", ":", "-."):
        for colour, marker in zip(PALETTE, _MARKERS, strict=True):
            yield {"color": colour, "marker": marker, "ls": style}
    raise MoAConfigError("a plot shows no more than 32 series")


def short(names: Sequence[str]) -> list[str]:
    """Names without providers and folders, as far as they stay different.

    "together:Qwen/Qwen3.7-Max" -> "Qwen3.7-Max"
    """
    made = [" ".join(_bare(word) for word in name.split(" ")) for name in names]
    times = Counter(made)
    return [each if times[each] == 1 else name for each, name in zip(made, names, strict=True)]


def _bare(word: str) -> str:
    bracket = "(" if word.startswith("(") else ""
    bare = word.removeprefix("(")
    return bracket + (re.sub(r"^[a-z_]+:(?=.)", "", bare).rpartition("/")[2] or bare)


def shortened(series: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(short(list(series)), series.values(), strict=True))


def save(figure: "Figure", stem: Path) -> list[Path]:
    """Write `stem`.png (300 dpi) and `stem`.svg, the same bytes for the same figure; gives both paths.

    Raises MoAConfigError where they cannot be written.
    """
    made = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with _style():
            figure.savefig(made[0], dpi=300, metadata={"Software": None})
        made[1].write_text(_svg(figure), encoding="utf-8")
    except OSError as error:
        raise MoAConfigError(f"{stem.parent}: cannot be written to ({error.strerror or error})") from error
    return made


def svg(figure: "Figure", name: str = "") -> str:
    """The figure as an element to stand within HTML; `name`, unlike another's there, goes before each of its ids."""
    text = _svg(figure)
    text = text[text.index("<svg") :]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text) if name else text


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    with _style():
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")  # Verdana is as wide
