"""Pictures of a mixture, offline: Mermaid, SVG, PNG, plain text; and of a run, by its receipt."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.graph import Graph
from langgraph.graph import END, START

from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.receipt import Call, Receipt

__all__ = ["Picture", "draw", "mermaid", "outline"]

_SUFFIXES: Final = (".png", ".svg", ".mmd", ".txt")
_SCALE: Final = 2  # pixels of a PNG for each of the drawing's own
_MARKS: Final = {"ok": "✓", "cached": "✓ cached", "cut": "- cut", "timeout": "✗ timeout", "error": "✗ failed"}
_CLASSES: Final = """
	classDef ok fill:#d9f0e3,stroke:#1b7f4b
	classDef cached fill:#dbe9fb,stroke:#2f6fb3
	classDef cut fill:#fdf0cf,stroke:#b07d12,stroke-dasharray:4 3
	classDef error fill:#f9dcd7,stroke:#b3371f"""
_LOOK: Final[dict[str, Any]] = {
    "config": {
        "flowchart": {"curve": "linear", "wrappingWidth": 500},
        "themeVariables": {"clusterBkg": "#f8f8fb", "clusterBorder": "#c9c6d8"},
    }
}
_NODE: Final = re.compile(r"^(\t\S+\()(.*?)(?:<hr/><small><em>(.*?)</em></small>)?(\))$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """A picture; in a notebook it shows itself, without any web service."""

    mermaid: str
    text: str

    def save(self, path: str | Path) -> None:
        """Write it as `.png`, `.svg`, `.mmd` (Mermaid) or `.txt`. Raises MoAConfigError: another suffix, no place."""
        path = Path(path).expanduser()
        if path.suffix not in _SUFFIXES:
            raise MoAConfigError(f"{path}: a picture ends in one of {', '.join(_SUFFIXES)}")
        if path.suffix == ".png":
            content = self.png()
        else:
            content = {".svg": self.svg, ".mmd": self._as_mermaid, ".txt": self.__str__}[path.suffix]().encode()
        try:
            path.write_bytes(content)
        except OSError as error:
            raise MoAConfigError(f"{path}: cannot be written: {error.strerror}") from error

    def svg(self) -> str:
        """As SVG. Raises MoAConfigError where mermaidx is not installed."""
        return str(_drawn(self.mermaid).svg())

    def png(self) -> bytes:
        """As PNG. Raises MoAConfigError where mermaidx is not installed."""
        drawn = _drawn(self.mermaid)
        wide = re.search(r'viewBox="\S+ \S+ (\S+)', str(drawn.svg()))
        size = {"width": float(wide[1]) * _SCALE} if wide else {}
        return bytes(drawn.png(background="white", **size))

    def _as_mermaid(self) -> str:
        return self.mermaid

    def __str__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        try:
            return {"image/svg+xml": self.svg(), "text/plain": self.text}
        except MoAConfigError as error:
            return {"text/plain": f"{self.text}\n({error})"}


def draw(graph: Any, path: str | Path | None = None, *, expand: bool = True, receipt: Receipt | None = None) -> Picture:
    """The picture of a mixture, of a graph around one, or of a `MoAConfig`; written to `path` where one is given.

    expand: every proposer has a box; else each layer is one. receipt: that of a run, `response_metadata["moa"]`:
    each box tells how its model fared, in colour, with seconds and tokens.

    Raises MoAConfigError: an unknown suffix, a file that cannot be written, mermaidx missing for `.png` and `.svg`.
    """
    if isinstance(graph, MoAConfig):
        graph = outline(graph)
    tidy = _tidy(graph.get_graph(xray=expand), _declared(graph), _told(receipt), _sizes(graph))
    picture = Picture(_mermaid(tidy), _text(tidy))
    if path is not None:
        picture.save(path)
    return picture


def outline(config: MoAConfig) -> Any:
    """The graph of a mixture, to be drawn and not run: its models are only named, so no key is needed."""
    return config.build(stand_in=_named)


def mermaid(config: MoAConfig) -> str:
    """The picture as Mermaid text: every layer opened, every proposer in declared order with its model."""
    return draw(config).mermaid


def _drawn(text: str) -> Any:
    try:
        import mermaidx
    except ImportError as error:
        raise MoAConfigError(
            'SVG and PNG need a package: pip install "moa-graph[draw]"; .mmd and .txt do without'
        ) from error
    return mermaidx.render(text)


def _tidy(graph: Graph, order: Sequence[str], told: Mapping[str, Call], sizes: Mapping[str, int]) -> Graph:
    """The same graph in declared order; under each name its model, and how it fared, and nothing else."""
    place = {node: k for k, node in enumerate(order)}
    for key in sorted(graph.nodes, key=lambda node: place.get(node, -1)):
        node = graph.nodes.pop(key)
        shown: dict[str, Any] = {"model": model} if (model := (node.metadata or {}).get("moa_model")) else {}
        if key in sizes:
            shown["size"] = f"{sizes[key]} proposers"
        if call := next((call for name, call in told.items() if key == name or key.endswith(f":{name}")), None):
            shown |= {"model": call["model"], "class": _class(call), "fared": _fared(call)}
        graph.nodes[key] = node._replace(metadata=shown or None)
    graph.edges.sort(key=lambda edge: (place.get(edge.source, -1), place.get(edge.target, -1)))
    return graph


def _told(receipt: Receipt | None) -> dict[str, Call]:
    """Each call of a run, by the box that it stands in."""
    if receipt is None:
        return {}
    layers = receipt["layers"]
    calls = {f"layer_{layer['layer']}:{call['proposer']}": call for layer in layers for call in layer["proposals"]}
    return {**calls, "final": receipt["final"]}


def _class(call: Call) -> str:
    if call["status"] == "ok":
        return "cached" if call["cached"] else "ok"
    return "cut" if call["status"] == "cut" else "error"


def _fared(call: Call) -> str:
    mark = _MARKS["cached" if call["cached"] and call["status"] == "ok" else call["status"]]
    tokens = call["usage"].get("output_tokens")
    return f"{mark} {call['seconds']:.1f} s" + (f", {tokens:,} tokens" if tokens else "")


def _mermaid(graph: Graph) -> str:
    """LangGraph's Mermaid, with our lines under each name and the class of its colour."""
    fared = False

    def box(found: re.Match[str]) -> str:
        nonlocal fared
        lines = dict(line.strip().partition(" = ")[::2] for line in (found[3] or "").splitlines() if " = " in line)
        kind = lines.pop("class", "")
        fared = fared or bool(kind)
        small = "".join(f"<br/><small>{line}</small>" for line in lines.values())
        return f"{found[1]}{found[2]}{small}{found[4]}{f':::{kind}' if kind else ''}"

    text = _NODE.sub(box, graph.draw_mermaid(frontmatter_config=_LOOK))
    return text.rstrip("\n") + (_CLASSES if fared else "") + "\n"


def _text(graph: Graph) -> str:
    """The boxes as an indented list, in order."""
    lines: list[str] = []
    above: list[str] = []
    for key, node in graph.nodes.items():
        *groups, name = key.split(":")
        if name in (START, END):
            continue
        for depth, group in enumerate(groups):
            if above[depth : depth + 1] != [group]:
                lines.append(f"{'  ' * depth}{group}")
        above = groups
        shown = [str(value) for word, value in (node.metadata or {}).items() if word != "class"]
        lines.append("  ".join([f"{'  ' * len(groups)}{name}", *shown]))
    return "\n".join(lines) + "\n"


def _sizes(graph: Any) -> dict[str, int]:
    """How many proposers each layer of a mixture has."""
    return {name: len(layer.slots) for name, layer in graph.get_subgraphs() if hasattr(layer, "slots")}


def _declared(graph: Any) -> list[str]:
    """The nodes as they were declared; within a layer, the start, the proposers, then the aggregate."""
    order = [START]
    for name, inner in graph.get_subgraphs(recurse=True):
        prefix = name.replace("|", ":")
        members = [node for node in inner.nodes if node not in (START, "aggregate")]
        order += [f"{prefix}:{node}" for node in (START, *members, "aggregate", END)]
    return [*order, *(node for node in graph.nodes if node != START), END]


def _named(model: str) -> RunnableLambda[Any, Any]:
    def drawn(_: Any) -> str:
        raise RuntimeError(f"{model} is drawn, not built")

    return RunnableLambda(drawn, name=model)
