"""The three nodes of a mixture: propose, aggregate, final."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp

from moa_graph.cache import Answers
from moa_graph.compiled import run_of
from moa_graph.errors import FinalError, MoAError, describe
from moa_graph.events import Done, FinalStarted, LayerDone, Tell
from moa_graph.models import text_of
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt, x_next
from moa_graph.receipt import Call, receipt, usage_of
from moa_graph.retry import Attempts
from moa_graph.state import Proposal
from moa_graph.transport import run_sync
from moa_graph.waiting import KEY, LayerRun, too_few

__all__ = ["Node", "aggregate", "final", "propose"]

State = Any  # LayerState or MoAState: LangGraph hands over the node's part of it


class Node(Runnable[State, dict[str, Any]]):
    """A node written once, as a coroutine: `.invoke()` awaits it on the loop behind the sync entry points."""

    def __init__(self, name: str, call: Callable[[State, RunnableConfig, Tell], Awaitable[dict[str, Any]]]) -> None:
        self.name = name
        self._call = call

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return await self._call(input, config or {}, get_stream_writer())

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return run_sync(self._call, input, config or {}, get_stream_writer())


def propose(seat: Seat, answers: Answers, *, stream: bool) -> Node:
    """x_i -> A_{i,j}(x_i), as a proposal. Raises QuorumError once its layer cannot get enough answers."""

    if not stream:
        seat = replace(seat, model=seat.model.unheard())

    who = {"layer": seat.layer, "slot": seat.slot, "proposer": seat.name, "model": seat.model.id}

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        layer: LayerRun = config["configurable"][KEY]
        layer.arrive(seat.slot, tell)
        messages = x_next(state["messages"], state.get("synthesis", ""), seat.system)
        if not stream:
            config = {**config, "tags": [*(config.get("tags") or ()), TAG_NOSTREAM]}
        ask = _Asking(seat, answers, config, lambda: layer.tell(_first_token(who, layer.run, ask.seconds)))
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
            proposal["status"] = "cut" if cut else "timeout" if limit.expired() else "error"
            proposal["error"] = f"cut after {ask.seconds:.1f} s" if cut else ask.why(error, limit)
        proposal |= {"seconds": ask.seconds, "attempts": ask.made, "cached": ask.cached}
        return {"proposals": [await layer.settle(proposal)]}

    return Node(seat.name, call)


def aggregate(layer: int, size: int, quorum: int, prompt: Prompt) -> Node:
    """A layer's proposals -> ⊕[…]. It calls no model. Raises QuorumError where too few answered."""

    async def call(state: State, config: RunnableConfig, _: Tell) -> dict[str, Any]:
        run: LayerRun = config["configurable"][KEY]
        proposals = [p for p in state.get("proposals", ()) if p["layer"] == layer]
        answers = [p["content"] for p in proposals if p["status"] == "ok"]
        if len(answers) < quorum:
            raise too_few(layer, quorum, size, proposals)
        run.tell(
            LayerDone(
                type="moa.layer_done", run=run.run, layer=layer, asked=size, answered=len(answers), seconds=run.seconds
            )
        )
        return {"synthesis": prompt.synthesis(answers)}

    return Node("aggregate", call)


def final(seats: Sequence[Seat], answers: Answers) -> Node:
    """x_l -> A_{l,1}(x_l), the mixture's answer, with the receipt of the run in it.

    The next of `seats` is asked when one fails before its first token. Raises FinalError, with the proposals,
    where none is left.
    """

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        run = run_of(config)
        failures: list[str] = []
        made, began = 0, time.monotonic()
        for seat in seats:
            ask = _Asking(seat, answers, config)
            tell(_final_started(seat, run.id, failures))
            try:
                async with seat.policy.turn(), asyncio.timeout(seat.policy.timeout) as limit:
                    answer = await ask.answer(x_next(state["messages"], state.get("synthesis", ""), seat.system))
                    if not answer.content and not answer.tool_calls:
                        raise MoAError(_no_text(answer))
            except GraphBubbleUp:
                raise
            except Exception as error:
                failures.append(f"{seat.model.id}: {ask.why(error, limit)}")
                made += ask.made
                if ask.began or seat is seats[-1]:
                    raise FinalError(
                        f"the final model failed: {'; '.join(failures)}", state.get("proposals", [])
                    ) from error
                continue
            call = _final_call(seat, answer, ask, failures, made, time.monotonic() - began)
            seconds = round(time.monotonic() - run.started, 3)
            moa = receipt(state.get("proposals", []), call, run.id, seconds)
            tell(Done(type="moa.done", run=run.id, receipt=moa))
            metadata = {**answer.response_metadata, "moa": moa}
            return {"messages": [answer.model_copy(update={"response_metadata": metadata})]}
        raise AssertionError("a mixture has a final model")

    return Node("final", call)


class _FirstToken(AsyncCallbackHandler):
    """Notes that a model has begun to answer: from then on nobody else can be asked in its place."""

    def __init__(self, tell: Callable[[], None] | None) -> None:
        self.began = False
        self._tell = tell

    async def on_llm_new_token(self, token: str | list[Any], **_: Any) -> None:
        if token and not self.began:
            self.began = True
            if self._tell:
                self._tell()


class _Asking:
    """One seat is asked: from the cache, else the model, in its turn, with further attempts where they may help."""

    def __init__(
        self, seat: Seat, answers: Answers, config: RunnableConfig, on_first_token: Callable[[], None] | None = None
    ) -> None:
        self._seat, self._answers = seat, answers
        self._first = _FirstToken(on_first_token)
        hidden = TAG_NOSTREAM in (config.get("tags") or ())
        self._config = config if hidden else _heard_by(self._first, config)
        self._attempts = Attempts(seat.policy.retries, lambda: not self.began)
        self._started = time.monotonic()
        self.cached = False

    @property
    def began(self) -> bool:
        """Whether the answer has begun to stream."""
        return self._first.began

    @property
    def made(self) -> int:
        """Requests made."""
        return self._attempts.made

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def why(self, error: Exception, limit: asyncio.Timeout) -> str:
        """What went wrong, in one line."""
        if not limit.expired():
            return describe(error)
        before = f"; before that: {self._attempts.last}" if self._attempts.last else ""
        return f"no answer within {self._seat.policy.timeout:g} s{before}"

    async def answer(self, messages: list[BaseMessage]) -> AIMessage:
        self._started = time.monotonic()
        if (kept := await self._answers.find(self._seat, messages)) is not None:
            self.cached = True
            return kept
        answer = await self._attempts.ask(lambda: self._seat.model.ask(messages, self._config))
        await self._answers.keep(self._seat, messages, answer)
        return answer


def _heard_by(handler: AsyncCallbackHandler, config: RunnableConfig) -> RunnableConfig:
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_handler(handler)
        return {**config, "callbacks": callbacks}
    return {**config, "callbacks": [*(callbacks or ()), handler]}


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


def _final_call(seat: Seat, answer: AIMessage, ask: _Asking, failures: list[str], made: int, seconds: float) -> Call:
    call = Call(
        proposer="final", model=_model_of(answer, seat.model.id), status="ok", seconds=round(seconds, 3),
        attempts=made + ask.made, usage=_usage(answer), cached=ask.cached, resumed=False,
    )  # fmt: skip
    if failures:
        call["error"] = "; ".join(failures)
    return call


def _final_started(seat: Seat, run: str, failures: Sequence[str]) -> FinalStarted:
    told = FinalStarted(type="moa.final_started", run=run, layer=seat.layer, model=seat.model.id)
    if failures:
        told["error"] = failures[-1]
    return told


def _first_token(who: Mapping[str, Any], run: str, seconds: float) -> dict[str, Any]:
    return {"type": "moa.proposer_first_token", "run": run, **who, "seconds": seconds}
