"""What a run tells while it runs: typed events in LangGraph's custom stream.

    async for event in moa.astream(question, stream_mode="custom"):
        if event["type"] == "moa.proposer_answered": ...

Every event is a plain dict; its `type` begins with `moa.`, so that a graph around the mixture can tell them from
its own. In a larger graph they come with `subgraphs=True`, as LangGraph has it for every subgraph, under the
mixture's namespace, those of its layers too; `run` tells one mixture's events from another's.
"""

from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Literal, NotRequired

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context
from langgraph.config import get_stream_writer
from typing_extensions import TypedDict

from moa_graph.receipt import Receipt
from moa_graph.state import Decision, Proposal

__all__ = [
    "Decided",
    "Done",
    "Event",
    "FinalStarted",
    "LayerDone",
    "LayerLeftOut",
    "LayerStarted",
    "ProposerDone",
    "ProposerFirstToken",
    "ProposerStarted",
    "Tell",
    "decided",
    "proposer_done",
    "teller",
]


class LayerStarted(TypedDict):
    """A layer begins. `asked`: its proposers, those of a resumed run that have answered already included."""

    type: Literal["moa.layer_started"]
    run: str
    layer: int
    asked: int


class ProposerStarted(TypedDict):
    """A proposer's turn has come: it is asked now."""

    type: Literal["moa.proposer_started"]
    run: str
    layer: int
    slot: int
    proposer: str
    model: str


class ProposerFirstToken(TypedDict):
    """A proposer's first token is in. Told with `stream_proposers=True` alone: otherwise no proposer streams."""

    type: Literal["moa.proposer_first_token"]
    run: str
    layer: int
    slot: int
    proposer: str
    model: str
    seconds: float


class ProposerDone(TypedDict):
    """How a proposer ended, as its `Proposal` has it, without the text."""

    type: Literal["moa.proposer_answered", "moa.proposer_cached", "moa.proposer_failed", "moa.proposer_cut"]
    run: str
    layer: int
    slot: int
    proposer: str
    model: str
    status: Literal["ok", "error", "timeout", "cut"]
    seconds: float
    attempts: int
    usage: dict[str, int]
    error: NotRequired[str]


class LayerDone(TypedDict):
    """A layer's answers are together. `seconds`: wall time in this run."""

    type: Literal["moa.layer_done"]
    run: str
    layer: int
    asked: int
    answered: int
    seconds: float


class LayerLeftOut(TypedDict):
    """A layer is not asked. `why`: in one line."""

    type: Literal["moa.layer_left_out"]
    run: str
    layer: int
    why: str


class Decided(TypedDict):
    """A step beside the proposers has decided: see `Decision`."""

    type: Literal["moa.decided"]
    run: str
    layer: int
    step: str
    by: str
    chosen: list[str]
    said: str


class FinalStarted(TypedDict):
    """The final model is asked; again for each fallback, with why the one before it failed in `error`."""

    type: Literal["moa.final_started"]
    run: str
    layer: int
    model: str
    error: NotRequired[str]


class Done(TypedDict):
    """The answer is whole."""

    type: Literal["moa.done"]
    run: str
    receipt: Receipt


Event = (
    LayerStarted
    | ProposerStarted
    | ProposerFirstToken
    | ProposerDone
    | LayerDone
    | LayerLeftOut
    | Decided
    | FinalStarted
    | Done
)
Tell = Callable[[Any], None]

_ENDED: Final = {"ok": "moa.proposer_answered", "cut": "moa.proposer_cut"}


def proposer_done(proposal: Proposal, run: str) -> ProposerDone:
    """The event of a proposal."""
    kind = "moa.proposer_cached" if proposal.get("cached") else _ENDED.get(proposal["status"], "moa.proposer_failed")
    told = ProposerDone(
        type=kind,  # type: ignore[typeddict-item]  # mypy does not follow the dict's values
        run=run,
        layer=proposal["layer"],
        slot=proposal["slot"],
        proposer=proposal["proposer"],
        model=proposal["model"],
        status=proposal["status"],
        seconds=proposal["seconds"],
        attempts=proposal["attempts"],
        usage=proposal.get("usage", {}),
    )
    if "error" in proposal:
        told["error"] = proposal["error"]
    return told


def decided(decision: Decision) -> Decided:
    """The event of a decision."""
    return Decided(
        type="moa.decided", run=decision["run"], layer=decision["layer"], step=decision["step"], by=decision["by"],
        chosen=decision["chosen"], said=decision["said"],
    )  # fmt: skip


def teller(config: RunnableConfig) -> Tell:
    """Writes events to the custom stream of the node that `config` is given to, from whatever task or thread."""

    node: Context | None = None

    def tell(event: Any) -> None:
        nonlocal node
        if node is None:
            with set_config_context(config) as context:  # LangGraph finds its writer there, and sets it not always
                node = context.copy()
        node.copy().run(_write, event)

    return tell


def _write(event: Any) -> None:
    get_stream_writer()(event)
