"""What belongs to an event loop: the loop behind the sync entry points, and each loop's HTTP connections.

An OpenAI client keeps connections, and a connection belongs to the loop that opened it; so a chat model that
is used from several loops ("Event loop is closed") is given, per loop, a copy that shares all but the client.
"""

import asyncio
import atexit
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

__all__ = ["on_this_loop", "run_sync"]

_THREADS = 64  # a panel of sync-only models must not queue behind asyncio's default of a few

_T = TypeVar("_T")
_lock = threading.Lock()
_stack = ExitStack()
_portal: BlockingPortal | None = None


def run_sync(call: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T:
    """Await `call(*args, **kwargs)` on the one loop behind all sync entry points, and return what it gives."""
    return _the_portal().call(partial(call, *args, **kwargs))


def _the_portal() -> BlockingPortal:
    global _portal
    with _lock:
        if _portal is None:
            _portal = _stack.enter_context(start_blocking_portal(name="moa-graph"))
            _portal.call(_widen)
            atexit.register(_stack.close)
        return _portal


async def _widen() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "moa-graph"))


class _Loop:
    """What one event loop owns: its HTTP client, closed with it, and its copies of models."""

    def __init__(self) -> None:
        self._http: Any = None
        self._closing: AsyncIterator[None] | None = None
        self._copies: dict[int, tuple[weakref.ref[Any], Any]] = {}

    async def copy(self, model: Runnable[Any, Any]) -> Runnable[Any, Any]:
        """This loop's copy of `model`: the same object where nothing in it belongs to a loop."""
        key = id(model)
        if key not in self._copies:
            made = await self._rebuilt(model)
            gone = weakref.ref(model, lambda _: self._copies.pop(key, None) and None)
            self._copies[key] = (gone, None if made is model else made)  # None: no loop's; and no cycle here
        return self._copies[key][1] or model

    async def _rebuilt(self, model: Any) -> Any:
        if isinstance(model, BaseChatModel):
            return await self._with_own_client(model) if _has_openai_client(model) else model
        changed = {}
        for name, value in _parts(model):
            new = [await self._rebuilt(v) for v in value] if isinstance(value, list) else await self._rebuilt(value)
            if any(a is not b for a, b in zip(_listed(new), _listed(value), strict=True)):
                changed[name] = new
        return model.model_copy(update=changed) if changed else model

    async def _with_own_client(self, model: Any) -> Any:
        if model.http_async_client is not None:
            return model  # the user's own transport: how it is shared is the user's choice
        client = model.root_async_client.with_options(http_client=await self._client(), max_retries=0)
        update = {"root_async_client": client, "async_client": client.chat.completions}
        if not model.stream_usage:
            update["stream_usage"] = True
        return model.model_copy(update=update)

    async def _client(self) -> Any:
        if self._http is None:
            from openai import DefaultAioHttpClient

            self._http = DefaultAioHttpClient()
            # asyncio closes a loop's async generators before the loop: that is our place to close the client
            self._closing = _close_with_loop(self._http)
            await anext(self._closing)
        return self._http


async def _close_with_loop(client: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.aclose()


def _has_openai_client(model: BaseChatModel) -> bool:
    return getattr(model, "root_async_client", None) is not None and hasattr(model, "http_async_client")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parts(runnable: Any) -> list[tuple[str, Any]]:
    """The runnables that a runnable is made of: of a binding, a sequence, a model with fallbacks, ..."""
    if not hasattr(type(runnable), "model_fields"):
        return []
    fields = ((name, getattr(runnable, name)) for name in type(runnable).model_fields)
    return [
        (name, value)
        for name, value in fields
        if isinstance(value, Runnable)
        or (isinstance(value, list) and value and all(isinstance(v, Runnable) for v in value))
    ]


_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()


async def on_this_loop(model: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """The model to use on the running event loop, with this loop's connections in it."""
    loop = asyncio.get_running_loop()
    with _lock:
        owned = _loops.setdefault(loop, _Loop()) if loop not in _loops else _loops[loop]
    return await owned.copy(model)
