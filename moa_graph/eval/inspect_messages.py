"""inspect_ai's messages, tools and answers, and LangChain's."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelUsage,
    StopReason,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from moa_graph.errors import MoAConfigError
from moa_graph.receipt import Call, Receipt, total

__all__ = ["answered", "conversation", "given", "ignored", "stop_reason", "usage"]

_HONOURED = {"temperature", "max_tokens", "seed", "stop_seqs"}
_INSPECTS_OWN = {
    "max_retries", "timeout", "attempt_timeout", "stream_idle_timeout", "max_connections", "adaptive_connections",
    "system_message", "max_tool_output", "cache", "cache_prompt", "fail_on_refusal", "reasoning_history",
}  # fmt: skip


def conversation(messages: Sequence[ChatMessage]) -> list[BaseMessage]:
    """The conversation as LangChain has it. Raises MoAConfigError for what is neither text nor a picture."""
    return [_message(message) for message in messages]


def _message(message: ChatMessage) -> BaseMessage:
    if isinstance(message, ChatMessageSystem):
        return SystemMessage(message.text)
    if isinstance(message, ChatMessageAssistant):
        calls = message.tool_calls or []
        return AIMessage(
            message.text, tool_calls=[{"name": c.function, "args": c.arguments, "id": c.id} for c in calls]
        )
    if isinstance(message, ChatMessageTool):
        status, text = ("error", message.error.message) if message.error else ("success", message.text)
        return ToolMessage(text, tool_call_id=str(message.tool_call_id), name=message.function, status=status)
    if isinstance(message.content, str) or all(isinstance(part, ContentText) for part in message.content):
        return HumanMessage(message.text)
    return HumanMessage([_part(part) for part in message.content])


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, ContentText):
        return {"type": "text", "text": part.text}
    if isinstance(part, ContentImage):
        return {"type": "image_url", "image_url": {"url": part.image, "detail": part.detail}}
    raise MoAConfigError(f"a mixture reads text and pictures, and no {part.type}")


def given(tools: Sequence[ToolInfo], choice: ToolChoice, config: GenerateConfig) -> dict[str, Any]:
    """What the final model is given with a call: tools, and where it stops."""
    said: dict[str, Any] = {}
    if tools:
        functions = [tool.model_dump(exclude_none=True, exclude={"options"}) for tool in tools]
        said["tools"] = [{"type": "function", "function": function} for function in functions]
        if isinstance(choice, ToolFunction):
            said["tool_choice"] = choice.name
        elif choice != "auto":
            said["tool_choice"] = choice
    if config.stop_seqs:
        said["stop"] = list(config.stop_seqs)
    return said


def ignored(config: GenerateConfig) -> list[str]:
    """What of it a mixture does not do: its models keep what its YAML says."""
    said = config.model_dump(exclude_none=True)
    return sorted(name for name, value in said.items() if value not in (False, []) and name not in _KNOWN)


_KNOWN = _HONOURED | _INSPECTS_OWN


def answered(message: AIMessage, model: str) -> ChatMessageAssistant:
    """The answer, with the tool calls in it."""
    calls = [
        ToolCall(id=str(call["id"] or index), function=call["name"], arguments=call["args"])
        for index, call in enumerate(message.tool_calls)
    ]
    calls += [
        ToolCall(
            id=str(call["id"]), function=str(call["name"]), arguments={},
            parse_error=f"the arguments are no JSON object: {json.dumps(call['args'])}",
        )
        for call in message.invalid_tool_calls
    ]  # fmt: skip
    return ChatMessageAssistant(content=str(message.text), tool_calls=calls or None, model=model, source="generate")


def stop_reason(message: AIMessage, receipt: Receipt) -> StopReason:
    """Why the final model's answer ends where it does."""
    if message.tool_calls or message.invalid_tool_calls:
        return "tool_calls"
    reason = receipt["final"].get("finish_reason", "stop")
    known: dict[str, StopReason] = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}
    return known.get(reason, "unknown")


def usage(receipts: Sequence[Receipt]) -> ModelUsage | None:
    """What all calls of these runs used, and their $ where all prices are known; `None`: nothing was reported."""
    read = sum(receipt["input_tokens"] for receipt in receipts)
    said = sum(receipt["output_tokens"] for receipt in receipts)
    cached = sum(receipt["cached_input_tokens"] for receipt in receipts)
    if not (read or said):
        return None
    thought = sum(call["usage"].get("reasoning_tokens", 0) for receipt in receipts for call in _asked(receipt))
    return ModelUsage(
        input_tokens=read - cached,
        output_tokens=said,
        total_tokens=read + said,
        input_tokens_cache_read=cached or None,
        reasoning_tokens=thought or None,
        total_cost=total(receipt["cost_usd"] for receipt in receipts),
    )


def _asked(receipt: Receipt) -> Iterator[Call]:
    beside: list[Any] = [decision["call"] for decision in receipt["decisions"] if "call" in decision]
    calls = [*(call for layer in receipt["layers"] for call in layer["proposals"]), *beside, receipt["final"]]
    yield from (call for call in calls if not (call["cached"] or call["resumed"]))
