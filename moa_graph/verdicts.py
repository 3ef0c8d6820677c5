"""What a model is asked for a decision, and how its answer is read: tolerant of the text around it, strict in itself.

Answers to be judged are material, never instructions: they stand between marks with a code (`Prompt`, "sealed").
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from moa_graph.errors import MoAConfigError, clean
from moa_graph.prompts import Prompt

__all__ = ["check_text", "one_of", "read_list", "read_object", "to_judge", "whole", "why_not"]

T = TypeVar("T")


def to_judge(prompt: str, answers: Sequence[str], transcript: str, demand: str) -> list[BaseMessage]:
    """The messages to a judge: its prompt and the numbered answers, what they answer, and what it shall give.

    The code of the marks is a digest of all that it reads, so that a cache knows the same question again. No answer
    can hold it: it would have to hold a digest of itself.
    """
    code = sha256("\0".join([prompt, transcript, *answers]).encode(errors="replace")).hexdigest()[:16]
    shown, _ = Prompt(prompt, envelope="sealed").placed(answers, code=code)
    return [SystemMessage(shown), HumanMessage(f"What was asked:\n\n{transcript}\n\n{demand}")]


def read_list(text: str) -> list[Any]:
    """The last JSON list in a text. Raises ValueError where there is none."""
    return _last(text, "[", list)


def read_object(text: str) -> dict[str, Any]:
    """The last JSON object in a text. Raises ValueError where there is none."""
    return _last(text, "{", dict)


def _last(text: str, mark: str, kind: type[T]) -> T:
    found, place, decoder = None, text.find(mark), json.JSONDecoder()
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except ValueError:
            end = place + 1
        place = text.find(mark, end)
    if not isinstance(found, kind):
        raise ValueError(f"no JSON {'list' if kind is list else 'object'} in it")
    return found


# What a value object is given


def one_of(what: str, given: object, valid: Sequence[str]) -> None:
    """Raises MoAConfigError for a value that is none of these."""
    if given not in valid:
        raise MoAConfigError(f"{what} is {given!r}: one of {', '.join(valid)}")


def whole(what: str, given: object) -> None:
    """Raises MoAConfigError for what is no whole number of at least 1."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise MoAConfigError(f"{what} is {given!r}: a whole number of at least 1 is needed")


def check_text(what: str, given: object) -> None:
    """Raises MoAConfigError for what is no text, or an empty one."""
    if not isinstance(given, str) or not given.strip():
        raise MoAConfigError(f"{what} is {given!r}: a text is needed")


def why_not(error: Exception) -> str:
    """Why there is no decision, in one line."""
    return clean(str(error))
