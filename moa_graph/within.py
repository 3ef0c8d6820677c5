"""A chat model that asks others: in a tracer's tree their runs stand beneath its own.

LangChain knows of no runs within a chat model's: it tells a model that streams nothing of its run, and gives the
callbacks for runs beneath it to none.
"""

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Final, Self
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import get_async_callback_manager_for_config, get_callback_manager_for_config
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer
from langchain_core.utils.uuid import uuid7
from langgraph.constants import TAG_NOSTREAM
from pydantic import PrivateAttr

__all__ = ["Beneath", "HearsBeneath", "OuterChatModel"]

Beneath = BaseCallbackManager | None
"""The callbacks of the runs within a model's run."""

_OUTER: Final = ("ls_", "langgraph_", "checkpoint_", "moa_")  # what metadata says of the model's own run
_TRACERS: Final = (BaseTracer, AsyncBaseTracer)  # whoever takes calls as they come would count these, and their sum
_Chunks = AsyncGenerator[ChatGenerationChunk]


class HearsBeneath:
    """A callback handler that hears the runs within a model's run as well, and is told whose they are."""

    def hear_beneath(self, run_id: UUID) -> None:
        """The model's run `run_id` is but the sum of the runs within it."""


class OuterChatModel(BaseChatModel):
    """Each call is made on a copy that knows which run it is."""

    _within: Beneath = PrivateAttr(default=None)
    _chunks: _Chunks | None = PrivateAttr(default=None)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **given: Any,
    ) -> Iterator[AIMessageChunk]:
        config = ensure_config(config)
        manager = config["callbacks"] = get_callback_manager_for_config(config)
        run_id = config["run_id"] = config.get("run_id") or uuid7()
        yield from BaseChatModel.stream(self._in(_callbacks(manager, run_id)), input, config, **given)

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **given: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        config = ensure_config(config)
        manager = config["callbacks"] = get_async_callback_manager_for_config(config)
        run_id = config["run_id"] = config.get("run_id") or uuid7()
        told = self._in(_callbacks(manager, run_id))
        try:
            async for part in BaseChatModel.astream(told, input, config, **given):
                yield part
        finally:
            if told._chunks:
                await told._chunks.aclose()

    def _generate_with_cache(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **given: Any
    ) -> ChatResult:
        told = self._in(self._beneath(run_manager))
        return BaseChatModel._generate_with_cache(told, messages, stop, run_manager, **given)

    async def _agenerate_with_cache(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **given: Any
    ) -> ChatResult:
        told = self._in(self._beneath(run_manager))
        return await BaseChatModel._agenerate_with_cache(told, messages, stop, run_manager, **given)

    def _beneath(self, run_manager: Any) -> Beneath:
        return _callbacks(run_manager, run_manager.run_id) if run_manager else self._within

    def _in(self, within: Beneath) -> Self:
        """This model in a run of its own."""
        told = copy.copy(self)
        told._within, told._chunks = within, None
        return told

    def _closed_later(self, chunks: _Chunks) -> _Chunks:
        """`chunks`, which `astream` closes at its end: LangChain leaves that to the garbage collector."""
        if self._within:
            self._chunks = chunks
        return chunks


def _callbacks(manager: Any, run_id: UUID) -> BaseCallbackManager:
    handlers: list[Any] = [h for h in manager.inheritable_handlers if isinstance(h, (*_TRACERS, HearsBeneath))]
    for handler in handlers:
        if isinstance(handler, HearsBeneath):
            handler.hear_beneath(run_id)
    metadata = {k: v for k, v in manager.inheritable_metadata.items() if not k.startswith(_OUTER)}
    tags = [tag for tag in manager.inheritable_tags if tag != TAG_NOSTREAM]
    return AsyncCallbackManager(
        handlers=handlers,
        inheritable_handlers=list(handlers),
        parent_run_id=run_id,
        tags=tags,
        inheritable_tags=list(tags),
        metadata=metadata,
        inheritable_metadata=dict(metadata),
    )
