"""The three nodes of a mixture: propose, aggregate, final."""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp

from moa_graph.errors import FinalError, MoAError, QuorumError, describe
from moa_graph.models import text_of
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt, x_next
from moa_graph.receipt import Call, receipt, usage_of
from moa_graph.retry import Attempts
from moa_graph.state import Proposal
from moa_graph.transport import run_sync

__all__ = ["Node", "aggregate", "final", "propose"]

State = Any  # LayerState or RunState: LangGraph hands over the node's part of it
_RESUMED: Final = f"resumed-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Node(Runnable[State, dict[str, Any]]):
    """A node written once, as a coroutine: `.invoke()` awaits it on the loop behind the sync entry points."""

    def __init__(self, name: str, call: Callable[[State, RunnableConfig], Awaitable[dict[str, Any]]]) -> None:
        self.name = name
        self._call = call

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return await self._call(input, config or {})

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return run_sync(self._call, input, config or {})


def propose(seat: Seat, *, stream: bool) -> Node:
    """x_i -> A_{i,j}(x_i), as a proposal: what went wrong is told in it, not raised."""

    async def call(state: State, config: RunnableConfig) -> dict[str, Any]:
        messages = x_next(state["messages"], state.get("synthesis", ""), seat.system)
        if not stream:
            config = {**config, "tags": [*(config.get("tags") or ()), TAG_NOSTREAM]}
        attempts, started = Attempts(seat.policy.retries), time.monotonic()
        proposal = Proposal(
            layer=seat.layer, slot=seat.slot, proposer=seat.name, model=seat.model.id, status="ok", content="",
            seconds=0.0, attempts=0, run=_run(state),
        )  # fmt: skip
        try:
            async with asyncio.timeout(seat.policy.timeout) as limit:
                message = await attempts.ask(lambda: seat.model.ask(messages, config))
            proposal |= _answered(message, seat.model.id)
        except GraphBubbleUp:
            raise  # a person is asked something: not a failure
        except Exception as error:
            timed_out = limit.expired()
            proposal["status"] = "timeout" if timed_out else "error"
            why = f"no answer within {seat.policy.timeout:g} s" if timed_out else describe(error)
            proposal["error"] = f"{why}; before that: {attempts.last}" if timed_out and attempts.last else why
        proposal |= {"seconds": round(time.monotonic() - started, 3), "attempts": attempts.made}
        return {"proposals": [proposal]}

    return Node(seat.name, call)


def _run(state: State) -> str:
    return run.id if (run := state.get("run")) else _RESUMED


def _answered(message: AIMessage, model: str) -> Proposal:
    metadata = message.response_metadata
    if not (text := text_of(message)):
        reason = metadata.get("finish_reason")
        raise MoAError(f"the answer has no text{f' (finish_reason: {reason})' if reason else ''}")
    usage = usage_of(message.usage_metadata)
    return cast("Proposal", {"content": text, "model": _reported(message) or model, "usage": usage})


def _reported(message: AIMessage) -> str:
    metadata = message.response_metadata
    return str(metadata.get("model_name") or metadata.get("model") or "")


def aggregate(layer: int, panel: list[Seat], quorum: int, prompt: Prompt) -> Node:
    """A layer's proposals -> ⊕[…]. It calls no model. Raises QuorumError where too few answered."""

    async def call(state: State, _: RunnableConfig) -> dict[str, Any]:
        proposals = [p for p in state.get("proposals", ()) if p["layer"] == layer]
        answers = [p["content"] for p in proposals if p["status"] == "ok"]
        if len(answers) < quorum:
            raise QuorumError(_too_few(layer, len(answers), quorum, len(panel), proposals), proposals)
        return {"synthesis": prompt.synthesis(answers)}

    return Node("aggregate", call)


def _too_few(layer: int, got: int, quorum: int, asked: int, proposals: list[Proposal]) -> str:
    reasons = "; ".join(f"{p['proposer']}: {p.get('error', p['status'])}" for p in proposals if p["status"] != "ok")
    return f"layer {layer}: {got} of {asked} proposers answered and {quorum} must; {reasons}"


def final(seats: list[Seat], layer: int) -> Node:
    """x_l -> A_{l,1}(x_l), the mixture's answer, with the receipt of the run in it.

    Raises FinalError, with the proposals, where the model and every fallback of it failed.
    """

    async def call(state: State, config: RunnableConfig) -> dict[str, Any]:
        proposals, started = state.get("proposals", []), time.monotonic()
        failures: list[tuple[str, Exception]] = []
        run = _run(state)
        made = 0
        for seat in seats:
            messages = x_next(state["messages"], state.get("synthesis", "") if layer > 1 else "", seat.system)
            attempts = Attempts(seat.policy.retries)
            try:
                async with asyncio.timeout(seat.policy.timeout) as limit:
                    answer = await attempts.ask(lambda s=seat, m=messages: s.model.ask(m, config))  # type: ignore[misc]
            except GraphBubbleUp:
                raise
            except Exception as error:
                made += attempts.made
                why = f"no answer within {seat.policy.timeout:g} s" if limit.expired() else describe(error)
                failures.append((f"{seat.model.id}: {why}", error))
                continue
            own = Call(
                proposer="final", model=_reported(answer) or seat.model.id, status="ok", cached=False, resumed=False,
                seconds=round(time.monotonic() - started, 3), attempts=made + attempts.made,
                usage=usage_of(answer.usage_metadata),
            )  # fmt: skip
            if failures:
                own["error"] = "; ".join(why for why, _ in failures)
            wall = round(time.monotonic() - state["run"].started, 3) if state.get("run") else None
            metadata = {**answer.response_metadata, "moa": receipt(proposals, own, run, wall)}
            return {"messages": [answer.model_copy(update={"response_metadata": metadata})]}
        raise FinalError(f"the final model failed: {'; '.join(w for w, _ in failures)}", proposals) from failures[-1][1]

    return Node("final", call)
