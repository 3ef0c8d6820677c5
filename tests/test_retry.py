"""What is asked again, when, and how often."""

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from moa_graph.retry import Attempts, retry_after, transient
from moa_graph.testing import bad_request, connection_lost, rate_limited, server_error, timed_out, unauthorized


def with_code(code: str) -> Exception:
    error = rate_limited()
    error.code = code
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (rate_limited(), True),
        (server_error(), True),
        (server_error(503), True),
        (timed_out(), True),
        (connection_lost(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (bad_request(), False),
        (unauthorized(), False),
        (with_code("insufficient_quota"), False),
        (ValueError("ours"), False),
        (asyncio.CancelledError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_pass_is_asked_again(error: BaseException, again: bool) -> None:
    """Rate limits, lost connections, timeouts and 5xx are transient; 400, 401 and an empty account are not."""
    assert transient(error) is again


@pytest.mark.parametrize(("said", "seconds"), [(None, None), ("1.5", 1.5), (0, 0.0), ("-3", 0.0), ("soon", None)])
def test_retry_after_in_seconds(said: Any, seconds: float | None) -> None:
    """The header's seconds are honoured, never negative; what cannot be read is as if not said."""
    assert retry_after(rate_limited(retry_after=said)) == seconds


def test_retry_after_as_a_date() -> None:
    """The header may be a date; one that has passed means at once."""
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after(rate_limited(retry_after=date)) == pytest.approx(30, abs=2)
    assert retry_after(rate_limited(retry_after="Mon, 01 Jan 2001 00:00:00 GMT")) == 0.0


def test_retry_after_of_an_error_without_response() -> None:
    """An error that never was an HTTP response has nothing to say."""
    assert retry_after(ConnectionResetError()) is None


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, written down instead of waited."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("moa_graph.retry.asyncio.sleep", sleep)
    return slept


def failing(*errors: Exception) -> Callable[[], Awaitable[str]]:
    left = list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


async def test_a_transient_failure_is_asked_again_until_it_passes(naps: list[float]) -> None:
    """It counts its requests, remembers the last failure, and gives the answer."""
    attempts = Attempts(2)
    assert await attempts.ask(failing(server_error(), rate_limited())) == "done"
    assert (attempts.made, attempts.last) == (3, "RateLimitError: scripted: rate limited")


async def test_it_gives_up_after_the_last_retry(naps: list[float]) -> None:
    """`retries` counts further attempts, so there is one request more; the last failure is raised as it is."""
    attempts, last = Attempts(1), rate_limited()
    with pytest.raises(type(last)) as caught:
        await attempts.ask(failing(server_error(), last))
    assert (caught.value, attempts.made, len(naps)) == (last, 2, 1)


async def test_a_permanent_failure_is_not_asked_again(naps: list[float]) -> None:
    """A bad request is raised at once."""
    attempts, error = Attempts(5), bad_request()
    with pytest.raises(type(error)):
        await attempts.ask(failing(error))
    assert (attempts.made, naps) == (1, [])


async def test_waits_grow_and_are_spread_out(naps: list[float]) -> None:
    """From half a second, doubling, up to eight, each a quarter more or less."""
    await Attempts(6).ask(failing(*(server_error() for _ in range(6))))
    for nap, middle in zip(naps, [0.5, 1, 2, 4, 8, 8], strict=True):
        assert 0.75 * middle <= nap <= 1.25 * middle


async def test_retry_after_goes_before_our_own_wait(naps: list[float]) -> None:
    """The server's word is kept to the second; zero too."""
    await Attempts(2).ask(failing(rate_limited(retry_after=7), rate_limited(retry_after=0)))
    assert naps == [7.0, 0.0]
