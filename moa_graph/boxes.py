"""What a picture shows: a graph as boxes in boxes, joined by arrows; and how a run went."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.runnables.graph import Graph
from langgraph.graph import END, START

from moa_graph.compiled import CompiledLayer
from moa_graph.errors import MoAConfigError
from moa_graph.receipt import Receipt
from moa_graph.state import Proposal

__all__ = ["Arrow", "Box", "boxes", "collapse", "colour"]

_KINDS: Final = ("route", "select", "critique", "stop")  # the roles of steps beside the proposers
_UNASKED: Final = "not asked"
_UNREACHED: Final = ("left out", _UNASKED)
_LONGEST: Final = 120  # characters of a decision
Calls = Mapping[int, Mapping[str, Mapping[str, Any]]]


@dataclass
class Arrow:
    source: str
    target: str
    label: str = ""
    sure: bool = True
    """Not one of several ways, and something came along it."""


@dataclass(eq=False)
class Box:
    """A node; or a graph, with boxes and arrows of its own."""

    id: str
    name: str
    model: str = ""
    role: str = ""
    layer: int = 0
    look: str = "default"
    said: str = ""
    """How it went."""
    inner: list["Box"] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)

    def of(self, role: str) -> list["Box"]:
        return [box for box in self.inner if box.role == role]

    def after(self, box: "Box") -> list[Arrow]:
        return [arrow for arrow in self.arrows if arrow.source == box.id]

    def within(self) -> Iterator["Box"]:
        """This box and all in it, outermost first."""
        yield self
        for box in self.inner:
            yield from box.within()


def boxes(graph: Any) -> Box:
    """LangGraph's flat graph as boxes in boxes. An inner graph is entered and left as a whole."""
    flat: Graph = graph.get_graph(xray=True)
    slots = _slots(graph)
    layer = "layer:" if isinstance(graph, CompiledLayer) else ""
    place = {key: key if key in (START, END) else layer + key for key in flat.nodes}
    whole = Box("", "")
    groups = {"": whole}
    for key in sorted(flat.nodes, key=lambda key: slots.get(key, 0)):
        group, _, name = place[key].rpartition(":")
        if not group or name not in (START, END):
            box = _box(place[key], flat.nodes[key].name, flat.nodes[key].metadata or {})
            within = _group(group, groups)
            within.inner.append(box)
            if box.role == "proposer":
                within.layer, within.name, within.look = box.layer, f"layer {box.layer}", "layer"
    for edge in flat.edges:
        _link(groups, place[edge.source].split(":"), place[edge.target].split(":"), edge)
    for each in groups.values():
        _sort(each)
    return whole


def _slots(graph: Any) -> dict[str, int]:
    """Each proposer's place in its layer, as it was declared."""
    inner = graph.get_subgraphs(recurse=True) if hasattr(graph, "get_subgraphs") else ()
    layers = [("", graph), *((f"{name.replace('|', ':')}:", each) for name, each in inner)]
    return {
        prefix + name: slot
        for prefix, layer in layers
        if isinstance(layer, CompiledLayer)
        for name, slot in layer.slots.items()
    }


def _box(place: str, name: str, about: Mapping[str, Any]) -> Box:
    if place in (START, END):
        return Box(place, name.strip("_"), role=place, look="edge")
    role = about.get("moa_role", "")
    look = {"aggregate": "edge", "final": "final"}.get(role, "default")
    step = about.get("moa_step", role)
    parts = [step if step != role else "", about.get("moa_aggregator"), about.get("moa_model")]
    name = name.replace("_", " ") if role == "window" else name
    return Box(place, name, " · ".join(filter(None, parts)), role, about.get("moa_layer", 0), look)


def _group(path: str, groups: dict[str, Box]) -> Box:
    if path not in groups:
        above, _, name = path.rpartition(":")
        groups[path] = Box(path, name, look="inner")
        _group(above, groups).inner.append(groups[path])
    return groups[path]


def _link(groups: Mapping[str, Box], source: list[str], target: list[str], edge: Any) -> None:
    """An arrow between those two boxes of one group that the edge's ends are, or are in."""
    depth = 0
    while source[depth] == target[depth] and depth + 1 < min(len(source), len(target)):
        depth += 1
    group = groups[":".join(source[:depth])]
    start, end = (":".join(path[: depth + 1]) for path in (source, target))
    itself = len(source) == depth + 1  # and not something in it
    arrow = Arrow(start, end, str(edge.data or "") if itself else "", sure=not edge.conditional)
    if {start, end} <= {box.id for box in group.inner} and arrow not in group.arrows:
        group.arrows.append(arrow)


def _sort(group: Box) -> None:
    """Put boxes and arrows in the order in which a run comes to them; where that leaves it open, of declaration."""
    place = {box.id: box for box in group.inner}
    order = [box for box in group.inner if all(arrow.target != box.id for arrow in group.arrows)] or group.inner[:1]
    for box in order:
        order += dict.fromkeys(name for a in group.after(box) if (name := place[a.target]) not in order)
    group.inner = _after_all_before(group, [*order, *(box for box in group.inner if box not in order)])
    number = {box.id: k for k, box in enumerate(group.inner)}
    group.arrows.sort(key=lambda arrow: (number[arrow.source], number[arrow.target]))
    for box in order:
        if box.inner and len(ways := group.after(box)) == 1:
            ways[0].sure = True  # an inner graph may end in several ways that all lead there


def _after_all_before(group: Box, order: Sequence[Box]) -> list[Box]:
    """`order`, but each box behind all that lead to it: one of two ways may be the longer. In a circle as it was."""
    onwards = [arrow for arrow in group.arrows if arrow.source not in _led_to(group, arrow.target)]
    rest, placed = list(order), list[Box]()
    while rest:
        left = {box.id for box in rest}
        waiting = {arrow.target for arrow in onwards if arrow.source in left}
        placed.append(next((box for box in rest if box.id not in waiting), rest[0]))
        rest.remove(placed[-1])
    return placed


def _led_to(group: Box, start: str) -> set[str]:
    """The boxes that are come to from one, itself included."""
    found, new = {start}, {start}
    while new:
        new = {arrow.target for arrow in group.arrows if arrow.source in new} - found
        found |= new
    return found


def collapse(whole: Box) -> None:
    """Close the layers: one box each."""
    for box in whole.within():
        if proposers := box.of("proposer"):
            steps = [each.name for each in box.inner if each.role in _KINDS]
            box.model = " · ".join([_many([proposer.model for proposer in proposers]), *steps])
            answered = sum(proposer.look in ("ok", "cached") for proposer in proposers)
            asked = sum(proposer.said != _UNASKED for proposer in proposers)
            mark, look = ("✓", "ok") if answered == asked else ("-", "cut") if answered else ("✗", "failed")
            ran = box.said and box.said not in _UNREACHED
            box.look, box.said = (look, f"{mark} {box.said}") if ran else ("default", box.said)
            box.inner, box.arrows = [], []


def _many(models: Sequence[str]) -> str:
    if len(set(models)) == 1 < len(models):
        return f"{len(models)} x {models[0]}"
    return f"{len(models)} proposer{'s' * (len(models) != 1)}"


# How a run went


def colour(whole: Box, receipt: Receipt | Sequence[Proposal]) -> None:
    """Give the boxes of the mixture that ran their looks, and what is said of them. Raises MoAConfigError."""
    try:
        _colour(whole, receipt)
    except (AttributeError, KeyError, TypeError) as error:
        raise MoAConfigError(
            "this is no receipt: give the answer's response_metadata[\"moa\"], or a run's proposals"
        ) from error


def _colour(whole: Box, receipt: Receipt | Sequence[Proposal]) -> None:
    calls, ran = _calls(receipt), bool(receipt)
    fitting = [box for box in _mixtures(whole) if ran and _fits(box, calls, whole=_is_whole(receipt))]
    if not fitting:
        names = ", ".join(dict.fromkeys(name for layer in calls.values() for name in layer)) or "no proposers"
        raise MoAConfigError(f"the receipt is of another mixture: one of {len(calls) + 1} layers, with {names}")
    if len(fitting) > 1:
        raise MoAConfigError(
            f"the receipt fits {' and '.join(box.name for box in fitting)}: draw the one that ran by itself"
        )
    for layer in _layers(fitting[0]):
        if layer.layer in calls:
            _colour_layer(layer, calls[layer.layer])
        elif isinstance(receipt, Mapping):
            layer.said = _UNREACHED[0] if receipt.get("stopped") else _UNREACHED[1]
    if isinstance(receipt, Mapping):
        _colour_final(fitting[0], receipt)
        _colour_steps(fitting[0], receipt)


def _calls(receipt: Receipt | Sequence[Proposal]) -> Calls:
    """What is told of each layer's proposers."""
    if isinstance(receipt, Mapping):
        return {layer["layer"]: {call["proposer"]: call for call in layer["proposals"]} for layer in receipt["layers"]}
    calls: dict[int, dict[str, Any]] = {}
    for proposal in receipt:
        calls.setdefault(proposal["layer"], {})[proposal["proposer"]] = proposal
    return calls


def _is_whole(receipt: Receipt | Sequence[Proposal]) -> bool:
    """Whether every layer is in it: not those that a budget left out, nor those that a failed run did not reach."""
    if not isinstance(receipt, Mapping):
        return False
    final: Mapping[str, Any] = receipt.get("final") or {}
    return not receipt.get("stopped") and final.get("status", "ok") == "ok"


def _mixtures(box: Box) -> Iterator[Box]:
    """The outermost mixtures in a box, and layers by themselves."""
    if box.of("final") or box.of("proposer"):
        yield box
    else:
        for inner in box.inner:
            yield from _mixtures(inner)


def _layers(mixture: Box) -> list[Box]:
    return [mixture] if mixture.of("proposer") else [box for box in mixture.inner if box.of("proposer")]


def _fits(mixture: Box, calls: Calls, *, whole: bool) -> bool:
    """Whether everybody who was asked is in it. Whom a person added was not asked."""
    known = {layer.layer: {proposer.name for proposer in layer.of("proposer")} for layer in _layers(mixture)}
    if calls.keys() != known.keys() if whole else not calls.keys() <= known.keys():
        return False
    return all(
        {name for name, call in layer.items() if call["attempts"] or call.get("cached")} <= known.get(number, set())
        for number, layer in calls.items()
    )


def _colour_layer(layer: Box, calls: Mapping[str, Mapping[str, Any]]) -> None:
    proposers = {box.name: box for box in layer.of("proposer")}
    for name, call in calls.items():
        if name in proposers:
            proposers[name].look, proposers[name].said = _fared(call)
        else:
            _add(layer, name)
    unasked = [box for name, box in proposers.items() if name not in calls and layer.of("route")]
    for box in unasked:
        box.said = _UNASKED
    empty = {box.id for box in proposers.values() if box.look in ("cut", "failed") or box.said == _UNASKED}
    routes = {box.id for box in layer.of("route")}
    for arrow in layer.arrows:
        arrow.sure = arrow.source not in empty and not (arrow.source in routes and arrow.target in empty)
    asked = [box for box in [*layer.of("proposer"), *layer.of("person")] if box not in unasked]
    layer.said = f"{sum(call['status'] == 'ok' for call in calls.values())} of {len(asked)} answered"


def _add(layer: Box, name: str) -> None:
    """What a person wrote between the layers."""
    written = Box(f"{layer.id}:{name}", name, role="person", look="ok", said="✓ added by a person")
    layer.inner.insert(len(layer.of("proposer")), written)
    layer.arrows += [Arrow(written.id, box.id) for box in layer.of("aggregate")]


def _colour_steps(mixture: Box, receipt: Receipt) -> None:
    """What was decided, and the way that was taken behind a layer that might have been the last."""
    said: dict[tuple[int, str], str] = {(d["layer"], d["step"]): d["said"] for d in receipt.get("decisions") or ()}
    for layer in _layers(mixture):
        for box in layer.inner:
            if box.role in _KINDS and (layer.layer, box.role) in said:
                box.look, box.said = "ok", _cut(said[layer.layer, box.role])
    asked = {layer.id for layer in _layers(mixture) if layer.said not in _UNREACHED}
    for layer in _layers(mixture):
        if layer.id in asked and len(ways := mixture.after(layer)) > 1:
            further = [way for way in ways if way.target in asked]
            for way in ways:
                way.sure = way in (further or [way for way in ways if mixture.of("final")[0].id == way.target])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _colour_final(mixture: Box, receipt: Receipt) -> None:
    call, many = receipt["final"], receipt["calls"] != 1
    read = {d["part"]: d["call"] for d in receipt.get("decisions") or () if "part" in d and "call" in d}
    for k, window in enumerate(mixture.of("window"), 1):
        window.look, window.said = _fared(read[k]) if k in read else ("default", "not needed")
    given = [d for d in receipt.get("decisions") or () if d["step"] == "aggregator" and "part" not in d]
    gives = given[-1]["chosen"][0] if given and len(given[-1]["chosen"]) == 1 else ""
    for final in mixture.of("final"):
        final.look, final.said = _fared(call)
        if gives and call["status"] == "ok":
            final.said += f" · {gives}'s answer"
        if call["error"]:  # why those before it failed
            kind, between, _ = final.model.rpartition(" · ")
            final.model, final.said = f"{kind}{between}{call['model']}", f"{final.said} (fallback)"
    tokens = f"{receipt['input_tokens']:,} tokens in, {receipt['output_tokens']:,} out"
    if (usd := receipt.get("cost_usd")) is not None and usd > 0:
        tokens += f" · ${usd:.2g}"
    mixture.said = f"{receipt['calls']} call{'s' * many} · {receipt['seconds']:.1f} s · {tokens}"


def _fared(call: Mapping[str, Any]) -> tuple[str, str]:
    """How a call looks, and what is said of it."""
    if call["status"] == "ok":
        if call.get("cached") or call.get("resumed"):
            return "cached", "✓ cached" if call.get("cached") else "✓ answered before"
        usage = call.get("usage") or {}
        tokens = ", ".join(f"{usage[key]:,} {way}" for way in ("in", "out") if (key := f"{way}put_tokens") in usage)
        return "ok", " · ".join(filter(None, (f"✓ {call['seconds']:.1f} s", tokens, "unread" * ("unread" in call))))
    after = f"after {call['seconds']:.1f} s"
    if call["status"] == "unasked":
        return "default", "not asked"
    if call["status"] == "cut":
        return "cut", f"- cut {after}"
    why = "timeout" if call["status"] == "timeout" else str(call.get("error") or "failed").partition(":")[0]
    return "failed", f"✗ {why} {after}"
