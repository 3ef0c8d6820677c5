"""Pictures of mixtures and of their runs, offline: Mermaid, SVG, PNG, plain text."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import Any, Final
from zlib import crc32

from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START

from moa_graph.boxes import Arrow, Box, boxes, collapse, colour
from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.receipt import Receipt
from moa_graph.state import Proposal

__all__ = ["Picture", "draw"]

_SUFFIXES: Final = (".png", ".svg", ".mmd", ".txt")
_SCALE: Final = 2.0  # a PNG's pixels for each of the drawing's own
_LONGEST: Final = 52  # characters in a line of a box
_HEAD: Final = """\
---
config:
  theme: base
  themeVariables:
    fontFamily: DejaVu Sans, Verdana, Arial, sans-serif
    edgeLabelBackground: "#e6e8ef"
  flowchart:
    curve: basis
    padding: 10
    nodeSpacing: 12
    rankSpacing: 40
    wrappingWidth: 800
    subGraphTitleMargin:
      top: 4
      bottom: 12
---
flowchart LR
"""
# All text stands on a fill of its own, and lines are grey: both can be read on white and on black. Who is blind to some
# colours can tell these apart (after Okabe and Ito), and the borders differ too.
_LOOKS: Final = {
    "default": "fill:#ffffff,stroke:#8a8fa3,color:#1b1f2a",
    "edge": "fill:#e6e8ef,stroke:#8a8fa3,color:#1b1f2a",
    "final": "fill:#ffffff,stroke:#5b6178,stroke-width:2px,color:#1b1f2a",
    "ok": "fill:#d7e9f7,stroke:#0072b2,color:#1b1f2a",
    "cached": "fill:#eff6fb,stroke:#0072b2,stroke-dasharray:2 2,color:#1b1f2a",
    "cut": "fill:#fdf3c4,stroke:#b58900,stroke-dasharray:6 3,color:#1b1f2a",
    "failed": "fill:#f8d3bd,stroke:#d55e00,stroke-width:3px,color:#1b1f2a",
    "layer": "fill:#f3f4f8,stroke:#c4c8d4,color:#1b1f2a",
    "inner": "fill:#fafbfd,stroke:#c4c8d4,color:#1b1f2a",
}
_WORDS: Final = (
    *("call", "class", "classDef", "click", "default", "direction", "end", "flowchart", "graph", "href", "linkStyle"),
    *("style", "subgraph"),
)


@dataclass(frozen=True)
class Picture:
    """A picture. In a notebook it shows itself, without any web service; printed, it is plain text."""

    mermaid: str
    text: str

    def svg(self) -> str:
        """Raises MoAConfigError where mermaidx is not installed."""
        return _svg(self.mermaid)

    def png(self) -> bytes:
        """Raises MoAConfigError where mermaidx is not installed."""
        width = float(re.findall(r'width="(\S+)"', self.svg())[0])
        return bytes(_mermaidx().svg_to_png(self.svg(), width=width * _SCALE))

    def save(self, path: str | Path) -> None:
        """Write it to a .png, .svg, .mmd or .txt file, in place of one that is there. Raises MoAConfigError."""
        path = _picture(path)
        text = {".mmd": self.mermaid, ".txt": self.text}.get(path.suffix)
        content = self.png() if path.suffix == ".png" else (text or self.svg()).encode()
        try:
            path.write_bytes(content)
        except OSError as error:
            raise MoAConfigError(f"{path}: cannot be written ({error.strerror})") from error

    def __str__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        try:
            return {"image/svg+xml": self.svg(), "text/plain": self.text}
        except MoAConfigError as error:
            return {"text/plain": f"{self.text}\n({error})"}


def draw(
    graph: Any,
    path: str | Path | None = None,
    *,
    expand: bool = True,
    receipt: Receipt | Sequence[Proposal] | None = None,
) -> Picture:
    """The picture of a mixture, a layer, a graph with mixtures in it, or a `MoAConfig` (which needs no key).

    path: where to write it: .png, .svg, .mmd (Mermaid) or .txt. expand: a box for each proposer, or one for each layer.
    receipt: of a run, which colours the picture: `messages[-1].response_metadata["moa"]`. Proposals serve too, such
    as `QuorumError.proposals`.

    Raises MoAConfigError: another suffix, a file that cannot be written, mermaidx missing for .png and .svg, a
    receipt of another mixture.
    """
    if path is not None:
        _picture(path)
    if isinstance(graph, MoAConfig):
        graph = graph.build(stand_in=_named)
    if not hasattr(graph, "get_graph"):
        raise MoAConfigError(f"a {type(graph).__name__} cannot be drawn: give a compiled graph or a MoAConfig")
    whole = boxes(graph)
    if receipt is not None:
        colour(whole, receipt)
    if not expand:
        collapse(whole)
    picture = Picture(_mermaid(whole), _text(whole))
    if path is not None:
        picture.save(path)
    return picture


def _picture(path: str | Path) -> Path:
    path = Path(os.path.expanduser(path))  # Path's own raises where there is no such user
    if path.suffix not in _SUFFIXES:
        raise MoAConfigError(f"{path}: a picture ends in one of {', '.join(_SUFFIXES)}")
    return path


def _named(model: str) -> RunnableLambda[Any, Any]:
    def drawn(_: Any) -> str:
        raise RuntimeError(f"{model} is drawn, not built")

    return RunnableLambda(drawn, name=model)


# Mermaid, and what is made of it


def _mermaid(whole: Box) -> str:
    ids: dict[str, str] = {}
    for box in whole.within():
        ids[box.id] = _id(box.id, set(ids.values()))
    looks = dict.fromkeys(["default", *(box.look for box in whole.within() if not box.inner)])
    lines = [*_inside(whole, ids), *(f"classDef {look} {_LOOKS[look]}" for look in looks)]
    return _HEAD + "".join(f"\t{line}\n" for line in [*lines, "linkStyle default stroke:#808696"])


def _inside(group: Box, ids: dict[str, str]) -> list[str]:
    lines = []
    for box in group.inner:
        look = f":::{box.look}" * (box.look != "default")
        said = group.said if box.role == END else box.said
        if not box.inner:
            around = "()" if box.look == "edge" else "[]"
            lines.append(f"{ids[box.id]}{around[0]}{_label(box, said)}{around[1]}{look}")
            continue
        title = " · ".join(_safe(part) for part in (box.name, said) if part)
        lines += [f'subgraph {ids[box.id]}["<b>{title}</b>"]', "\tdirection LR"]
        lines += [f"\t{line}" for line in _inside(box, ids)]
        lines += ["end", f"style {ids[box.id]} {_LOOKS[box.look]}"]
    return lines + [_arrow(arrow, ids) for arrow in group.arrows]


def _label(box: Box, said: str) -> str:
    name = "<br/>".join(map(_safe, _folded(box.name)))
    below = [*(_folded(box.model) if box.model not in ("", box.name) else []), *wrap(said, _LONGEST)]
    return f'"{"<br/>".join([name if box.look == "edge" else f"<b>{name}</b>", *map(_safe, below)])}"'


def _arrow(arrow: Arrow, ids: dict[str, str]) -> str:
    label = f'|"{_safe(arrow.label)}"|' if arrow.label else ""
    return f"{ids[arrow.source]} {'-->' if arrow.sure else '-.->'}{label} {ids[arrow.target]}"


def _id(path: str, taken: set[str]) -> str:
    """A name that Mermaid takes as one, and that is no word of its own."""
    plain = re.sub(r"\W", "_", path.replace(":", "__"), flags=re.ASCII) or "whole"
    tried = (f"{plain}_{k}" if k else plain for k in count())
    return next(name for name in tried if name not in taken and name not in _WORDS)


def _safe(text: str) -> str:
    return re.sub(r"[^\w .,:/()+@·✓✗-]", lambda found: f"#{ord(found[0])};", text)


def _folded(text: str) -> list[str]:
    """A long name in several lines, broken behind its marks where it can be."""
    lines = [""]
    for part in re.findall(rf"[^-/:._ ]{{1,{_LONGEST - 1}}}[-/:._ ]?|[-/:._ ]", text):
        if len(lines[-1] + part) > _LONGEST and lines[-1]:
            lines.append("")
        lines[-1] += part
    return [line for line in lines if line]


def _mermaidx() -> ModuleType:
    try:
        import mermaidx
    except ImportError as error:
        raise MoAConfigError("SVG and PNG need a package: pip install mermaidx; .mmd and .txt do without") from error
    return mermaidx  # type: ignore[no-any-return, unused-ignore]


@lru_cache(maxsize=8)
def _svg(mermaid: str) -> str:
    """With the size of the drawing, at most as wide as the page; in a page, its names clash with no other's."""
    svg = str(_mermaidx().render(mermaid).svg()).replace("my-svg", f"moa-{crc32(mermaid.encode()):08x}")
    width, height = re.findall(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)[0]
    sized = rf'width="{width}" height="{height}"\1style="max-width: 100%; height: auto;"'
    return re.sub(r'width="100%"(.*?)style="[^"]*"', sized, svg, count=1)


# Plain text


def _text(whole: Box) -> str:
    said = [whole.said] * bool(whole.said)
    return "".join(f"{line}\n" for line in [*_lines(whole), *said])


def _lines(group: Box) -> list[str]:
    shown = [box for box in group.inner if _is_told(group, box)]
    wide = [max((len(cell) for box in shown if not box.inner for cell in [_row(box)[k]]), default=0) for k in range(2)]
    lines = []
    for box in shown:
        guides = ("", "") if not group.id else ("└─ ", "   ") if box is shown[-1] else ("├─ ", "│  ")
        name, model, said = _row(box)
        row = [name, said] if box.inner else [name.ljust(wide[0]), model.ljust(wide[1]), said]
        lines.append("  ".join([guides[0] + row[0], *filter(str.strip, row[1:]), *_ways(group, box)]).rstrip())
        lines += [guides[1] + line for line in _lines(box)]
    return lines


def _row(box: Box) -> tuple[str, str, str]:
    return box.name, box.model if box.model != box.name else "", box.said


def _is_told(group: Box, box: Box) -> bool:
    """What every layer has, and a start that leads to what stands below it, are no news."""
    return box.role not in ("aggregate", END) and (box.role != START or bool(_ways(group, box)))


def _ways(group: Box, box: Box) -> list[str]:
    """Where it leads, unless to the next one alone."""
    arrows = group.after(box)
    following = group.inner[group.inner.index(box) + 1 :][:1]
    if box.role in ("proposer", "person", "route") or [arrow.target for arrow in arrows] == [
        each.id for each in following
    ]:
        return []
    names = {each.id: each.name for each in group.inner}
    return ["→ " + ", ".join(f"{a.label}: {names[a.target]}" if a.label else names[a.target] for a in arrows)]
