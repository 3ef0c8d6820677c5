"""Who answered, how long it took, what it used and cost: `messages[-1].response_metadata["moa"]`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NotRequired

from typing_extensions import TypedDict

from moa_graph.state import Decision, Fitting, Proposal

__all__ = ["Call", "LayerReceipt", "Receipt", "final_call", "known", "receipt", "total", "usage_of"]


class Call(TypedDict):
    """One model's part in a run. `seconds`: wall time of all attempts; `attempts`: how often it was asked."""

    proposer: str
    model: str
    status: str
    """That of a proposal; of a final model also `unasked`, in the receipt of a run that failed before."""
    seconds: float
    attempts: int
    calls: NotRequired[int]
    """Requests sent to providers, where they are not the attempts: an agent or a nested mixture makes several."""
    usage: dict[str, int]
    """Empty where nothing was reported; of an agent or a nested mixture: of all its calls."""
    cost_usd: float | None
    """By list price (see `moa_graph.prices`). `None`: unknown - a model without a known price, an answer without
    usage, or one that was cut while the provider was counting."""
    cost_usd_at_least: NotRequired[float]
    """Where the cost is unknown: what is known of it."""
    tflops: float | None
    """2 x active parameters x output tokens, in 10^12 operations; `None`: unknown (see `moa_graph.flops`)."""
    finish_reason: NotRequired[str]
    """Why the answer ends where it does, if not because it is whole: `length` at `max_tokens`."""
    unread: NotRequired[str]
    """Why the next layer does not read it (see `Proposal`)."""
    fit: NotRequired[Fitting]
    """Which references it did not read whole: they did not fit its context window."""
    error: str | None
    """Type and message; of a final model that answered: why those before it failed."""
    cached: bool
    resumed: bool
    """Answered in an earlier run of this thread: not asked, and not counted, again."""


class LayerReceipt(TypedDict):
    """`asked`, `answered`: proposers; `seconds`: until its slowest needed proposer was done."""

    layer: int
    asked: int
    answered: int
    seconds: float
    proposals: list[Call]


class Receipt(TypedDict):
    """`calls`: requests sent to providers; tokens as the providers reported them.

    `cached_input_tokens`: those of `input_tokens` that providers read from their prefix caches.
    `seconds`: wall time of what this run asked, layer by layer; `critical_path_seconds`: the floor of the run,
    each layer's slowest answer plus the final model.
    """

    layers: list[LayerReceipt]
    final: Call
    calls: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """Of all calls of this run; `None` where that of any is unknown."""
    cost_usd_at_least: float
    """The sum of what is known."""
    tflops_critical: float | None
    """The paper's figure (section 3.4): each layer's largest answer, summed over the layers and the final model."""
    tflops_total: float | None
    """Of all calls of this run."""
    seconds: float
    critical_path_seconds: float
    stopped: str | None
    """Why layers were left out; `None`: none was."""
    decisions: list[Decision]
    """What was decided between the layers and at the end, by steps beside the proposers. Their calls count."""
    seed: int
    """What lots were drawn with: the order of references that are shuffled."""


def receipt(
    proposals: Sequence[Proposal],
    final: Call,
    run: str,
    seconds: float | None = None,
    *,
    stopped: str | None = None,
    decisions: Sequence[Decision] = (),
    seed: int = 0,
) -> Receipt:
    """The receipt of a run that ends with `final`; `run` tells what this run asked from what it found done."""
    layers = [
        _layer(number, [_call(p, run) for p in members])
        for number, members in groupby(proposals, key=lambda proposal: proposal["layer"])
    ]
    made = [call for layer in layers for call in layer["proposals"]] + [final]
    beside: list[Any] = [d["call"] for d in decisions if "call" in d and d["run"] == run]
    sent = [call for call in made if not call["resumed"]] + beside
    counted = [call for call in sent if not call["cached"]]
    windows: list[Any] = [d["call"] for d in decisions if d["step"] == "aggregator" and "call" in d]
    ends = [*windows, final]
    path = sum(_slowest(layer["proposals"]) for layer in layers) + sum(call["seconds"] for call in ends)
    return Receipt(
        layers=layers,
        final=final,
        calls=sum(call.get("calls", call["attempts"]) for call in sent),
        input_tokens=_sum("input_tokens", counted),
        cached_input_tokens=_sum("cached_input_tokens", counted),
        output_tokens=_sum("output_tokens", counted),
        cost_usd=total(call.get("cost_usd") for call in counted),
        cost_usd_at_least=known(call.get("cost_usd") or call.get("cost_usd_at_least") for call in counted),
        tflops_critical=total(
            [*(_largest(layer["proposals"]) for layer in layers), *(call.get("tflops") for call in ends)]
        ),
        tflops_total=total(call.get("tflops") for call in counted),
        seconds=round(sum(layer["seconds"] for layer in layers) + final["seconds"], 3) if seconds is None else seconds,
        critical_path_seconds=round(path, 3),
        stopped=stopped,
        decisions=[_as_of(decision, run) for decision in decisions],
        seed=seed,
    )


def _as_of(decision: Decision, run: str) -> Decision:
    """A decision, whose call was made in an earlier run where it was."""
    if "call" not in decision or decision["run"] == run:
        return decision
    return {**decision, "call": {**decision["call"], "resumed": True}}


def final_call(status: str, model: str = "") -> Call:
    """A final model's part in a run without an answer, before what it used is put in."""
    return Call(
        proposer="final", model=model, status=status, seconds=0.0, attempts=0, usage={}, cost_usd=0.0, tflops=0.0,
        error=None, cached=False, resumed=False,
    )  # fmt: skip


def total(values: Iterable[float | None]) -> float | None:
    """The sum; `None` where any of them is unknown."""
    given = list(values)
    return None if None in given else known(given)


def known(values: Iterable[float | None]) -> float:
    """The sum of those that are known."""
    return round(float(sum(filter(None, values))), 9)


def _sum(tokens: str, calls: Sequence[Call]) -> int:
    return sum(call["usage"].get(tokens, 0) for call in calls)


def _layer(number: int, calls: list[Call]) -> LayerReceipt:
    return LayerReceipt(
        layer=number,
        asked=len(calls),
        answered=sum(call["status"] == "ok" for call in calls),
        seconds=max((call["seconds"] for call in calls if not call["resumed"]), default=0.0),
        proposals=calls,
    )


def _slowest(calls: Sequence[Call]) -> float:
    return max((call["seconds"] for call in calls if call["status"] == "ok"), default=0.0)


def _largest(calls: Sequence[Call]) -> float | None:
    answered = [call["tflops"] for call in calls if call["status"] == "ok"]
    return None if None in answered else max((value for value in answered if value is not None), default=0.0)


def _call(proposal: Proposal, run: str) -> Call:
    call = Call(
        proposer=proposal["proposer"],
        model=proposal["model"],
        status=proposal["status"],
        seconds=proposal["seconds"],
        attempts=proposal["attempts"],
        usage=proposal.get("usage", {}),
        cost_usd=proposal.get("cost_usd", None if proposal["attempts"] else 0.0),  # a person's costs nothing
        tflops=proposal.get("tflops", None if proposal["attempts"] else 0.0),
        error=proposal.get("error"),
        cached=proposal.get("cached", False),
        resumed=proposal.get("run", run) != run,
    )
    for name in ("calls", "cost_usd_at_least", "finish_reason", "fit", "unread"):
        if name in proposal:
            call[name] = proposal[name]
    return call


def usage_of(metadata: Mapping[str, Any] | None) -> dict[str, int]:
    """A provider's usage as flat counts: tokens in, out and in all, cached and reasoning ones where reported."""
    if not metadata:
        return {}
    usage = {name: metadata[name] for name in ("input_tokens", "output_tokens", "total_tokens") if name in metadata}
    if cached := (metadata.get("input_token_details") or {}).get("cache_read"):
        usage["cached_input_tokens"] = cached
    if reasoning := (metadata.get("output_token_details") or {}).get("reasoning"):
        usage["reasoning_tokens"] = reasoning
    return usage
