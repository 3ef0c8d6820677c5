"""Chat completions for LangChain's chat models, over one aiohttp session per event loop.

OpenAI's client checks every request against its types, builds its address and headers anew, and makes a model of
every answer; LangChain hands it plain data, and turns the model back into plain data. That is half of the processor
time of a run (tests/benchmarks/README.md). Here the same request is sent with the client's own headers, time limits
and address, the answer stays plain data, and a failure is the client's own error.
"""

import functools
import inspect
import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final, cast, get_args

import aiohttp
import httpx2
import openai
import pydantic
from openai._models import FinalRequestOptions
from openai.resources.chat import AsyncCompletions
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from yarl import URL

from moa_graph.loops import PerLoop
from moa_graph.transport import ears

__all__ = ["Completions"]

_BY_THE_CLIENT: Final = {"self", "timeout", "extra_headers", "extra_query", "extra_body"}
_OURS: Final = inspect.signature(AsyncCompletions.create).parameters.keys() - _BY_THE_CLIENT
_KEEP_ALIVE: Final = 30.0  # seconds: a layer later, the connection is still there
_PACKED: Final = {"content-encoding", "content-length"}  # untrue once aiohttp has unpacked the body
_SHOWN: Final = 200  # characters of an answer that is none


class Completions:
    """`chat.completions` of an OpenAI client, for LangChain's chat models.

    A request with options of its own (`timeout`, `extra_headers`, …), or with a parameter that the client does not
    know, is left to the client. Raises what the client raises: APIStatusError and its kinds, APIConnectionError,
    APITimeoutError.
    """

    tells_usage = True
    """To whoever listens (`transport.heard`), of answers that are not streamed."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        self.with_raw_response = _WithRawResponse(self)

    async def create(self, **body: Any) -> Any:
        """The answer as LangChain reads it; with `stream=True` a stream of plain data."""
        if not body.keys() <= _OURS or (data := _encoded(body)) is None:
            return await self._client.chat.completions.create(**body)
        session = await _sessions.get()
        with self._errors():
            response = await session.post(self._url, data=data, headers=self._headers, timeout=self._timeout)
            if body.get("stream") and _succeeded(response):
                return self._stream(response)
            content = await response.read()
        if not _succeeded(response):
            raise self._client._make_status_error_from_response(self._as_httpx(response, content=content))
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            text = (whole := self._as_httpx(response, content=content)).text
            message = f"the server's answer is no JSON object: {text[:_SHOWN]}"
            raise openai.APIResponseValidationError(whole, text, message=message)
        for ear in ears():
            ear.told(functools.partial(_usage, answer))
        return _Answer(data=_ANSWER.fill(answer))

    def _stream(self, response: aiohttp.ClientResponse) -> openai.AsyncStream[object]:
        body = self._as_httpx(response, stream=_Body(response))
        return openai.AsyncStream(cast_to=object, response=body, client=cast("Any", _Reader(self._client)))

    @functools.cached_property
    def _url(self) -> URL:
        return URL(str(self._client._prepare_url("/chat/completions")), encoded=True)

    @functools.cached_property
    def _headers(self) -> dict[str, str]:
        request = FinalRequestOptions.construct(method="post", url="", security={"bearer_auth": True})
        headers = self._client._build_headers(request)
        return {name.decode(): value.decode(headers.encoding) for name, value in headers.raw}

    @functools.cached_property
    def _timeout(self) -> aiohttp.ClientTimeout:
        said: Any = self._client.timeout
        limits = httpx2.Timeout(**said.as_dict()) if hasattr(said, "as_dict") else httpx2.Timeout(said)  # httpx's too
        return aiohttp.ClientTimeout(total=None, sock_connect=limits.connect, sock_read=limits.read)

    def _request(self) -> httpx2.Request:
        return httpx2.Request("POST", str(self._url))

    def _as_httpx(self, response: aiohttp.ClientResponse, **body: Any) -> httpx2.Response:
        dropped = _PACKED if "content-encoding" in response.headers else ()
        headers = [(name, value) for name, value in response.headers.items() if name.lower() not in dropped]
        return httpx2.Response(response.status, headers=headers, request=self._request(), **body)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """aiohttp's failures as the client's."""
        try:
            yield
        except TimeoutError as error:
            raise openai.APITimeoutError(request=self._request()) from error
        except aiohttp.ClientError as error:
            raise openai.APIConnectionError(request=self._request()) from error


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


class _Answer(openai.BaseModel):
    """An answer's data, in the clothes of the client's model: LangChain reads some things off that alone."""

    data: Any

    def model_dump(self, **_: Any) -> Any:
        return self.data

    @property
    def choices(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(message=SimpleNamespace(**choice["message"])) for choice in self.data["choices"]]


def _usage(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer tells of its usage, in LangChain's words."""
    told = answer.get("usage") or {}
    words = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens", "total_tokens": "total_tokens"}
    cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens")
    reasoning = (told.get("completion_tokens_details") or {}).get("reasoning_tokens")
    details = {"input_token_details": {"cache_read": cached}, "output_token_details": {"reasoning": reasoning}}
    return {name: told[word] for name, word in words.items() if told.get(word) is not None} | details


class _Reader:
    """What a stream needs of its client; here the chunks stay plain data."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._make_sse_decoder = client._make_sse_decoder

    def _process_response_data(self, *, data: Any, **_: Any) -> Any:
        return _CHUNK.fill(data)


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
        self._response.close()  # where all is read, the connection has gone back already


def _succeeded(response: aiohttp.ClientResponse) -> bool:
    return 200 <= response.status < 300


def _encoded(body: dict[str, Any]) -> bytes | None:
    """The request's bytes; None where something in it is no plain data."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError):
        return None


class _Shape:
    """The fields that a model of the client's has, and the shapes of those that are models again."""

    def __init__(self, model: type[pydantic.BaseModel]) -> None:
        self._nothing = dict.fromkeys(model.model_fields)
        parts = {name: _model_in(field.annotation) for name, field in model.model_fields.items()}
        self._parts = {name: _Shape(part) for name, part in parts.items() if part}

    def fill(self, data: Any) -> Any:
        """`data` with None for what the server left out, as the client's model has it."""
        if isinstance(data, list):
            return [self.fill(item) for item in data]
        if not isinstance(data, dict):
            return data
        filled = {**self._nothing, **data}
        for name, part in self._parts.items():
            if value := filled[name]:
                filled[name] = part.fill(value)
        return filled


def _model_in(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The one model in a field's type (`X | None`, `list[X]`); None where there is none, or a choice of several."""
    found, todo = [], [annotation]
    while todo:
        kind = todo.pop()
        todo += get_args(kind)
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            found.append(kind)
    return found[0] if len(found) == 1 else None


_ANSWER, _CHUNK = _Shape(ChatCompletion), _Shape(ChatCompletionChunk)


def _session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0,  # how many calls are in flight is LayerPolicy's to say
        keepalive_timeout=_KEEP_ALIVE,
        ssl=_tls(*map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR"))),
    )
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


@functools.cache
def _tls(*_: str | None) -> ssl.SSLContext:
    """What is trusted, as the client takes it from the environment; loading it takes longer than a request."""
    return httpx2.create_ssl_context()


_sessions = PerLoop(_session, aiohttp.ClientSession.close)
