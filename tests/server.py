"""An OpenAI-compatible chat-completions server that does as it is told and remembers what it was asked.

In a test: `with RecordingServer() as server:` (a thread with its own event loop, on 127.0.0.1).
In a benchmark: `python -m tests.server --latency 1 --tokens 20`, or `with server_process("--latency", "1")`.
"""

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from aiohttp import web

ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
DONE = b"data: [DONE]\n\n"

Outcome = Literal["ok", "closed_by_client", "fault"]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the server does with one request; the default is to answer at once."""

    text: str | None = None  # None: "answer of {model} #{n}"
    latency: float = 0.0  # seconds before the first byte
    per_token: float = 0.0  # seconds between two streamed words
    cached_tokens: int = 0  # how many of the prompt's tokens it says it had in its prefix cache
    status: int | None = None  # answer with this HTTP error
    error: str | None = None  # the message of that error
    retry_after: str | None = None  # the Retry-After header of that error
    hang: bool = False  # accept, and never send a byte
    stall_after: int | None = None  # stream headers and this many words, then nothing
    close_after: int | None = None  # close the connection after this many words (half the body if not streaming)
    drop: bool = False  # close the connection without a byte
    unfinished: bool = False  # stream everything, the usage too, and close the connection before [DONE]
    reasoning: str | None = None  # message.reasoning_content
    unseen_tokens: int = 0  # completion tokens it says it used besides the words
    finish_reason: str = "stop"
    reported_model: str | None = None  # None: the requested one


@dataclass(eq=False)
class Request:
    """One chat completion as it arrived; `outcome` and `finished` are None while it is in flight."""

    model: str
    n: int  # the how-manieth of this model, from 1
    messages: list[dict[str, Any]]
    body: dict[str, Any]
    raw: bytes
    headers: Mapping[str, str]  # names in any case
    prompt_tokens: int
    completion_tokens: int = 0  # words sent so far
    told_usage: bool = False  # its usage was sent in full
    started: float = field(default_factory=time.monotonic)
    finished: float | None = None
    outcome: Outcome | None = None


class RecordingServer:
    """The server; `default` is the behaviour of models without a script, `keep_bodies=False` saves memory."""

    base_url: str

    def __init__(self, default: Behaviour | None = None, *, keep_bodies: bool = True) -> None:
        self.requests: list[Request] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self._stopping = False
        self._default = default or Behaviour()
        self._keep_bodies = keep_bodies
        self._asked: Counter[str] = Counter()
        self._scripts: dict[str, deque[Behaviour]] = {}

    def script(self, model: str, *behaviours: Behaviour) -> None:
        """Give `model` one behaviour per request from now on, in order; the last repeats."""
        self._scripts[model] = deque(behaviours)

    def requests_for(self, model: str) -> list[Request]:
        return [request for request in self.requests if request.model == model]

    @property
    def open_connections(self) -> int:
        return len(self._runner.server.connections) if self._runner.server else 0

    def clear(self) -> None:
        """Forget requests and scripts; what is in flight still counts as in flight."""
        self.requests.clear()
        self._asked.clear()
        self._scripts.clear()
        self.max_in_flight = self.in_flight

    async def until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait for, say, `lambda: server.in_flight == 0`: a disconnect takes a moment to arrive."""
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 - what it waits for happens in another event loop
                await asyncio.sleep(0.002)

    def stats(self) -> dict[str, int]:
        outcomes = Counter(request.outcome for request in self.requests)
        return {
            "requests": len(self.requests),
            **{outcome: outcomes[outcome] for outcome in get_args(Outcome)},
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "open_connections": self.open_connections,
            "tokens_in": sum(request.prompt_tokens for request in self.requests),
            "tokens_out": sum(request.completion_tokens for request in self.requests),
        }

    # Life

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="recording-server", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/openai/v1/chat/completions", self._chat)  # Groq's place for the same
        for method, path in (("GET", "/stats"), ("POST", "/script"), ("POST", "/clear")):
            app.router.add_route(method, path, self._control)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05, keepalive_timeout=600
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    # Handlers

    async def _control(self, http: web.Request) -> web.Response:
        if http.path == "/script":
            asked = await http.json()
            self.script(asked["model"], *(Behaviour(**behaviour) for behaviour in asked["behaviours"]))
        elif http.path == "/clear":
            self.clear()
        return web.json_response(self.stats())

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        request = self._record(http, await http.read())
        exchange = Exchange(http, request, self._next_behaviour(request.model), self._finish)
        try:
            return await exchange.answer()
        finally:
            if request.outcome is None:  # cancelled: by the client's disconnect, or by our own end
                self._finish(request, "fault" if self._stopping else "closed_by_client")

    def _record(self, http: web.Request, raw: bytes) -> Request:
        body = json.loads(raw)
        model, messages = body["model"], body["messages"]
        self._asked[model] += 1
        words = sum(count_words(message.get("content")) for message in messages)
        request = Request(model, self._asked[model], messages, body, raw, http.headers, words)
        self.requests.append(request)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        return request

    def _next_behaviour(self, model: str) -> Behaviour:
        script = self._scripts.get(model)
        if not script:
            return self._default
        return script.popleft() if len(script) > 1 else script[0]

    def _finish(self, request: Request, outcome: Outcome) -> None:
        """Called before the last byte leaves, so a client that has its answer finds the record complete."""
        request.finished = time.monotonic()
        request.outcome = outcome
        self.in_flight -= 1
        if not self._keep_bodies:
            request.messages, request.body, request.raw, request.headers = [], {}, b"", {}


@dataclass(frozen=True)
class Exchange:
    """One request and the way it is answered."""

    http: web.Request
    request: Request
    behaviour: Behaviour
    finish: Callable[[Request, Outcome], None]

    async def answer(self) -> web.StreamResponse:
        if self.behaviour.hang:
            await forever()
        if self.behaviour.latency:
            await asyncio.sleep(self.behaviour.latency)
        if self.behaviour.drop:
            return self.hang_up(web.StreamResponse())
        if self.behaviour.status is not None:
            self.finish(self.request, "fault")
            return self.error(self.behaviour.status)
        return await (self.stream() if self.request.body.get("stream") else self.whole())

    def error(self, status: int) -> web.Response:
        kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        message = self.behaviour.error or f"the server was told to answer {status}"
        headers = {} if self.behaviour.retry_after is None else {"Retry-After": self.behaviour.retry_after}
        error = {"message": message, "type": kind, "param": None, "code": None}
        return web.json_response({"error": error}, status=status, headers=headers)

    async def whole(self) -> web.StreamResponse:
        choice = {
            "index": 0,
            "message": self.message(self.text),
            "finish_reason": self.behaviour.finish_reason,
        }
        completion = self.envelope("chat.completion") | {"choices": [choice], "usage": self.usage()}
        payload = json.dumps(completion).encode()
        if self.behaviour.stall_after is not None:
            await forever()
        if self.behaviour.close_after is not None:
            response = web.StreamResponse(headers={"Content-Length": str(len(payload))})
            await response.prepare(self.http)
            await response.write(payload[: len(payload) // 2])
            return self.hang_up(response)
        self.request.completion_tokens = self.completion_tokens
        self.request.told_usage = True
        self.finish(self.request, "ok")
        return web.Response(body=payload, content_type="application/json")

    async def stream(self) -> web.StreamResponse:
        with_usage = (self.request.body.get("stream_options") or {}).get("include_usage")
        base = self.envelope("chat.completion.chunk") | ({"usage": None} if with_usage else {})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(self.http)
        await self.write_words(response, base)
        if self.behaviour.stall_after is not None:
            await forever()
        if self.behaviour.close_after is not None:
            return self.hang_up(response)
        ending = delta(base, {}, self.behaviour.finish_reason)
        if with_usage:
            ending += event(base | {"choices": [], "usage": self.usage()})
        self.request.completion_tokens = self.completion_tokens
        self.request.told_usage = bool(with_usage)
        if self.behaviour.unfinished:
            await response.write(ending)
            return self.hang_up(response)
        self.finish(self.request, "ok")
        try:
            await response.write(ending + DONE)
        except ConnectionResetError:
            self.request.outcome, self.request.told_usage = "closed_by_client", False
        return response

    async def write_words(self, response: web.StreamResponse, base: dict[str, Any]) -> None:
        limits = (self.behaviour.stall_after, self.behaviour.close_after)
        cut = min((limit for limit in limits if limit is not None), default=None)
        words = [delta(base, {"content": word}) for word in split_words(self.text)[:cut]]
        if words or cut is None:
            words[:1] = [delta(base, self.message("")) + b"".join(words[:1])]
        size = 1 if self.behaviour.per_token else len(words) or 1  # no pause: one write, for less work
        for start in range(0, len(words), size):
            if start:
                await asyncio.sleep(self.behaviour.per_token)
            await response.write(b"".join(words[start : start + size]))
            self.request.completion_tokens = start + size

    def hang_up(self, response: web.StreamResponse) -> web.StreamResponse:
        self.finish(self.request, "fault")
        if self.http.transport is not None:
            self.http.transport.close()
        return response

    @property
    def text(self) -> str:
        text = self.behaviour.text
        return f"answer of {self.request.model} #{self.request.n}" if text is None else text

    @property
    def completion_tokens(self) -> int:
        return count_words(self.text) + self.behaviour.unseen_tokens

    def message(self, content: str) -> dict[str, str]:
        reasoning = self.behaviour.reasoning
        extra = {} if reasoning is None else {"reasoning_content": reasoning}
        return {"role": "assistant", "content": content, **extra}

    def envelope(self, kind: str) -> dict[str, Any]:
        request, model = self.request, self.behaviour.reported_model or self.request.model
        name = f"chatcmpl-{request.model}-{request.n}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": model}

    def usage(self) -> dict[str, Any]:
        asked, answered = self.request.prompt_tokens, self.completion_tokens
        usage = {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
        cached = {"prompt_tokens_details": {"cached_tokens": self.behaviour.cached_tokens}}
        return usage | (cached if self.behaviour.cached_tokens else {})


async def forever() -> None:
    await asyncio.Event().wait()


def count_words(content: str | list[dict[str, Any]] | None) -> int:
    if isinstance(content, list):
        return sum(count_words(part.get("text")) for part in content)
    return len((content or "").split())


def split_words(text: str) -> list[str]:
    """One piece per word, white space kept: the pieces joined are the text."""
    return re.findall(r"\s*\S+(?:\s+\Z)?", text) or [text] * bool(text)


def delta(base: dict[str, Any], content: dict[str, str], finish_reason: str | None = None) -> bytes:
    return event(base | {"choices": [{"index": 0, "delta": content, "finish_reason": finish_reason}]})


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@contextmanager
def server_process(*options: str) -> Iterator[str]:
    """Run the server in a process of its own, with these command-line options; gives its `base_url`."""
    command = [sys.executable, "-m", "tests.server", *options]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["base_url"]
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.server", description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before the first byte")
    parser.add_argument("--per-token", type=float, default=0.0, help="seconds between two streamed words")
    parser.add_argument("--tokens", type=int, help="words in an answer")
    options = parser.parse_args()
    text = None if options.tokens is None else " ".join(f"word{i}" for i in range(options.tokens))
    default = Behaviour(text=text, latency=options.latency, per_token=options.per_token)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with RecordingServer(default, keep_bodies=False) as server:
        print(json.dumps({"base_url": server.base_url}), flush=True)
        sys.stdin.buffer.read()  # until it closes, or SIGTERM


if __name__ == "__main__":
    main()
