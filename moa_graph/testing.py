"""A chat model that says what you scripted: test a graph offline, with no key, in milliseconds.

    model = ScriptedChatModel(answers=[rate_limited(retry_after=0.1), "Paris.", Answer("Rome.", latency=2.0)])

The first call gets the first answer, the next call the next one, and the last answer repeats.
`model.prompts` holds what the model was shown. The failures are those of the `openai` package.
"""

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr, SkipValidation, field_validator

if TYPE_CHECKING:
    import httpx2
    import openai

__all__ = [
    "Answer",
    "ScriptedChatModel",
    "bad_request",
    "connection_lost",
    "rate_limited",
    "server_error",
    "timed_out",
    "unauthorized",
]

SYNC_STALL_LIMIT = 60.0
"""Seconds after which a stalled sync call gives up if nobody releases it: a thread cannot be cancelled."""

_WORD = re.compile(r"\s*\S+(?:\s+\Z)?|\s+")  # white space stays with its word: joined, the words are the text

Content: TypeAlias = str | list[str | dict[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What one call says, and how: how fast, and whether it fails or hangs on the way.

    A token is a word; `reasoning`, where there is any, comes first, as one token. Seconds of `None` are those
    of the model. Without streaming, a call that fails or hangs takes the same time to get there.

    Raises ValueError for `error_after` without `error`, and for a place behind the last token.
    """

    text: str = ""
    _: KW_ONLY
    latency: float | None = None
    """Seconds to the first token."""
    per_token: float | None = None
    """Seconds between two tokens."""
    error: BaseException | None = None
    """Raised after the latency, or after `error_after` tokens."""
    error_after: int | None = None
    stall_after: int | None = None
    """Hang after this many tokens (0: before the first) until the call is cancelled, or if sync, released."""
    usage: UsageMetadata | None = None
    """What the call is said to have used. `None` counts the words of the prompt and of the text."""
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: str = "stop"
    reasoning: str = ""

    def __post_init__(self) -> None:
        if self.error_after is not None and self.error is None:
            raise ValueError("error_after needs an error to raise")
        tokens = len(_tokens(self._content()))
        for name, place in (("error_after", self.error_after), ("stall_after", self.stall_after)):
            if place is not None and not 0 <= place <= tokens:
                raise ValueError(f"{name}={place}, but this answer has {tokens} tokens")

    def _content(self) -> Content:
        if not self.reasoning:
            return self.text
        return [{"type": "reasoning", "reasoning": self.reasoning}, {"type": "text", "text": self.text}]

    def _message(self) -> AIMessage:
        return AIMessage(
            content=self._content(),
            tool_calls=list(self.tool_calls),
            usage_metadata=self.usage,
            response_metadata={"finish_reason": self.finish_reason},
        )


Scripted: TypeAlias = str | AIMessage | Answer | Exception


class ScriptedChatModel(BaseChatModel):
    """A chat model that gives scripted answers and records what it was asked.

    Every copy of it (`bind`, `bind_tools`, `model_copy`, `copy.deepcopy`) shares its record, so that what a
    graph's copy was asked is seen on the object you made. Threads and event loops may share it too.
    `stop` and tools do not change what it says.

    Raises what is scripted; ValueError when made with no answers, or with anything that is not one; TypeError
    when a function answers with something that is not one.
    """

    answers: SkipValidation[Sequence[Scripted] | Callable[[list[BaseMessage]], Scripted]] = ("ok",)
    """One per call, in order, the last repeating; or a function from the prompt to an answer."""
    latency: float = Field(default=0.0, ge=0)
    """Seconds to the first token, where the answer does not say."""
    per_token: float = Field(default=0.0, ge=0)
    """Seconds between two tokens, where the answer does not say."""
    model_name: str = "scripted"
    """Reported in `response_metadata["model_name"]`."""

    _record: "_Record" = PrivateAttr(default_factory=lambda: _Record())

    @field_validator("answers")
    @classmethod
    def _check_answers(cls, answers: Any) -> Any:
        if callable(answers):
            return answers
        if isinstance(answers, str) or not isinstance(answers, Sequence) or not answers:
            raise ValueError("answers is a list of at least one answer, or a function from the prompt to one")
        for answer in answers:
            _check(answer, ValueError)
        return answers

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()  # the record is shared, and openai's exceptions cannot be copied

    @property
    def prompts(self) -> list[list[BaseMessage]]:
        """The messages of every call, in the order the calls came: `prompts[i]` got answer i."""
        return list(self._record.prompts)

    @property
    def calls(self) -> int:
        """How many calls were made, the failed ones included."""
        return len(self._record.prompts)

    @property
    def cancelled(self) -> int:
        """How many calls were given up in mid-flight: cancelled, or a stream closed before its end."""
        return self._record.cancelled

    @property
    def in_flight(self) -> int:
        """How many calls are running now."""
        return self._record.in_flight

    @property
    def max_in_flight(self) -> int:
        """How many calls ran at the same time at most."""
        return self._record.max_in_flight

    def release(self) -> None:
        """Let stalled sync calls go on to the rest of their answer, now and from now on."""
        self._record.released.set()

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind the tools: in OpenAI's format, they are in `.kwargs["tools"]` of what is returned."""
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **choice, **kwargs)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._record.call(messages) as turn:
            answer, message = self._answer(turn, messages)
            for step in self._steps(answer, message):
                if isinstance(step, float):
                    self._pause(step)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._record.call(messages) as turn:
            answer, message = self._answer(turn, messages)
            for step in self._steps(answer, message):
                if isinstance(step, float):
                    await asyncio.sleep(step)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with self._record.call(messages) as turn:
            answer, message = self._answer(turn, messages)
            for step in self._steps(answer, message):
                if isinstance(step, float):
                    self._pause(step)
                else:
                    yield _chunk(AIMessageChunk(content=step, id=message.id))
        yield _last_chunk(message)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with self._record.call(messages) as turn:
            answer, message = self._answer(turn, messages)
            for step in self._steps(answer, message):
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield _chunk(AIMessageChunk(content=step, id=message.id))
        yield _last_chunk(message)

    def _answer(self, turn: int, prompt: list[BaseMessage]) -> tuple[Answer, AIMessage]:
        """The script of a call, and the message that comes of it if nothing goes wrong."""
        said = self.answers
        script = said(prompt) if callable(said) else said[min(turn, len(said) - 1)]
        _check(script, TypeError)
        if isinstance(script, str):
            script = Answer(script)
        elif isinstance(script, Exception):
            script = Answer(error=script)
        answer, message = (script, script._message()) if isinstance(script, Answer) else (Answer(), script)
        metadata = {"model_name": self.model_name, "finish_reason": "stop", **message.response_metadata}
        usage = message.usage_metadata or _count_words(prompt, message)
        return answer, message.model_copy(update={"response_metadata": metadata, "usage_metadata": usage})

    def _steps(self, answer: Answer, message: AIMessage) -> Iterator[float | Content]:
        """What a call does, in order: wait so many seconds (inf: hang), say this token. Raises the error."""
        per_token = self.per_token if answer.per_token is None else answer.per_token
        yield float(self.latency if answer.latency is None else answer.latency)
        for said, token in enumerate((*_tokens(message.content), None)):
            if answer.stall_after == said:
                yield math.inf
            if answer.error is not None and (answer.error_after or 0) == said:
                raise answer.error.with_traceback(None)  # or a repeated one would keep every call's frames
            if token is not None:
                if said and per_token:
                    yield float(per_token)
                yield token

    def _pause(self, seconds: float) -> None:
        if seconds < math.inf:
            time.sleep(seconds)
        elif not self._record.released.wait(SYNC_STALL_LIMIT):
            raise TimeoutError(f"a stalled sync call was not released within {SYNC_STALL_LIMIT:g} s")


class _Record:
    """What a model and its copies were asked, and what runs now."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # not Lock: blockbuster would fault a test for the instant it is held
        self.released = threading.Event()
        self.prompts: list[list[BaseMessage]] = []
        self.cancelled = self.in_flight = self.max_in_flight = 0

    @contextmanager
    def call(self, prompt: list[BaseMessage]) -> Iterator[int]:
        """Record one call while it runs; the value is how many were made before."""
        with self.lock:
            turn = len(self.prompts)
            self.prompts.append(list(prompt))
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
        cancelled = 0
        try:
            yield turn
        except (asyncio.CancelledError, GeneratorExit):
            cancelled = 1
            raise
        finally:
            with self.lock:
                self.in_flight -= 1
                self.cancelled += cancelled


def _check(script: Any, error: type[Exception]) -> None:
    if not isinstance(script, Scripted):
        raise error(f"an answer is a str, AIMessage, Answer or Exception, not {type(script).__name__}")


def _tokens(content: Content) -> list[Content]:
    """Cut content as providers stream it: text by the word, any other block whole."""
    if isinstance(content, str):
        return list(_WORD.findall(content))
    return [[part] for index, block in enumerate(content) for part in _parts(block, index)]


def _parts(block: str | dict[str, Any], index: int) -> list[dict[str, Any]]:
    if isinstance(block, str):
        block = {"type": "text", "text": block}
    if block.keys() != {"type", "text"}:
        return [{"index": index, **block}]
    return [{"type": "text", "text": word, "index": index} for word in _WORD.findall(block["text"])]


def _chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)


def _last_chunk(message: AIMessage) -> ChatGenerationChunk:
    """Everything that is not content: tool calls, usage and metadata."""
    return _chunk(
        AIMessageChunk(
            content="" if isinstance(message.content, str) else [],
            id=message.id,
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            tool_call_chunks=[
                tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
                for index, call in enumerate(message.tool_calls)
            ],
            chunk_position="last",
        )
    )


def _count_words(prompt: Sequence[BaseMessage], message: AIMessage) -> UsageMetadata:
    shown, said = (sum(len(each.text.split()) for each in part) for part in (prompt, [message]))
    return UsageMetadata(input_tokens=shown, output_tokens=said, total_tokens=shown + said)


def rate_limited(retry_after: float | str | None = None) -> "openai.RateLimitError":
    """429. `retry_after`: seconds, or an HTTP date, for the Retry-After header; `None` sends no header."""
    import openai

    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return openai.RateLimitError("scripted: rate limited", response=_response(429, headers), body=None)


def server_error(status: int = 500) -> "openai.InternalServerError":
    """500, or another status from 500 to 599. Raises ValueError for any other."""
    import openai

    if not 500 <= status <= 599:
        raise ValueError(f"a server error has a status from 500 to 599, not {status}")
    return openai.InternalServerError("scripted: server error", response=_response(status), body=None)


def bad_request() -> "openai.BadRequestError":
    """400: asking again does not help."""
    import openai

    return openai.BadRequestError("scripted: bad request", response=_response(400), body=None)


def unauthorized() -> "openai.AuthenticationError":
    """401: the key is wrong or missing."""
    import openai

    return openai.AuthenticationError("scripted: unauthorized", response=_response(401), body=None)


def timed_out() -> "openai.APITimeoutError":
    """The client waited too long for an answer."""
    import openai

    return openai.APITimeoutError(_request())


def connection_lost() -> "openai.APIConnectionError":
    """The connection broke, or was never made."""
    import openai

    return openai.APIConnectionError(request=_request())


def _response(status: int, headers: dict[str, str] | None = None) -> "httpx2.Response":
    import httpx2  # what openai is built on

    return httpx2.Response(status, headers=headers, request=_request())


def _request() -> "httpx2.Request":
    import httpx2

    return httpx2.Request("POST", "https://scripted.invalid/v1/chat/completions")
