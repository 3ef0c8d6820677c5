"""Runs that failed and are made again: what was answered in them is not asked, and not paid for, twice."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from moa_graph.eval.calls import Immediate
from moa_graph.receipt import Receipt

__all__ = ["Attempted", "Unfinished"]

Kept = dict[Any, Any]

_kept: ContextVar[Kept] = ContextVar("moa_unfinished")


@dataclass
class Attempted:
    """A run so far: its seed, what was answered in it, and the receipts of the attempts that failed."""

    seed: int
    answers: Kept = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)


class Unfinished(Immediate):
    """The cache of graphs whose runs may be made again. Two runs share nothing, also where they ask the same."""

    def __init__(self) -> None:
        super().__init__()
        self._failed: dict[str, list[Attempted]] = {}

    def begin(self, what: str, seed: int) -> Attempted:
        """A run that asks `what`: one that failed goes on, else a new one begins."""
        waiting = self._failed.get(what)
        run = waiting.pop() if waiting else Attempted(seed)
        if not waiting:
            self._failed.pop(what, None)
        return run

    def failed(self, what: str, run: Attempted) -> None:
        """It ended without an answer, and may be made again."""
        self._failed.setdefault(what, []).append(run)

    @contextmanager
    def going_on(self, run: Attempted) -> Iterator[None]:
        """What is asked within belongs to this run."""
        token = _kept.set(run.answers)
        try:
            yield
        finally:
            _kept.reset(token)

    def get(self, keys: Sequence[Any]) -> dict[Any, Any]:
        kept = _kept.get({})
        return {key: kept[key] for key in keys if key in kept}

    def set(self, pairs: Mapping[Any, tuple[Any, int | None]]) -> None:
        _kept.get({}).update({key: value for key, (value, _ttl) in pairs.items()})

    def clear(self, namespaces: Sequence[Any] | None = None) -> None:
        self._failed.clear()
