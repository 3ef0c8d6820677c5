"""The server the other tests and the benchmarks rely on."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import openai
import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI

from tests.server import Behaviour, RecordingServer, server_process

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is it so?"}]


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


@pytest.fixture
async def client(server: RecordingServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0) as client:
        yield client


async def test_records_the_bytes_of_a_request(server: RecordingServer, client: AsyncOpenAI) -> None:
    """What the client sent is kept as it came, and the answer, usage and timing are those promised."""
    answer = await client.chat.completions.create(model="m", messages=ASK, temperature=0.7)
    (request,) = server.requests_for("m")
    assert answer.choices[0].message.content == "answer of m #1"
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.completion_tokens) == ("m", 6, 4)
    assert json.loads(request.raw) == request.body
    assert request.body == {"model": "m", "messages": ASK, "temperature": 0.7}
    assert request.messages == ASK
    assert request.headers["authorization"] == "Bearer key"
    assert request.outcome == "ok"
    assert request.started <= request.finished
    assert (server.in_flight, server.max_in_flight, server.open_connections) == (0, 1, 1)


async def test_script_is_followed_and_its_last_behaviour_repeats(server: RecordingServer, client: AsyncOpenAI) -> None:
    """Each request takes the next behaviour, then the last one for ever; `clear` forgets the script."""
    server.script("m", Behaviour(text="one"), Behaviour(text="two", reported_model="m-2", reasoning="hm"))
    answers = [await client.chat.completions.create(model="m", messages=ASK) for _ in range(3)]
    assert [answer.choices[0].message.content for answer in answers] == ["one", "two", "two"]
    assert [answer.model for answer in answers] == ["m", "m-2", "m-2"]
    assert answers[1].choices[0].message.reasoning_content == "hm"
    server.clear()
    answer = await client.chat.completions.create(model="m", messages=ASK)
    assert answer.choices[0].message.content == "answer of m #1"
    assert len(server.requests) == 1


@pytest.mark.parametrize("per_token", [0.0, 0.001])
@pytest.mark.parametrize("include_usage", [True, False])
async def test_streams_usage_only_when_asked(
    server: RecordingServer, client: AsyncOpenAI, include_usage: bool, per_token: float
) -> None:
    """A stream has one chunk per word, and a last chunk without choices carries usage if it was asked for."""
    server.script("m", Behaviour(text="three words\n\nhere ", per_token=per_token, finish_reason="length"))
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    async with await client.chat.completions.create(model="m", messages=ASK, stream=True, **options) as stream:
        chunks = [chunk async for chunk in stream]
    talking = [chunk for chunk in chunks if chunk.choices]
    words = [chunk.choices[0].delta.content for chunk in talking if chunk.choices[0].delta.content]
    assert words == ["three", " words", "\n\nhere "]
    assert talking[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in talking)
    usages = [chunk.usage.completion_tokens for chunk in chunks if not chunk.choices]
    assert usages == ([3] if include_usage else [])
    assert server.requests[0].outcome == "ok"


async def test_error_carries_retry_after(server: RecordingServer, client: AsyncOpenAI) -> None:
    """A scripted 429 reaches the client as its own error, message and Retry-After included."""
    server.script("m", Behaviour(status=429, retry_after="7", error="slow down"), Behaviour())
    with pytest.raises(openai.RateLimitError, match="slow down") as caught:
        await client.chat.completions.create(model="m", messages=ASK)
    assert caught.value.response.headers["retry-after"] == "7"
    assert (await client.chat.completions.create(model="m", messages=ASK)).choices
    assert [request.outcome for request in server.requests] == ["fault", "ok"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behaviour", [Behaviour(hang=True), Behaviour(latency=60), Behaviour(stall_after=1)], ids=str)
async def test_notices_a_client_that_leaves(
    server: RecordingServer, client: AsyncOpenAI, behaviour: Behaviour, stream: bool
) -> None:
    """A cancelled call is recorded as closed by the client at once, whatever the server was waiting for."""
    server.script("m", behaviour)

    async def call() -> None:
        answer = await client.chat.completions.create(model="m", messages=ASK, stream=stream)
        async for _ in answer:
            pass

    task = asyncio.create_task(call())
    await server.until(lambda: server.in_flight == 1)
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.until(lambda: server.in_flight == 0, timeout=30)
    assert server.requests[0].outcome == "closed_by_client"
    assert server.open_connections == 0


@pytest.mark.parametrize("close_after", [0, 2])
async def test_closes_half_way(server: RecordingServer, client: AsyncOpenAI, close_after: int) -> None:
    """A connection closed half-way is an error to the client, not a short answer."""
    server.script("m", Behaviour(close_after=close_after))
    words: list[str] = []

    async def stream() -> None:
        async for chunk in await client.chat.completions.create(model="m", messages=ASK, stream=True):
            words.append(chunk.choices[0].delta.content)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(openai.APIConnectionError):
        await client.chat.completions.create(model="m", messages=ASK)
    with pytest.raises(openai.APIConnectionError):
        await stream()
    assert "".join(words) == " ".join(["answer", "of"][:close_after])
    assert [request.outcome for request in server.requests] == ["fault", "fault"]


async def test_serves_langchain(server: RecordingServer) -> None:
    """`ChatOpenAI` gets text and usage from it, whole and streamed."""
    async with AsyncOpenAI(base_url=server.base_url, api_key="key") as client:
        model = ChatOpenAI(model="m", async_client=client.chat.completions, root_async_client=client)
        whole = await model.ainvoke("Why is it so?")
        parts = [part async for part in model.astream("Why is it so?", stream_usage=True)]
    streamed = sum(parts[1:], parts[0])
    assert (whole.text, streamed.text) == ("answer of m #1", "answer of m #2")
    assert whole.usage_metadata["output_tokens"] == streamed.usage_metadata["output_tokens"] == 4


async def test_stops_while_a_request_hangs() -> None:
    """Leaving the `with` block does not wait for an answer when a request is still being answered."""
    with RecordingServer(Behaviour(hang=True)) as server:
        client = AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0)
        call = asyncio.create_task(client.chat.completions.create(model="m", messages=ASK))
        await server.until(lambda: server.in_flight == 1)
    async with client:
        with pytest.raises(openai.APIConnectionError):
            await call
    assert server.requests[0].outcome == "fault"


async def test_serves_from_its_own_process() -> None:
    """The server process answers, takes a script, counts, and forgets when told to."""
    with server_process("--tokens", "20", "--latency", "0.05") as base_url:
        root = base_url.removesuffix("/v1")
        async with AsyncOpenAI(base_url=base_url, api_key="key") as client, aiohttp.ClientSession() as http:
            script = {"model": "other", "behaviours": [{"text": "scripted"}]}
            (await http.post(f"{root}/script", json=script)).raise_for_status()
            calls = [client.chat.completions.create(model=name, messages=ASK) for name in ("m", "m", "other")]
            answers = await asyncio.gather(*calls)
            assert answers[2].choices[0].message.content == "scripted"
            assert answers[0].usage.completion_tokens == 20
            stats = await (await http.get(f"{root}/stats")).json()
            assert (stats["requests"], stats["tokens_in"], stats["tokens_out"]) == (3, 18, 41)
            assert (stats["in_flight"], stats["closed_by_client"]) == (0, 0)
            (await http.post(f"{root}/clear")).raise_for_status()
            assert (await (await http.get(f"{root}/stats")).json())["requests"] == 0


@pytest.mark.parametrize("how", ["sigterm", "stdin"])
def test_process_ends_when_told(how: str) -> None:
    """SIGTERM or a closed stdin ends the server process cleanly."""
    command = [sys.executable, "-m", "tests.server"]
    pipe, root = subprocess.PIPE, Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe) as process:
        assert b"base_url" in process.stdout.readline()
        if how == "sigterm":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        assert process.wait(5) == 0
