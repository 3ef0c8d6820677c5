"""One seat is asked, and what can be heard of it meanwhile: its first token, what the calls inside it use and cost."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers._streaming import _StreamingCallbackHandler, _V2StreamingCallbackHandler
from langgraph.constants import TAG_NOSTREAM
from langgraph.pregel.protocol import StreamProtocol

from moa_graph import transport
from moa_graph.bill import NOTHING, UNKNOWN, Bill, bill_of, bill_of_run, reported
from moa_graph.cache import Answers
from moa_graph.errors import describe
from moa_graph.panel import Seat
from moa_graph.prices import Prices
from moa_graph.receipt import usage_of
from moa_graph.retry import Attempts
from moa_graph.transport import Ear
from moa_graph.within import HearsBeneath

__all__ = ["Asking", "unheard"]

_STREAM: Final = "__pregel_stream"  # where a graph finds the stream of the graph around it
_WHOLE: Final = ("", "stop", "end_turn", "tool_calls", "tool_use", "stop_sequence", "eos", "complete", "completed")
_LENGTH: Final = ("length", "max_tokens", "model_length", "incomplete")
_STREAMING: Final = (_StreamingCallbackHandler, _V2StreamingCallbackHandler)  # LangGraph knows them by these too


class _Usage(BaseCallbackHandler, Ear):
    """Keeps what calls tell of their usage, also where nobody gets the answer: a stream breaks, or it is cut.

    As a callback handler; where the requests tell of whole answers (`by_requests`), of streams alone.
    """

    run_inline = True
    ignore_chat_model = True  # how a call begins

    def __init__(self, *, by_requests: bool) -> None:
        self._by_requests = by_requests
        self._ended: dict[str, int] = {}
        self._streams: dict[UUID, dict[str, int]] = {}
        self._told: list[Callable[[], Mapping[str, Any] | None]] = []

    def on_llm_new_token(self, token: str | list[Any], *, run_id: UUID, chunk: Any = None, **_: Any) -> None:
        if told := getattr(getattr(chunk, "message", None), "usage_metadata", None):
            self._streams[run_id] = _added(self._streams.get(run_id, {}), usage_of(told))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        if self._streams.pop(run_id, None) or not self._by_requests:
            self._told += [partial(getattr, message, "usage_metadata", None) for message in _messages(response)]

    def told(self, usage: Callable[[], Mapping[str, Any]]) -> None:
        self._told.append(usage)

    def received(self, usage: Mapping[str, int]) -> None:
        """What one call has told last has become an answer, with this usage."""
        if self._told:
            self._told.pop()
            self._ended = _added(self._ended, usage)

    @property
    def lost(self) -> dict[str, int]:
        """Tokens of what nobody has received."""
        if not (self._streams or self._told):
            return {}
        return reduce(_added, [*self._streams.values(), *(usage_of(told()) for told in self._told)], {})

    @property
    def usage(self) -> dict[str, int]:
        return _added(self.lost, self._ended)


class _FirstToken(_Usage):
    """Notes that a model has begun to answer: from then on nobody else can be asked in its place."""

    def __init__(self, tell: Callable[[], None] | None, *, by_requests: bool) -> None:
        super().__init__(by_requests=by_requests)
        self.began = False
        self._tell = tell

    def on_llm_new_token(self, token: str | list[Any], *, run_id: UUID, chunk: Any = None, **_: Any) -> None:
        super().on_llm_new_token(token, run_id=run_id, chunk=chunk)
        calls = getattr(getattr(chunk, "message", None), "tool_call_chunks", None)
        if (token or calls) and not self.began:
            self.began = True
            if self._tell:
                self._tell()


class _CallsWithin(_Usage, HearsBeneath):
    """Counts what an agent, a nested mixture or a chain asks of its models, and what they use."""

    ignore_chat_model = False

    def __init__(self, prices: Prices) -> None:
        super().__init__(by_requests=True)
        self.made = self._begun = 0
        self._prices, self._bills = prices, list[Bill]()
        self._asked, self._outer = set[UUID](), set[UUID]()

    def on_chain_start(self, *_: Any, **__: Any) -> None:
        self._begun += 1

    def on_chat_model_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
        if run_id not in self._outer:
            self.made += 1
            self._asked.add(run_id)

    def on_llm_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self.on_chat_model_start(run_id=run_id)

    def hear_beneath(self, run_id: UUID) -> None:
        self._outer.add(run_id)
        if run_id in self._asked:
            self.made -= 1
            self._asked.remove(run_id)

    def repeated(self) -> None:
        self.made += 1

    def on_llm_new_token(self, token: str | list[Any], *, run_id: UUID, chunk: Any = None, **_: Any) -> None:
        if run_id not in self._outer:
            super().on_llm_new_token(token, run_id=run_id, chunk=chunk)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        if run_id in self._asked:
            self._asked.remove(run_id)
            self._bills.append(NOTHING if _unbilled(error) else UNKNOWN)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        if run_id not in self._asked:
            return
        self._streams.pop(run_id, None)
        self._asked.remove(run_id)
        for message in _messages(response):
            used = usage_of(getattr(message, "usage_metadata", None))
            self._ended = _added(self._ended, used)
            if same := [told for told in self._told if usage_of(told()) == used]:
                self._told.remove(same[0])
            if inner := message.response_metadata.get("moa"):
                self.made += inner["calls"] - 1  # it was a mixture
            self._bills.append(bill_of(self._prices, (), message, used))

    @property
    def only_began(self) -> bool:
        """Whether it was a graph in which nothing ran: on a resumed thread its answer is in the checkpoint."""
        return self._begun == 1

    @property
    def bill(self) -> Bill:
        """All of them together; what has not ended was given up."""
        return Bill.sum([*self._bills, *([UNKNOWN] if self._asked else [])])


def _added(usage: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Both together."""
    if not (usage and more):
        return dict(usage or more)
    return {name: usage.get(name, 0) + more.get(name, 0) for name in {**usage, **more}}


def _messages(response: LLMResult) -> list[BaseMessage]:
    firsts = (choices[0] for choices in response.generations if choices)
    return [choice.message for choice in firsts if isinstance(choice, ChatGeneration)]


class Asking:
    """One seat is asked: from the cache, else the model, with further attempts where they may help.

    `may_again` says whether there is enough for another attempt.
    """

    def __init__(
        self,
        seat: Seat,
        answers: Answers,
        config: RunnableConfig,
        on_first_token: Callable[[], None] | None = None,
        may_again: Callable[[], bool] = lambda: True,
    ) -> None:
        self._seat, self._answers, self._may_again = seat, answers, may_again
        heard = TAG_NOSTREAM not in (config.get("tags") or ())
        tells = seat.model.tells_usage
        self._first = _FirstToken(on_first_token, by_requests=tells) if heard else None
        self._within = _CallsWithin(seat.prices) if seat.model.asks_others else None
        self._used: _Usage = self._within or self._first or _Usage(by_requests=tells)
        self._ear = self._used if tells or self._within else None
        quiet = tells and not heard and not seat.model.streams
        handlers = [] if quiet else [self._used]
        if self._first and self._within:
            handlers.append(self._first)
        self._config = _heard_by(handlers, config) if handlers else config
        self._attempts = Attempts(seat.policy.retries, self._may_wait)
        self._started = time.monotonic()
        self._answer: AIMessage | None = None
        self._tokens: dict[str, int] = {}
        self.cached = self.too_long = False

    @property
    def began(self) -> bool:
        """Whether the answer has begun to stream."""
        return self._first is not None and self._first.began

    @property
    def made(self) -> int:
        """Attempts made."""
        return self._attempts.made

    @property
    def calls(self) -> int:
        """Requests sent to providers: those made inside an agent, a nested mixture or a chain, else the attempts."""
        if self._within and (self._within.made or self._found or self._unasked):
            return self._within.made
        return self._moa.get("calls", self.made)  # type: ignore[no-any-return]

    @property
    def usage(self) -> dict[str, int]:
        """Tokens used, inside an agent, a nested mixture or a chain in all of it; empty where none were reported."""
        return self._used.usage or self._answered

    @property
    def _answered(self) -> dict[str, int]:
        """Tokens of the answer, where it was not found."""
        if self._found:
            return {}
        if self._moa:
            tokens = {f"{way}_tokens": self._moa[f"{way}_tokens"] for way in ("input", "output")}
            return {**tokens, "total_tokens": sum(tokens.values())}
        return self._tokens

    @property
    def model(self) -> str:
        """The model that answered, as its provider reports it; the one asked for where nothing was reported."""
        return (self._answer and reported(self._answer)) or self._seat.model.id

    @property
    def finish_reason(self) -> str:
        """Why the answer ends where it does, as the provider says, if not because it is whole; else ""."""
        said = self._answer.response_metadata if self._answer else {}
        reason = str(said.get("finish_reason") or said.get("stop_reason") or said.get("done_reason") or "").lower()
        return "" if reason in _WHOLE else "length" if reason in _LENGTH else reason

    @property
    def answered(self) -> bool:
        """Whether there is an answer."""
        return self._answer is not None

    def told(self) -> bool:
        """Whether the tokens of all that was asked are known: of a model that answered, and has said how many."""
        if self._within or self._used.lost:
            return False
        return self.cached or not self.calls or {"input_tokens", "output_tokens"} <= self._tokens.keys()

    def bill(self, error: Exception | None = None) -> Bill:
        """What it cost, where it failed with `error` too."""
        if self.cached or not self.calls:
            return NOTHING
        if self._within and self._within.made:
            made = _receipt(self._answer, error)
            if made and made["calls"] == self._within.made:
                return bill_of_run(made)  # all that was asked: it was a mixture, and knows its prices
            return self._within.bill
        lost = self._used.lost
        if not self._answer:
            return self._lost(lost) if lost else NOTHING if error and _unbilled(error) else UNKNOWN
        bill = bill_of(self._seat.prices, self._seat.known_as, self._answer, self._tokens)
        return Bill.sum([self._lost(lost), bill]) if lost else bill

    def _lost(self, usage: Mapping[str, int]) -> Bill:
        """What is known of the cost of calls whose answer nobody got."""
        return Bill(None, self._seat.prices.cost(self._seat.known_as, usage) or 0.0, None)

    @property
    def _unasked(self) -> bool:
        """Whether it is a graph that ended before it had asked anybody, or before it had begun."""
        return self._within is not None and self._seat.model.takes_state and not self._answer

    @property
    def _found(self) -> bool:
        """Whether the answer of a graph was given in an earlier run."""
        return self._within is not None and self._within.only_began and self._seat.model.takes_state

    @property
    def _moa(self) -> dict[str, Any]:
        """The receipt of a nested mixture."""
        return (self._answer and self._answer.response_metadata.get("moa")) or {}

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _may_wait(self, wait: float) -> bool:
        """Whether to ask again in `wait` seconds: not within an answer, nor beyond the time there is."""
        timeout = self._seat.policy.timeout
        self.too_long = timeout is not None and self.seconds + wait >= timeout
        return not (self.began or self.too_long) and self._may_again()

    def why(self, error: Exception, limit: asyncio.Timeout) -> str:
        """What went wrong, in one line."""
        if not limit.expired():
            wait = f"; it asks for a wait beyond the {self._seat.policy.timeout:g} s" if self.too_long else ""
            return describe(error) + wait
        before = f"; before that: {self._attempts.last}" if self._attempts.last else ""
        return f"no answer within {self._seat.policy.timeout:g} s{before}"

    async def answer(self, messages: list[BaseMessage]) -> AIMessage:
        self._started = time.monotonic()
        if (kept := await self._answers.find(self._seat, messages)) is not None:
            self.cached, self._answer, self._tokens = True, kept, usage_of(kept.usage_metadata)
            return kept
        try:
            with transport.Listening(self._ear):
                answer = await self._attempts.ask(lambda: self._seat.model.ask(messages, self._config))
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # LangChain may be telling just now, in a task of its own, of an answer that came in
            raise
        self._answer, self._tokens = answer, usage_of(answer.usage_metadata)
        if self._used is not self._within:
            self._used.received(self._tokens)
        await self._answers.keep(self._seat, messages, answer, self.bill().at_least)
        return answer


def _receipt(answer: AIMessage | None, error: Exception | None) -> Any:
    """The receipt of a mixture that answered, or failed."""
    return answer.response_metadata.get("moa") if answer else getattr(error, "receipt", None)


def _unbilled(error: BaseException) -> bool:
    """Whether a call failed in a way that is not charged: the provider refused it, or was not reached."""
    refused = isinstance(getattr(error, "status_code", None), int)
    return refused or any(isinstance(cause, ConnectionRefusedError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def unheard(config: RunnableConfig) -> RunnableConfig:
    """`config` for a model that nobody is to hear: without the handlers that make a model stream.

    And without the messages that the nodes of an agent return: LangGraph shows those whatever the tags say.
    """
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        if streaming := [handler for handler in callbacks.handlers if isinstance(handler, _STREAMING)]:
            callbacks = callbacks.copy()
            for handler in streaming:
                callbacks.remove_handler(handler)
    elif callbacks:
        callbacks = [handler for handler in callbacks if not isinstance(handler, _STREAMING)]
    own = dict(config.get("configurable", {}))
    if (stream := own.get(_STREAM)) and "messages" in stream.modes:
        own[_STREAM] = StreamProtocol(stream, stream.modes - {"messages"})
    tags = [*(config.get("tags") or ()), TAG_NOSTREAM]
    return {**config, "configurable": own, "callbacks": callbacks, "tags": tags}


def _heard_by(handlers: Sequence[BaseCallbackHandler], config: RunnableConfig) -> RunnableConfig:
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        for handler in handlers:
            callbacks.add_handler(handler)
        return {**config, "callbacks": callbacks}
    return {**config, "callbacks": [*(callbacks or ()), *handlers]}
