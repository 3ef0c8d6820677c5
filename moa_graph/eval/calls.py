"""What single models have answered within runs that have not ended: it is not asked, and not paid for, twice."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from langgraph.cache.base import BaseCache

from moa_graph.eval.store import Key, Lines, RunDirectory

__all__ = ["STOPPED", "Calls", "Immediate", "asking_for", "booked"]

STOPPED: Final = "the process was stopped before this was answered"

_key: ContextVar[str] = ContextVar("moa_graph_eval_key")


class Immediate(BaseCache[Any]):
    """A LangGraph cache that never waits: it is the same one in asynchronous code."""

    async def aget(self, keys: Sequence[Any]) -> dict[Any, Any]:
        return self.get(keys)

    async def aset(self, pairs: Mapping[Any, tuple[Any, int | None]]) -> None:
        self.set(pairs)

    async def aclear(self, namespaces: Sequence[Any] | None = None) -> None:
        self.clear(namespaces)


class Calls(Immediate):
    """What single models have answered within runs that have not ended: a run that starts again asks only the rest.

    A LangGraph cache for the graphs that answer. What is found belongs to the one answer that is made at the time
    (see `asking_for`): nothing is shared between items or contenders.
    """

    def __init__(self, path: Path, answers: Lines) -> None:
        super().__init__()
        self._lines, self._answers = Lines(path, ("key", "call")), answers
        self._kept: dict[str, dict[str, Any]] = {}
        self._unbooked: dict[str, float] = defaultdict(float)
        for record in self._lines.all():
            key = tuple(json.loads(record["key"]))
            if answers.status(key) == "ok":
                continue
            self._kept.setdefault(record["key"], {})[record["call"]] = record["answer"]
            if record["after"] == answers.times(key):
                self._unbooked[record["key"]] += record["answer"]["usd"]

    def book(self) -> None:
        """Write down as failed what was stopped before its answer was written, with what it had cost until then."""
        for key, usd in self._unbooked.items():
            if usd:
                fields = dict(zip(self._answers.fields, json.loads(key), strict=True))
                receipt = {"cost_usd_at_least": round(usd, 9)}
                self._answers.append({**fields, "status": "failed", "error": STOPPED, "receipt": receipt})
        self._unbooked.clear()

    def end(self, key: Key) -> None:
        """An answer is whole: what was answered on the way to it is not needed any more."""
        self._kept.pop(json.dumps(key), None)

    def close(self) -> None:
        """No more is asked; where nothing is open, the file goes."""
        self._lines.close()
        if not self._kept:
            self._lines.path.unlink(missing_ok=True)

    def get(self, keys: Sequence[Any]) -> dict[Any, Any]:
        kept = self._kept.get(_key.get(""), {})
        return {key: kept[key[1]] for key in keys if key[1] in kept}

    def set(self, pairs: Mapping[Any, tuple[Any, int | None]]) -> None:
        key = _key.get("")
        for (_, call), (answer, _ttl) in pairs.items():
            self._kept.setdefault(key, {})[call] = answer
            after = self._answers.times(tuple(json.loads(key)))
            self._lines.append({"key": key, "call": call, "after": after, "answer": answer})

    def clear(self, namespaces: Sequence[Any] | None = None) -> None:
        self._kept.clear()


def booked(directory: RunDirectory) -> Calls:
    """What a run's directory has of these. What a process that was stopped had spent counts as spent from here on."""
    calls = Calls(directory.path / "calls.jsonl", directory.answers)
    calls.book()
    return calls


@contextmanager
def asking_for(key: Key) -> Iterator[None]:
    """What is asked within belongs to this answer."""
    token = _key.set(json.dumps(key))
    try:
        yield
    finally:
        _key.reset(token)
