"""Questions to ask, one after the other: what is given as a text or as messages, and JSONL files of them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages

from moa_graph.errors import MoAConfigError, clean

__all__ = ["KEYS", "Conversation", "conversation", "read_questions"]

Conversation = list[BaseMessage]

KEYS: Final = ("question", "prompt", "messages")
"""Where a line of a JSONL file may have its question; the first of them counts."""


def conversation(given: Any) -> Conversation:
    """A question as messages: of a text, of messages, or of a mapping with `messages`.

    Raises MoAConfigError where there is no question in it, or something that is no message.
    """
    if isinstance(given, Mapping):
        given = given.get("messages")
    try:
        made = convert_to_messages([HumanMessage(given)] if isinstance(given, str) else given or [])
    except (ValueError, TypeError, NotImplementedError) as error:
        raise MoAConfigError(f"these are no messages: {clean(str(error))}") from error
    if not any(message.type == "human" and (message.text.strip() or _has_parts(message)) for message in made):
        raise MoAConfigError("there is no question in it")
    return made


def _has_parts(message: BaseMessage) -> bool:
    return not isinstance(message.content, str) and bool(message.content)


def read_questions(path: Path, limit: int | None = None) -> list[Conversation]:
    """The questions of a JSONL file: an object a line, with `question`, `prompt` or `messages`. Empty lines are none.

    Raises MoAConfigError naming the file and the line.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise MoAConfigError(f"{path}: cannot be read ({why}); give a JSONL file of questions") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise MoAConfigError(f'{path}: there is no question in it: one object a line, {{"question": "…"}}')
    return _read(path, lines[:limit])


def _read(path: Path, lines: Iterable[tuple[int, str]]) -> list[Conversation]:
    questions = []
    for number, line in lines:
        try:
            questions.append(_question(line))
        except MoAConfigError as error:
            raise MoAConfigError(f"{path}, line {number}: {error}") from error
    return questions


def _question(line: str) -> Conversation:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise MoAConfigError(f"not JSON ({error})") from error
    if not isinstance(given, dict):
        raise MoAConfigError(f'an object with one of {", ".join(KEYS)} is needed, such as {{"question": "…"}}')
    if (key := next((key for key in KEYS if key in given), None)) is None:
        raise MoAConfigError(f"none of {', '.join(KEYS)} is in it, but {', '.join(map(str, given)) or 'nothing'}")
    if not isinstance(given[key], str if key != "messages" else list):
        raise MoAConfigError(f"{key} is no {'list' if key == 'messages' else 'text'}")
    return conversation(given[key])
