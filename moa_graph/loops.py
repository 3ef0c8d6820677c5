"""What belongs to an event loop: the loop behind the sync entry points, and things of which each loop has its own."""

import asyncio
import atexit
import functools
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ["PerLoop", "home", "run_sync"]

_T = TypeVar("_T")
_NAME = "moa-graph"
_THREADS = 64  # a panel of sync-only models must not queue behind asyncio's default of a few

_lock = threading.Lock()


def run_sync(call: Callable[..., Awaitable[_T]], *args: Any, **kwargs: Any) -> _T:
    """Await `call(*args, **kwargs)` on the one loop behind all sync entry points, and return what it gives."""
    return _portal_and_loop()[0].call(partial(call, *args, **kwargs))


def home() -> asyncio.AbstractEventLoop:
    """The loop behind the sync entry points; started when it is first needed."""
    return _portal_and_loop()[1]


def _portal_and_loop() -> tuple[BlockingPortal, asyncio.AbstractEventLoop]:
    with _lock:
        return _started()


@functools.cache
def _started() -> tuple[BlockingPortal, asyncio.AbstractEventLoop]:
    stack = ExitStack()
    portal = stack.enter_context(start_blocking_portal(name=_NAME))
    atexit.register(stack.close)
    return portal, portal.call(_settle_in)


async def _settle_in() -> asyncio.AbstractEventLoop:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, _NAME))
    return loop


class PerLoop(Generic[_T]):
    """A thing of which each event loop has its own: made when first needed, closed with the loop."""

    def __init__(self, make: Callable[[], _T], close: Callable[[_T], Awaitable[object]]) -> None:
        self._make, self._close = make, close
        self._known: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_T, AsyncIterator[None]]]
        self._known = weakref.WeakKeyDictionary()

    async def get(self) -> _T:
        """The running loop's own."""
        loop = asyncio.get_running_loop()
        if (known := self._known.get(loop)) is None:
            thing = self._make()
            # asyncio closes a loop's async generators before the loop: that is our place to close the thing
            closing = self._until_the_loop_ends(thing)
            known = self._known[loop] = thing, closing
            await anext(closing)
        return known[0]

    async def _until_the_loop_ends(self, thing: _T) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self._known.pop(asyncio.get_running_loop(), None)  # it holds the loop, and so would keep itself
            await self._close(thing)
