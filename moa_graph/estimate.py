"""What a run is going to take, before anything is asked: calls, tokens, $ and TFLOPs, layer by layer."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from typing_extensions import TypedDict

from moa_graph.errors import MoAConfigError
from moa_graph.fit import about, about_messages
from moa_graph.flops import tflops
from moa_graph.prices import Prices
from moa_graph.prompts import Prompt, x_next
from moa_graph.reading import likely_output
from moa_graph.receipt import known, total

__all__ = ["Asked", "Estimate", "LayerEstimate", "estimate"]


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
    measured: list[str]
    """The models whose usual length of an answer is known from earlier runs; of the others it is assumed."""


class Asked(NamedTuple):
    """One model, as often as it is asked."""

    model: str
    system: str | None
    max_tokens: int | None
    prices: Prices


def estimate(
    panels: Sequence[Sequence[Asked]],
    final: Asked,
    messages: Any,
    prompt: Prompt,
    usual: Mapping[str, float],
) -> Estimate:
    """What the panels and the final model are going to take for `messages` (a text, or what LangChain takes).

    An answer is expected to have `usual[model]` tokens, else `moa_graph.budget.USUAL_OUTPUT`, and never more than
    `max_tokens`. Raises MoAConfigError where there is no message.
    """
    conversation = _messages(messages)
    instruction = about(prompt.synthesis([]))
    layers, before, operations = list[LayerEstimate](), list[int](), list[list[float | None]]()
    for number, asked in enumerate([*panels, [final]], 1):
        references = instruction + sum(before) + 4 * len(before) if before else 0
        given = [about_messages(x_next(conversation, "", one.system)) + references for one in asked]
        before = [_output(one, usual) for one in asked]
        costs = [_cost(one, *tokens) for one, *tokens in zip(asked, given, before, strict=True)]
        operations.append([tflops([one.model], said) for one, said in zip(asked, before, strict=True)])
        layers.append(
            LayerEstimate(
                layer=number, calls=len(asked), input_tokens=sum(given), output_tokens=sum(before),
                cost_usd=total(costs), cost_usd_at_least=known(costs), tflops=total(operations[-1]),
            )
        )  # fmt: skip
    everyone = {one.model for asked in [*panels, [final]] for one in asked}
    return Estimate(
        layers=layers,
        calls=sum(layer["calls"] for layer in layers),
        input_tokens=sum(layer["input_tokens"] for layer in layers),
        output_tokens=sum(layer["output_tokens"] for layer in layers),
        cost_usd=total(layer["cost_usd"] for layer in layers),
        cost_usd_at_least=known(layer["cost_usd_at_least"] for layer in layers),
        tflops_critical=total(_largest(layer) for layer in operations),
        tflops_total=total(layer["tflops"] for layer in layers),
        measured=sorted(everyone & usual.keys()),
    )


def _messages(given: Any) -> list[BaseMessage]:
    if isinstance(given, Mapping):
        given = given.get("messages")
    try:
        made = convert_to_messages([HumanMessage(given)] if isinstance(given, str) else given or [])
    except (TypeError, ValueError, NotImplementedError) as error:
        raise MoAConfigError(f"{given!r} is no question: give a text, messages, or what a graph takes") from error
    if not made or not any(message.text.strip() or not isinstance(message.content, str) for message in made):
        raise MoAConfigError('there is no message to estimate for: give a question, or [("user", "…")]')
    return made


def _output(one: Asked, usual: Mapping[str, float]) -> int:
    if (length := usual.get(one.model)) is None:
        return likely_output(one.max_tokens)
    return round(length if one.max_tokens is None else min(length, one.max_tokens))


def _cost(one: Asked, given: int, said: int) -> float | None:
    return one.prices.cost([one.model], {"input_tokens": given, "output_tokens": said})


def _largest(operations: Iterable[float | None]) -> float | None:
    values = list(operations)
    return None if None in values else max((value for value in values if value is not None), default=0.0)
