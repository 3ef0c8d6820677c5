"""A mixture runs as one call of a chat model: streamed, cancelled, traced, and apart from the graph around it."""

import asyncio
import gc
import threading
from collections import Counter
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from moa_graph import ChatMoA, FinalError, QuorumError, create_moa
from moa_graph.errors import MoARunError
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, rate_limited
from tests.server import Behaviour, RecordingServer

WAYS = pytest.mark.parametrize("way", ["stream", "astream"])
CALLS = pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"])


def scripted(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=answers or [f"It is {name}."], model_name=name, **how)


def mixture(*final: Any, proposers: list[Any] | None = None, **more: Any) -> ChatMoA:
    panel = proposers or [scripted("a"), scripted("b")]
    return ChatMoA(proposers=panel, aggregator=list(final) or [scripted("c")], layers=2, **more)


def online(server: RecordingServer, **more: Any) -> ChatMoA:
    models = [ChatOpenAI(model=name, base_url=server.base_url, api_key="key") for name in "abc"]  # type: ignore[arg-type]
    return mixture(models[2], proposers=models[:2], **more)


async def answered(model: Any, way: str, config: RunnableConfig | None = None) -> Any:
    """The answer in any of the ways to call a chat model; chunks added up."""
    asked = [("user", "Why?")]
    if way == "batch":
        return (await asyncio.to_thread(model.batch, [asked], config))[0]
    if way == "abatch":
        return (await model.abatch([asked], config))[0]
    if way == "invoke":
        return await asyncio.to_thread(model.invoke, asked, config)
    if way == "ainvoke":
        return await model.ainvoke(asked, config)
    return added(await chunks(model, way, config))


async def chunks(model: Any, way: str, config: RunnableConfig | None = None) -> list[AIMessageChunk]:
    asked = [("user", "Why?")]
    if way == "stream":
        return await asyncio.to_thread(lambda: list(model.stream(asked, config)))
    return [chunk async for chunk in model.astream(asked, config)]


def added(parts: list[AIMessageChunk]) -> Any:
    return sum(parts[1:], parts[0])


def essence(message: AIMessage) -> Any:
    """All that does not depend on the clock."""
    metadata = dict(message.response_metadata)
    moa = metadata.pop("moa")
    calls = [call["model"] for layer in moa["layers"] for call in layer["proposals"]]
    usage = message.usage_metadata
    return message.content, message.tool_calls, usage, metadata, calls, moa["calls"], moa["final"]["model"]


# What is answered


@CALLS
async def test_every_way_gives_the_same_answer(way: str) -> None:
    """Invoked, streamed or in a batch, the answer is the same: text, calls, usage of all models, metadata, receipt."""
    final = scripted("c")
    shown = essence(await answered(mixture(final), way))
    asked = 1 + 1 + sum(len(message.text.split()) for message in final.prompts[0])
    usage = {"input_tokens": asked, "output_tokens": 9, "total_tokens": asked + 9}
    assert shown == ("It is c.", [], usage, {"model_name": "c", "finish_reason": "stop"}, ["a", "b"], 3, "c")


@WAYS
async def test_chunks_come_while_the_final_model_speaks(server: RecordingServer, way: str) -> None:
    """The first words are there while the final model's request is still open."""
    server.script("c", Behaviour(text="It is c.", stall_after=2))
    moa, seen = online(server), list[tuple[str, int]]()

    def two() -> None:
        words = (chunk.text for chunk in moa.stream("Why?") if chunk.text)
        seen.extend((next(words), server.in_flight) for _ in range(2))

    async def anew() -> None:
        async for chunk in moa.astream("Why?"):
            seen.extend([(chunk.text, server.in_flight)] if chunk.text else [])
            if len(seen) == 2:
                break

    await (asyncio.to_thread(two) if way == "stream" else anew())
    assert seen == [("It", 1), (" is", 1)]


@WAYS
async def test_chunks_have_one_id_and_one_end(way: str) -> None:
    """All chunks are of one message; only the last has usage and the receipt."""
    *first, last = await chunks(mixture(), way)
    assert {chunk.id for chunk in first} == {last.id}
    assert all(not chunk.usage_metadata and "moa" not in chunk.response_metadata for chunk in first)
    assert (last.chunk_position, bool(last.usage_metadata), "moa" in last.response_metadata) == ("last", True, True)


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_a_providers_id_stays(way: str) -> None:
    """A message's id that the final model's provider gave is the answer's."""
    answer = await answered(mixture(scripted("c", AIMessage("It is c.", id="msg_1"))), way)
    assert answer.id == "msg_1"


@CALLS
async def test_reasoning_and_blocks_stay(way: str) -> None:
    """A final model's content blocks are the answer's."""
    answer = await answered(mixture(scripted("c", Answer("It is c.", reasoning="Let me think."))), way)
    assert [(block["type"], block.get("text") or block.get("reasoning")) for block in answer.content_blocks] == [
        ("reasoning", "Let me think."),
        ("text", "It is c."),
    ]


def test_details_of_usage_are_summed() -> None:
    """Cached and reasoning tokens of all calls are in the usage too."""
    usage: Any = {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_token_details": {"cache_read": 4},
        "output_token_details": {"reasoning": 2},
    }
    said = Answer("x", usage=usage)
    moa = mixture(scripted("c", said), proposers=[scripted("a", said), scripted("b", said)])
    assert moa.invoke("Why?").usage_metadata == {
        "input_tokens": 30,
        "output_tokens": 15,
        "total_tokens": 45,
        "input_token_details": {"cache_read": 12},
        "output_token_details": {"reasoning": 6},
    }


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_unknown_usage_is_none(way: str) -> None:
    """Where no model reports what it used, the answer has no usage, not one of 0."""
    silent = [FakeListChatModel(responses=["x y"]) for _ in range(3)]
    answer = await answered(mixture(silent[2], proposers=silent[:2]), way)
    assert (answer.text, answer.usage_metadata) == ("x y", None)


@CALLS
async def test_a_fallback_answers(way: str) -> None:
    """When the final model fails before its first token, the next one's answer is the whole of it."""
    answer = await answered(mixture(scripted("x", bad_request()), scripted("c")), way)
    assert (answer.text, answer.response_metadata["model_name"]) == ("It is c.", "c")
    assert "bad request" in answer.response_metadata["moa"]["final"]["error"]


@WAYS
async def test_a_second_attempt_is_the_whole_answer(way: str) -> None:
    """A final model that failed once, and answered when asked again, is heard once."""
    moa = mixture(scripted("c", rate_limited(retry_after=0), "It is c."))
    assert [chunk.text for chunk in await chunks(moa, way)] == ["It", " is", " c.", "", ""]


@CALLS
async def test_a_failed_proposer_is_in_the_receipt(way: str) -> None:
    """A proposer that failed is left out, and named in the receipt."""
    answer = await answered(mixture(proposers=[scripted("a"), scripted("b", bad_request())]), way)
    [layer] = answer.response_metadata["moa"]["layers"]
    assert [(call["proposer"], call["status"]) for call in layer["proposals"]] == [("a", "ok"), ("b", "error")]


@CALLS
@pytest.mark.parametrize("kind", [QuorumError, FinalError])
async def test_errors_come_out_as_they_are(way: str, kind: type[Exception]) -> None:
    """A missed quorum and a failed final model raise what `create_moa` raises, in every way to call."""
    broken = scripted("x", bad_request())
    moa = mixture(broken) if kind is FinalError else mixture(proposers=[broken])
    with pytest.raises(kind, match="bad request") as caught:
        await answered(moa, way)
    assert type(caught.value) is kind


@WAYS
async def test_an_error_in_mid_answer_comes_after_what_was_said(way: str) -> None:
    """What the final model said before it broke off was streamed; then comes FinalError."""
    moa = mixture(scripted("c", Answer("It is c.", error=bad_request(), error_after=2)), scripted("d"))
    words: list[str] = []

    def sync() -> None:
        words.extend(chunk.text for chunk in moa.stream("Why?"))

    async def read() -> None:
        async for chunk in moa.astream("Why?"):
            words.append(chunk.text)  # noqa: PERF401

    with pytest.raises(FinalError):
        await (asyncio.to_thread(sync) if way == "stream" else read())
    assert words == ["It", " is"]


@WAYS
async def test_an_agents_inner_words_are_not_the_answer(way: str) -> None:
    """An agent, a chain or a nested mixture as the final model: its answer comes whole, and nothing said on the way."""
    inner = scripted("c", Answer("Let me see.", tool_calls=[{"name": "look", "args": {}, "id": "1"}]), "It is c.")  # type: ignore[list-item]

    def look() -> str:
        """Look."""
        return "c"

    chain = ChatPromptTemplate.from_messages([("placeholder", "{messages}")]) | scripted("c")
    first = RunnableLambda(lambda messages: {"messages": messages}) | chain
    nested = create_moa([scripted("a")], scripted("c"), 2)
    for final in (create_agent(inner, [look]), first, nested):
        parts = await chunks(mixture(final), way)
        assert [chunk.text for chunk in parts if chunk.text] == ["It is c."]
        assert added(parts).usage_metadata["output_tokens"] >= 9


@WAYS
async def test_a_mixture_is_a_mixtures_final_model(way: str) -> None:
    """A ChatMoA within a ChatMoA streams; its usage and calls are in the sum, and the receipt is the outer one's."""
    parts = await chunks(mixture(mixture(), proposers=[mixture(), scripted("b")]), way)
    answer = added(parts)
    assert [chunk.text for chunk in parts if chunk.text] == ["It", " is", " c."]
    assert answer.response_metadata["moa"]["calls"] == 7
    assert answer.usage_metadata["output_tokens"] == 21


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_who_asks_a_person_cannot_be_waited_for(way: str) -> None:
    """A proposer that interrupts for a person is an error in words: a chat model keeps no thread."""

    async def ask(state: MessagesState) -> Any:
        return {"messages": [AIMessage(interrupt("May I?"))]}

    asks = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    with pytest.raises(MoARunError, match="a person"):
        await answered(mixture(proposers=[asks]), way)


# Given up


async def test_closing_a_stream_early_ends_the_request(server: RecordingServer) -> None:
    """Closed after its first word, a stream cancels the final model's request: nothing is left running."""
    server.script("c", Behaviour(text="It is c.", stall_after=1))
    moa = online(server)
    sync, anew = moa.stream("Why?"), moa.astream("Why?")

    def first() -> str:
        word = next(part.text for part in sync if part.text)
        sync.close()  # type: ignore[attr-defined]
        return word

    assert await asyncio.to_thread(first) == "It"
    async for chunk in anew:
        if chunk.text:
            break
    await anew.aclose()  # type: ignore[attr-defined]
    await server.until(lambda: server.in_flight == 0)
    assert [request.outcome for request in server.requests_for("c")] == ["closed_by_client"] * 2


def test_a_stream_dropped_as_its_loop_ends(server: RecordingServer) -> None:
    """A stream that nobody closes ends with its event loop, quietly, and so does its request."""
    server.script("c", Behaviour(text="It is c.", stall_after=1))
    moa = online(server)

    async def first() -> None:
        async for chunk in moa.astream("Why?"):
            if chunk.text:
                break

    for _ in range(3):
        asyncio.run(first())
    asyncio.run(server.until(lambda: server.in_flight == 0))
    assert [request.outcome for request in server.requests_for("c")] == ["closed_by_client"] * 3


async def test_cancelling_a_call_ends_its_requests(server: RecordingServer) -> None:
    """A cancelled `ainvoke` or `astream` cancels the proposers' requests."""
    server.script("a", Behaviour(hang=True))
    moa = online(server)
    for number, call in enumerate((moa.ainvoke("Why?"), anext(moa.astream("Why?"))), 1):
        task = asyncio.ensure_future(call)
        await server.until(lambda n=number: len(server.requests_for("a")) == n and server.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.in_flight == 0)


def test_an_interrupted_sync_stream_ends_its_requests(server: RecordingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a sync stream waits for the first word cancels what it waits for."""
    import moa_graph.chat_run as run

    class Interrupted(run.SimpleQueue):  # type: ignore[type-arg]
        done = False

        def get(self, *args: Any, **how: Any) -> Any:
            if not self.done:
                self.done = True
                asyncio.run(server.until(lambda: server.in_flight == 1))
                raise KeyboardInterrupt
            return super().get(*args, **how)

    server.script("a", Behaviour(hang=True))
    server.script("b", Behaviour(status=400))
    monkeypatch.setattr(run, "SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(iter(online(server).stream("Why?")))
    asyncio.run(server.until(lambda: server.in_flight == 0))


async def test_a_sync_call_on_its_own_loop_is_refused() -> None:
    """A sync call from within the loop behind all sync calls would wait for itself for ever: it is an error."""
    inner = mixture()

    async def blocks(messages: Any) -> AIMessage:
        return inner.invoke(messages)

    with pytest.raises(QuorumError, match="await it"):
        await asyncio.to_thread(mixture(proposers=[RunnableLambda(blocks)]).invoke, "Why?")


def test_threads_and_loops_share_a_mixture(server: RecordingServer) -> None:
    """Sync calls in threads and several event loops, mixed, on one object over real connections."""
    moa, texts = online(server), list[str]()

    def loop() -> None:
        texts.append(asyncio.run(moa.ainvoke("Why?")).text)
        texts.append(moa.invoke("Why?").text)

    threads = [threading.Thread(target=loop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == sorted(f"answer of c #{n}" for n in range(1, 9))


# In a larger graph


def graph(moa: ChatMoA, call: str, **compiled: Any) -> Any:
    """A graph whose node, named as one within, calls a mixture."""

    async def final(state: MessagesState) -> Any:
        if call == "astream":
            return {"messages": [added([chunk async for chunk in moa.astream(state["messages"])])]}
        return {"messages": [await moa.ainvoke(state["messages"])]}

    def sync(state: MessagesState) -> Any:
        if call == "stream":
            return {"messages": [added(list(moa.stream(state["messages"])))]}
        return {"messages": [moa.invoke(state["messages"])]}

    node = final if call.startswith("a") else sync
    return (
        StateGraph(MessagesState, context_schema=dict)
        .add_node("final", node)
        .add_edge(START, "final")
        .compile(**compiled)
    )  # type: ignore[arg-type]


INNER = pytest.mark.parametrize("call", ["invoke", "ainvoke", "stream", "astream"])
ASK: Any = {"messages": [("user", "Why?")]}


async def parts(outer: Any, call: str, config: Any = None, **how: Any) -> list[Any]:
    """What a graph streams: sync where its node is."""
    if call.startswith("a"):
        return [part async for part in outer.astream(ASK, config, **how)]
    return await asyncio.to_thread(lambda: list(outer.stream(ASK, config, **how)))


@INNER
@pytest.mark.parametrize("subgraphs", [False, True])
async def test_each_token_once(call: str, subgraphs: bool) -> None:
    """A graph around it streams each of the answer's tokens once, and no proposer's, with subgraphs and without."""
    streamed = await parts(graph(mixture(), call), call, stream_mode=["messages", "values"], subgraphs=subgraphs)
    told = [part[-1] for part in streamed if part[-2] == "messages"]
    assert [message.text for message, _ in told if message.text] == ["It", " is", " c."]
    assert {metadata["langgraph_node"] for _, metadata in told} == {"final"}
    kept = streamed[-1][-1]["messages"]
    assert [message.text for message in kept] == ["Why?", "It is c."]
    assert {message.id for message, _ in told} == {kept[-1].id}


@INNER
async def test_events_reach_the_custom_stream_once(call: str) -> None:
    """The mixture's events come in the custom stream of the graph around it, each once, streamed or not."""
    events = await parts(graph(mixture(), call), call, stream_mode="custom")
    assert Counter(event["type"] for event in events) == {
        "moa.layer_started": 1,
        "moa.proposer_started": 2,
        "moa.proposer_answered": 2,
        "moa.layer_done": 1,
        "moa.final_started": 1,
        "moa.done": 1,
    }


@INNER
async def test_no_checkpoint_of_its_own(call: str) -> None:
    """A thread around it has the outer graph's checkpoints alone and goes on; foreign settings do no harm."""
    saver = InMemorySaver()
    outer = graph(mixture(), call, checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "1", "model": "foreign", "checkpoint_during": True}}
    for _ in range(2):
        await parts(outer, call, config, context={"any": "thing"}, stream_mode=["messages", "values"])
    assert {kept.config["configurable"]["checkpoint_ns"] for kept in saver.list(config)} == {""}
    assert [message.type for message in outer.get_state(config).values["messages"]] == ["human", "ai", "human", "ai"]


@pytest.mark.parametrize("call", ["invoke", "stream"])
async def test_a_sync_node_in_an_async_graph(call: str) -> None:
    """A sync node of a graph that runs async streams tokens and events once as well."""
    modes: Any = ["messages", "custom"]
    streamed = [part async for part in graph(mixture(), call).astream(ASK, stream_mode=modes)]
    assert [data[0].text for mode, data in streamed if mode == "messages" and data[0].text] == ["It", " is", " c."]
    assert [data["type"] for mode, data in streamed if mode == "custom"].count("moa.done") == 1


async def test_the_graphs_limit_of_calls_holds() -> None:
    """`max_concurrency` of the graph around it is that of the mixture's layers."""
    model = scripted("a", Answer("x", latency=0.01))
    moa = mixture(proposers=[model, model, model])
    await graph(moa, "ainvoke").ainvoke(ASK, {"max_concurrency": 1})
    assert (model.calls, model.max_in_flight) == (3, 1)


async def test_a_muted_mixture_still_streams_to_its_caller() -> None:
    """Tagged `nostream`, it is silent in the graph's stream; whoever streams it directly gets its words."""
    moa, told = mixture(), list[str]()

    async def node(state: MessagesState) -> Any:
        config: RunnableConfig = {"tags": ["nostream"]}
        told.extend([chunk.text async for chunk in moa.astream(state["messages"], config)])
        return {}

    outer = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    assert [part async for part in outer.astream(ASK, stream_mode="messages")] == []
    assert [word for word in told if word] == ["It", " is", " c."]


# Traced


class Traced(BaseTracer):
    """Keeps the trees of runs, as LangSmith's tracer sends them."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


class Heard(BaseCallbackHandler):
    """Which chat models began, under which run, and how each ended."""

    def __init__(self) -> None:
        self.began: dict[Any, Any] = {}
        self.ended: list[Any] = []

    def on_chat_model_start(self, *_: Any, run_id: Any, parent_run_id: Any = None, **__: Any) -> None:
        self.began[run_id] = parent_run_id

    def on_llm_end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.ended.append(run_id)

    on_llm_error = on_llm_end


def flat(run: Run) -> list[Run]:
    return [run, *(r for child in run.child_runs for r in flat(child))]


@CALLS
async def test_a_tracer_sees_one_run_and_the_calls_beneath(way: str) -> None:
    """A tracer sees the mixture's run, with its metadata and tags, and beneath it the graph with each model's call."""
    tracer = Traced()
    config: RunnableConfig = {"callbacks": [tracer], "metadata": {"who": "ann"}, "tags": ["mine"], "run_name": "asked"}
    await answered(mixture(), way, config)
    [root] = tracer.roots
    inner = [run for run in flat(root) if run.run_type == root.run_type and run is not root]
    assert (root.name, root.parent_run_id, [run.name for run in root.child_runs]) == ("asked", None, ["moa"])
    assert [run.name for run in inner] == ["ScriptedChatModel"] * 3
    assert all((run.extra or {})["metadata"]["who"] == "ann" and "mine" in (run.tags or []) for run in inner)
    assert all(run.end_time for run in flat(root))


@INNER
@pytest.mark.parametrize("mode", ["values", "messages"])
async def test_callbacks_see_one_run_within_a_graph(call: str, mode: str) -> None:
    """In a graph's node too, streamed or not: a tracer has the models' runs beneath the one that callbacks see."""
    tracer, heard = Traced(), Heard()
    await parts(graph(mixture(), call), call, {"callbacks": [tracer, heard]}, stream_mode=mode)
    [root] = tracer.roots
    [node] = root.child_runs
    [model] = node.child_runs
    assert (model.name, [run.name for run in model.child_runs]) == ("ChatMoA", ["moa"])
    assert list(heard.began.values()) == [node.id]
    assert sorted(heard.began) == sorted(heard.ended)


@CALLS
async def test_a_counter_of_usage_counts_once(way: str) -> None:
    """LangChain's own counter of usage has the sum of all calls, not twice that."""
    counter = UsageMetadataCallbackHandler()
    answer = await answered(mixture(), way, {"callbacks": [counter]})
    assert dict(counter.usage_metadata["c"]) == {**answer.usage_metadata}
    assert list(counter.usage_metadata) == ["c"]


def test_an_agent_on_a_mixture_is_counted_once() -> None:
    """A mixture that asks an agent that asks a mixture counts the latter's tokens once."""
    agent = create_agent(mixture(), [])
    alone = mixture().invoke("Why?").usage_metadata
    [layer] = create_moa([agent], scripted("d"), 2).invoke(ASK)["messages"][-1].response_metadata["moa"]["layers"]
    assert alone is not None
    assert layer["proposals"][0]["usage"]["total_tokens"] == alone["total_tokens"]
    assert layer["proposals"][0]["calls"] == 3


@CALLS
async def test_a_failure_is_traced_as_one(way: str) -> None:
    """A run that fails ends with its error, and so do the runs beneath it."""
    heard, tracer = Heard(), Traced()
    with pytest.raises(FinalError):
        await answered(mixture(scripted("c", bad_request())), way, {"callbacks": [heard, tracer]})
    assert sorted(heard.began) == sorted(heard.ended)
    assert "FinalError" in (tracer.roots[0].error or "")


async def test_astream_events_shows_one_chat_model() -> None:
    """`astream_events` shows the mixture's own run, each token once."""
    events = [event async for event in mixture().astream_events("Why?", version="v2")]
    assert [e["event"] for e in events if not e["event"].endswith("stream")] == [
        "on_chat_model_start",
        "on_chat_model_end",
    ]
    words = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
    assert [word for word in words if word] == ["It", " is", " c."]


async def test_astream_events_of_a_graph_shows_the_tokens_once() -> None:
    """In a graph's `astream_events` the answer's tokens come once, from the mixture's run."""
    events = [event async for event in graph(mixture(), "ainvoke").astream_events(ASK, version="v2")]
    words = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
    assert [word for word in words if word] == ["It", " is", " c."]


# Nothing stays


async def test_runs_leave_nothing_behind() -> None:
    """After calls in every way, failed and closed ones too, no task is left."""
    moa = mixture()
    for way in ("ainvoke", "astream", "invoke", "stream"):
        await answered(moa, way)
        stream = moa.astream("Why?")
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
    gc.collect()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
