"""What a model gave, as a message, and its text."""

import re
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from moa_graph.errors import MoAError

__all__ = ["answer_of", "text_of"]

_THINKING = re.compile(r"\A\s*(?:<think(?:ing)?>.*?</think(?:ing)?>\s*)+", re.DOTALL)
_TEMPLATE_THINKING = re.compile(r"\A(?:(?!<think).)*?</think(?:ing)?>", re.DOTALL)  # its start stood in the prompt
_OPEN_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*\Z", re.DOTALL)


def answer_of(output: Any, model: str) -> AIMessage:
    """The answer in what a model, a chain or a graph gave. Raises MoAError where there is none."""
    if isinstance(output, Mapping) and output.get("messages"):
        output = output["messages"][-1]
    if isinstance(output, str):
        return AIMessage(output)
    if isinstance(output, AIMessage):
        return output
    if isinstance(output, BaseMessage):
        return AIMessage(output.content, id=output.id, name=output.name)
    keys = f": no `messages` in it, but {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    raise MoAError(f"{model} gave {type(output).__name__} where a message was expected{keys}")


def text_of(message: BaseMessage) -> str:
    """The text of an answer, stripped of surrounding white space and of thinking."""
    text = str(message.text)
    if "</think" in text:
        text = _THINKING.sub("", _TEMPLATE_THINKING.sub("", text))
    return _OPEN_THINKING.sub("", text).strip()
