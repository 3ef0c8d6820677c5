"""How a benchmark judges and scores: what a judge is asked of an answer, and what its reply is worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from moa_graph.eval.items import Item

__all__ = ["JUDGED", "Answers", "Ask", "Rubric", "UnparsedError"]

JUDGED: Final = ("ok", "unparsed")
"""The states of a judgement that is not asked for again, unless somebody wants those that could not be read."""

Answers = Callable[[str], Sequence[str] | None]
"""A contender -> what it answered to the item in each turn; `None`: not all of it is there."""


class UnparsedError(ValueError):
    """A judge's reply that says no score. Its text says why."""


@dataclass(frozen=True)
class Ask:
    """One question to the judge. `order`: of the answers it is shown, where there are two."""

    item: str
    contender: str
    turn: int
    messages: Sequence[tuple[str, str]]
    read: Callable[[str], Mapping[str, Any]]
    """The reply -> what it says, such as `{"score": 7}`. Raises UnparsedError."""
    order: str = ""


class Rubric(Protocol):
    """How a benchmark judges and scores."""

    unit: str
    """What a score is, such as `of 10`."""

    def asks(self, item: Item, contender: str, answers: Answers) -> Sequence[Ask]:
        """What the judge is asked of an answer: nothing where the answer is not there."""

    def score(self, item: Item, contender: str, judgements: Sequence[Mapping[str, Any]]) -> float | None:
        """An item's score; `None` where a judgement of it is missing, or could not be read."""

    def parts(self, item: Item, judgement: Mapping[str, Any]) -> Mapping[str, float]:
        """What one judgement adds to the columns of a finer table, such as categories or skills."""
