"""A mixture's answer as a chat model's message: whole, and in pieces that add up to it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.utils.utils import LC_ID_PREFIX

from moa_graph.errors import MoARunError
from moa_graph.receipt import Receipt

__all__ = ["Pieces", "whole"]


class Pieces:
    """The final model's messages as pieces of one answer.

    Nothing is given away before its first content: until then another attempt, or a fallback, may take its place.
    """

    def __init__(self) -> None:
        self._held: list[AIMessageChunk] = []
        self._from: str | None = None
        self._said = False

    def take(self, message: AIMessage) -> Iterator[AIMessageChunk]:
        if not self._said and message.id != self._from:
            self._held.clear()
        self._from = message.id
        self._held.append(_piece(message))
        self._said = self._said or bool(message.content or getattr(message, "tool_call_chunks", None))
        if self._said:
            yield from self._given()

    def end(self, answer: AIMessage) -> Iterator[AIMessageChunk]:
        """What was held back, and the last chunk: the sum of all calls, and the receipt."""
        if not (self._said or self._held):
            self._held.append(_piece(answer))
        yield from self._given()
        yield AIMessageChunk(
            content="",
            id=answer.id,
            response_metadata={"moa": answer.response_metadata["moa"]},
            usage_metadata=answer.usage_metadata,
            chunk_position="last",
        )

    def _given(self) -> Iterator[AIMessageChunk]:
        given, self._held = self._held, []
        yield from given


def _piece(message: AIMessage) -> AIMessageChunk:
    """A piece of the answer, without what the last chunk says of the whole."""
    metadata = {name: value for name, value in message.response_metadata.items() if name != "moa"}
    update = {
        "id": _id(message.id), "response_metadata": metadata, "usage_metadata": None, "chunk_position": None,
    }  # fmt: skip
    if isinstance(message, AIMessageChunk):
        return message.model_copy(update=update)
    made = AIMessageChunk(
        content=message.content, additional_kwargs=message.additional_kwargs, tool_call_chunks=_calls(message)
    )
    return made.model_copy(update=update)


def _calls(message: AIMessage) -> list[ToolCallChunk]:
    valid = [(call["name"], json.dumps(call["args"]), call["id"]) for call in message.tool_calls]
    invalid = [(call["name"], call["args"], call["id"]) for call in message.invalid_tool_calls]
    return [
        tool_call_chunk(name=name, args=args, id=id_, index=k) for k, (name, args, id_) in enumerate(valid + invalid)
    ]


def whole(said: Sequence[AIMessage]) -> AIMessage:
    """The mixture's answer as a model's: its usage is that of all calls, and LangChain gives it its run's id."""
    if not said:
        raise MoARunError("a model of the mixture asks a person: a chat model cannot wait for that; use create_moa")
    [last] = said
    usage = _usage(last.response_metadata["moa"])
    return last.model_copy(update={"usage_metadata": usage, "id": _id(last.id)})


def _id(given: str | None) -> str | None:
    """A provider's id of a message; an inner run's gives way to that of the mixture's own run."""
    return None if given is None or given.startswith(LC_ID_PREFIX) else given


def _usage(receipt: Receipt) -> UsageMetadata | None:
    beside: list[Any] = [decision["call"] for decision in receipt["decisions"] if "call" in decision]
    asked = [*(call for layer in receipt["layers"] for call in layer["proposals"]), *beside, receipt["final"]]
    counted = [call["usage"] for call in asked if not (call["cached"] or call["resumed"])]
    if not any(counted):
        return None
    given, said = receipt["input_tokens"], receipt["output_tokens"]
    usage = UsageMetadata(input_tokens=given, output_tokens=said, total_tokens=given + said)
    if cached := receipt["cached_input_tokens"]:
        usage["input_token_details"] = InputTokenDetails(cache_read=cached)
    if reasoning := _sum(counted, "reasoning_tokens"):
        usage["output_token_details"] = OutputTokenDetails(reasoning=reasoning)
    return usage


def _sum(counted: Sequence[Mapping[str, int]], tokens: str) -> int:
    return sum(usage.get(tokens, 0) for usage in counted)
