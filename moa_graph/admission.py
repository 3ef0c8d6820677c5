"""Whether a layer is asked: what its budget says, and what was decided behind the layers before it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from moa_graph.budget import Amount, Purse, spent
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt
from moa_graph.reading import about_answers, about_synthesis, expected, likely_answer
from moa_graph.run import Run, exceeded
from moa_graph.state import Proposal
from moa_graph.steps import Step
from moa_graph.waiting import LayerRun

__all__ = ["Terms", "left_out"]

State = Any


class Terms(NamedTuple):
    """What the seats of one layer share: who else is asked in it, who in later ones and at the end, and the prompt."""

    panel: Sequence[Seat]
    later: Sequence[Sequence[Seat]]
    finals: Sequence[Seat]
    prompt: Prompt
    stream: bool
    steps: Mapping[str, tuple[Step, Seat | None]]
    """What happens beside proposing, by kind, and who is asked for it."""
    windows: int = 1
    """How often the final model is asked, each time with its part of the answers."""


async def left_out(layer: LayerRun, state: State, terms: Terms) -> bool:
    """Whether nobody of this layer is asked. Raises BudgetExceededError where that is an error."""
    carry = state.get("carry") or {}
    if carry.get("stopped"):
        layer.leave_out(carry["stopped"])
    elif (purse := layer.run.purse) is not None:
        if not (why := await layer.refused(lambda earlier: _hold(layer.run, purse, earlier, state, terms))):
            return False
        why = f"from layer {layer.number} on the budget is too small: {why}"
        if purse.budget.on_exceed == "stop":
            raise exceeded(layer.run, why, layer.run.asked, layer.run.receipt())
        layer.leave_out(why)
    return bool(layer.left_out)


def _hold(run: Run, purse: Purse, earlier: Sequence[Proposal], state: State, terms: Terms) -> str:
    """Hold back what those are going to take who have not answered `earlier`; else why that cannot be."""
    before = Amount(*(state.get("carry") or {}).get("spent", ()))
    purse.begin(before.plus(spent(earlier)))
    done = {p["slot"] for p in earlier}
    needs = [expected(seat, state) for seat in terms.panel if seat.slot not in done]
    if purse.budget.shared:
        aside = _rest(state, terms)
    else:
        answer = purse.budget.on_exceed == "answer" and state.get("synthesis")
        aside = _rest(state, terms._replace(later=())) if answer else Amount()
    if not (why := purse.hold(run, needs, aside)) and not purse.budget.shared:
        purse.promise(run, _rest(state, terms._replace(later=())))
    return why


def _at_end(terms: Terms, state: State, more: int = 0) -> Amount:
    """What the final model is expected to take; nothing where none is asked. `more`: as in `expected`."""
    if not terms.finals:
        return Amount()
    if terms.windows == 1:
        return expected(terms.finals[0], state, more)
    part = (about_synthesis(state) + more) // terms.windows
    seat = terms.finals[0]
    return Amount.sum([expected(seat, {**state, "synthesis": ""}, part + likely_answer(seat))] * terms.windows)


def _rest(state: State, terms: Terms) -> Amount:
    """What the layers behind this one, and the final model, are expected to take."""
    read = [about_answers(terms.prompt, [*map(likely_answer, panel)]) for panel in [terms.panel, *terms.later]]
    bare = {**state, "synthesis": ""}  # each reads the answers of the layer before it, and no others
    layers = [expected(seat, bare, more) for more, panel in zip(read, terms.later, strict=False) for seat in panel]
    return Amount.sum([*layers, _at_end(terms, bare, read[-1])])
