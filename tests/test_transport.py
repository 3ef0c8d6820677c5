"""One model object serves sync, async, several event loops and several threads, and leaves nothing open."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from langchain_together import ChatTogether
from langgraph.graph import END, START, MessagesState, StateGraph
from openai import DefaultAsyncHttpxClient

from moa_graph import LayerPolicy, Proposer, QuorumError, create_moa
from moa_graph.testing import ScriptedChatModel
from moa_graph.loops import run_sync
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
    asyncio.run(server.until(lambda: server.open_connections == 0, timeout=1))


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
from langchain_openai import ChatOpenAI
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
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
