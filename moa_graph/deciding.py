"""The nodes of a layer beside its proposers: route, select, critique, stop. Each asks one step, and writes it down."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from moa_graph.admission import Terms, held_for_step, read_on
from moa_graph.budget import Amount, Holding, spent
from moa_graph.cache import Answers
from moa_graph.errors import MoARunError, clean, describe
from moa_graph.events import LayerLeftOut, Tell, decided
from moa_graph.nodes import Node, State
from moa_graph.panel import Seat
from moa_graph.reading import asked
from moa_graph.state import Carry, Decision
from moa_graph.steps import Asked, Judgement, Situation, Step, UndecidedError
from moa_graph.waiting import KEY, LayerRun

__all__ = ["KINDS", "VALID", "chosen_by_route", "deciding"]

KINDS: Final = ("route", "select", "critique", "stop")
"""In the order in which a layer has them; the proposers answer behind the route, and are aggregated before the stop."""

VALID: Final = {
    "route": "a Route, a model, or a function from messages and names to names",
    "select": "TopK, Diverse or Cluster",
    "critique": "a Critique",
    "stop": "Agreement, Sentinel or Judge",
}
"""What each of them may be; or an object of one's own (`moa_graph.steps.Step`)."""


def deciding(kind: str, step: Step, seat: Seat | None, answers: Answers, terms: Terms) -> Node:
    """The node of one step of a layer. `seat`: its model's. Raises UndecidedError where it cannot be decided."""

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        layer: LayerRun = config["configurable"][KEY]
        asked(state)
        if kind == "route":
            layer.hear(tell)
        held = held_for_step(kind, seat, layer, state, terms)
        if layer.left_out:
            return {"routed": []} if kind == "route" else {}
        judgement, decision = await _decided(kind, step, seat, answers, config, layer, terms, state, held)
        layer.tell(decided(decision))
        return {"decisions": [decision], **_WRITE[kind](judgement, decision, state, layer, terms)}

    return Node(kind, call)


def chosen_by_route(panel: Sequence[str]) -> Callable[[State], list[str]]:
    """Where a layer goes on behind its route: to whom it chose; to all, who are not asked then, if it is left out."""
    return lambda state: state.get("routed") or [*panel]


async def _decided(
    kind: str,
    step: Step,
    seat: Seat | None,
    answers: Answers,
    config: RunnableConfig,
    layer: LayerRun,
    terms: Terms,
    state: State,
    held: Holding | str,
) -> tuple[Judgement, Decision]:
    """What was decided, and how it is written down. `held`: for what is asked, or why nobody may be."""
    run = layer.run
    decision = Decision(layer=layer.number, step=cast("Any", kind), by=step.name, chosen=[], said="", run=run.id)
    situation = Situation(
        layer=layer.number,
        conversation=asked(state),
        proposals=read_on(state, layer.number),
        panel=[seat.name for seat in terms.panel],
        quorum=terms.panel[0].layer_policy.quorum,
        timeout=terms.panel[0].layer_policy.timeout,
        seed=run.seed,
        before=[d for d in state.get("decisions") or () if d["step"] == kind and d["layer"] < layer.number],
    )
    if isinstance(held, str):
        return _undecided(held, situation, decision, layer)
    ask = Asked(seat, answers, config, run, held.again) if seat else None
    try:
        judgement = await step.decide(replace(situation, ask=ask))
    except GraphBubbleUp:
        raise
    except Exception as error:
        decision["said"] = clean(str(error)) if isinstance(error, MoARunError) else describe(error)
        _count(ask, decision, layer)
        raise _failed(f"layer {layer.number}, {kind} ({step.name}): {decision['said']}", layer) from error
    finally:
        if ask:
            ask.settle(held)
    decision["chosen"], decision["said"] = judgement.chosen, judgement.said
    if judgement.score is not None:
        decision["score"] = judgement.score
    _count(ask, decision, layer)
    return judgement, decision


def _undecided(why: str, situation: Situation, decision: Decision, layer: LayerRun) -> tuple[Judgement, Decision]:
    """A step that may ask nobody: all answers are read on, without a critique, and it is not the end."""
    judgement = Judgement(situation.names, f"nobody was asked: {why}")
    decision["chosen"], decision["said"] = judgement.chosen, judgement.said
    layer.run.decided.append(decision)
    return judgement, decision


def _failed(why: str, layer: LayerRun) -> MoARunError:
    """The error of a step that could not decide: the run ends here."""
    error = UndecidedError(why, layer.run.asked)
    error.receipt = layer.run.receipt()
    layer.run.end()
    return error


def _count(ask: Asked | None, decision: Decision, layer: LayerRun) -> None:
    """What was asked is in the receipt."""
    if ask and ask.asked:
        decision["call"] = cast("dict[str, Any]", ask.call())
    layer.run.decided.append(decision)


# What each writes


def _routed(judgement: Judgement, _: Decision, __: State, layer: LayerRun, terms: Terms) -> dict[str, Any]:
    names = [seat.name for seat in terms.panel if seat.name in judgement.chosen]
    quorum = terms.panel[0].layer_policy.quorum
    if len(names) < quorum:
        chose = f"chose {len(names)} proposers of {len(terms.panel)}; {quorum} must answer"
        raise _failed(f"layer {layer.number}, route: it {chose}", layer)
    return {"routed": names}


def _selected(judgement: Judgement, decision: Decision, state: State, layer: LayerRun, _: Terms) -> dict[str, Any]:
    others = [p for p in read_on(state, layer.number) if p["proposer"] not in judgement.chosen]
    return {"proposals": [{**p, "unread": f"{decision['by']}: {judgement.said}"} for p in others]}


def _criticised(judgement: Judgement, _: Decision, state: State, layer: LayerRun, __: Terms) -> dict[str, Any]:
    read = read_on(state, layer.number)
    said = judgement.texts
    return {"proposals": [{**p, "critique": said[p["proposer"]]} for p in read if p["proposer"] in said]}


def _stopped(judgement: Judgement, decision: Decision, state: State, layer: LayerRun, terms: Terms) -> dict[str, Any]:
    carry: Carry = state["carry"]
    used = [decision["call"]] if "call" in decision else []
    carry = {**carry, "spent": [*Amount(*carry["spent"]).plus(spent(used))]}
    if not judgement.stop:
        return {"carry": carry}
    why = f"stopped behind layer {layer.number} by {decision['by']}: {judgement.said}"
    for k, _ in enumerate(terms.later, layer.number + 1):
        layer.tell(LayerLeftOut(type="moa.layer_left_out", run=layer.run.id, layer=k, why=why))
    return {"carry": {**carry, "stopped": why}}


_WRITE: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "route": _routed, "select": _selected, "critique": _criticised, "stop": _stopped,
}  # fmt: skip
