"""What a run is going to take, before anything is asked: calls, tokens, $ and TFLOPs, layer by layer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage
from typing_extensions import TypedDict

from moa_graph.budget import Amount, Budget
from moa_graph.fit import about_messages
from moa_graph.flops import tflops
from moa_graph.panel import foreseen_room
from moa_graph.prices import Prices
from moa_graph.prompts import Prompt, x_next
from moa_graph.questions import conversation
from moa_graph.reading import about_answers, about_decision, fitted, likely_output
from moa_graph.receipt import known, total

__all__ = ["Asked", "Beside", "Estimate", "LayerEstimate", "estimate", "too_small"]

_SMALL: Final = 4096  # tokens; what fits any window is not looked up: LangChain's profiles take a second to load


class LayerEstimate(TypedDict):
    """One layer; the last is the final model. Tokens of all its calls together."""

    layer: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """`None`: the price of one of its models is unknown."""
    cost_usd_at_least: float
    tflops: float | None
    """Of all its calls; `None`: the active parameters of one of its models are unknown."""


class Estimate(TypedDict):
    """A run in which every model is asked once and answers. Sums as in a receipt."""

    layers: list[LayerEstimate]
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    cost_usd_at_least: float
    tflops_critical: float | None
    tflops_total: float | None
    unpriced: list[str]
    """The models without a known price."""
    measured: list[str]
    """The models whose usual length of an answer is known from earlier runs; of the others it is assumed."""


class Asked(NamedTuple):
    """One model, as often as it is asked."""

    model: str
    system: str | None
    max_tokens: int | None
    prices: Prices
    window: int | None = None
    """Its context window, where the mixture says it; else what LangChain knows of it."""


class Beside(NamedTuple):
    """Whom a step of a layer asks: its kind is `route`, `select`, `critique` or `stop`."""

    kind: str
    asked: Asked


def estimate(
    panels: Sequence[Sequence[Asked]],
    finals: Sequence[Asked],
    messages: Any,
    prompt: Prompt,
    usual: Mapping[str, float],
    beside: Sequence[Sequence[Beside]] = (),
    windows: Sequence[tuple[int, int]] = (),
    keep: int = 1,
) -> Estimate:
    """What the panels and the final model are going to take for `messages` (a text, or what LangChain takes).

    `finals`: nobody where a vote asks no model; with `windows`, who is asked in each of them with those answers, from
    and to, and what the last `keep` made of theirs.
    An answer is expected to have `usual[model]` tokens, else `moa_graph.budget.USUAL_OUTPUT`, and never more than
    `max_tokens`. References beyond what a model's context window leaves are taken to be made to fit.
    `beside`: whom the steps of each layer ask; nothing is taken to be left out by them.
    Raises MoAConfigError where there is no question.
    """
    question = conversation(messages)
    tokens = about_messages(question)
    layers, before, operations = list[LayerEstimate](), list[int](), list[list[float | None]]()
    unpriced = set[str]()
    for number, asked in enumerate([*panels, finals], 1):
        shown = [before] * len(asked)
        if windows and number > len(panels):
            kept = [_output(one, usual) for one in asked]
            shown = [[*kept[max(0, k - keep) : k], *before[slice(*part)]] for k, part in enumerate(windows)]
        read = [about_answers(prompt, each) for each in shown]
        given = [_given(one, question, more) for one, more in zip(asked, read, strict=True)]
        before = [_output(one, usual) for one in asked]
        calls = [*zip(asked, given, before, strict=True)]
        operations.append([tflops([one.model], said) for one, _, said in calls])
        answers = before
        for kind, one in beside[number - 1] if number <= len(beside) else ():
            made = about_decision(kind, tokens, answers, one.max_tokens)
            calls += [(one, *call) for call in made]
            if kind == "critique":
                before = [said + more for said, (_, more) in zip(answers, made, strict=True)]
        layers.append(_layer(number, calls))
        unpriced |= {call[0].model for call in calls if _cost(*call) is None}
    everyone = {one.model for asked in [*panels, finals] for one in asked}
    return Estimate(
        layers=layers,
        calls=sum(layer["calls"] for layer in layers),
        input_tokens=sum(layer["input_tokens"] for layer in layers),
        output_tokens=sum(layer["output_tokens"] for layer in layers),
        cost_usd=total(layer["cost_usd"] for layer in layers),
        cost_usd_at_least=known(layer["cost_usd_at_least"] for layer in layers),
        tflops_critical=total([*(_largest(layer) for layer in operations[:-1]), total(operations[-1])]),
        tflops_total=total(layer["tflops"] for layer in layers),
        unpriced=sorted(unpriced),
        measured=sorted(everyone & usual.keys()),
    )


def too_small(budget: Budget | None, made: Estimate) -> str:
    """In one line, what a budget that is smaller than the estimate is going to do; `""`: none is."""
    tokens = made["input_tokens"] + made["output_tokens"]
    need = Amount(made["cost_usd"] or made["cost_usd_at_least"], tokens, made["calls"])
    if budget is None or not (limits := budget.smaller_than(need)):
        return ""
    stops = budget.on_exceed == "stop" or len(made["layers"]) == 1
    what = "the run will stop" if stops else "layers will be left out"
    return f"the budget of {' and '.join(limits)} is smaller: {what}"


def _layer(number: int, calls: Sequence[tuple[Asked, int, int]]) -> LayerEstimate:
    costs = [_cost(*call) for call in calls]
    return LayerEstimate(
        layer=number, calls=len(calls), input_tokens=sum(given for _, given, _ in calls),
        output_tokens=sum(said for *_, said in calls), cost_usd=total(costs), cost_usd_at_least=known(costs),
        tflops=total(tflops([one.model], said) for one, _, said in calls),
    )  # fmt: skip


def _given(one: Asked, question: Sequence[BaseMessage], read: int) -> int:
    """Tokens that a model reads: `read` of references, as far as they fit its context window."""
    bare = about_messages(x_next(question, "", one.system))
    small = one.window is None and bare + read <= _SMALL
    return bare + read if small else fitted(bare, read, foreseen_room(one.model, one.max_tokens, one.window))


def _output(one: Asked, usual: Mapping[str, float]) -> int:
    return likely_output(one.max_tokens, usual.get(one.model))


def _cost(one: Asked, given: int, said: int) -> float | None:
    return one.prices.cost([one.model], {"input_tokens": given, "output_tokens": said})


def _largest(operations: Iterable[float | None]) -> float | None:
    values = list(operations)
    return None if None in values else max((value for value in values if value is not None), default=0.0)
