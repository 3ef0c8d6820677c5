"""How many calls are in flight at once, over threads and event loops."""

import asyncio
import threading
from collections import deque
from types import TracebackType

__all__ = ["Limiter"]


class Limiter:
    """At most `size` at once, first come first served, in one process: `async with limiter: …`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._lock = threading.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._release()

    def _give_up(self, turn: "asyncio.Future[None]") -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return
        self._release()  # it had been given its turn as it was cancelled

    def _release(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                turn = self._waiting.popleft()
            try:
                turn.get_loop().call_soon_threadsafe(_take, turn)
            except RuntimeError:
                continue  # its event loop is closed: nobody waits there any more
            return


def _take(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)
