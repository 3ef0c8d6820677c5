"""Whether a layer is asked, and each of its steps: what its budget says, and what was decided behind the layers before.

A layer is asked where there is enough for all of it, its steps too. Its answers may take more than was expected, so
what a step takes is looked at again before it asks.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from moa_graph.budget import Amount, Holding, Purse, spent
from moa_graph.fit import about_messages
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt
from moa_graph.reading import (
    about_answers,
    about_decision,
    about_reference,
    asked,
    expected,
    expected_of_step,
    likely_answer,
)
from moa_graph.run import Run, exceeded
from moa_graph.state import Proposal
from moa_graph.steps import Step
from moa_graph.waiting import LayerRun

__all__ = ["Group", "Steps", "Terms", "held_for_step", "left_out", "read_on"]

State = Any
Steps = Mapping[str, tuple[Step, Seat | None]]
"""What happens in a layer beside proposing, by kind and in this order, and who is asked for it."""

_TOO_SMALL: Final = "the budget is too small"


class Group(NamedTuple):
    """Who is asked in a layer."""

    panel: Sequence[Seat]
    steps: Steps


class Terms(NamedTuple):
    """What the seats of one layer share: who else is asked in it, who in later ones and at the end, and the prompt."""

    panel: Sequence[Seat]
    later: Sequence[Group]
    finals: Sequence[Seat]
    prompt: Prompt
    stream: bool
    steps: Steps
    parts: Callable[[int], Sequence[tuple[int, int]]] | None = None
    """Which of so many answers each window reads, from and to, where the final model reads them window by window."""
    keep: int = 1
    """What the last `keep` windows have made of theirs is read by the next one."""


def read_on(state: State, layer: int) -> list[Proposal]:
    """The answers of a layer that are read on."""
    own = [p for p in state.get("proposals") or () if p["layer"] == layer]
    return [p for p in own if p["status"] == "ok" and "unread" not in p]


async def left_out(layer: LayerRun, state: State, terms: Terms) -> bool:
    """Whether nobody of this layer's panel is asked. Raises BudgetExceededError where that is an error."""
    if _is_left_out(layer, state) or (purse := layer.run.purse) is None:
        return bool(layer.left_out)
    if why := await layer.refused(lambda earlier: _hold_panel(layer, purse, earlier, state, terms)):
        _leave_out(layer, purse, why)
    return bool(layer.left_out)


def _is_left_out(layer: LayerRun, state: State) -> bool:
    """Whether that is known already: by one that came before in this layer, or from the layers before."""
    if why := (state.get("carry") or {}).get("stopped"):
        layer.leave_out(why)
    return bool(layer.left_out)


def held_for_step(kind: str, seat: Seat | None, layer: LayerRun, state: State, terms: Terms) -> Holding | str:
    """What is held back for what a step asks; or why there is not enough for it: where it is the layer's route, nobody
    of the layer is asked then. Raises BudgetExceededError where that is an error.
    """
    run, purse = layer.run, layer.run.purse
    if _is_left_out(layer, state) or purse is None or seat is None:
        return run.holding(Amount)
    answers = [about_reference(p) for p in read_on(state, layer.number)]
    needs = expected_of_step(kind, seat, about_messages(asked(state)), answers)
    behind = [_behind(kind, state, terms, answers)]
    if kind == "route":
        behind += [expected(one, state) for one in terms.panel]
    before = _spent(layer, state, () if kind == "stop" else state.get("proposals") or ())
    if not (why := _hold(run, purse, before, needs, Amount.sum(behind), state, terms, answered=kind != "route")):
        return Holding(purse, run, Amount.sum(needs), max(needs, default=None))
    if kind == "route":
        _leave_out(layer, purse, why)
    elif purse.budget.on_exceed == "stop":
        raise exceeded(run, f"before the {kind} of layer {layer.number} {_TOO_SMALL}: {why}", run.asked, run.receipt())
    return f"{_TOO_SMALL}: {why}"


def _leave_out(layer: LayerRun, purse: Purse, why: str) -> None:
    why = f"from layer {layer.number} on {_TOO_SMALL}: {why}"
    if purse.budget.on_exceed == "stop":
        raise exceeded(layer.run, why, layer.run.asked, layer.run.receipt())
    layer.leave_out(why)


def _hold_panel(layer: LayerRun, purse: Purse, earlier: Sequence[Proposal], state: State, terms: Terms) -> str:
    """Hold back what those are going to take who have not answered `earlier`; else why that cannot be."""
    done, chosen = {p["slot"] for p in earlier}, state.get("routed") or [seat.name for seat in terms.panel]
    needs = [expected(seat, state) for seat in terms.panel if seat.slot not in done and seat.name in chosen]
    before, behind = _spent(layer, state, earlier), _behind("route", state, terms)
    return _hold(layer.run, purse, before, needs, behind, state, terms, answered=bool(state.get("synthesis")))


def _hold(
    run: Run, purse: Purse, before: Amount, needs: Sequence[Amount], behind: Amount, state: State, terms: Terms, *,
    answered: bool,
) -> str:  # fmt: skip
    """Hold back `needs`, where there is enough for what comes `behind` them in the layer too; else why that cannot be.

    What comes behind the layer is set aside: of a shared budget all; else the final model's call, where an answer is
    wanted in any case and there is something to answer from (`answered`), and from further attempts.
    """
    shared = purse.budget.shared
    purse.begin(before)
    whole = behind.plus(_rest(state, terms if shared else terms._replace(later=())))
    aside = whole if shared or (answered and purse.budget.on_exceed == "answer") else behind
    if not (why := purse.hold(run, needs, aside)):
        purse.promise(run, whole)
    return why


def _spent(layer: LayerRun, state: State, made: Sequence[Proposal]) -> Amount:
    """What the thread has spent up to here. `made`: in this layer, as far as it is not in the carry yet."""
    before = Amount(*(state.get("carry") or {}).get("spent", ()))
    decided = [d["call"] for d in state.get("decisions") or () if d["layer"] == layer.number and "call" in d]
    return before.plus(spent([*made, *decided])) if made or decided else before


def _behind(kind: str, state: State, terms: Terms, answers: Sequence[int] | None = None) -> Amount:
    """What the steps behind this one in its layer are expected to take. `answers`: their tokens, where known."""
    kinds = [*terms.steps]
    behind = {k: terms.steps[k] for k in (kinds[kinds.index(kind) + 1 :] if kind in kinds else kinds)}
    return _of_steps(behind, state, answers or [*map(likely_answer, terms.panel)])


def _of_steps(steps: Steps, state: State, answers: Sequence[int]) -> Amount:
    question = about_messages(asked(state)) if steps else 0
    calls = (expected_of_step(kind, seat, question, answers) for kind, (_, seat) in steps.items() if seat)
    return Amount.sum([*chain.from_iterable(calls)])


def _rest(state: State, terms: Terms) -> Amount:
    """What the layers behind this one, and the final model, are expected to take."""
    bare = {**state, "synthesis": ""}  # each reads the answers of the layer before it, and no others
    *before, last = [_answers(group) for group in (Group(terms.panel, terms.steps), *terms.later)]
    read = [about_answers(terms.prompt, answers) for answers in before]
    layers = [expected(seat, bare, more) for more, group in zip(read, terms.later, strict=True) for seat in group.panel]
    steps = [_of_steps(group.steps, state, [*map(likely_answer, group.panel)]) for group in terms.later]
    return Amount.sum([*layers, *steps, _at_end(terms, bare, last)])


def _at_end(terms: Terms, bare: State, answers: Sequence[int]) -> Amount:
    """What the final model is expected to take that reads `answers` of so many tokens; nothing where none is asked."""
    if not terms.finals:
        return Amount()
    seat, made = terms.finals[0], likely_answer(terms.finals[0])
    parts = terms.parts(len(answers)) if terms.parts else [(0, len(answers))]
    shown = ([*[made] * min(k, terms.keep), *answers[slice(*part)]] for k, part in enumerate(parts))
    return Amount.sum([expected(seat, bare, about_answers(terms.prompt, each)) for each in shown])


def _answers(group: Group) -> list[int]:
    """Tokens of each answer of a layer that are expected to be read on."""
    answers = [*map(likely_answer, group.panel)]
    if critic := group.steps.get("critique", (None, None))[1]:
        made = about_decision("critique", 0, answers, critic.model.parameters.get("max_tokens"))
        answers = [said + more for said, (_, more) in zip(answers, made, strict=True)]
    return answers
