"""Requests over our own session are the requests, answers and errors of OpenAI's client."""

import asyncio
import functools
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from langchain_together import ChatTogether
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
from openai.resources.chat import AsyncCompletions
from pydantic import BaseModel

from moa_graph import create_moa
from moa_graph.completions import Completions
from moa_graph.transport import shared

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[[Any], Awaitable[Any]]

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "served",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Because."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
BY_THE_CONNECTION = {"accept-encoding", "connection"}  # what each side can unpack; HTTP/1.1's default said aloud
BY_THE_CLIENT = {"x-stainless-raw-response"}  # the client's note to itself that its caller wants the raw response


@dataclass
class Endpoint:
    """A server in the test's own event loop: it answers as the test says, and keeps what arrived."""

    url: str = ""
    answer: Handler | None = None
    requests: list[tuple[web.Request, bytes]] = field(default_factory=list)
    in_flight: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        self.in_flight += 1
        try:
            assert self.answer is not None
            return await self.answer(request)
        finally:
            self.in_flight -= 1

    def last(self) -> tuple[str, dict[str, str], Any, int]:
        """Path and query, headers, body and its length of the last request."""
        request, body = self.requests[-1]
        headers = {name.lower(): value for name, value in request.headers.items()}
        return request.path_qs, headers, json.loads(body), len(body)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(answer=whole(ANSWER))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield endpoint
    await runner.cleanup()


def whole(answer: Any, status: int = 200, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response(answer, status=status, headers=headers)

    return handle


def plain(body: bytes | str, status: int = 200, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        content = body if isinstance(body, bytes) else body.encode()
        return web.Response(body=content, status=status, headers={"Content-Type": "application/json", **headers})

    return handle


def stream(*events: Any) -> Handler:
    """Each event is data, or bytes sent as they are; then the stream ends."""
    lines = [event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() for event in events]
    return plain(b"".join(line + b"\n\n" for line in lines), **{"Content-Type": "text/event-stream"})


def chunk(delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "served",
        "choices": choices,
    } | more


STREAM = stream(
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Because."}),
    chunk({}, "stop"),
    chunk(None, usage=ANSWER["usage"]),
    b"data: [DONE]",
)

KINDS = {"ChatOpenAI": ChatOpenAI, "ChatTogether": ChatTogether}


async def ask_whole(model: Any) -> Any:
    return await model.ainvoke("Why?")


async def ask_streamed(model: Any) -> Any:
    return [part async for part in model.astream("Why?")]


WAYS: dict[str, tuple[Ask, Handler]] = {"whole": (ask_whole, whole(ANSWER)), "streamed": (ask_streamed, STREAM)}
in_both_ways = pytest.mark.parametrize("way", WAYS)
of_both_kinds = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def a_sync_client() -> Any:
    return DefaultHttpxClient()


class Pair:
    """One model twice: asked over the client's own transport, and over ours."""

    def __init__(self, endpoint: Endpoint, kind: str = "ChatOpenAI", **options: Any) -> None:
        given = {"model": "a", "base_url": endpoint.url, "api_key": "key", "max_retries": 0, "stream_usage": True}
        given["http_client"] = a_sync_client()  # nobody asks it: making one for each model takes longer than a test
        self._make = lambda **more: KINDS[kind](**{**given, **options}, **more)
        self._endpoint = endpoint

    @property
    def ours(self) -> Any:
        model = shared(self._make())
        assert isinstance(model.async_client, Completions)
        return model

    async def client(self, ask: Ask) -> Any:
        async with DefaultAsyncHttpxClient() as http:
            return await ask(self._make(http_async_client=http))

    async def ask(self, ask: Ask) -> tuple[Any, Any]:
        return await self.client(ask), await ask(self.ours)

    async def requests(self, ask: Ask) -> tuple[Any, Any]:
        """What is on the wire."""
        await self.client(ask)
        wanted = self._endpoint.last()
        await ask(self.ours)
        return wanted, self._endpoint.last()

    async def failures(self, ask: Ask) -> tuple[Any, Any]:
        with pytest.raises(Exception) as wanted:  # noqa: PT011 - what is raised is what is compared
            await self.client(ask)
        with pytest.raises(Exception) as found:  # noqa: PT011
            await ask(self.ours)
        return wanted.value, found.value


def without(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in BY_THE_CONNECTION | BY_THE_CLIENT}


def assert_same_request(wanted: Any, found: Any) -> None:
    (path, headers, body, length), (our_path, our_headers, our_body, our_length) = wanted, found
    assert our_path == path
    assert without(our_headers) == without(headers)
    assert our_body == body
    assert our_length == length


# The request


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "organization": {"organization": "org-1"},
    "default_headers": {"default_headers": {"X-Title": "mine"}},
    "a header of the client's in another case": {"default_headers": {"user-agent": "me", "AUTHORIZATION": "Basic 1"}},
    "an accept-encoding": {"default_headers": {"Accept-Encoding": "identity"}},
    "timeout": {"timeout": 7.5},
    "no timeout": {"timeout": None},
    "httpx's timeout": {"timeout": httpx.Timeout(7.0, connect=3.0)},
    "a pair of timeouts": {"timeout": (3.0, 7.0)},
    "extra_body": {"extra_body": {"top_k": 5}},
    "sampling": {"temperature": 0.1, "seed": 7, "stop": ["x"], "logit_bias": {1: -100}, "logprobs": True},
    "model_kwargs": {"model_kwargs": {"user": "me"}},
}


@of_both_kinds
@in_both_ways
@pytest.mark.parametrize("options", OPTIONS)
async def test_what_a_model_is_made_with_is_sent_as_the_client_does(
    endpoint: Endpoint, kind: str, way: str, options: str
) -> None:
    """Path, headers and body are the client's, but for what the connection decides."""
    ask, endpoint.answer = WAYS[way]
    assert_same_request(*await Pair(endpoint, kind, **OPTIONS[options]).requests(ask))


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return city


CONVERSATION = [
    SystemMessage("Sé breve."),
    HumanMessage(
        [
            {"type": "text", "text": '¿日本? 👩‍🚀 \u2028 \x00 \\ "'},
            {"type": "image_url", "image_url": {"url": "data:,"}},
        ]
    ),
    AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Zürich"}, "id": "1"}]),
    ToolMessage("grün", tool_call_id="1"),
]
CALLS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "unicode, an image, a tool's turn": (lambda model: model, CONVERSATION),
    "tools": (lambda model: model.bind_tools([weather], tool_choice="any"), "Why?"),
    "extra_headers": (lambda model: model.bind(extra_headers={"X-Title": "call"}), "Why?"),
    "extra_query": (lambda model: model.bind(extra_query={"a": "b"}), "Why?"),
    "timeout": (lambda model: model.bind(timeout=9.0), "Why?"),
    "extra_body": (lambda model: model.bind(extra_body={"top_k": 5}), "Why?"),
    "what only the client can encode": (
        lambda model: model.bind(prediction=openai.types.FunctionDefinition(name="x")),
        "Why?",
    ),
}


@of_both_kinds
@in_both_ways
@pytest.mark.parametrize("call", CALLS)
async def test_what_a_call_says_is_sent_as_the_client_does(endpoint: Endpoint, kind: str, way: str, call: str) -> None:
    """Messages, tools and the options of one call arrive as the client sends them."""
    _, endpoint.answer = WAYS[way]
    change, given = CALLS[call]

    async def ask(model: Any) -> Any:
        return await ask_of_given(change(model), given, way)

    assert_same_request(*await Pair(endpoint, kind).requests(ask))


async def ask_of_given(model: Any, given: Any, way: str) -> Any:
    return await model.ainvoke(given) if way == "whole" else [part async for part in model.astream(given)]


@pytest.mark.parametrize("tail", ["", "/", "//", "/a%2Fb/c%20d/@cf", "/日本", "/%7Ea%41"])
async def test_an_address_is_the_clients(endpoint: Endpoint, tail: str) -> None:
    """A base_url's slashes and escapes are taken as the client takes them."""
    assert_same_request(*await Pair(endpoint, base_url=endpoint.url + tail).requests(ask_whole))


@pytest.mark.parametrize(
    "bound", [{"temperature": float("nan")}, {"user": "\ud800"}, {"user": object()}], ids=["nan", "surrogate", "object"]
)
async def test_what_is_no_json_is_the_clients_error(endpoint: Endpoint, bound: dict[str, Any]) -> None:
    """A request that cannot be written down fails as the client's does, before it is sent."""
    wanted, found = await Pair(endpoint).failures(lambda model: ask_whole(model.bind(**bound)))
    assert (type(found), str(found)) == (type(wanted), str(wanted))
    assert not endpoint.requests


async def test_an_unknown_parameter_is_the_clients_error(endpoint: Endpoint) -> None:
    """A misspelt parameter is refused as the client refuses it, not sent to a server that may ignore it."""
    wanted, found = await Pair(endpoint).failures(lambda model: ask_whole(model.bind(temprature=0.5)))
    assert (type(found), str(found)) == (type(wanted), str(wanted))
    assert not endpoint.requests


# Errors


def told(error: Any) -> dict[str, Any]:
    """What a caller can learn of an error."""
    names = ("message", "status_code", "body", "request_id", "code", "param", "type")
    found = {name: getattr(error, name, None) for name in names}
    response = getattr(error, "response", None)
    headers = {} if response is None else {k: v for k, v in response.headers.items() if k != "date"}
    text = None if response is None else response.text
    return {
        "class": type(error),
        "str": str(error),
        **found,
        "headers": headers,
        "text": text,
        "url": error.request.url,
    }


BODIES: dict[str, Any] = {
    "an error of OpenAI's": {"error": {"message": "no", "type": "t", "param": "p", "code": "insufficient_quota"}},
    "another's": {"detail": "no"},
    "a string": {"error": "no"},
    "text": "Sorry.",
    "nothing": "",
}


@in_both_ways
@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 408, 409, 422, 429, 500, 503])
async def test_a_status_is_the_clients_error(endpoint: Endpoint, way: str, status: int) -> None:
    """Class, message, status, body, request id and headers, Retry-After among them, are the client's."""
    headers = {"Retry-After": "7", "x-request-id": "r-1"}
    endpoint.answer = whole(BODIES["an error of OpenAI's"], status, **headers) if status != 304 else plain("", 304)
    wanted, found = await Pair(endpoint).failures(WAYS[way][0])
    assert told(found) == told(wanted)
    assert found.status_code == status


@in_both_ways
@pytest.mark.parametrize("body", BODIES)
async def test_an_errors_body_is_the_clients(endpoint: Endpoint, way: str, body: str) -> None:
    """Whatever a server says with an error is told as the client tells it."""
    said = BODIES[body]
    endpoint.answer = whole(said, 400) if isinstance(said, dict) else plain(said, 400, **{"Content-Type": "text/plain"})
    wanted, found = await Pair(endpoint).failures(WAYS[way][0])
    assert told(found) == told(wanted)


@in_both_ways
async def test_a_refused_connection_is_the_clients_error(endpoint: Endpoint, unused_tcp_port: int, way: str) -> None:
    """Nobody listening is APIConnectionError, with the reason as its cause."""
    pair = Pair(endpoint, base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    wanted, found = await pair.failures(WAYS[way][0])
    assert told(found) == told(wanted)
    assert isinstance(found, openai.APIConnectionError)


async def forever(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def half_a_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: " + json.dumps(chunk({"role": "assistant", "content": "Be"})).encode() + b"\n\n")
    return response


async def then_nothing(request: web.Request) -> web.StreamResponse:
    await half_a_stream(request)
    return await forever(request)


async def then_the_end(request: web.Request) -> web.StreamResponse:
    response = await half_a_stream(request)
    assert request.transport is not None
    request.transport.close()
    return response


async def half_a_body(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"id":')
    assert request.transport is not None
    request.transport.close()
    return response


async def no_answer(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(("way", "answer"), [("whole", forever), ("streamed", forever), ("streamed", then_nothing)])
async def test_silence_is_the_clients_timeout(endpoint: Endpoint, way: str, answer: Handler) -> None:
    """`request_timeout` ends a wait for an answer, or for more of it, with APITimeoutError."""
    endpoint.answer = answer
    wanted, found = await Pair(endpoint, request_timeout=0.2).failures(WAYS[way][0])
    assert told(found) == told(wanted)
    assert isinstance(found, openai.APITimeoutError)


@pytest.mark.parametrize(
    ("way", "answer"),
    [("whole", no_answer), ("whole", half_a_body), ("streamed", no_answer), ("streamed", then_the_end)],
)
async def test_half_an_answer_is_the_clients_error(endpoint: Endpoint, way: str, answer: Handler) -> None:
    """A connection that ends before its answer does is APIConnectionError."""
    endpoint.answer = answer
    wanted, found = await Pair(endpoint).failures(WAYS[way][0])
    assert told(found) == told(wanted)
    assert isinstance(found, openai.APIConnectionError)


@pytest.mark.parametrize("error", [{"message": "overloaded", "code": 503}, "overloaded", {"no": "message"}], ids=str)
async def test_an_error_inside_a_stream_is_the_clients(endpoint: Endpoint, error: Any) -> None:
    """`{"error": ...}` after the first words is an APIError with the server's words."""
    endpoint.answer = stream(chunk({"role": "assistant", "content": "Be"}), {"error": error})
    wanted, found = await Pair(endpoint).failures(ask_streamed)
    assert told(found) == told(wanted)
    assert isinstance(found, openai.APIError)


@pytest.mark.parametrize("event", [b"data: {", b"data: [1]", b"data: null", b"data: 1", b'data: {"choices": [{}]}'])
async def test_an_event_that_is_no_chunk_fails_as_the_clients_does(endpoint: Endpoint, event: bytes) -> None:
    """A stream of something else is an error, of the same kind."""
    endpoint.answer = stream(event)
    wanted, found = await Pair(endpoint).failures(ask_streamed)
    assert type(found) is type(wanted)


@pytest.mark.parametrize("body", ["<html>Welcome</html>", "", "[1]", '"text"', "null", '{"choices":'])
async def test_an_answer_that_is_no_json_object_says_so(endpoint: Endpoint, body: str) -> None:
    """A 200 with something else (a base_url that leads to a web page) is an error that shows what came."""
    endpoint.answer = plain(body, **{"Content-Type": "text/html"})
    with pytest.raises(openai.APIResponseValidationError, match="no JSON object") as caught:
        await ask_whole(Pair(endpoint).ours)
    assert body in str(caught.value)
    assert (caught.value.status_code, caught.value.body) == (200, body)


@pytest.mark.parametrize("answer", [{}, {"choices": None}, {"error": {"message": "no"}}, {"choices": [{}]}], ids=str)
async def test_an_answer_without_choices_fails_as_the_clients_does(endpoint: Endpoint, answer: dict[str, Any]) -> None:
    """An object that is no completion is LangChain's error, with its words."""
    endpoint.answer = whole(answer)
    wanted, found = await Pair(endpoint).failures(ask_whole)
    assert type(found) is type(wanted)


# Ways to an answer


@in_both_ways
@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_is_followed(endpoint: Endpoint, way: str, status: int) -> None:
    """The same request is sent where the server points, its body too."""
    ask, answer = WAYS[way]

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/new"):
            return await answer(request)
        return web.Response(status=status, headers={"Location": "/new" + request.path})

    endpoint.answer = handle
    pair = Pair(endpoint)
    assert_same_request(*await pair.requests(ask))
    assert same(*await pair.ask(ask))


@in_both_ways
async def test_a_compressed_answer_is_read(endpoint: Endpoint, way: str) -> None:
    """gzip is unpacked: an answer, a stream, and an error."""
    ask, answer = WAYS[way]

    async def handle(request: web.Request) -> web.StreamResponse:
        response: Any = await answer(request)
        assert "gzip" in request.headers["Accept-Encoding"]
        headers = {"Content-Encoding": "gzip", "Content-Type": response.content_type}
        return web.Response(body=gzip.compress(response.body), status=response.status, headers=headers)

    endpoint.answer = handle
    pair = Pair(endpoint)
    assert same(*await pair.ask(ask))
    answer = whole(BODIES["another's"], 400)
    wanted, found = await pair.failures(ask)
    assert found.body == wanted.body == BODIES["another's"]


# The answer


def bare(message: Any) -> dict[str, Any]:
    """A message's fields, without the id that LangChain gives each run."""
    fields = message.model_dump()
    if str(fields["id"]).startswith("lc_run-"):
        fields["id"] = None
    return fields


def same(wanted: Any, found: Any) -> bool:
    """Whether two answers (each a message, or a list of chunks) are equal in every field."""
    pairs = zip(wanted, found, strict=True) if isinstance(wanted, list) else [(wanted, found)]
    for a, b in pairs:
        assert type(b) is type(a)
        assert bare(b) == bare(a)
    return True


def choice(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", **more}


CALL = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}}
DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
LOGPROBS = {"content": [{"token": "B", "logprob": -0.1, "bytes": [66], "top_logprobs": []}]}
ANSWERS: dict[str, dict[str, Any]] = {
    "the least": {"choices": [choice({"content": "x"})]},
    "half of the usage": {"choices": [choice({"content": "x"})], "usage": {"prompt_tokens": 3}},
    "usage": {"choices": [choice({"content": "x"})], "usage": ANSWER["usage"]},
    "usage's details": {"choices": [choice({"content": "x"})], "usage": {**ANSWER["usage"], **DETAILS}},
    "no usage": {"choices": [choice({"content": "x"})], "usage": None},
    "all of OpenAI's": {
        **ANSWER,
        "choices": [choice({"content": "x", "refusal": None, "annotations": []}, logprobs=None)],
        "service_tier": "default",
        "system_fingerprint": "fp",
    },
    "a refusal": {"choices": [choice({"content": None, "refusal": "I won't."})]},
    "a tool call": {"choices": [choice({"content": None, "tool_calls": [CALL]}, finish_reason="tool_calls")]},
    "a broken tool call": {
        "choices": [choice({"tool_calls": [{**CALL, "function": {"name": "weather", "arguments": "{"}}]})]
    },
    "a function call": {"choices": [choice({"content": "", "function_call": CALL["function"]})]},
    "logprobs": {"choices": [choice({"content": "B"}, logprobs=LOGPROBS)]},
    "logprobs and a refusal": {"choices": [choice({"content": "B"}, logprobs={**LOGPROBS, "refusal": None})]},
    "another's logprobs": {"choices": [choice({"content": "B"}, logprobs={"tokens": ["B"], "token_logprobs": [-0.1]})]},
    "two choices": {"choices": [choice({"content": "x"}), choice({"content": "y"})]},
    "reasoning": {"choices": [choice({"content": "x", "reasoning_content": "hm", "parsed": {"a": 1}, "a-b": 2})]},
    "content in parts": {"choices": [choice({"content": [{"type": "text", "text": "x"}]})]},
    "another role": {"choices": [choice({"role": "critic", "content": "x"})]},
    "no finish reason": {"choices": [{"message": {"role": "assistant", "content": "x"}}]},
    "audio": {"choices": [choice({"audio": {"id": "a", "data": "", "expires_at": 1, "transcript": "x"}})]},
    "unicode": {"choices": [choice({"content": "¿日本? 👩‍🚀 \u2028"})]},
    "fields nobody knows": {**ANSWER, "x_groq": {"id": 1}, "timings": [1]},
}


@of_both_kinds
@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_is_the_clients(endpoint: Endpoint, kind: str, answer: str) -> None:
    """The message has the content, usage, metadata and further fields it has from the client."""
    endpoint.answer = whole({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, **ANSWERS[answer]})
    assert same(*await Pair(endpoint, kind).ask(ask_whole))


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", "application/x-json"])
async def test_an_answers_content_type_does_not_matter(endpoint: Endpoint, content_type: str) -> None:
    """JSON is read whatever it is called, as the client does."""
    endpoint.answer = plain(json.dumps(ANSWER), **{"Content-Type": content_type})
    assert same(*await Pair(endpoint).ask(ask_whole))


async def test_every_choice_is_the_clients(endpoint: Endpoint) -> None:
    """`n` answers come back as from the client, with what belongs to all of them."""
    endpoint.answer = whole({**ANSWER, **ANSWERS["two choices"]})
    wanted, found = await Pair(endpoint).ask(lambda model: model.agenerate([[HumanMessage("Why?")]]))
    assert found.llm_output == wanted.llm_output
    for a, b in zip(wanted.generations[0], found.generations[0], strict=True):
        assert b.generation_info == a.generation_info
        assert same(a.message, b.message)


def tool_chunk(**function: str) -> dict[str, Any]:
    return chunk({"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": function}]})


STREAMS: dict[str, list[Any]] = {
    "the least": [chunk({"role": "assistant", "content": "x"}), chunk({}, "stop")],
    "usage": [chunk({"content": "x"}), chunk({}, "stop"), chunk(None, usage={**ANSWER["usage"], **DETAILS})],
    "usage with the last words": [chunk({"content": "x"}, "stop", usage=ANSWER["usage"])],
    "all of OpenAI's": [
        chunk({"role": "assistant", "content": "x", "refusal": None}, service_tier="default", system_fingerprint="fp"),
        chunk({}, "stop", service_tier="default", system_fingerprint="fp", usage=None),
    ],
    "a refusal": [chunk({"role": "assistant", "refusal": "I won't."}), chunk({}, "stop")],
    "a tool call": [
        tool_chunk(name="weather", arguments=""),
        tool_chunk(arguments='{"city": "Z"}'),
        chunk({}, "tool_calls"),
    ],
    "a function call": [
        chunk({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}),
        chunk({}, "stop"),
    ],
    "logprobs": [
        {**chunk({}), "choices": [{"index": 0, "delta": {"content": "B"}, "logprobs": {**LOGPROBS, "refusal": None}}]}
    ],
    "another role": [chunk({"role": "critic", "content": "x"})],
    "no delta": [{**chunk({}), "choices": [{"index": 0, "delta": None}]}, chunk({"content": "x"}, "stop")],
    "no choices": [chunk({"content": "x"}), {**chunk(None), "choices": None}],
    "a choice without a delta": [chunk({"content": "x"}), {**chunk(None), "choices": [{"content_filter_results": {}}]}],
    "few fields": [{"choices": [{"delta": {"content": "x"}, "logprobs": LOGPROBS}]}],
    "comments, other line ends, no [DONE]": [
        b": ping",
        b"event: x\r\ndata: " + json.dumps(chunk({"content": "x"})).encode(),
    ],
    "unicode": [chunk({"content": "¿日本? 👩‍🚀 \u2028"})],
}


@of_both_kinds
@pytest.mark.parametrize("events", STREAMS)
async def test_a_stream_is_the_clients(endpoint: Endpoint, kind: str, events: str) -> None:
    """Each chunk has the content, usage, metadata and further fields it has from the client."""
    endpoint.answer = stream(*STREAMS[events], b"data: [DONE]")
    wanted, found = await Pair(endpoint, kind).ask(ask_streamed)
    assert same(wanted, found)
    assert found


async def test_what_comes_after_done_is_not_read(endpoint: Endpoint) -> None:
    """[DONE] ends a stream, whatever follows."""
    endpoint.answer = stream(chunk({"content": "x"}), b"data: [DONE]", b"data: {")
    wanted, found = await Pair(endpoint).ask(ask_streamed)
    assert same(wanted, found)


async def test_an_empty_stream_fails_as_the_clients_does(endpoint: Endpoint) -> None:
    """A stream without a chunk is LangChain's error."""
    endpoint.answer = stream()
    wanted, found = await Pair(endpoint).failures(ask_streamed)
    assert (type(found), str(found)) == (type(wanted), str(wanted))


# What is left to the client


class OfMyOwn(ChatOpenAI):
    """A subclass may override anything."""


async def fresh_key() -> str:
    return "fresh"


def made(kind: Any = ChatOpenAI, **options: Any) -> Callable[..., Any]:
    given = {"model": "a", "api_key": "key", "http_client": a_sync_client(), "max_retries": 0}
    return lambda endpoint, **more: kind(**({"base_url": endpoint.url} | given | options | more))


AZURE = {"base_url": None, "api_version": "1", "azure_deployment": "d"}
NOT_PLAIN: dict[str, Callable[..., Any]] = {
    "a subclass": made(OfMyOwn),
    "Azure": lambda endpoint, **more: made(AzureChatOpenAI, azure_endpoint=endpoint.url, **AZURE)(endpoint, **more),
    "include_response_headers": made(include_response_headers=True),
    "default_query": made(default_query={"api-version": "1"}),
    "a key that changes": made(api_key=fresh_key),
    "LangSmith's gateway": made(api_key="lsv2_key"),
    "an address with a query": lambda endpoint, **more: made(base_url=endpoint.url + "?a=b")(endpoint, **more),
    "an address with a user": lambda endpoint, **more: made(base_url=endpoint.url.replace("//", "//me:pw@"))(
        endpoint, **more
    ),
}


async def as_it_is_asked(request: web.Request) -> web.StreamResponse:
    return await (STREAM if (await request.json()).get("stream") else WAYS["whole"][1])(request)


@pytest.mark.parametrize("model", NOT_PLAIN)
async def test_what_is_not_plain_is_asked_by_the_client(endpoint: Endpoint, model: str) -> None:
    """A model with something special about it keeps its client's requests, and works in every seat."""
    endpoint.answer = as_it_is_asked
    async with DefaultAsyncHttpxClient() as http:
        await NOT_PLAIN[model](endpoint, http_async_client=http).ainvoke("Why?")
    wanted = endpoint.last()
    chat = NOT_PLAIN[model](endpoint)
    usable = shared(chat)
    assert isinstance(usable.async_client, AsyncCompletions)
    await usable.ainvoke("Why?")
    assert_same_request(wanted, endpoint.last())
    out = await create_moa([chat], chat, 2).ainvoke({"messages": [("user", "Why?")]})
    assert out["messages"][-1].text == "Because."


async def test_response_headers_are_included_where_asked_for(endpoint: Endpoint) -> None:
    """`include_response_headers` brings the headers, whole and streamed."""
    model = shared(NOT_PLAIN["include_response_headers"](endpoint))
    endpoint.answer = whole(ANSWER, **{"x-request-id": "r-1"})
    assert (await model.ainvoke("Why?")).response_metadata["headers"]["x-request-id"] == "r-1"
    endpoint.answer = STREAM
    parts = [part async for part in model.astream("Why?")]
    assert parts[0].response_metadata["headers"]["content-type"] == "text/event-stream"


class Reason(BaseModel):
    """Why."""

    why: str


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
async def test_structured_output_is_as_from_the_client(endpoint: Endpoint, method: str) -> None:
    """`with_structured_output` asks what it asks alone, and gives the object."""
    call = {"id": "1", "type": "function", "function": {"name": "Reason", "arguments": '{"why": "x"}'}}
    message = {"tool_calls": [call]} if method == "function_calling" else {"content": '{"why": "x"}'}
    endpoint.answer = whole({**ANSWER, "choices": [choice(message)]})
    pair = Pair(endpoint)

    async def ask(model: Any) -> Any:
        return await model.with_structured_output(Reason, method=method).ainvoke("Why?")

    assert_same_request(*await pair.requests(ask))
    assert await pair.ask(ask) == (Reason(why="x"), Reason(why="x"))


@in_both_ways
async def test_a_response_format_is_asked_by_the_client(endpoint: Endpoint, way: str) -> None:
    """`response_format` goes the client's way, whole and streamed, within a mixture too."""
    endpoint.answer = as_it_is_asked
    bound = {"response_format": {"type": "json_object"}}
    pair = Pair(endpoint)
    wanted, found = await pair.ask(lambda model: WAYS[way][0](model.bind(**bound)))
    assert same(wanted, found)
    model = ChatOpenAI(model="a", base_url=endpoint.url, api_key="key", streaming=way == "streamed").bind(**bound)
    await create_moa([model], model, 2).ainvoke({"messages": [("user", "Why?")]})
    assert [json.loads(body)["response_format"] for _, body in endpoint.requests] == [bound["response_format"]] * 4


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "a",
    "status": "completed",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Because.", "annotations": []}],
        }
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


async def test_the_responses_api_is_asked_by_the_client(endpoint: Endpoint) -> None:
    """`use_responses_api=True` asks /responses, in every seat."""
    endpoint.answer = whole(RESPONSE)
    model = made(use_responses_api=True)(endpoint)
    out = await create_moa([model], model, 2).ainvoke({"messages": [("user", "Why?")]})
    assert out["messages"][-1].text == "Because."
    assert {request.path for request, _ in endpoint.requests} == {"/v1/responses"}


async def test_an_http_client_of_the_users_keeps_its_requests(endpoint: Endpoint) -> None:
    """A model with an `http_async_client` is asked through it alone."""
    async with DefaultAsyncHttpxClient(headers={"X-Mine": "yes"}) as http:
        chat = made(http_async_client=http)(endpoint)
        assert isinstance(shared(chat).async_client, AsyncCompletions)
        await create_moa([chat], chat, 2).ainvoke({"messages": [("user", "Why?")]})
    assert [request.headers["x-mine"] for request, _ in endpoint.requests] == ["yes", "yes"]


# Connections


async def test_nothing_limits_how_many_calls_are_in_flight(endpoint: Endpoint) -> None:
    """150 calls are on their way at once, though a client's pool would stop at 100."""
    all_there = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if endpoint.in_flight == 150:
            all_there.set()
        async with asyncio.timeout(10):
            await all_there.wait()
        return await WAYS["whole"][1](request)

    endpoint.answer = handle
    model = Pair(endpoint).ours
    answers = await asyncio.gather(*(model.ainvoke("Why?") for _ in range(150)))
    assert {answer.text for answer in answers} == {"Because."}


@in_both_ways
async def test_the_next_layer_uses_the_connections_of_the_one_before(endpoint: Endpoint, way: str) -> None:
    """A connection is given back when its answer is read, also an error's: three layers open no more than one."""
    peers = set()

    async def handle(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        if len(endpoint.requests) == 2:
            return await whole({"detail": "no" * 2**19}, 500, **{"Retry-After": "0"})(request)
        return await WAYS[way][1](request)

    endpoint.answer = handle
    model = ChatOpenAI(model="a", base_url=endpoint.url, api_key="key", streaming=way == "streamed")
    out = await create_moa([model], model, 3).ainvoke({"messages": [("user", "Why?")]})
    assert out["messages"][-1].text == "Because."
    assert (len(endpoint.requests), len(peers)) == (4, 1)


async def test_a_stream_left_early_closes_its_connection(endpoint: Endpoint) -> None:
    """Who stops reading hangs up: the server sees it, and the next call is answered."""
    endpoint.answer = then_nothing
    model = Pair(endpoint).ours
    parts = model.astream("Why?")
    first: AIMessageChunk = await anext(parts)
    await parts.aclose()
    assert first.content == "Be"
    async with asyncio.timeout(5):
        while endpoint.in_flight:  # noqa: ASYNC110 - a disconnect takes a moment to arrive
            await asyncio.sleep(0.002)
    endpoint.answer = whole(ANSWER)
    assert (await model.ainvoke("Why?")).text == "Because."
