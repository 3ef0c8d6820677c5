"""Chat completions for LangChain's chat models, over one aiohttp session per event loop.

OpenAI's client checks every request against its types, builds its address and headers anew, and makes a model of
every answer; LangChain hands it plain data, and turns the model back into plain data. That is half of the processor
time of a run (tests/benchmarks/README.md). Here the same request is sent with the client's own headers, time limits
and address, the answer stays plain data, and a failure is the client's own error.
"""

import functools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import httpx2
import openai

from moa_graph.loops import PerLoop

__all__ = ["Completions"]

_BY_THE_CLIENT: Final = {"timeout", "extra_headers", "extra_query", "extra_body"}
_KEEP_ALIVE: Final = 30.0  # seconds: a layer later, the connection is still there
_FAILED: Final = 400  # from this HTTP status on
_DECODED: Final = {"content-encoding", "content-length"}  # aiohttp has unpacked the body by then


class Completions:
    """`chat.completions` of an OpenAI client, for LangChain's chat models.

    A request with options of its own (`timeout`, `extra_headers`, …) is left to the client. Raises what the client
    raises: APIStatusError and its kinds, APIConnectionError, APITimeoutError.
    """

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self.with_raw_response = _WithRawResponse(self)

    async def create(self, **body: Any) -> Any:
        """The answer as plain data; with `stream=True` a stream of such."""
        if not _BY_THE_CLIENT.isdisjoint(body) or (data := _encoded(body)) is None:
            return await self._client.chat.completions.create(**body)
        session = await _sessions.get()
        with _errors(self._url):
            response = await session.post(self._url, data=data, headers=self._headers, timeout=self._timeout)
            if body.get("stream") and response.status < _FAILED:
                return self._stream(response)
            async with response:
                content = await response.read()
        if response.status >= _FAILED:
            raise self._client._make_status_error_from_response(_as_httpx(response, self._url, content=content))
        if (answer := _plain(content)) is None:
            whole = _as_httpx(response, self._url, content=content)
            raise openai.APIResponseValidationError(whole, None, message="the server's answer is no JSON object")
        return answer

    def _stream(self, response: aiohttp.ClientResponse) -> openai.AsyncStream[object]:
        body = _as_httpx(response, self._url, stream=_Body(response))
        return openai.AsyncStream(cast_to=object, response=body, client=self._client)

    @functools.cached_property
    def _url(self) -> str:
        return f"{str(self._client.base_url).rstrip('/')}/chat/completions"

    @functools.cached_property
    def _headers(self) -> dict[str, str]:
        headers = {**self._client.auth_headers, **self._client.default_headers}
        return {name: value for name, value in headers.items() if isinstance(value, str)}

    @functools.cached_property
    def _timeout(self) -> aiohttp.ClientTimeout:
        limits = httpx2.Timeout(self._client.timeout)
        return aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.read)


class _WithRawResponse:
    """As LangChain asks where it does not stream."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    async def create(self, **body: Any) -> "_Raw":
        return _Raw(await self._completions.create(**body))


class _Raw:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def parse(self) -> Any:
        return self._answer


class _Body(httpx2.AsyncByteStream):
    """What the server streams."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error)) from error
        except aiohttp.ClientError as error:
            raise httpx2.ReadError(str(error)) from error

    async def aclose(self) -> None:
        self._response.close() if not self._response.content.is_eof() else self._response.release()


def _encoded(body: dict[str, Any]) -> bytes | None:
    """The request's bytes; None where something in it is no plain data."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError):
        return None


def _plain(content: bytes) -> dict[str, Any] | openai.BaseModel | None:
    try:
        answer = json.loads(content)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    refused = any((choice.get("message") or {}).get("refusal") for choice in answer.get("choices") or ())
    # LangChain reads a refusal off the client's model alone
    return openai.types.chat.ChatCompletion.construct(**answer) if refused else answer


def _as_httpx(response: aiohttp.ClientResponse, url: str, **body: Any) -> httpx2.Response:
    headers = [(name, value) for name, value in response.headers.items() if name.lower() not in _DECODED]
    return httpx2.Response(response.status, headers=headers, request=httpx2.Request("POST", url), **body)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """aiohttp's failures as the client's."""
    try:
        yield
    except TimeoutError as error:
        raise openai.APITimeoutError(request=httpx2.Request("POST", url)) from error
    except aiohttp.ClientError as error:
        raise openai.APIConnectionError(request=httpx2.Request("POST", url)) from error


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0,  # how many calls are in flight is LayerPolicy's to say
        keepalive_timeout=_KEEP_ALIVE,
        ssl=httpx2.create_ssl_context(),  # SSL_CERT_FILE and SSL_CERT_DIR as the client takes them
    )
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


_sessions = PerLoop(_session, aiohttp.ClientSession.close)
