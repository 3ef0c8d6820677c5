"""Proposers that are whole graphs: agents, retrieval, nested mixtures, and mixtures on another server."""

import asyncio
import gc
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

from moa_graph import LayerPolicy, Proposer, create_moa
from moa_graph.review import aedit
from moa_graph.testing import Answer, ScriptedChatModel
from tests.dev_server import Dev, dev_server, needs_server
from tests.server import Behaviour, RecordingServer

ASK: Any = {"messages": [("user", "Why is the sky blue?")]}
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


def model(name: str, *answers: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name)


async def run(graph: Any, way: str = "ainvoke", config: Any = None, **options: Any) -> Any:
    if way == "ainvoke":
        return await graph.ainvoke(ASK, config, **options)
    return await asyncio.to_thread(graph.invoke, ASK, config, **options)


def receipt(out: Any) -> Any:
    return out["messages"][-1].response_metadata["moa"]


# In this process


@tool
def wavelength(colour: str) -> str:
    """The wavelength of a colour."""
    return f"{colour}: 450 nm"


@WAYS
async def test_an_agent_with_tools(way: str) -> None:
    """Its last message is the proposal; its calls and tokens, those before a tool's result too, are in the receipt."""
    call = {"name": "wavelength", "args": {"colour": "blue"}, "id": "1", "type": "tool_call"}
    thinker = model("thinker", Answer(tool_calls=[call]), "Blue is short.")
    agent = create_agent(thinker, [wavelength], name="agent")
    out = await run(create_moa([agent, model("b")], model("c"), 2), way)
    first = out["proposals"][0]
    assert (first["status"], first["content"], first["calls"]) == ("ok", "Blue is short.", 2)
    assert thinker.prompts[1][-1].text == "blue: 450 nm"
    assert first["usage"]["output_tokens"] == 3
    assert receipt(out)["calls"] == 4


@WAYS
async def test_a_retrieval_graph(way: str) -> None:
    """Documents are found and read within the proposer: no message of the retriever's reaches the mixture."""
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    store.add_documents([Document("Why is the sky blue?"), Document("Cats purr.")])
    reader = ScriptedChatModel(answers=lambda prompt: f"I read: {prompt[0].text}")

    class State(MessagesState, total=False):
        found: str

    def retrieve(state: State) -> dict[str, str]:
        [best] = store.similarity_search(state["messages"][-1].text, k=1)
        return {"found": best.page_content}

    def answer(state: State) -> dict[str, Any]:
        return {"messages": [reader.invoke([("system", state["found"]), *state["messages"]])]}

    graph = StateGraph(State).add_node(retrieve).add_node(answer)
    rag = graph.add_edge(START, "retrieve").add_edge("retrieve", "answer").compile(name="rag")
    out = await run(create_moa([rag, model("b")], model("c"), 2), way)
    assert [p["content"] for p in out["proposals"]] == ["I read: Why is the sky blue?", "It is b."]
    assert (out["proposals"][0]["proposer"], len(out["messages"])) == ("rag", 2)


@WAYS
async def test_a_nested_mixture(way: str) -> None:
    """A mixture as a proposer, and as the final model, is counted with all of its calls."""
    inner = create_moa([model("x"), model("y")], model("z"), 2, name="inner")
    out = await run(create_moa([inner, model("b")], inner, 2), way)
    assert [p["content"] for p in out["proposals"]] == ["It is z.", "It is b."]
    assert out["messages"][-1].text == "It is z."
    assert receipt(out)["calls"] == 3 + 1 + 3


# On another server


MODULE = """
import os
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from typing_extensions import TypedDict

from moa_graph import Proposer, create_layer, create_moa


def models(*names):
    return [Proposer(f"openai:{name}", name=name, base_url=os.environ["MODELS_URL"]) for name in names]


class Context(TypedDict, total=False):
    who: str


def say(state: MessagesState, runtime: Runtime[Context]) -> Any:
    return {"messages": [AIMessage(f"{(runtime.context or {}).get('who')} has {len(state['messages'])}")]}


def ask(state: MessagesState) -> Any:
    return {"messages": [AIMessage(interrupt("Yes or no?"))]}


def graph(node, schema=None):
    return StateGraph(MessagesState, context_schema=schema).add_node("n", node).add_edge(START, "n").compile()


moa = create_moa(models("one", "two"), models("speaker"), 2)
layer = create_layer(models("one"))
context = graph(say, Context)
person = graph(ask)
"""


@pytest.fixture(scope="module")
def models() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server


@pytest.fixture(scope="module")
def far(models: RecordingServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """The other server, serving `MODULE`."""
    folder = tmp_path_factory.mktemp("far")
    graphs = {name: f"./far.py:{name}" for name in ("moa", "layer", "context", "person")}
    (folder / "far.py").write_text(MODULE, encoding="utf-8")
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}), encoding="utf-8")
    with dev_server(folder, MODELS_URL=models.base_url) as server:
        yield server


@pytest.fixture
def remote(far: Dev, models: RecordingServer) -> RemoteGraph:
    models.clear()
    return RemoteGraph("moa", url=far.url, name="far")


@pytest.fixture
async def client(far: Dev) -> AsyncIterator[Any]:
    """LangGraph's client of that server."""
    async with get_client(url=far.url) as client:
        yield client


REMOTE = [needs_server, pytest.mark.timeout(30, func_only=True)]  # the server's start has a limit of its own


def remotely(test: Any) -> Any:
    """This test asks the other server."""
    for mark in REMOTE:
        test = mark(test)
    return test


@remotely
@pytest.mark.parametrize(
    ("way", "thread"), [("ainvoke", None), ("invoke", "no uuid"), ("ainvoke", "0a1b2c3d-0000-4000-8000-000000000000")]
)
async def test_a_remote_proposer(remote: RemoteGraph, client: Any, way: str, thread: str | None) -> None:
    """Its answer is the proposal, its calls and tokens are in the receipt, and our thread is none of its."""
    config = thread and {"configurable": {"thread_id": thread}}
    moa = create_moa([remote, model("b")], model("c"), 2, checkpointer=InMemorySaver() if thread else None)
    out = await run(moa, way, config)
    first = out["proposals"][0]
    assert (first["status"], first["proposer"], first["model"]) == ("ok", "far", "speaker")
    assert (first["content"], first["calls"], first["attempts"]) == ("answer of speaker #1", 3, 1)
    assert (first["usage"]["output_tokens"], receipt(out)["output_tokens"]) == (12, 12 + 3 + 3)
    assert (receipt(out)["calls"], len(out["messages"])) == (3 + 1 + 1, 2)
    assert await client.threads.search() == []


@remotely
@WAYS
async def test_a_remote_final_model(remote: RemoteGraph, models: RecordingServer, way: str) -> None:
    """As the final model it reads the references, and adds one message with the receipt of all calls."""
    out = await run(create_moa([model("b")], remote, 2, prompt="Merge:"), way)
    assert [message.text for message in out["messages"]] == ["Why is the sky blue?", "answer of speaker #1"]
    assert models.requests_for("one")[0].messages[0]["content"] == "Merge:\n1. It is b."
    assert (receipt(out)["calls"], receipt(out)["final"]["calls"]) == (4, 3)
    assert receipt(out)["output_tokens"] == 3 + 12


@remotely
async def test_several_turns(remote: RemoteGraph, models: RecordingServer) -> None:
    """On a thread of ours, each turn shows the remote the conversation once."""
    moa = create_moa([remote], model("c"), 2, checkpointer=InMemorySaver())
    for _ in range(2):
        await run(moa, config={"configurable": {"thread_id": "1"}})
    shown = [message["content"] for message in models.requests_for("one")[-1].messages]
    assert shown == ["Why is the sky blue?", "It is c.", "Why is the sky blue?"]


@remotely
@pytest.mark.parametrize("subgraphs", [False, True])
async def test_the_final_models_tokens_stream(remote: RemoteGraph, subgraphs: bool) -> None:
    """A remote final model's tokens come one by one, once, and are said to be the final model's."""
    said = []
    async for part in create_moa([model("b")], remote, 2).astream(ASK, stream_mode="messages", subgraphs=subgraphs):
        chunk, metadata = part[-1] if subgraphs else part
        assert (metadata["moa_role"], metadata["moa_model"]) == ("final", "far")
        said.append(chunk.text)
    assert list(filter(None, said)) == ["answer", " of", " speaker", " #1"]


@remotely
@pytest.mark.parametrize("loud", [False, True])
async def test_a_proposers_tokens_stream_when_asked_for(remote: RemoteGraph, loud: bool) -> None:
    """Its tokens come with `stream_proposers=True` alone, with its layer."""
    moa, said = create_moa([remote], model("c"), 2, stream_proposers=loud), ""
    async for _, (chunk, metadata) in moa.astream(ASK, stream_mode="messages", subgraphs=True):
        said += chunk.text if metadata["moa_layer"] == 1 else ""
    assert said == ("answer of speaker #1" if loud else "")


@remotely
async def test_its_events_come_along(remote: RemoteGraph) -> None:
    """The remote mixture's own events come as those of any graph within do, under its proposer's namespace."""
    told: dict[int, list[str]] = {}
    async for namespace, event in create_moa([remote], model("c"), 2).astream(
        ASK, stream_mode="custom", subgraphs=True
    ):
        told.setdefault(len(namespace), []).append(event["type"].removeprefix("moa."))
    assert told[0] == [
        "layer_started", "proposer_started", "proposer_answered", "layer_done", "final_started", "done",
    ]  # fmt: skip
    assert told[2][0] == "layer_started"
    assert told[2][-1] == "done"


@remotely
@pytest.mark.parametrize(
    ("way", "status", "own", "policy"),
    [
        ("ainvoke", "cut", None, LayerPolicy(grace=0, timeout=None)),
        ("invoke", "cut", None, LayerPolicy(grace=0, timeout=None)),
        ("ainvoke", "timeout", 4.0, LayerPolicy()),
    ],
    ids=["cut", "cut, sync", "timeout"],
)
async def test_the_remote_run_ends_with_its_time(
    remote: RemoteGraph, models: RecordingServer, way: str, status: str, own: float | None, policy: LayerPolicy
) -> None:
    """Cut or out of time, the other server's run is cancelled, and so is the request it was waiting for."""
    models.script("speaker", Behaviour(hang=True))
    waits = RunnableLambda(_until(lambda: models.requests_for("speaker")), name="waits")
    out = await run(create_moa([Proposer(remote, timeout=own), waits], model("c"), 2, policy=policy), way)
    assert [p["status"] for p in out["proposals"]] == [status, "ok"]
    [request] = models.requests_for("speaker")
    await models.until(lambda: request.outcome)
    assert request.outcome == "closed_by_client"


def _until(condition: Any) -> Any:
    """A proposer that answers once the condition holds: a remote run has a queue to wait in."""

    async def answer(_: Any) -> str:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what it waits for happens in another event loop
                await asyncio.sleep(0.01)
        return "It is w."

    return answer


@remotely
async def test_a_run_given_up_ends_there(remote: RemoteGraph, models: RecordingServer) -> None:
    """Cancelling the mixture cancels the remote run."""
    models.script("one", Behaviour(hang=True))
    task = asyncio.create_task(run(create_moa([remote], model("c"), 2)))
    await models.until(lambda: models.requests_for("one"), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [request] = models.requests_for("one")
    await models.until(lambda: request.outcome)
    assert request.outcome == "closed_by_client"


@remotely
def test_event_loops_and_threads_share_a_remote_graph(remote: RemoteGraph, recwarn: pytest.WarningsRecorder) -> None:
    """One object in two event loops, after each other and at once, sync and async, closes all it opened."""
    moa = create_moa([remote], model("c"), 2)
    for way in ("ainvoke", "invoke", "ainvoke"):
        assert asyncio.run(run(moa, way))["proposals"][0]["status"] == "ok"
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(asyncio.run, run(moa, way)) for way in ("ainvoke", "invoke") * 2]
    assert [job.result()["proposals"][0]["status"] for job in jobs] == ["ok"] * 4
    del moa, jobs
    gc.collect()
    assert not [each for each in recwarn if each.category is ResourceWarning]


@remotely
async def test_a_context_is_given_with_the_graph(far: Dev) -> None:
    """The mixture's own context stays here; one for the other server is bound to the graph."""

    @dataclass
    class Foreign:
        secret: str

    plain = RemoteGraph("context", url=far.url)
    bound = Proposer(plain, name="bound", parameters={"context": {"who": "Ada"}})
    moa = create_moa([Proposer(plain, name="plain"), bound], model("c"), 2)
    config = {"configurable": {"flag": "on"}}
    out = await moa.ainvoke(ASK, config, context=Foreign("s"))
    assert [p["content"] for p in out["proposals"]] == ["None has 1", "Ada has 1"]


@remotely
async def test_within_a_chain(far: Dev) -> None:
    """Behind a function that says what it is asked, it is asked the same way."""
    chain = RunnableLambda(lambda messages: {"messages": [("user", "Only this."), ("user", "And this.")]})
    remote = RemoteGraph("context", url=far.url)
    out = await run(create_moa([chain | remote], model("c"), 2), config={"configurable": {"thread_id": "1"}})
    assert out["proposals"][0]["content"] == "None has 2"


@remotely
async def test_a_thread_of_its_own(far: Dev, client: Any) -> None:
    """A thread that is set on the remote graph itself is used; the one we are asked on is not."""
    thread = (await client.threads.create())["thread_id"]
    remote = RemoteGraph("context", url=far.url).with_config(configurable={"thread_id": thread})
    for turn in "12":
        out = await run(create_moa([remote], model("c"), 2), config={"configurable": {"thread_id": turn}})
    assert out["proposals"][0]["content"] == "None has 3"
    await client.threads.delete(thread)


@remotely
async def test_a_review_on_the_other_server(client: Any, models: RecordingServer) -> None:
    """`aedit` works through a RemoteGraph: a run stopped there goes on with what a person left."""
    models.clear()
    thread = (await client.threads.create())["thread_id"]
    asked = {"messages": [{"role": "user", "content": "Why?"}]}
    await client.runs.wait(thread, "moa", input=asked, interrupt_after=["layer_1"])
    graph = RemoteGraph("moa", client=client)
    await aedit(graph, {"configurable": {"thread_id": thread}}, [{"content": "Rayleigh."}])
    out = await client.runs.wait(thread, "moa", input=None)
    assert out["messages"][-1]["content"] == "answer of speaker #1"
    [final] = models.requests_for("speaker")
    assert final.messages[0]["content"].endswith("Responses from models:\n1. Rayleigh.")
    assert [p["status"] for p in out["proposals"]] == ["cut", "cut", "ok"]
    await client.threads.delete(thread)


@remotely
async def test_a_wrong_shape_is_refused_on_a_server(client: Any, models: RecordingServer) -> None:
    """A server refuses a wrong edit with the reason, and the thread goes on."""
    models.clear()
    thread = (await client.threads.create())["thread_id"]
    asked = {"messages": [{"role": "user", "content": "Why?"}]}
    await client.runs.wait(thread, "moa", input=asked, interrupt_after=["layer_1"])
    before = await client.threads.get_state(thread)
    with pytest.raises(httpx.HTTPStatusError, match="proposal 1: content is 5: a text is needed"):
        await client.threads.update_state(thread, {"proposals": [{"layer": 1, "slot": 1, "content": 5}]})
    assert await client.threads.get_state(thread) == before
    out = await client.runs.wait(thread, "moa", input=None)
    assert out["messages"][-1]["content"] == "answer of speaker #1"
    await client.threads.delete(thread)


WRONG = {
    "moa": r"MoAError: QuorumError: layer 1: 0 of 2 .* told to answer 400",
    "layer": "MoAError: .* gave dict where a message was expected: no `messages` in it, but proposals, synthesis",
    "nobody": "Invalid assistant: 'nobody'.*moa",
    "person": "MoAError: it asks a person something, and is asked without a thread",
}


@remotely
@pytest.mark.parametrize("name", WRONG)
async def test_what_goes_wrong_there_is_told_here(
    far: Dev, remote: RemoteGraph, models: RecordingServer, name: str
) -> None:
    """The other server's error is the proposal's, in its own words, and the layer goes on without it."""
    if name == "moa":
        for each in ("one", "two"):
            models.script(each, Behaviour(status=400))
    moa = create_moa([RemoteGraph(name, url=far.url), model("b")], model("c"), 2)
    out = await run(moa)
    assert [p["status"] for p in out["proposals"]] == ["error", "ok"]
    assert re.search(WRONG[name], out["proposals"][0]["error"])
    assert out["messages"][-1].text == "It is c."


@WAYS
async def test_a_server_that_is_down(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again as a layer's policy says, the error names the address, and the layer goes on."""
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    moa = create_moa([RemoteGraph("moa", url=url), model("b")], model("c"), 2, policy=LayerPolicy(retries=1))
    out = await run(moa, way)
    assert [(p["status"], p["attempts"]) for p in out["proposals"]] == [("error", 2), ("ok", 1)]
    assert out["proposals"][0]["error"].startswith(f"ConnectionError: no server at {url}: ")


async def test_a_graph_of_the_same_server() -> None:
    """With a client that is no plain HTTP (LangGraph's own for the server one is on), nothing is put in its place."""
    app = httpx.ASGITransport(app=_one_answer)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=app, base_url="http://api") as http:
        out = await run(create_moa([RemoteGraph("near", client=LangGraphClient(http))], model("c"), 2))
    assert out["proposals"][0]["content"] == "Near."


async def _one_answer(scope: Any, receive: Any, send: Any) -> None:
    state = {"messages": [{"type": "ai", "content": "Near."}]}
    body = f"event: values\ndata: {json.dumps(state)}\n\n".encode()
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
