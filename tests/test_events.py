"""What a run tells while it runs: moa_graph's typed events in LangGraph's custom stream."""

import asyncio
from collections.abc import Callable
from typing import Any, get_args

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import TypeAdapter

from moa_graph import LayerPolicy, Proposer, QuorumError, create_layer, create_moa
from moa_graph.events import Event
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, server_error

ASK = {"messages": [("user", "Why?")]}
HANG = Answer("too late", stall_after=0)
WAYS = pytest.mark.parametrize("way", ["stream", "astream"])
CHECK: TypeAdapter[Any] = TypeAdapter(Event)


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


async def streamed(graph: Any, way: str = "astream", given: Any = ASK, config: Any = None, **how: Any) -> list[Any]:
    how = {"stream_mode": "custom", **how}
    if way == "astream":
        return [part async for part in graph.astream(given, config, **how)]
    return await asyncio.to_thread(lambda: list(graph.stream(given, config, **how)))


def kinds(events: list[Any]) -> list[str]:
    return [event["type"].removeprefix("moa.") for event in events]


def of_kind(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event["type"] == f"moa.{kind}"]


@WAYS
async def test_a_run_tells_what_happens_in_order(way: str) -> None:
    """Layer started, its proposers started and answered, layer done, the next; final started, done."""
    events = await streamed(create_moa([model("a"), model("b")], model("c"), 3), way)
    one = [*["proposer_started"] * 2, *["proposer_answered"] * 2]
    told = kinds(events)
    assert (told[0], told[5], told[6], told[11]) == ("layer_started", "layer_done") * 2
    assert sorted(told[1:5]) == sorted(told[7:11]) == sorted(one)
    assert told[12:] == ["final_started", "done"]


@WAYS
async def test_events_are_what_their_types_say(way: str) -> None:
    """Every event passes the check of the published types, in a run with a failure, a cut and a fallback."""
    panel = [model("a"), model("b", bad_request()), model("d", HANG)]
    moa = create_moa(panel, [model("e", bad_request()), model("c")], 2, policy=LayerPolicy(grace=0.5))
    events = await streamed(moa, way)
    for event in events:
        CHECK.validate_python(event, strict=True)
    assert {"proposer_failed", "proposer_cut", "proposer_answered"} <= set(kinds(events))


def test_every_type_of_event_is_told_apart_by_its_name() -> None:
    """No two kinds of event share a `type`."""
    names = [name for kind in get_args(Event) for name in get_args(kind.__annotations__["type"])]
    assert len(names) == len(set(names)) == 12


async def test_an_event_names_who_and_how_it_went() -> None:
    """A proposer's end carries its place, model, seconds, attempts and tokens; a failure its reason."""
    moa = create_moa([Proposer(model("a"), name="first"), model("b", bad_request())], model("c"), 2)
    events = await streamed(moa)
    (answered,), (failed,) = of_kind(events, "proposer_answered"), of_kind(events, "proposer_failed")
    assert (answered["layer"], answered["slot"], answered["proposer"], answered["model"]) == (1, 1, "first", "a")
    assert answered["usage"]["output_tokens"] > 0
    assert (failed["slot"], failed["status"], failed["attempts"]) == (2, "error", 1)
    assert failed["error"].startswith("BadRequest")
    (done,) = of_kind(events, "layer_done")
    assert (done["asked"], done["answered"]) == (2, 1)


async def test_the_last_event_is_the_receipt() -> None:
    """`moa.done` carries the receipt that the answer carries."""
    moa = create_moa([model("a")], model("c"), 2)
    parts = await streamed(moa, stream_mode=["custom", "values"])
    (done,) = of_kind([data for mode, data in parts if mode == "custom"], "done")
    assert done["receipt"] == parts[-1][1]["messages"][-1].response_metadata["moa"]


async def test_a_fallback_is_told_with_the_reason() -> None:
    """The final model's fallback is told as another start, with why the one before it failed."""
    moa = create_moa([model("a")], [model("x", bad_request()), model("c")], 2)
    first, second = of_kind(await streamed(moa), "final_started")
    assert (first["model"], "error" in first) == ("x", False)
    assert second["model"] == "c"
    assert second["error"].startswith("x: BadRequest")


async def test_a_cached_answer_is_told_as_cached() -> None:
    """What the cache has is told as cached, with no attempt made."""
    moa = create_moa([model("a")], model("c"), 2, cache=InMemoryCache())
    await streamed(moa)
    (cached,) = of_kind(await streamed(moa), "proposer_cached")
    assert cached["attempts"] == 0


@WAYS
async def test_first_tokens_are_told_when_proposers_stream(way: str) -> None:
    """With `stream_proposers=True` each proposer's first token is an event, between its start and its end."""
    moa = create_moa([model("a")], model("c"), 2, stream_proposers=True)
    how: dict[str, Any] = {"stream_mode": ["custom", "messages"], "subgraphs": True}
    told = kinds([data for _, mode, data in await streamed(moa, way, **how) if mode == "custom"])
    assert told[1:4] == ["proposer_started", "proposer_first_token", "proposer_answered"]


async def test_subgraphs_tell_each_event_once() -> None:
    """With `subgraphs=True` the same events come, each once, under the mixture's own namespace."""
    moa = create_moa([model("a"), model("b")], model("c"), 2)
    plain = kinds(await streamed(moa))
    parts = await streamed(moa, subgraphs=True)
    assert sorted(kinds([event for _, event in parts])) == sorted(plain)
    assert {namespace for namespace, _ in parts} == {()}


@WAYS
async def test_a_mixture_in_a_graph_tells_through_it(way: str) -> None:
    """In a larger graph the events come with `subgraphs=True`, each once; two mixtures are told apart by `run`."""
    graph = StateGraph(MessagesState)
    for name in ("one", "two"):
        graph.add_node(name, create_moa([model("a")], model("c"), 2))
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    events = [event for _, event in await streamed(graph.compile(), way, subgraphs=True)]
    assert len(of_kind(events, "proposer_answered")) == len(of_kind(events, "done")) == 2
    assert len({event["run"] for event in events}) == 2


async def test_a_layer_by_itself_tells_too() -> None:
    """`create_layer` alone tells its events in its own stream."""
    told = kinds(await streamed(create_layer([model("a")])))
    assert told == ["layer_started", "proposer_started", "proposer_answered", "layer_done"]


@WAYS
async def test_failures_are_told_before_the_error(way: str) -> None:
    """Where the quorum cannot be met, every failure is told before QuorumError is raised."""
    panel = [model("a", bad_request()), model("b", server_error())]
    moa = create_moa(panel, model("c"), 2, policy=LayerPolicy(retries=0))
    events: list[Any] = []

    def run() -> None:
        events.extend(moa.stream(ASK, stream_mode="custom"))

    with pytest.raises(QuorumError):  # noqa: PT012
        if way == "stream":
            await asyncio.to_thread(run)
        async for event in moa.astream(ASK, stream_mode="custom"):
            events.append(event)  # noqa: PERF401
    assert len(of_kind(events, "proposer_failed")) == 2


async def test_a_resumed_run_tells_only_what_it_asks() -> None:
    """A resumed thread tells the proposers it asks again, and the whole layer as asked."""
    moa = create_moa(
        [model("a"), model("b", bad_request(), "It is b.", latency=0.1)], model("c"), 2,
        policy=LayerPolicy(quorum=2), checkpointer=InMemorySaver(),
    )  # fmt: skip
    config = {"configurable": {"thread_id": "1"}}
    with pytest.raises(QuorumError):
        await streamed(moa, config=config)
    events = await streamed(moa, given=None, config=config)
    assert [event["proposer"] for event in of_kind(events, "proposer_started")] == ["b"]
    assert [(e["asked"], e["answered"]) for e in of_kind(events, "layer_done")] == [(2, 2)]


@pytest.mark.parametrize("listen", ["invoke", "ainvoke"])
async def test_nobody_needs_to_listen(listen: str) -> None:
    """Without a custom stream the events go nowhere and the run is the same."""
    moa = create_moa([model("a")], model("c"), 2)
    call: Callable[[Any], Any] = getattr(moa, listen)
    out = await call(ASK) if listen == "ainvoke" else await asyncio.to_thread(call, ASK)
    assert out["messages"][-1].text == "It is c."
