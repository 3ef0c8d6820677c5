"""A person between the layers: read the proposals, edit, drop or add some, and go on.

    moa.invoke(question, config, interrupt_after=["layer_1"])
    proposals = moa.get_state(config).values["proposals"]
    proposals[0]["content"] = "Rayleigh scattering."  # edit one, drop one
    edit(moa, config, [*proposals[:2], {"content": "Ask a physicist."}])  # and add one
    moa.invoke(None, config)

What the next layer reads is built anew from what is left. `graph.update_state(config, {"proposals": [...]})` does
the same and leaves alone whatever is not named, as LangGraph has it: there, a proposal without `content` is dropped.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.pregel.protocol import PregelProtocol
from langgraph.types import StateSnapshot

from moa_graph.errors import MoAConfigError
from moa_graph.state import Proposal, merge_proposals

__all__ = ["Revision", "aedit", "edit", "layer_under_review", "revise"]

Graph = PregelProtocol[Any, Any, Any, Any]

_LAYER: Final = "layer_"
_DROPPED: Final = {"content": "", "status": "cut"}
_STATUSES: Final = ("ok", "error", "timeout", "cut")
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "layer": (int,), "slot": (int,), "proposer": (str,), "model": (str,), "status": (str,), "content": (str,),
    "error": (str,), "usage": (dict,), "seconds": (int, float), "attempts": (int,), "calls": (int,),
    "cached": (bool,), "run": (str,), "edited": (bool,), "cost_usd": (int, float, type(None)),
    "cost_usd_at_least": (int, float), "tflops": (int, float, type(None)), "fit": (dict,),
    "unread": (str,), "critique": (str,), "finish_reason": (str,),
}  # fmt: skip
_SAID: Final = {int: "a whole number", str: "a text", dict: "a mapping", bool: "true or false", float: "a number"}


def edit(graph: Graph, config: RunnableConfig, proposals: Sequence[Mapping[str, Any]]) -> RunnableConfig:
    """Let the layer that has just ended have these proposals, and no others; the config to go on with.

    One without a `slot` is added; `proposer` is who said it ("person" unless given). `graph` may be a mixture, a
    graph around it (with the config of the mixture's own state), or a `RemoteGraph`; `config` may be a checkpoint
    in the past: the run forks there.

    Raises MoAConfigError where no layer has just ended, or a proposal has the wrong shape; QuorumError where too few
    are left. Nothing is written then, and the thread can be resumed.
    """
    whole, node = _whole(graph.get_state(config), proposals)
    return graph.update_state(config, {"proposals": whole}, as_node=node)


async def aedit(graph: Graph, config: RunnableConfig, proposals: Sequence[Mapping[str, Any]]) -> RunnableConfig:
    """`edit`, for a graph with an async checkpointer."""
    whole, node = _whole(await graph.aget_state(config), proposals)
    return await graph.aupdate_state(config, {"proposals": whole}, as_node=node)


def layer_under_review(state: StateSnapshot) -> int | None:
    """The layer that has just ended, where a thread stands behind one; else `None`."""
    answered = [proposal["layer"] for proposal in state.values.get("proposals") or ()]
    return max(answered) if answered and _stands_before(state.next, max(answered) + 1) else None


def _stands_before(following: Sequence[str], layer: int) -> bool:
    return tuple(following) in ((f"{_LAYER}{layer}",), ("window_1",), ("final",))


class Revision(NamedTuple):
    """What a person's edit of a thread's proposals comes to."""

    layer: int
    changed: list[Proposal]
    """Those of `layer` that are new or no longer what they were."""
    proposals: list[Proposal]
    """All of the thread's, `changed` merged in."""


def revise(kept: Sequence[Proposal], given: Any) -> Revision | None:
    """`given` over the proposals that a thread has; `None` where that changes nothing. Raises MoAConfigError."""
    known = {(p["layer"], p["slot"]): p for p in kept}
    last = max((p["layer"] for p in kept), default=0)
    shaped = [_shaped(one, known, last, f"proposal {k}") for k, one in enumerate(_listed(given), 1)]
    changed = [p for p in shaped if p != known.get((p["layer"], p["slot"]))]
    if not changed:
        return None
    layer = min(p["layer"] for p in changed)
    if any(p["layer"] > layer for p in changed):
        raise MoAConfigError(f"proposals of several layers were changed: go back to layer {layer} and change it alone")
    edited = [cast("Proposal", {**p, "edited": True}) for p in changed]
    return Revision(layer, edited, merge_proposals(kept, edited))


def _whole(state: StateSnapshot, given: Any) -> tuple[list[Any], str]:
    """What to write so that the layer that has just ended has `given` and no others, and the node that writes it."""
    kept: Sequence[Proposal] = state.values.get("proposals") or ()
    if (layer := layer_under_review(state)) is None:
        where = f"before {', '.join(state.next)}" if state.next else "at its end" if state.values else "at its start"
        raise MoAConfigError(
            f"no layer has just ended: the thread stands {where}; stop a run with "
            'interrupt_after=["layer_1"], or give the config of a checkpoint from graph.get_state_history'
        )
    own = {p["slot"] for p in kept if p["layer"] == layer}
    slot, whole = max(own), []
    for k, one in enumerate(_listed(given), 1):
        if not isinstance(one, Mapping):
            raise MoAConfigError(f"proposal {k}: {_kind(one)}: a mapping with `content` is needed")
        if "slot" not in one:
            slot += 1
        elif one.get("layer", layer) == layer:
            _check_slot(one["slot"], own, f"proposal {k}")
        whole.append({"layer": layer, **({} if "slot" in one else {"slot": slot}), **one})
    named = {one["slot"] for one in whole if one["layer"] == layer}
    return [*whole, *({"layer": layer, "slot": gone, **_DROPPED} for gone in sorted(own - named))], f"{_LAYER}{layer}"


def _check_slot(slot: Any, there: Collection[int], where: str) -> None:
    """Raises MoAConfigError for one that nobody has: a new proposal is given its slot. What is none, `_check` finds."""
    if type(slot) is int and slot > 0 and slot not in there:
        taken = ", ".join(map(str, sorted(there)))
        raise MoAConfigError(f"{where}: slot is {slot}: one of {taken}, or none, which adds a proposal")


def _listed(given: Any) -> Sequence[Any]:
    if isinstance(given, list | tuple):
        return given
    raise MoAConfigError(f"proposals: {_kind(given)}: a list of proposals is needed")


def _shaped(given: Any, known: Mapping[tuple[int, int], Proposal], last: int, where: str) -> Proposal:
    """A whole proposal of what a person gave: what is not said stays as it was."""
    if not isinstance(given, Mapping):
        raise MoAConfigError(f"{where}: {_kind(given)}: a mapping with `layer`, `slot` and `content` is needed")
    _check(given, last, where)
    old = known.get((given["layer"], given["slot"]))
    if old is not None and all(old.get(key) == value for key, value in given.items()):
        return old
    if old is None and "content" not in given:
        raise MoAConfigError(f"{where}: this key is missing: content")
    who = given.get("proposer", "person")
    new = {"proposer": who, "model": who, "status": "ok", "seconds": 0.0, "attempts": 0}
    new |= {"cost_usd": 0.0, "tflops": 0.0}
    made: dict[str, Any] = {**(old or new), **given}
    made["content"] = made["content"].strip()
    said_so = old is None or made["status"] != old["status"]
    if not made["content"] or (made["status"] != "ok" and said_so):
        status = made["status"] if made["status"] != "ok" else "cut"
        return cast("Proposal", {"error": "dropped by a person", **made, "content": "", "status": status})
    made.pop("error", None)
    return cast("Proposal", {**made, "status": "ok"})


def _check(given: Mapping[str, Any], last: int, where: str) -> None:
    if unknown := sorted(str(key) for key in given.keys() - _KINDS.keys()):
        raise MoAConfigError(f"{where}: unknown key {unknown[0]}; one of {', '.join(sorted(_KINDS))}")
    for key in ("layer", "slot"):
        if key not in given:
            raise MoAConfigError(f"{where}: this key is missing: {key}")
    for key, value in given.items():
        kinds = _KINDS[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise MoAConfigError(f"{where}: {key} is {_kind(value)}: {_SAID[kinds[-1]]} is needed")
    if not 1 <= given["layer"] <= last:
        raise MoAConfigError(f"{where}: layer is {given['layer']}: one that has answered is needed, 1 to {last}")
    if given["slot"] < 1:
        raise MoAConfigError(f"{where}: slot is {given['slot']}: a whole number of at least 1 is needed")
    if given.get("status", "ok") not in _STATUSES:
        raise MoAConfigError(f"{where}: status is {given['status']!r}: one of {', '.join(_STATUSES)}")


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
