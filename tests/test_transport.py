"""One model object serves sync, async, several event loops and several threads, and leaves nothing open."""

import asyncio
import contextlib
import gc
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
import trustme
from langchain.agents import create_agent
from langchain_core.runnables import Runnable
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from langchain_together import ChatTogether
from langgraph.graph import END, START, MessagesState, StateGraph
from openai import DefaultAsyncHttpxClient

from moa_graph import FinalError, LayerPolicy, MoAConfigError, Proposer, QuorumError, create_moa
from moa_graph.loops import run_sync
from moa_graph.testing import ScriptedChatModel
from moa_graph.transport import shared
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why?")]}
MODELS: dict[str, Callable[[str], Any]] = {
    "ChatOpenAI": lambda url: ChatOpenAI(model="a", base_url=url, api_key="key"),
    "ChatTogether": lambda url: ChatTogether(model="a", base_url=url, api_key="key"),
    "string": lambda url: Proposer("openai:a", base_url=url),
    "bind": lambda url: MODELS["ChatOpenAI"](url).bind(seed=7),
    "with_config": lambda url: MODELS["ChatOpenAI"](url).with_config(tags=["mine"]),
    "with_retry": lambda url: MODELS["ChatOpenAI"](url).with_retry(stop_after_attempt=2),
    "with_fallbacks": lambda url: MODELS["ChatOpenAI"](url).with_fallbacks([MODELS["ChatTogether"](url)]),
    "sequence": lambda url: MODELS["ChatOpenAI"](url) | (lambda message: message),
    "agent": lambda url: create_agent(MODELS["ChatOpenAI"](url), []),
    "graph": lambda url: graph_with_a_global_model(url),
}

llm: Any = None


def graph_with_a_global_model(url: str) -> Any:
    """A graph as tutorials write it: its node uses the module's model."""
    global llm
    llm = MODELS["ChatOpenAI"](url)

    async def say(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    return StateGraph(MessagesState).add_node("say", say).add_edge(START, "say").add_edge("say", END).compile()


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, server: RecordingServer) -> Any:
    return MODELS[request.param](server.base_url)


async def several(moa: Runnable[Any, Any]) -> None:
    await asyncio.gather(*(moa.ainvoke(ASK) for _ in range(3)))


async def streamed(moa: Runnable[Any, Any]) -> None:
    assert [chunk async for chunk in moa.astream(ASK)]


WAYS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda moa: moa.invoke(ASK),
    "loop": lambda moa: asyncio.run(several(moa)),
    "stream": lambda moa: list(moa.stream(ASK)),
    "astream": lambda moa: asyncio.run(streamed(moa)),
    "batch": lambda moa: moa.batch([ASK, ASK]),
}


@pytest.mark.parametrize(
    "order",
    [
        ["invoke", "loop", "invoke"],
        ["loop", "loop", "loop"],
        ["loop", "invoke", "loop", "stream"],
        ["astream", "batch", "astream", "loop"],
    ],
    ids="-".join,
)
def test_the_ways_in_mix_in_any_order(
    model: Any, order: list[str], caplog: pytest.LogCaptureFixture, server: RecordingServer
) -> None:
    """Sync calls and event loops that come and go share one graph and one model object, without a failed request."""
    moa = create_moa([Proposer(model) if isinstance(model, Runnable) else model], model, 2)
    for way in order:
        WAYS[way](moa)
    gc.collect()
    assert not caplog.records
    assert {request.outcome for request in server.requests} == {"ok"}
    expected = {"invoke": 1, "stream": 1, "loop": 3, "astream": 1, "batch": 2}
    assert len(server.requests) == 2 * sum(expected[way] for way in order)


def test_threads_mix_with_each_other(model: Any, caplog: pytest.LogCaptureFixture, server: RecordingServer) -> None:
    """Threads that call sync, and threads with loops of their own, use one graph at the same time."""
    moa = create_moa([model], model, 2)
    with ThreadPoolExecutor(6) as threads:
        jobs = [threads.submit(WAYS[way], moa) for way in ("invoke", "loop", "astream") * 4]
        for job in jobs:
            job.result()
    gc.collect()
    assert not caplog.records
    assert {request.outcome for request in server.requests} == {"ok"}


def test_two_graphs_share_one_model(model: Any, server: RecordingServer) -> None:
    """A model object may sit in several graphs, and go on being used after one of them is gone."""
    first, second = create_moa([model], model, 2), create_moa([model], model, 2)
    asyncio.run(several(first))
    del first
    gc.collect()
    asyncio.run(several(second))
    second.invoke(ASK)
    assert {request.outcome for request in server.requests} == {"ok"}


@pytest.mark.parametrize("way", ["loop", "astream"])
def test_a_loops_connections_are_closed_with_it(model: Any, server: RecordingServer, way: str) -> None:
    """When `asyncio.run` returns, no connection it opened is left."""
    WAYS[way](create_moa([model], model, 2))
    asyncio.run(server.until(lambda: server.open_connections == 0, timeout=5))


async def test_connections_are_reused_within_a_loop(server: RecordingServer) -> None:
    """Runs one after the other go over one connection: nobody pays for a handshake again."""
    model = MODELS["ChatOpenAI"](server.base_url)
    moa = create_moa([model], model, 2)
    for _ in range(3):
        await moa.ainvoke(ASK)
    assert server.open_connections == 1


async def test_models_share_the_connections_of_a_loop(server: RecordingServer) -> None:
    """The final model goes over the connection a proposer opened: one transport per loop, not one per model."""
    moa = create_moa([MODELS["ChatOpenAI"](server.base_url)], MODELS["ChatTogether"](server.base_url), 2)
    await moa.ainvoke(ASK)
    assert server.open_connections == 1


@pytest.mark.parametrize("kind", ["ChatOpenAI", "ChatTogether", "string", "bind", "with_config"])
@pytest.mark.parametrize("way", ["invoke", "loop"])
@pytest.mark.parametrize("retries", [0, 2])
def test_retries_do_not_multiply(server: RecordingServer, kind: str, way: str, retries: int) -> None:
    """A failing model is asked once and `retries` times more: the SDK adds none of its own."""
    server.script("a", Behaviour(status=503, retry_after="0.01"))
    model = ChatOpenAI(model="b", base_url=server.base_url, api_key="key")
    moa = create_moa([MODELS[kind](server.base_url), model], model, 2, policy=LayerPolicy(retries=retries))
    WAYS[way](moa)
    runs = 3 if way == "loop" else 1
    assert len(server.requests_for("a")) == runs * (1 + retries)


@pytest.mark.parametrize("way", ["invoke", "loop"])
def test_a_timeout_closes_the_request(server: RecordingServer, way: str) -> None:
    """A proposer out of time is cancelled for real, sync and async: the server sees it hang up."""
    server.script("a", Behaviour(hang=True))
    model = ChatOpenAI(model="b", base_url=server.base_url, api_key="key")
    moa = create_moa([MODELS["ChatOpenAI"](server.base_url), model], model, 2, policy=LayerPolicy(timeout=0.5))
    WAYS[way](moa)
    asyncio.run(server.until(lambda: server.in_flight == 0))
    assert {request.outcome for request in server.requests_for("a")} == {"closed_by_client"}


async def test_a_transport_of_the_users_own_is_used(server: RecordingServer) -> None:
    """An object made with an `http_async_client` keeps it."""
    asked = []

    async def note(request: Any) -> None:
        asked.append(request)

    async with DefaultAsyncHttpxClient(event_hooks={"request": [note]}) as http:
        model = ChatOpenAI(model="a", base_url=server.base_url, api_key="key", http_async_client=http)
        await create_moa([model], model, 2).ainvoke(ASK)
    assert len(asked) == 2


async def test_the_users_object_is_left_as_it_was(server: RecordingServer) -> None:
    """What a loop needs is put in a copy: the object's client and settings stay the user's."""
    model = MODELS["ChatOpenAI"](server.base_url)
    client, settings = model.root_async_client, model.model_dump()
    await create_moa([model], model, 2).ainvoke(ASK)
    assert model.root_async_client is client
    assert model.model_dump() == settings


def test_what_has_no_such_client_is_not_copied() -> None:
    """A model without an HTTP client of OpenAI's is used as it is, wrapped or not."""
    model = ScriptedChatModel()
    bound = model.bind(stop=["x"])
    assert shared(model) is model
    assert shared(bound) is bound


# The environment: proxies, certificates, MOA_GRAPH_TRANSPORT


class Tunnel:
    """A proxy that remembers what it was asked for; with `to` and `tls`, that server's encrypted front."""

    def __init__(self, to: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._to, self._tls = to, tls
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running = asyncio.run_coroutine_threadsafe(self._run(started := threading.Event()), self._loop)
        started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._running.cancel()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def _run(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self._port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await asyncio.Event().wait()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ends), contextlib.closing(writer):
            head = b"" if self._to else await reader.readuntil(b"\r\n\r\n")
            method, _, target = head.decode().partition("\r\n")[0].removesuffix(" HTTP/1.1").partition(" ")
            if not self._to:
                self.asked.append(f"{method} {target}")
            place = urlsplit(self._to or (f"//{target}" if method == "CONNECT" else target))
            back, there = await asyncio.open_connection(place.hostname, place.port)
            with contextlib.closing(there):
                if method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    there.write(head.replace(target.encode(), place.path.encode(), 1) if head else b"")
                async with asyncio.TaskGroup() as both:
                    both.create_task(pipe(reader, there))
                    both.create_task(pipe(back, writer))


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
def proxy() -> Iterator[Tunnel]:
    with Tunnel() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def encrypted(server: RecordingServer, authority: trustme.CA) -> Iterator[str]:
    """The base_url of the server behind TLS, its certificate signed by `authority`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Tunnel(server.base_url, context) as front:
        yield f"{front.url}/v1"


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


on_both_transports = pytest.mark.parametrize("transport", ["aiohttp", "openai"])
of_each_kind = pytest.mark.parametrize("kind", ["ChatOpenAI", "ChatTogether", "string"])


@on_both_transports
@of_each_kind
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_requests_go_through_the_environments_proxy(
    server: RecordingServer, proxy: Tunnel, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, transport: str
) -> None:
    """A proxy that is set when the mixture is made has every request, in every event loop."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", transport)
    monkeypatch.setenv(name, proxy.url)
    model = MODELS[kind](server.base_url)
    moa = create_moa([model], model, 2)
    for _ in range(2):
        asyncio.run(moa.ainvoke(ASK))
    assert set(proxy.asked) == {f"POST {server.base_url}/chat/completions"}
    assert len(proxy.asked) == 2  # one connection for each loop
    assert len(server.requests) == 4


@on_both_transports
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_honoured(
    server: RecordingServer, proxy: Tunnel, monkeypatch: pytest.MonkeyPatch, name: str, transport: str
) -> None:
    """A host in NO_PROXY is asked without the proxy."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", transport)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv(name, "127.0.0.1")
    model = MODELS["ChatOpenAI"](server.base_url)
    asyncio.run(create_moa([model], model, 2).ainvoke(ASK))
    assert len(server.requests) == 2
    assert not proxy.asked


@on_both_transports
@pytest.mark.usefixtures("trusted")
def test_an_encrypted_server_is_asked_through_the_proxy(
    encrypted: str, proxy: Tunnel, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """HTTPS_PROXY is asked for a tunnel, and the certificates are checked within it."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", transport)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    model = MODELS["ChatOpenAI"](encrypted)
    asyncio.run(create_moa([model], model, 2).ainvoke(ASK))
    assert proxy.asked == [f"CONNECT {urlsplit(encrypted).netloc}"]


@pytest.mark.parametrize("kind", ["object", "string"])
def test_openais_own_proxy_variable_is_used(
    server: RecordingServer, proxy: Tunnel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """OPENAI_PROXY, and `openai_proxy=`, have every request, in every event loop."""
    if kind == "string":
        monkeypatch.setenv("OPENAI_PROXY", proxy.url)
        model = MODELS["string"](server.base_url)
    else:
        model = ChatOpenAI(model="a", base_url=server.base_url, api_key="key", openai_proxy=proxy.url)
    moa = create_moa([model], model, 2)
    for _ in range(2):
        asyncio.run(moa.ainvoke(ASK))
    assert len(proxy.asked) == 2
    assert len(server.requests) == 4


@on_both_transports
@of_each_kind
@pytest.mark.usefixtures("trusted")
def test_an_authority_of_ones_own_is_trusted(
    encrypted: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, transport: str
) -> None:
    """A server whose certificate the authority in SSL_CERT_FILE signed is asked, and hung up on cleanly."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", transport)
    model = MODELS[kind](encrypted)
    moa = create_moa([model], model, 2)
    for way in ("loop", "astream"):
        WAYS[way](moa)
    gc.collect()
    assert not caplog.records


@on_both_transports
@of_each_kind
def test_a_certificate_nobody_vouches_for_is_refused(
    encrypted: str, server: RecordingServer, monkeypatch: pytest.MonkeyPatch, kind: str, transport: str
) -> None:
    """An unknown authority's server gets no request, and the error says that its certificate is the reason."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", transport)
    model = MODELS[kind](encrypted)
    with pytest.raises(QuorumError, match="certificate verify failed"):
        asyncio.run(create_moa([model], model, 2, policy=LayerPolicy(retries=0)).ainvoke(ASK))
    assert not server.requests


def test_a_certificate_file_that_is_not_there_is_said_at_build(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE with a wrong path is an error before anything is asked."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(FileNotFoundError):
        MODELS["ChatOpenAI"](server.base_url)


@pytest.mark.parametrize("kind", ["ChatOpenAI", "string", "agent"])
def test_the_clients_own_transport_can_be_chosen(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """MOA_GRAPH_TRANSPORT=openai: httpx sends the requests, over connections that each loop reuses and closes."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", "openai")
    model = MODELS[kind](server.base_url)
    moa = create_moa([Proposer(model) if isinstance(model, Runnable) else model], model, 2)

    async def run() -> int:
        for _ in range(2):
            await moa.ainvoke(ASK)
        return server.open_connections

    assert [asyncio.run(run()) for _ in range(3)] == [1, 1, 1]
    asyncio.run(server.until(lambda: server.open_connections == 0))
    gc.collect()
    assert not caplog.records
    # httpx says this header aloud, aiohttp does not
    assert {request.headers.get("Connection") for request in server.requests} == {"keep-alive"}


def test_the_clients_own_transport_has_no_limit_either(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MOA_GRAPH_TRANSPORT=openai: 150 calls are in flight at once too."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", "openai")
    server.script("a", Behaviour(hang=True))
    model = shared(MODELS["ChatOpenAI"](server.base_url))

    async def run() -> None:
        calls = [asyncio.create_task(model.ainvoke("Why?")) for _ in range(150)]
        await server.until(lambda: server.in_flight == 150, timeout=60)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("kind", [*MODELS, "Azure"])
def test_an_unknown_transport_is_said_at_build(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A value that MOA_GRAPH_TRANSPORT does not know is an error before anything is asked, and names those it does."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", "httpx")
    azure = {"azure_endpoint": server.base_url, "api_version": "1", "api_key": "key"}
    model = AzureChatOpenAI(**azure) if kind == "Azure" else MODELS[kind](server.base_url)
    proposer = Proposer(model) if isinstance(model, Runnable) else model
    with pytest.raises(MoAConfigError, match=r"MOA_GRAPH_TRANSPORT is 'httpx': aiohttp .* or openai"):
        create_moa([proposer], model, 2)


# What is left


async def left_in_the_middle(moa: Runnable[Any, Any]) -> None:
    async for _ in moa.astream(ASK, stream_mode="messages"):
        return  # the stream is neither read to its end nor closed


async def refused(moa: Runnable[Any, Any]) -> None:
    with pytest.raises(FinalError):
        [part async for part in moa.astream(ASK)]


@on_both_transports
@pytest.mark.parametrize(
    ("final", "end"),
    [
        (Behaviour(text="one two three"), several),
        (Behaviour(text="one two three"), left_in_the_middle),
        (Behaviour(text="one two three", stall_after=2), left_in_the_middle),
        (Behaviour(status=400), refused),
        (Behaviour(text="one two three", close_after=1), refused),
    ],
    ids=["read", "left", "left while it stalls", "an error", "broken off"],
)
def test_nothing_is_left_open(
    server: RecordingServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    transport: str,
    final: Behaviour,
    end: Callable[[Any], Any],
) -> None:
    """However a run ends, with its loop every connection and session is closed, without a word of complaint."""
    monkeypatch.setenv("MOA_GRAPH_TRANSPORT", transport)
    server.script("final", final)
    chat = ChatOpenAI(model="final", base_url=server.base_url, api_key="key", streaming=True)
    moa = create_moa([MODELS["ChatOpenAI"](server.base_url)], chat, 2, policy=LayerPolicy(retries=0))
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        asyncio.run(end(moa))
        gc.collect()
    assert not [str(complaint.message) for complaint in complaints]
    assert not caplog.records
    asyncio.run(server.until(lambda: server.open_connections == 0))


def test_run_sync_has_one_loop_for_all_threads() -> None:
    """Sync entry points of every thread await on the same loop, and raise what was raised there."""

    async def loop() -> int:
        return id(asyncio.get_running_loop())

    async def fail() -> None:
        raise LookupError("here")

    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(lambda _: run_sync(loop), range(6)))) == 1
    with pytest.raises(LookupError, match="here"):
        run_sync(fail)


async def test_invoke_within_a_running_loop_does_not_block_itself() -> None:
    """`.invoke()` from inside a coroutine (a notebook cell) returns, though a loop is running."""
    model = ScriptedChatModel(answers=["Because."])
    assert create_moa([model], model, 2).invoke(ASK)["messages"][-1].text == "Because."


SCRIPT = """
import asyncio, sys
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from moa_graph import create_moa
model = ChatOpenAI(model="a", base_url=sys.argv[1], api_key="key")
moa = create_moa([model], model, 2)
ask = {"messages": [("user", "Why?")]}
for _ in range(2):
    moa.invoke(ask)
    asyncio.run(moa.ainvoke(ask))
print(moa.invoke(ask)["messages"][-1].text)
"""


def test_a_process_ends_in_silence(server: RecordingServer) -> None:
    """At exit the sync loop's connections are closed too: nothing on stderr, with every warning shown."""
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", SCRIPT, server.base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "answer of a #10\n", "")


def test_a_model_of_another_integration_serves_several_loops(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that cannot be shared between loops (here Groq's) stays on one, and is cancelled there too."""
    groq = pytest.importorskip("langchain_groq")
    model = groq.ChatGroq(model="a", base_url=server.base_url.removesuffix("/v1"), api_key="key", max_retries=0)
    moa = create_moa([Proposer(model, name="a")], model, 2, policy=LayerPolicy(retries=0))
    for way in ("invoke", "loop", "loop", "stream", "astream"):
        WAYS[way](moa)
    assert {request.outcome for request in server.requests} == {"ok"}
    server.script("a", Behaviour(hang=True))
    hasty = create_moa([Proposer(model, name="a", timeout=0.3)], model, 2)
    with pytest.raises(QuorumError, match="no answer within"):
        asyncio.run(hasty.ainvoke(ASK))
    asyncio.run(server.until(lambda: server.in_flight == 0))
    assert server.requests[-1].outcome == "closed_by_client"
    run_sync(model.async_client._client.close)
