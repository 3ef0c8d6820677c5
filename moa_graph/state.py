"""What flows along the edges: plain, serialisable values (DESIGN: a checkpoint must be able to hold them)."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NotRequired

from langgraph.graph import MessagesState
from typing_extensions import TypedDict

__all__ = [
    "Carry",
    "Decision",
    "Fitting",
    "InnerLayerOutput",
    "LayerInput",
    "LayerOutput",
    "LayerState",
    "MoAOutput",
    "MoAState",
    "Proposal",
    "Running",
    "WindowsState",
    "merge_decisions",
    "merge_proposals",
    "plain_proposals",
]


_STEPS: Final = ("route", "select", "critique", "stop", "aggregator")


class Fitting(TypedDict):
    """What was done to references that did not fit: their numbers, as they were numbered before."""

    trimmed: list[int]
    dropped: list[int]


class Proposal(TypedDict):
    """One proposer's response in one layer."""

    layer: int
    """1-based."""
    slot: int
    """1-based, in declared order."""
    proposer: str
    model: str
    """The model that answered, as its provider reports it; the one asked for where nothing was reported."""
    status: Literal["ok", "error", "timeout", "cut"]
    """`cut`: still answering when the layer went on without it."""
    content: str
    """The response, stripped of surrounding white space and of thinking; `""` unless `ok`."""
    error: NotRequired[str]
    """Type and message, with no secrets in it."""
    usage: NotRequired[dict[str, int]]
    """`input_tokens`, `output_tokens`, and what else the provider counts."""
    seconds: float
    """Wall time of all attempts together."""
    attempts: int
    """How often it was asked, retries included."""
    calls: NotRequired[int]
    """Requests sent to providers, where they are not the attempts: an agent or a nested mixture makes several."""
    cost_usd: NotRequired[float | None]
    """By list price; `None`: unknown."""
    cost_usd_at_least: NotRequired[float]
    """Where the cost is unknown: what is known of it."""
    tflops: NotRequired[float | None]
    """2 x active parameters x output tokens, in 10^12 operations; `None`: unknown."""
    fit: NotRequired[Fitting]
    """Which references it did not read whole: they did not fit its context window."""
    finish_reason: NotRequired[str]
    """Why the answer ends where it does, if not because it is whole: `length` at `max_tokens`."""
    unread: NotRequired[str]
    """Why the next layer does not read it, though it is an answer: a step between the layers left it out."""
    critique: NotRequired[str]
    """What a critic has to say of it; the next layer reads it beside the answer."""
    cached: NotRequired[bool]
    """The response came from the cache: nothing was asked."""
    run: NotRequired[str]
    """Which run asked: tells what a resumed run had already."""
    edited: NotRequired[bool]
    """A person wrote, changed or dropped it between the layers (see `moa_graph.review`)."""


def merge_proposals(old: Sequence[Proposal] | None, new: Sequence[Proposal] | None) -> list[Proposal]:
    """Put `new` over `old` by (layer, slot), sorted. Doing it twice changes nothing.

    Later layers read what is written, so what they answered to its former text is dropped. `None` for `new`
    drops everything: a run begins.
    """
    if not new:
        return [] if new is None else list(old or ())
    first = min(proposal["layer"] for proposal in new)
    kept = {(p["layer"], p["slot"]): p for p in old or () if p["layer"] <= first}
    kept.update({(p["layer"], p["slot"]): p for p in new})
    return [kept[key] for key in sorted(kept)]


def plain_proposals(proposals: Sequence[Any]) -> list[dict[str, Any]]:
    """Proposals as they are told and kept outside a run."""
    return [{name: value for name, value in proposal.items() if name != "run"} for proposal in proposals]


class Decision(TypedDict):
    """What was decided beside the answers: who is asked, what is read on, whether it is the end, what is the answer."""

    layer: int
    step: Literal["route", "select", "critique", "stop", "aggregator"]
    by: str
    """The kind of step: `top_k`, `agreement`, `vote`, ..."""
    chosen: list[str]
    """Names of proposers."""
    said: str
    """Why, in one line."""
    score: NotRequired[float]
    """What it measured, such as the agreement of a layer's answers."""
    run: str
    part: NotRequired[int]
    """Which of several in one run, from 1: a window."""
    call: NotRequired[dict[str, Any]]
    """What its model was asked, as a call in the receipt."""


def merge_decisions(old: Sequence[Decision] | None, new: Sequence[Decision] | None) -> list[Decision]:
    """Put `new` over `old` by layer, step and part. Twice changes nothing. `None` for `new` drops everything."""
    if new is None:
        return []
    kept = {(d["layer"], _STEPS.index(d["step"]), d.get("part", 0)): d for d in [*(old or ()), *new]}
    return [kept[key] for key in sorted(kept)]


class Carry(TypedDict):
    """What the next layer must know beside the synthesis."""

    spans: list[list[int]]
    """Where each reference stands in the synthesis: from, to."""
    length: int
    """Of that synthesis, in characters."""
    tokens: NotRequired[int]
    """Of that synthesis, as far as its authors' usage tells; else estimated."""
    spent: list[float]
    """By the layers before: $, tokens, calls."""
    stopped: str
    """Why no further layer is asked; `""`: the next one is."""


class Running(TypedDict):
    """How far the answers of the last layer have been read, window by window."""

    read: int
    windows: int
    syntheses: list[str]
    """What the last windows have made of them, as many as are kept."""
    stopped: str
    """Why no further window is asked; `""`: the next one is."""


class MoAState(MessagesState, total=False):
    """The state of a mixture. Input: `messages`. Output: `messages` and `proposals`."""

    proposals: Annotated[list[Proposal], merge_proposals]
    synthesis: str
    """⊕[…] of the last finished layer: x_{i+1} = synthesis + x_1 (paper, eq. 1)."""
    carry: Carry
    decisions: Annotated[list[Decision], merge_decisions]


class WindowsState(MoAState, total=False):
    """The state of a mixture whose answers are read window by window."""

    running: Running


class MoAOutput(MessagesState, total=False):
    proposals: Annotated[list[Proposal], merge_proposals]


class LayerInput(MessagesState, total=False):
    synthesis: str
    carry: Carry
    decisions: Annotated[list[Decision], merge_decisions]


class LayerState(MessagesState, total=False):
    """The state inside one layer: x_i = synthesis + messages goes in, this layer's proposals come out."""

    proposals: Annotated[list[Proposal], merge_proposals]
    synthesis: str
    carry: Carry
    decisions: Annotated[list[Decision], merge_decisions]
    routed: list[str]
    """Who is asked, where a route has chosen."""


class LayerOutput(TypedDict, total=False):
    proposals: Annotated[list[Proposal], merge_proposals]
    synthesis: str


class InnerLayerOutput(LayerOutput, total=False):
    """Of a layer in a mixture."""

    carry: Carry
    decisions: Annotated[list[Decision], merge_decisions]
