"""What an answer comes down to, so that answers can be counted: a number, a letter, a group of an expression, a field.

Two answers that say the same in other words come down to the same text: 42, 42.0 and "42" are "42".
"""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

from moa_graph.errors import MoAConfigError

__all__ = ["Extract", "extractor", "objects"]

Extract = str | Callable[[str], str | None]

_FIELD: Final = "json:"
_CHOICES: Final = '"number", "choice", "json:field.path", a regular expression with a group, or a function'

_COMMA = r"(?<![\d.,])(?:0,|(?:\d{1,3}(?:\.\d{3}){1,12}|\d+),(?!\d{3}(?!\d)))\d+(?![.,]?\d)"  # 3,14 and 1.234,5
_NUMBER = re.compile(
    rf"(?:(?<![\w.)\]}}%])[-+])?(?:{_COMMA}|(?:\d{{1,3}}(?:,\d{{3}}){{1,12}}(?![\d,])|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,3}\b)?"
)
_FRACTION = re.compile(r"([-+]?)\\[dt]?frac\{(\d+)\}\{(\d+)\}|([-+]?)\b(\d+)\s*/\s*(\d+)\b")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf|displaystyle)\b|\\[,;! $%]|\{,\}(?=\d)|[{}$]")
_SAID_CHOICE = re.compile(
    r"(?i:\b(?:answer|option|choice)\b)\W*(?i:(?:is|be|option|choice|letter|the)\b\W*)*\b([A-E])\b(?!['\u2019])"
)
_MARKED_CHOICE = re.compile(r"\(([A-E])\)|\*\*\(?([A-E])\)?[.:)]?\*\*|^\W*([A-E])[).:](?=\s|$)", re.MULTILINE)
_LONE_CHOICE = re.compile(r"\W*([A-Ea-e])\W*")


def extractor(how: Extract, where: str = "Vote") -> Callable[[str], str | None]:
    """What makes of an answer what is counted; `None`: there is nothing in it. Raises MoAConfigError."""
    if callable(how):
        return how
    if not isinstance(how, str) or not how.strip():
        raise MoAConfigError(f"{where}: extract is {how!r}: {_CHOICES}")
    if how in _NAMED:
        return _NAMED[how]
    if how.startswith(_FIELD):
        if not all(path := how.removeprefix(_FIELD).split(".")):
            raise MoAConfigError(
                f'{where}: extract is {how!r}: name a field, such as "json:answer" or "json:result.value"'
            )
        return lambda text: _field(text, path)
    return _expression(how, where)


def _expression(how: str, where: str) -> Callable[[str], str | None]:
    try:
        expression = re.compile(how)
    except re.error as error:
        raise MoAConfigError(f"{where}: extract is {how!r}, and no regular expression ({error}): {_CHOICES}") from error
    if not expression.groups:
        raise MoAConfigError(f"{where}: extract is {how!r}, a regular expression without a group: {_CHOICES}")

    def last(text: str) -> str | None:
        found = [next(filter(None, match.groups()), "").strip() for match in expression.finditer(text)]
        return next(filter(None, reversed(found)), None)

    return last


def _number(text: str) -> str | None:
    """The last number, of the last box if there is one."""
    if boxes := _BOXED.findall(text):
        text = boxes[-1]
        if (fraction := _FRACTION.search(text)) and (said := _divided(fraction)):
            return said
    found = _NUMBER.findall(_LATEX.sub(" ", text.replace("{,}", ",").replace("−", "-")))  # noqa: RUF001
    return _plain(found[-1]) if found else None


def _divided(fraction: re.Match[str]) -> str | None:
    sign, over, under = [part for part in fraction.groups() if part is not None]
    if not int(under):
        return None
    whole, rest = divmod(int(over), int(under))
    return _plain(f"{sign}{whole}") if not rest else _plain(f"{sign}{Decimal(int(over)) / Decimal(int(under))}")


def _plain(number: str) -> str:
    """1,234.50 -> 1234.5 and 3,140 -> 3140, but 3,14 -> 3.14; every digit that was said."""
    if re.search(_COMMA, number):
        number = number.replace(".", "").replace(",", ".")
    text = format(Decimal(number.replace(",", "")), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _choice(text: str) -> str | None:
    """The last letter that is said to be the answer; else the one that is marked, if it is just one."""
    if boxes := _BOXED.findall(text):
        text = _LATEX.sub(" ", boxes[-1])
    if lone := _LONE_CHOICE.fullmatch(text):
        return lone[1].upper()
    if said := _SAID_CHOICE.findall(text):
        return str(said[-1])
    marked = {letter for letters in _MARKED_CHOICE.findall(text) for letter in letters if letter}
    return marked.pop() if len(marked) == 1 else None


def _field(text: str, path: list[str]) -> str | None:
    """What stands at `path` in the last JSON value that has it."""
    found = [_normal(value) for whole in objects(text) if (value := _at(whole, path)) is not None]
    return next(filter(None, reversed(found)), None)


def _at(value: Any, path: list[str]) -> Any:
    for name in path:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def _normal(value: Any) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    text = str(value).strip()
    return _plain(text) if _NUMBER.fullmatch(text) else text


def objects(text: str) -> Iterator[Any]:
    """The JSON objects and lists in a text, whatever stands around them."""
    decoder, place = json.JSONDecoder(), 0
    while found := re.search(r"[{\[]", text[place:]):
        place += found.start()
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
        else:
            yield value


_NAMED: Final[dict[str, Callable[[str], str | None]]] = {"number": _number, "choice": _choice}
