"""The three nodes of a mixture: propose, aggregate, final."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp

from moa_graph.answers import text_of
from moa_graph.asking import Asking, unheard
from moa_graph.cache import Answers
from moa_graph.compiled import run_of
from moa_graph.errors import FinalError, MoAConfigError, MoAError
from moa_graph.events import Done, FinalStarted, LayerDone, Tell, teller
from moa_graph.loops import run_sync
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt, x_next
from moa_graph.receipt import Call, receipt, usage_of
from moa_graph.state import Proposal
from moa_graph.waiting import KEY, LayerRun, too_few

__all__ = ["Node", "aggregate", "final", "propose"]

State = Any  # LayerState or MoAState: LangGraph hands over the node's part of it


class Node(Runnable[State, dict[str, Any]]):
    """A node written once, as a coroutine: `.invoke()` awaits it on the loop behind the sync entry points."""

    def __init__(self, name: str, call: Callable[[State, RunnableConfig, Tell], Awaitable[dict[str, Any]]]) -> None:
        self.name = name
        self._call = call

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return await self._call(input, config or {}, teller(config or {}))

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return run_sync(self._call, input, config or {}, teller(config or {}))


def propose(seat: Seat, answers: Answers, *, stream: bool) -> Node:
    """x_i -> A_{i,j}(x_i), as a proposal. Raises QuorumError once its layer cannot get enough answers."""
    who = {"layer": seat.layer, "slot": seat.slot, "proposer": seat.name, "model": seat.model.id}

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        layer: LayerRun = config["configurable"][KEY]
        layer.arrive(seat.slot, tell)
        messages = x_next(_asked(state), state.get("synthesis", ""), seat.system)
        if not stream:
            config = unheard(config)
        ask = Asking(seat, answers, config, lambda: layer.tell(_first_token(who, layer.run, ask.seconds)))
        proposal = Proposal(
            layer=seat.layer, slot=seat.slot, proposer=seat.name, model=seat.model.id, status="ok", content="",
            seconds=0.0, attempts=0, run=run_of(config).id,
        )  # fmt: skip
        try:
            async with layer.limit(seat.slot) as limit, layer.turn(seat.slot, seat.policy):
                layer.tell({"type": "moa.proposer_started", "run": layer.run, **who})
                proposal |= _answered(await ask.answer(messages), seat.model.id)
        except GraphBubbleUp:
            await layer.pause(seat.slot)
            raise  # a person is asked something: not a failure
        except Exception as error:
            cut = limit.expired() and layer.was_cut(seat.slot)
            proposal["status"] = "cut" if cut else "timeout" if limit.expired() or ask.too_long else "error"
            proposal["error"] = f"cut after {ask.seconds:.1f} s" if cut else ask.why(error, limit)
        proposal |= {"seconds": ask.seconds, "attempts": ask.made, "cached": ask.cached}
        proposal |= _counted(ask)
        return {"proposals": [await layer.settle(proposal)]}

    return Node(seat.name, call)


class Aggregate(Node):
    """A layer's proposals -> ⊕[…]. It calls no model. Raises QuorumError where too few answered."""

    def __init__(self, layer: int, size: int, quorum: int, prompt: Prompt) -> None:
        super().__init__("aggregate", self._aggregate)
        self._layer, self._size, self._quorum, self._prompt = layer, size, quorum, prompt

    def synthesis(self, proposals: Sequence[Proposal]) -> tuple[str, int]:
        """What the next layer reads, and how many answers are in it."""
        own = [p for p in proposals if p["layer"] == self._layer]
        answers = [p["content"] for p in own if p["status"] == "ok"]
        if len(answers) < self._quorum:
            raise too_few(self._layer, self._quorum, max(self._size, len(own)), own)
        return self._prompt.synthesis(answers), len(answers)

    async def _aggregate(self, state: State, config: RunnableConfig, _: Tell) -> dict[str, Any]:
        run: LayerRun = config["configurable"][KEY]
        synthesis, answered = self.synthesis(state.get("proposals", ()))
        run.tell(
            LayerDone(
                type="moa.layer_done", run=run.run, layer=self._layer, asked=self._size, answered=answered,
                seconds=run.seconds,
            )
        )  # fmt: skip
        return {"synthesis": synthesis}


def aggregate(layer: int, size: int, quorum: int, prompt: Prompt) -> Node:
    """The node in which a layer's proposals meet."""
    return Aggregate(layer, size, quorum, prompt)


def final(seats: Sequence[Seat], answers: Answers) -> Node:
    """x_l -> A_{l,1}(x_l), the mixture's answer, with the receipt of the run in it.

    The next of `seats` is asked when one fails before its first token. Raises FinalError, with the proposals,
    where none is left.
    """

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        run, asked = run_of(config), _asked(state)
        failures: list[str] = []
        before, began = Counter[str](), time.monotonic()
        for seat in seats:
            ask = Asking(seat, answers, config)
            tell(_final_started(seat, run.id, failures))
            try:
                async with seat.policy.turn(), asyncio.timeout(seat.policy.timeout) as limit:
                    answer = await ask.answer(x_next(asked, state.get("synthesis", ""), seat.system))
                    if not answer.content and not answer.tool_calls:
                        raise MoAError(_no_text(answer))
            except GraphBubbleUp:
                raise
            except Exception as error:
                failures.append(f"{seat.model.id}: {ask.why(error, limit)}")
                before += Counter(attempts=ask.made, calls=ask.calls, **ask.usage)
                if ask.began or seat is seats[-1]:
                    raise FinalError(
                        f"the final model failed: {'; '.join(failures)}", state.get("proposals", [])
                    ) from error
                continue
            call = _final_call(seat, answer, ask, before, time.monotonic() - began)
            if failures:
                call["error"] = "; ".join(failures)
            seconds = round(time.monotonic() - run.started, 3)
            moa = receipt(state.get("proposals", []), call, run.id, seconds)
            tell(Done(type="moa.done", run=run.id, receipt=moa))
            metadata = {**answer.response_metadata, "moa": moa}
            return {"messages": [answer.model_copy(update={"response_metadata": metadata})]}
        raise AssertionError("a mixture has a final model")

    return Node("final", call)


def _asked(state: State) -> list[BaseMessage]:
    if not (messages := state.get("messages")):
        raise MoAConfigError('there is no message to answer: give {"messages": [("user", "…")]}')
    return list(messages)


def _answered(message: AIMessage, model: str) -> Proposal:
    if not (text := text_of(message)):
        raise MoAError(_no_text(message))
    return cast("Proposal", {"content": text, "model": _model_of(message, model), "usage": _usage(message)})


def _no_text(message: AIMessage) -> str:
    reason = message.response_metadata.get("finish_reason")
    return f"the answer has no text{f' (finish_reason: {reason})' if reason else ''}"


def _model_of(message: AIMessage, asked: str) -> str:
    metadata = message.response_metadata
    return str(metadata.get("model_name") or metadata.get("model") or asked)


def _usage(message: AIMessage) -> dict[str, int]:
    return usage_of(message.usage_metadata)


def _counted(ask: Asking) -> Proposal:
    """What was asked inside an agent or a nested mixture: no message of its own tells that."""
    calls = {"calls": ask.calls} if ask.calls != ask.made else {}
    return cast("Proposal", {**calls, **({"usage": ask.usage} if ask.usage else {})})


def _final_call(seat: Seat, answer: AIMessage, ask: Asking, before: Counter[str], seconds: float) -> Call:
    """The final model's part in the receipt; `before`: what its failed predecessors made and used."""
    attempts, calls = before.pop("attempts", 0), before.pop("calls", 0)
    usage = Counter(ask.usage or _usage(answer)) + before
    call = Call(
        proposer="final", model=_model_of(answer, seat.model.id), status="ok", seconds=round(seconds, 3),
        attempts=attempts + ask.made, usage=dict(usage), error=None, cached=ask.cached, resumed=False,
    )  # fmt: skip
    if (all_calls := calls + ask.calls) != call["attempts"]:
        call["calls"] = all_calls
    return call


def _final_started(seat: Seat, run: str, failures: Sequence[str]) -> FinalStarted:
    told = FinalStarted(type="moa.final_started", run=run, layer=seat.layer, model=seat.model.id)
    if failures:
        told["error"] = failures[-1]
    return told


def _first_token(who: Mapping[str, Any], run: str, seconds: float) -> dict[str, Any]:
    return {"type": "moa.proposer_first_token", "run": run, **who, "seconds": seconds}
