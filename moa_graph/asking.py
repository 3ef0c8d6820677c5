"""One seat is asked, and what can be heard of it meanwhile: its first token, what the calls inside it use and cost."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers._streaming import _StreamingCallbackHandler, _V2StreamingCallbackHandler
from langgraph.constants import TAG_NOSTREAM
from langgraph.pregel.protocol import StreamProtocol

from moa_graph.bill import NOTHING, UNKNOWN, Bill, bill_of, bill_of_run, reported
from moa_graph.cache import Answers
from moa_graph.errors import describe
from moa_graph.panel import Seat
from moa_graph.prices import Prices
from moa_graph.receipt import usage_of
from moa_graph.retry import Attempts

__all__ = ["Asking", "unheard"]

_STREAM: Final = "__pregel_stream"  # where a graph finds the stream of the graph around it
_WHOLE: Final = ("", "stop", "end_turn", "tool_calls", "tool_use", "stop_sequence", "eos", "complete", "completed")
_LENGTH: Final = ("length", "max_tokens", "model_length", "incomplete")
_STREAMING: Final = (_StreamingCallbackHandler, _V2StreamingCallbackHandler)  # LangGraph knows them by these too


class _FirstToken(BaseCallbackHandler):
    """Notes that a model has begun to answer: from then on nobody else can be asked in its place."""

    run_inline = True

    def __init__(self, tell: Callable[[], None] | None) -> None:
        self.began = False
        self._tell = tell

    def on_llm_new_token(self, token: str | list[Any], *, chunk: Any = None, **_: Any) -> None:
        calls = getattr(getattr(chunk, "message", None), "tool_call_chunks", None)
        if (token or calls) and not self.began:
            self.began = True
            if self._tell:
                self._tell()


class _CallsWithin(BaseCallbackHandler):
    """Counts what an agent, a nested mixture or a chain asks of its models, and what they use."""

    run_inline = True

    def __init__(self, prices: Prices) -> None:
        self.made = 0
        self.usage: Counter[str] = Counter()
        self._prices, self._bills, self._open = prices, list[Bill](), 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.made += 1
        self._open += 1

    def on_llm_start(self, *_: Any, **__: Any) -> None:
        self.on_chat_model_start()

    def on_llm_error(self, error: BaseException, **_: Any) -> None:
        self._open -= 1
        self._bills.append(NOTHING if _unbilled(error) else UNKNOWN)

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        self._open -= 1
        for choices in response.generations:
            message = getattr(choices[0], "message", None) if choices else None
            if inner := getattr(message, "response_metadata", {}).get("moa"):
                self.made += inner["calls"] - 1  # it was a mixture
            if message is not None:
                self.usage.update(usage_of(message.usage_metadata))
                self._bills.append(bill_of(self._prices, (), message))

    @property
    def bill(self) -> Bill:
        """All of them together; what has not ended was given up."""
        return Bill.sum([*self._bills, *([UNKNOWN] if self._open else [])])


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
        self._first, self._within = _FirstToken(on_first_token), _CallsWithin(seat.prices)
        handlers: list[BaseCallbackHandler] = [] if TAG_NOSTREAM in (config.get("tags") or ()) else [self._first]
        if not seat.model.is_one_call:
            handlers.append(self._within)
        self._config = _heard_by(handlers, config)
        self._attempts = Attempts(seat.policy.retries, self._may_wait)
        self._started = time.monotonic()
        self._answer: AIMessage | None = None
        self.cached = self.too_long = False

    @property
    def began(self) -> bool:
        """Whether the answer has begun to stream."""
        return self._first.began

    @property
    def made(self) -> int:
        """Attempts made."""
        return self._attempts.made

    @property
    def calls(self) -> int:
        """Requests sent to providers: those made inside an agent, a nested mixture or a chain, else the attempts."""
        return self._within.made or self._moa.get("calls", self.made)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens used, inside an agent, a nested mixture or a chain in all of it; empty where none were reported."""
        if self._within.usage:
            return dict(self._within.usage)
        if self._moa:
            tokens = {f"{way}_tokens": self._moa[f"{way}_tokens"] for way in ("input", "output")}
            return {**tokens, "total_tokens": sum(tokens.values())}
        return usage_of(self._answer.usage_metadata) if self._answer else {}

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

    def bill(self, error: Exception | None = None) -> Bill:
        """What it cost, where it failed with `error` too."""
        if self.cached or not self.calls:
            return NOTHING
        made = _receipt(self._answer, error)
        if made and made["calls"] == self._within.made:  # all that was asked: it was a mixture, and knows its prices
            return bill_of_run(made)
        if self._within.made:
            return self._within.bill
        if self._answer:
            return bill_of(self._seat.prices, self._seat.known_as, self._answer)
        return NOTHING if error and _unbilled(error) else UNKNOWN

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
            self.cached, self._answer = True, kept
            return kept
        answer = self._answer = await self._attempts.ask(lambda: self._seat.model.ask(messages, self._config))
        await self._answers.keep(self._seat, messages, answer)
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


def _heard_by(handlers: list[BaseCallbackHandler], config: RunnableConfig) -> RunnableConfig:
    if not handlers:
        return config
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        for handler in handlers:
            callbacks.add_handler(handler)
        return {**config, "callbacks": callbacks}
    return {**config, "callbacks": [*(callbacks or ()), *handlers]}
