"""`create_layer` and `create_moa`: validation, then the whole topology, readable top to bottom."""

from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from itertools import pairwise
from typing import Any

from langgraph.cache.base import BaseCache
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Checkpointer

from moa_graph.admission import Group, Terms
from moa_graph.aggregator import Aggregator, Models, Sequential, Synthesize, Vote, aggregator_of, models_of
from moa_graph.budget import Budget
from moa_graph.cache import Answers
from moa_graph.compiled import CompiledLayer, CompiledMoA
from moa_graph.deciding import KINDS, VALID, chosen_by_route, deciding
from moa_graph.errors import MoAConfigError
from moa_graph.final import Writer, final
from moa_graph.models import Model
from moa_graph.nodes import Node, aggregate, propose
from moa_graph.panel import Layer, Proposer, ProposerLike, Seat, seated, seats
from moa_graph.picking import picking
from moa_graph.policy import LayerPolicy, checked
from moa_graph.prompts import AGGREGATE_AND_SYNTHESIZE, Prompt
from moa_graph.route import as_route
from moa_graph.state import InnerLayerOutput, LayerInput, LayerOutput, LayerState, MoAOutput, MoAState, WindowsState
from moa_graph.steps import Step
from moa_graph.stop import check_patience
from moa_graph.windows import last_window, window

__all__ = ["check_moa", "create_layer", "create_moa"]

Graph = CompiledStateGraph[Any, Any, Any, Any]
Panels = Sequence[ProposerLike | Sequence[ProposerLike] | Layer] | Layer


def create_layer(
    proposers: Sequence[ProposerLike] | Layer,
    *,
    layer: int = 1,
    policy: LayerPolicy | None = None,
    prompt: str | Prompt = AGGREGATE_AND_SYNTHESIZE,
    stream_proposers: bool = False,
    checkpointer: Checkpointer = None,
    store: BaseStore | None = None,
    cache: BaseCache[Any] | None = None,
    name: str = "layer",
) -> Graph:
    """One layer by itself: x_i -> proposals and ⊕[A_{i,1}(x_i) … A_{i,n}(x_i)] (paper, eq. 1).

    Input: `messages`, and the `synthesis` of a layer before it, if any. Output: `proposals`, `synthesis`.
    Raises MoAConfigError when built, QuorumError when run.
    """
    panel = proposers if isinstance(proposers, Layer) else Layer(proposers)
    members = seats(layer, panel, _checked(policy, cache))
    steps = steps_of(panel, members, _checked(policy, cache), last=False)
    terms = Terms(members, [], [], _prompt(prompt), stream_proposers, steps)
    return _layer(terms, LayerOutput, checkpointer=checkpointer, store=store, cache=cache, name=name)


def create_moa(
    proposers: Panels,
    aggregator: Aggregator | Models,
    layers: int | None = None,
    *,
    policy: LayerPolicy | None = None,
    prompt: str | Prompt = AGGREGATE_AND_SYNTHESIZE,
    budget: Budget | None = None,
    stream_proposers: bool = False,
    checkpointer: Checkpointer = None,
    store: BaseStore | None = None,
    cache: BaseCache[Any] | None = None,
    name: str = "moa",
) -> Graph:
    """A Mixture-of-Agents (arXiv 2406.04692) as a compiled graph: `messages` in, `messages` and `proposals` out.

    proposers: the panel of every proposer layer, or one panel per layer (a list of lists or of `Layer`).
    aggregator: the final model, which writes the answer; in a list, the next one is asked when one fails before its
    first token. Other ways to end, in `moa_graph.aggregator`: `Rank`, `Consistent`, `Vote`, `Sequential`.
    layers: counted as the paper counts, the final model being the last; 3 by default, or one more than the
    panels given. `layers=1` is a plain call, 2 is MoA-Lite's shape, 3 is MoA's. Calls: n·(layers-1)+1.
    prompt: what the references follow, a text or a `Prompt`. budget: what a run may spend. stream_proposers: let
    their tokens stream too (LangGraph passes a subgraph's tokens on with `subgraphs=True`).

    Raises MoAConfigError when built: an empty panel, `layers` below 1, a name twice, a quorum above the panel,
    an unknown provider, a missing key or package. Raises QuorumError and FinalError when run.
    """
    policy, said = _checked(policy, cache), _prompt(prompt)
    groups, family, finals = _everybody(proposers, aggregator, layers, policy, budget)
    last = len(groups) + 1
    writer = Writer(finals, Answers(cache), said)
    windows = _windows(family, writer, groups)

    moa = StateGraph(WindowsState if windows else MoAState, input_schema=MessagesState, output_schema=MoAOutput)
    for i, (panel, taken) in enumerate(groups, 1):
        terms = Terms(panel, groups[i:], finals, said, stream_proposers, taken, *_by_windows(family))
        moa.add_node(f"layer_{i}", _layer(terms, InnerLayerOutput, cache=cache, name=f"layer_{i}"))
    for window_, reads in windows.items():
        moa.add_node(window_, reads, metadata=_metadata("window", last, finals[0]))
    moa.add_node("final", _final(family, writer, windows, last, policy), metadata=_about_final(family, last, finals))

    stops = {f"layer_{i}" for i, group in enumerate(groups, 1) if "stop" in group.steps}
    ends = [*windows, "final"]
    for before, after in pairwise([START, *(f"layer_{i}" for i in range(1, last)), *ends, END]):
        if before in stops:
            moa.add_conditional_edges(before, _after(after, ends[0]), list(dict.fromkeys([after, ends[0]])))
        else:
            moa.add_edge(before, after)
    compiled = moa.compile(checkpointer=checkpointer, store=store, cache=cache, name=name)
    return CompiledMoA(budget=budget, **vars(_each_run_anew(compiled)))


def check_moa(
    proposers: Panels,
    aggregator: Aggregator | Models,
    layers: int | None = None,
    *,
    policy: LayerPolicy | None = None,
    budget: Budget | None = None,
    **_: Any,
) -> None:
    """Raises MoAConfigError as `create_moa` does for what it is given, and builds no graph."""
    _everybody(proposers, aggregator, layers, _checked(policy, None), budget)


def _everybody(
    proposers: Panels, aggregator: Aggregator | Models, layers: int | None, policy: LayerPolicy, budget: Budget | None
) -> tuple[list[Group], Aggregator, list[Seat]]:
    """Who is asked, layer by layer and at the end."""
    made: dict[int, Model] = {}
    described = _panels(proposers, layers)
    panels = [seats(i, panel, policy, made) for i, panel in enumerate(described, 1)]
    family = aggregator_of(aggregator)
    finals = _finals(family, len(panels) + 1, policy)
    if not (panels or isinstance(family, Synthesize)):
        raise MoAConfigError(f"aggregator: {family.name} needs answers to read, and with layers=1 there are none")
    steps = [steps_of(described[k], panel, policy, last=k == len(panels) - 1) for k, panel in enumerate(panels)]
    check_patience([taken["stop"][0] if "stop" in taken else None for taken in steps])
    beside = [seat for taken in steps for _, seat in taken.values() if seat]
    _check_budget(budget, [*(seat for group in [*panels, finals] for seat in group), *beside])
    return [Group(panel, taken) for panel, taken in zip(panels, steps, strict=True)], family, finals


def _layer(terms: Terms, output: type, *, cache: BaseCache[Any] | None, **compile_: Any) -> Graph:
    panel = terms.panel
    number, policy = panel[0].layer, panel[0].layer_policy
    layer = StateGraph(LayerState, input_schema=LayerInput, output_schema=output)
    join = aggregate(number, len(panel), policy.quorum, terms.prompt)
    layer.add_node("aggregate", join, metadata=_metadata("aggregate", number))
    for kind, (step, asked) in terms.steps.items():
        node = deciding(kind, step, asked, Answers(cache), terms)
        layer.add_node(kind, node, metadata={**_metadata(kind, number, asked), "moa_step": step.name})
    behind = [kind for kind in ("select", "critique", "aggregate", "stop") if kind in {"aggregate", *terms.steps}]
    for seat in panel:
        node = propose(seat, Answers(cache), terms)
        layer.add_node(seat.name, node, metadata=_metadata("proposer", number, seat))
        layer.add_edge(seat.name, behind[0])
    names = [seat.name for seat in panel]
    if "route" in terms.steps:
        layer.add_edge(START, "route")
        layer.add_conditional_edges("route", chosen_by_route(names), names)
    for name in () if "route" in terms.steps else names:
        layer.add_edge(START, name)
    for one, next_one in pairwise([*behind, END]):
        layer.add_edge(one, next_one)
    compiled = _each_run_anew(layer.compile(cache=cache, **compile_))
    slots = {seat.name: seat.slot for seat in panel}
    return CompiledLayer(layer=number, slots=slots, policy=policy, **vars(compiled))


def _after(after: str, end: str) -> Callable[[Any], str]:
    """Where a mixture goes on behind a layer that may be the last."""
    return lambda state: end if state["carry"]["stopped"] else after


def steps_of(
    layer: Layer, panel: Sequence[Seat], policy: LayerPolicy, *, last: bool
) -> dict[str, tuple[Step, Seat | None]]:
    """The steps of a layer, checked, and whom they ask. Behind the last layer there is nothing to stop."""
    steps: dict[str, tuple[Step, Seat | None]] = {}
    number = panel[0].layer
    for kind in KINDS:
        if (given := getattr(layer, kind)) is None:
            continue
        where = f"layer {number}, {kind}"
        step = _step(kind, given, where)
        step.check([seat.name for seat in panel], where)
        if not (last and kind == "stop"):
            steps[kind] = step, _asked_by(step, number, kind, layer.policy or policy, where)
    return steps


def _step(kind: str, given: Any, where: str) -> Step:
    """The step that was given. Raises MoAConfigError for what is none, or belongs elsewhere."""
    step = as_route(given) if kind == "route" else given
    if isinstance(step, Step) and not isinstance(step, type) and step.kind == kind:
        return step
    elsewhere = getattr(step, "kind", None) in VALID and not isinstance(step, type)
    why = f"{type(step).__name__} belongs in {step.kind}=" if elsewhere else f"{step!r} is no step"
    raise MoAConfigError(f"{where}: {why}; give {VALID[kind]}")


def _asked_by(step: Step, number: int, kind: str, policy: LayerPolicy, where: str) -> Seat | None:
    if step.model is None:
        return None
    proposer = step.model if isinstance(step.model, Proposer) else Proposer(step.model)
    if proposer.samples != 1:
        raise MoAConfigError(f"{where}: its model is asked once: samples goes with proposers")
    return seated(number, 0, proposer.name or kind, proposer.resolve(where), proposer, policy, where)


def _metadata(role: str, layer: int, seat: Seat | None = None) -> dict[str, Any]:
    model = {"moa_model": seat.model.id} if seat else {}
    return {"moa_role": role, "moa_layer": layer, **model}


def _windows(family: Aggregator, writer: Writer, groups: Sequence[Group]) -> dict[str, Node]:
    """The nodes that read the answers of the last panel before the last node does."""
    if not isinstance(family, Sequential):
        return {}
    numbers = range(1, len(family.parts(len(groups[-1].panel))))
    return {f"window_{k}": window(family, writer, len(groups) + 1, k) for k in numbers}


def _by_windows(family: Aggregator) -> tuple[Callable[[int], Sequence[tuple[int, int]]] | None, int]:
    return (family.parts, family.keep) if isinstance(family, Sequential) else (None, 1)


def _final(family: Aggregator, writer: Writer, windows: Sized, layer: int, policy: LayerPolicy) -> Node:
    if isinstance(family, Synthesize):
        return final(writer)
    if isinstance(family, Sequential):
        last = _finals(Synthesize(family._last), layer, policy) if family._last else writer.seats
        return last_window(family, writer, replace(writer, seats=last), layer, len(windows))
    return picking(family, writer, layer)


def _about_final(family: Aggregator, layer: int, finals: Sequence[Seat]) -> dict[str, Any]:
    kind = {} if isinstance(family, Synthesize) else {"moa_aggregator": family.name}
    return {**_metadata("final", layer, finals[0] if finals else None), **kind}


def _panels(proposers: Panels, layers: int | None) -> list[Layer]:
    """One panel per proposer layer."""
    if layers is not None and (isinstance(layers, bool) or not isinstance(layers, int) or layers < 1):
        raise MoAConfigError(f"layers is {layers!r}: a whole number of at least 1 (1: the final model alone)")
    if isinstance(proposers, str) or not isinstance(proposers, Layer | Sequence):
        raise MoAConfigError("proposers are a list of models, also where there is just one")
    if not isinstance(proposers, Layer) and any(isinstance(p, Layer | list | tuple) for p in proposers):
        panels = [p if isinstance(p, Layer) else Layer(_members(p)) for p in proposers]
        if layers is not None and layers != len(panels) + 1:
            raise MoAConfigError(
                f"layers is {layers}, but {len(panels)} panels were given: the final model makes {len(panels) + 1}"
            )
        return panels
    same = proposers if isinstance(proposers, Layer) else Layer(proposers)  # type: ignore[arg-type]
    if not same.proposers and layers != 1:
        raise MoAConfigError("the panel is empty: give at least one proposer (or layers=1 for a plain call)")
    return [same] * ((3 if layers is None else layers) - 1)


def _members(panel: Any) -> Sequence[ProposerLike]:
    if not isinstance(panel, list | tuple):
        raise MoAConfigError("proposers mix models and panels: give one panel for all layers, or one list per layer")
    return panel


def _finals(family: Aggregator, layer: int, policy: LayerPolicy) -> list[Seat]:
    """The final model and its fallbacks, in the order they are asked; nobody where a vote asks no model."""
    given = models_of(family)
    if not given and not isinstance(family, Vote):
        raise MoAConfigError("there is no aggregator: give the final model")
    made = []
    for slot, one in enumerate(given, 1):
        model = one if isinstance(one, Proposer) else Proposer(one)
        if model.samples != 1:
            raise MoAConfigError("the aggregator answers once: samples goes with proposers")
        where = "aggregator" if len(given) == 1 else f"aggregator {slot}"
        made.append(seated(layer, slot, model.name or "final", model.resolve(where), model, policy, where))
    return made


def _check_budget(budget: Any, everyone: Sequence[Seat]) -> None:
    """Raises MoAConfigError for what is no budget, and for a model without a price where $ are limited."""
    if budget is None:
        return
    if not isinstance(budget, Budget):
        raise MoAConfigError(f"budget is {budget!r}: give a Budget, such as Budget(usd=0.05), or None")
    for one in everyone if budget.usd is not None else ():
        if one.model.is_one_call and one.prices.price(one.known_as) is None:
            raise MoAConfigError(
                f"budget: usd needs the price of every model, and that of {one.model.id} is unknown: "
                "give it a price, or limit tokens or calls"
            )


def _prompt(prompt: str | Prompt) -> Prompt:
    return prompt if isinstance(prompt, Prompt) else Prompt(prompt)


def _checked(policy: LayerPolicy | None, cache: BaseCache[Any] | None) -> LayerPolicy:
    if cache is not None and not isinstance(cache, BaseCache):
        raise MoAConfigError(f"cache is {cache!r}: give a LangGraph cache, such as InMemoryCache(), or None")
    return checked(policy) or LayerPolicy()


def _each_run_anew(graph: Graph) -> Graph:
    """Let every new input start with no proposals and no synthesis: on a thread, the last turn's are still there.

    The input is written by the hidden start node; a node of our own would stand in the picture.
    """
    write = graph.nodes[START].writers[0]
    entry = write.writes[0]  # type: ignore[attr-defined]

    def mapper(given: Any) -> list[tuple[str, Any]]:
        fresh = {
            "proposals": None,
            "synthesis": "",
            "carry": None,
            "decisions": None,
            **dict(entry.mapper(given) or ()),
        }
        return list(fresh.items())

    write.writes = (entry._replace(mapper=mapper), *write.writes[1:])  # type: ignore[attr-defined]
    return graph
