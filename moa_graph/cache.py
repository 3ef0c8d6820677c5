"""Answers kept in a LangGraph cache: one entry per prompt, model, sampling parameters and slot."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable
from langgraph.cache.base import BaseCache

from moa_graph.answers import text_of
from moa_graph.panel import Seat

__all__ = ["Answers", "identity"]

_NAMESPACE: Final = ("moa_graph", "answers")


class Answers:
    """The answers in `cache`; without one, nothing is found and nothing kept.

    Only what a model answered is kept, never a failure. The slot is part of the key, so that the samples of one
    proposer stay different answers; message ids are not, so that the same question is found again.
    """

    def __init__(self, cache: BaseCache[Any] | None) -> None:
        self._cache = cache
        self._made: dict[int, tuple[Any, Any]] = {}  # of each runnable asked: itself, and what tells it apart

    async def find(self, seat: Seat, messages: Sequence[BaseMessage]) -> AIMessage | None:
        """What `seat` answered to `messages` before, if it did."""
        if self._cache is None:
            return None
        key = (_NAMESPACE, self._key(seat, messages))
        if (kept := (await self._cache.aget([key])).get(key)) is None:
            return None
        return AIMessage(kept["text"], response_metadata={"model_name": kept["model"]}, usage_metadata=kept["usage"])

    async def keep(self, seat: Seat, messages: Sequence[BaseMessage], answer: AIMessage, usd: float) -> None:
        """Keep an answer that is text alone, and what it cost at least; one without text is none."""
        if self._cache is None or answer.tool_calls or not isinstance(answer.content, str) or not text_of(answer):
            return
        metadata = answer.response_metadata
        model = metadata.get("model_name") or metadata.get("model") or seat.model.id
        kept = {"text": answer.content, "model": model, "usage": answer.usage_metadata, "usd": usd}
        await self._cache.aset({(_NAMESPACE, self._key(seat, messages)): (kept, None)})

    def _key(self, seat: Seat, messages: Sequence[BaseMessage]) -> str:
        said = [[message.type, message.content, getattr(message, "tool_calls", None)] for message in messages]
        whole = [said, seat.model.id, self._identity(seat), seat.layer, seat.slot]
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()

    def _identity(self, seat: Seat) -> Any:
        # the embedded model's server is another one in each process; what it answers is not
        if seat.model.id.startswith("local:"):
            return dict(seat.model.parameters)
        runnable = seat.model.runnable
        if id(runnable) not in self._made:
            self._made[id(runnable)] = runnable, identity(runnable)
        return self._made[id(runnable)][1]


def identity(runnable: Any) -> list[Any]:
    """The models in a runnable as LangChain's own cache tells them apart, and what is bound to them: no secrets."""
    if isinstance(runnable, BaseChatModel):
        return [runnable._get_llm_string()]
    if not isinstance(runnable, Runnable):
        return []
    fields = [getattr(runnable, name) for name in getattr(type(runnable), "model_fields", ())]
    parts = [part for field in fields for part in (field if isinstance(field, list) else [field])]
    return [getattr(runnable, "kwargs", None), *(made for part in parts if (made := identity(part)))]
