"""Questions to ask, one after the other: what is given as a text or as messages, and JSONL files of them."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages

from moa_graph.errors import MoAConfigError, clean

__all__ = ["KEYS", "Conversation", "conversation", "read_questions", "rows"]

Conversation = list[BaseMessage]

KEYS: Final = ("question", "prompt", "messages")
"""Where a line of a JSONL file may have its question: in one of them."""


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
    return [_question(row[key], key, where) for where, key, row in islice(rows(path), limit)]


def rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The lines of a JSONL file of questions: file and line, which of `KEYS` it has its question in, the object.

    Raises MoAConfigError for a file without any, and a line that is no object with one of `KEYS`.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise MoAConfigError(f"{path}: cannot be read ({why}); give a JSONL file of questions") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise MoAConfigError(f'{path}: there is no question in it: one object a line, {{"question": "…"}}')
    for number, line in lines:
        where = f"{path}, line {number}"
        yield where, *_object(line, where)


def _object(line: str, where: str) -> tuple[str, dict[str, Any]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise MoAConfigError(f"{where}: this is not JSON ({error})") from error
    if not isinstance(row, dict):
        needed = f'an object with one of {", ".join(KEYS)} is needed, such as {{"question": "…"}}'
        raise MoAConfigError(f"{where}: {needed}, not {line.strip()[:40]}")
    given = [key for key in KEYS if key in row]
    if not given:
        raise MoAConfigError(f"{where}: none of {', '.join(KEYS)} is in it, but {', '.join(row) or 'nothing'}")
    if len(given) > 1:
        raise MoAConfigError(f"{where}: there are {' and '.join(given)} in it: give one of them")
    return given[0], row


def _question(given: Any, key: str, where: str) -> Conversation:
    if not isinstance(given, str if key != "messages" else list):
        raise MoAConfigError(f"{where}: {key} is no {'list' if key == 'messages' else 'text'}")
    try:
        return conversation(given)
    except MoAConfigError as error:
        raise MoAConfigError(f"{where}: {error}") from error
