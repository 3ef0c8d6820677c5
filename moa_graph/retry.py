"""Asking again after a failure that may pass."""

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from moa_graph.errors import describe

__all__ = ["Attempts", "retry_after", "transient"]

_T = TypeVar("_T")
_FIRST_WAIT: Final = 0.5  # seconds; doubled at each attempt
_LONGEST_WAIT: Final = 8.0
_TRANSIENT_STATUS: Final = {408, 409, 425, 429}
_PERMANENT_CODES: Final = {"insufficient_quota", "billing_hard_limit_reached"}


class Attempts:
    """One call and its further attempts: `made` counts requests, `last` is the last failure's description."""

    def __init__(self, retries: int, may_again: Callable[[float], bool] = lambda wait: True) -> None:
        """`may_again` is asked before each further attempt, with the seconds to be waited first."""
        self._retries, self._may_again = retries, may_again
        self.made = 0
        self.last = ""

    async def ask(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """What `call` gives; after a transient failure it is called again, at most `retries` times, while it may."""
        while True:
            self.made += 1
            try:
                return await call()
            except Exception as error:
                self.last = describe(error)
                wait = _wait(error, self.made)
                if self.made > self._retries or not (transient(error) and self._may_again(wait)):
                    raise
                await asyncio.sleep(wait)


def transient(error: BaseException) -> bool:
    """Whether asking again may help: a rate limit, a lost connection, a timeout, a server's own failure (5xx)."""
    if getattr(error, "code", None) in _PERMANENT_CODES:
        return False
    if isinstance(status := getattr(error, "status_code", None), int):
        return status in _TRANSIENT_STATUS or status >= 500
    if isinstance(retryable := getattr(error, "is_retryable", None), bool):
        return retryable
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(
        names & {"APIConnectionError", "TransportError", "ClientConnectionError", "ClientPayloadError"}
    )


def retry_after(error: BaseException) -> float | None:
    """Seconds the server asked us to wait (its Retry-After, as seconds or as a date); None: it did not say."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    if milliseconds := headers.get("retry-after-ms"):
        return _number(milliseconds, 0.001)
    said = headers.get("retry-after")
    if not said or (seconds := _number(said)) is not None:
        return seconds if said else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def _number(text: str, scale: float = 1.0) -> float | None:
    try:
        return max(0.0, float(text) * scale)
    except ValueError:
        return None


def _wait(error: BaseException, attempt: int) -> float:
    if (said := retry_after(error)) is not None:
        return said
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (attempt - 1)) * random.uniform(0.75, 1.25)  # noqa: S311
