"""The graph that is made: its shape, how it streams, what it embeds and is embedded in."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from syrupy.assertion import SnapshotAssertion

from moa_graph import (
    AGGREGATE_AND_SYNTHESIZE,
    FinalError,
    Layer,
    LayerPolicy,
    MoAConfigError,
    MoAState,
    Proposer,
    QuorumError,
    create_layer,
    create_moa,
)
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, server_error

ASK = {"messages": [("user", "Why?")]}
THREAD = {"configurable": {"thread_id": "1"}}


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    """A model that answers with its own name, unless told what to."""
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


def echo(name: str) -> ScriptedChatModel:
    """A model that answers with its name and the last question."""
    return ScriptedChatModel(answers=lambda prompt: f"{name}: {prompt[-1].text}", model_name=name)


def moa_of(layers: int = 3, **options: Any) -> Any:
    return create_moa([model("a"), model("b")], model("c"), layers, **options)


def texts(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages]


# Shape


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_picture_shows_each_proposer_of_each_layer(layers: int) -> None:
    """Nodes are layer_i, each with its start, its proposers and `aggregate`, then `final`: nothing else, in a line."""
    moa = moa_of(layers)
    drawn = moa.get_graph(xray=True)
    inner = {f"layer_{i}:{name}" for i in range(1, layers) for name in ("__start__", "a", "b", "aggregate")}
    assert set(drawn.nodes) == {"__start__", *inner, "final", "__end__"}
    steps = ["__start__", *(f"layer_{i}" for i in range(1, layers)), "final", "__end__"]
    edges = [(edge.source, edge.target) for edge in moa.get_graph().edges]
    assert sorted(edges) == sorted(pairwise(steps))


def test_the_picture_of_three_layers_of_two(snapshot: SnapshotAssertion) -> None:
    """The Mermaid drawing of a mixture changes only on purpose."""
    assert moa_of().get_graph(xray=True).draw_mermaid() == snapshot


def test_each_node_says_what_it_is() -> None:
    """Metadata of proposers, aggregate and final: role, layer and, where one is asked, model."""
    nodes = moa_of().get_graph(xray=True).nodes
    found = {name: nodes[name].metadata for name in ("layer_2:b", "layer_1:aggregate", "final")}
    assert found == {
        "layer_2:b": {"moa_role": "proposer", "moa_layer": 2, "moa_model": "b"},
        "layer_1:aggregate": {"moa_role": "aggregate", "moa_layer": 1},
        "final": {"moa_role": "final", "moa_layer": 3, "moa_model": "c"},
    }


def test_layers_are_three_unless_said() -> None:
    """The default is MoA's shape: two proposer layers and the final model."""
    out = create_moa([model("a")], model("c")).invoke(ASK)
    assert [p["layer"] for p in out["proposals"]] == [1, 2]


def test_one_layer_is_a_plain_call() -> None:
    """layers=1 asks the final model alone, with the conversation as it is."""
    final = model("c")
    out = create_moa([], final, layers=1).invoke(ASK)
    assert (texts(out["messages"]), out["proposals"]) == (["Why?", "It is c."], [])
    assert [texts(prompt) for prompt in final.prompts] == [["Why?"]]


def test_the_output_is_messages_and_proposals() -> None:
    """The answer is the one message added; every response of every layer is told, with all of its fields."""
    out = moa_of().invoke(ASK)
    assert out.keys() == {"messages", "proposals"}
    assert texts(out["messages"]) == ["Why?", "It is c."]
    told = [(p["layer"], p["slot"], p["proposer"], p["model"], p["status"], p["content"]) for p in out["proposals"]]
    assert told == [
        (1, 1, "a", "a", "ok", "It is a."),
        (1, 2, "b", "b", "ok", "It is b."),
        (2, 1, "a", "a", "ok", "It is a."),
        (2, 2, "b", "b", "ok", "It is b."),
    ]
    for proposal in out["proposals"]:
        assert proposal["attempts"] == 1
        assert proposal["seconds"] >= 0
        assert proposal["usage"]["output_tokens"] == 3


def test_a_panel_per_layer() -> None:
    """Each layer asks its own panel, under its own policy; a failed layer-2 proposer is forgiven by that policy."""
    panels = [[model("a"), model("b")], Layer([model("d"), model("e", bad_request())], LayerPolicy(quorum=1))]
    out = create_moa(panels, model("c"), policy=LayerPolicy(quorum=2)).invoke(ASK)
    assert [(p["layer"], p["proposer"], p["status"]) for p in out["proposals"]] == [
        (1, "a", "ok"),
        (1, "b", "ok"),
        (2, "d", "ok"),
        (2, "e", "error"),
    ]


def test_samples_are_proposers_of_their_own() -> None:
    """`samples=3` asks one model three times in a layer, as `name-1` to `name-3`."""
    proposer = model("a")
    out = create_moa([Proposer(proposer, samples=3)], model("c"), 2).invoke(ASK)
    assert [p["proposer"] for p in out["proposals"]] == ["a-1", "a-2", "a-3"]
    assert proposer.calls == 3


def test_proposers_of_a_layer_answer_at_the_same_time() -> None:
    """No proposer waits for another, in a sync run too: eight that answer when all are asked do answer."""
    all_asked = asyncio.Barrier(8)

    async def answer(_: Any) -> AIMessage:
        async with asyncio.timeout(30):
            return AIMessage(f"I am {await all_asked.wait()}.")

    out = create_moa([Proposer(RunnableLambda(answer), name="a", samples=8)], model("c"), 2).invoke(ASK)
    assert {p["content"] for p in out["proposals"]} == {f"I am {place}." for place in range(8)}


# Failure


@pytest.mark.parametrize("layer", [1, 2])
async def test_a_quorum_missed_names_the_culprits(layer: int) -> None:
    """QuorumError says which layer, who failed and why, and holds the proposals; the final model is not asked."""
    final = model("c")
    failing = model("b", *["It is b."] * (layer - 1), Answer(error=bad_request(), latency=0.1))
    moa = create_moa([model("a"), failing], final, 3, policy=LayerPolicy(quorum=2))
    with pytest.raises(QuorumError, match=rf"layer {layer}: 1 of 2 .* 2 must; b: .*bad request") as caught:
        await moa.ainvoke(ASK)
    assert [(p["proposer"], p["status"]) for p in caught.value.proposals] == [("a", "ok"), ("b", "error")]
    assert final.calls == 0


def test_nobody_answered() -> None:
    """A layer without one answer is an error with both names, never a plain call in disguise."""
    final = model("c")
    with pytest.raises(QuorumError, match=r"0 of 2 .*a, b: BadRequestError"):
        create_moa([model("a", bad_request()), model("b", bad_request())], final, 2).invoke(ASK)
    assert final.calls == 0


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_proposer_out_of_time(way: str) -> None:
    """A proposer that hangs gets the status "timeout" and is cancelled; the others' answers are used."""
    hanging = model("a", Answer("late", latency=30))
    moa = create_moa([hanging, model("b")], model("c"), 2, policy=LayerPolicy(timeout=0.1))
    out = await moa.ainvoke(ASK) if way == "ainvoke" else await asyncio.to_thread(moa.invoke, ASK)
    late, good = out["proposals"]
    assert (late["status"], late["content"], good["status"]) == ("timeout", "", "ok")
    assert "0.1 s" in late["error"]
    assert late["seconds"] < 5
    assert hanging.cancelled == 1


async def test_an_empty_answer_is_no_answer() -> None:
    """A proposer that says nothing is an error, not an empty reference."""
    out = await create_moa([model("a", "  \n"), model("b")], model("c"), 2).ainvoke(ASK)
    assert [p["status"] for p in out["proposals"]] == ["error", "ok"]
    assert "no text" in out["proposals"][0]["error"]


async def test_the_next_aggregator_is_asked() -> None:
    """In a list of aggregators, the second answers where the first fails; the receipt says so."""
    second = model("d")
    out = await create_moa([model("a")], [model("c", bad_request()), second], 2).ainvoke(ASK)
    assert out["messages"][-1].text == "It is d."
    final = out["messages"][-1].response_metadata["moa"]["final"]
    assert (final["model"], final["attempts"]) == ("d", 2)
    assert "c: BadRequestError" in final["error"]
    assert second.prompts[0][0].text.startswith(AGGREGATE_AND_SYNTHESIZE)


async def test_no_aggregator_answered() -> None:
    """FinalError names each one that was asked, keeps the proposals, and chains the last failure."""
    with pytest.raises(FinalError, match=r"c: BadRequestError.*d: BadRequestError") as caught:
        await create_moa([model("a")], [model("c", bad_request()), model("d", bad_request())], 2).ainvoke(ASK)
    assert [p["content"] for p in caught.value.proposals] == ["It is a."]
    assert "bad request" in str(caught.value.__cause__)


async def test_resuming_asks_only_those_that_did_not_answer() -> None:
    """After a failed run, the thread is resumed: answers that were paid for are not asked for again."""
    good, bad = model("a"), model("b", bad_request(), "It is b.")
    final = model("c", bad_request(), "It is c.")
    moa = create_moa([good, bad], final, 2, checkpointer=InMemorySaver())
    with pytest.raises(FinalError):
        await moa.ainvoke(ASK, THREAD)
    out = await moa.ainvoke(None, THREAD)
    assert out["messages"][-1].text == "It is c."
    assert (good.calls, bad.calls, final.calls) == (1, 1, 2)
    receipt = out["messages"][-1].response_metadata["moa"]
    assert [call["resumed"] for call in receipt["layers"][0]["proposals"]] == [True, True]
    assert receipt["calls"] == 1


async def test_resuming_after_a_missed_quorum_asks_the_missing() -> None:
    """A layer that missed its quorum asks, when resumed, only the proposers that did not answer."""
    good, bad = model("a"), model("b", Answer(error=bad_request(), latency=0.1), "It is b.")
    moa = create_moa([good, bad], model("c"), 2, policy=LayerPolicy(quorum=2), checkpointer=InMemorySaver())
    with pytest.raises(QuorumError):
        await moa.ainvoke(ASK, THREAD)
    out = await moa.ainvoke(None, THREAD)
    assert [p["status"] for p in out["proposals"]] == ["ok", "ok"]
    assert (good.calls, bad.calls) == (1, 2)


# Streaming


async def tokens(moa: Any, way: str, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    options = {"stream_mode": "messages", "subgraphs": True, **options}
    if way == "astream":
        parts = [part async for part in moa.astream(ASK, **options)]
    else:
        parts = await asyncio.to_thread(lambda: list(moa.stream(ASK, **options)))
    return [(chunk.text, metadata) for _, (chunk, metadata) in parts if chunk.text]


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_tokens_of_the_final_model_stream(way: str) -> None:
    """By default the final model's tokens are streamed one by one, said to be its own, and no proposer's."""
    streamed = await tokens(moa_of(), way)
    assert [text for text, _ in streamed] == ["It", " is", " c."]
    for _, metadata in streamed:
        assert (metadata["moa_role"], metadata["moa_layer"], metadata["moa_model"]) == ("final", 3, "c")


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_tokens_of_proposers_stream_when_asked_for(way: str) -> None:
    """With `stream_proposers=True` every token says which layer and model it comes from."""
    streamed = await tokens(moa_of(stream_proposers=True), way)
    said: dict[tuple[str, int, str], str] = {}
    for text, metadata in streamed:
        key = (metadata["moa_role"], metadata["moa_layer"], metadata["moa_model"])
        said[key] = said.get(key, "") + text
    assert said == {
        **{("proposer", layer, name): f"It is {name}." for layer in (1, 2) for name in "ab"},
        ("final", 3, "c"): "It is c.",
    }


async def test_tokens_come_while_they_are_said() -> None:
    """The first token is there before the last is said: no stream made up afterwards."""
    final = model("c", per_token=0.2)
    stream = create_moa([model("a")], final, 2).astream(ASK, stream_mode="messages")
    async for _ in stream:
        assert final.in_flight == 1
        break
    await stream.aclose()


def test_updates_tell_of_each_node_as_it_is_done() -> None:
    """`updates` brings the layers in order, with their proposals, then the answer."""
    updates = list(moa_of().stream(ASK, stream_mode="updates"))
    assert [next(iter(update)) for update in updates] == ["layer_1", "layer_2", "final"]
    assert [p["layer"] for p in updates[0]["layer_1"]["proposals"]] == [1, 1]
    assert texts(updates[-1]["final"]["messages"]) == ["It is c."]


def test_values_show_the_documented_state_only() -> None:
    """`values` never shows what the mixture keeps for itself."""
    for state in moa_of().stream(ASK, stream_mode="values"):
        assert state.keys() <= set(MoAState.__annotations__)


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_several_runs_in_a_batch(way: str) -> None:
    """A batch keeps its runs apart, sync and async."""
    moa = create_moa([echo("a")], echo("c"), 2)
    asked = [{"messages": [("user", f"q{k}")]} for k in range(5)]
    out = await moa.abatch(asked) if way == "abatch" else await asyncio.to_thread(moa.batch, asked)
    assert [texts(o["messages"]) for o in out] == [[f"q{k}", f"c: q{k}"] for k in range(5)]
    assert [[p["content"] for p in o["proposals"]] for o in out] == [[f"a: q{k}"] for k in range(5)]


async def test_several_runs_at_once() -> None:
    """Runs of one graph, in one loop and in threads at the same time, do not mix."""
    final = ScriptedChatModel(answers=lambda prompt: prompt[0].text.rpartition("1. ")[2], latency=0.01)
    moa = create_moa([echo("a"), echo("b")], final, 3, prompt="Merge:")
    with ThreadPoolExecutor(4) as threads:
        sync = [threads.submit(moa.invoke, {"messages": [("user", f"s{k}")]}) for k in range(8)]
        out = await asyncio.gather(*(moa.ainvoke({"messages": [("user", f"q{k}")]}) for k in range(8)))
        out += [await asyncio.wrap_future(job) for job in sync]
    for each, asked in zip(out, [f"q{k}" for k in range(8)] + [f"s{k}" for k in range(8)], strict=True):
        assert {p["content"] for p in each["proposals"]} == {f"a: {asked}", f"b: {asked}"}
        assert each["messages"][-1].text == f"a: {asked}\n2. b: {asked}"


# Turns


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_a_second_turn_starts_with_no_proposals(way: str) -> None:
    """On a thread, the last turn's proposals and synthesis are gone from the first chunk on; messages stay."""
    moa = create_moa([echo("a")], echo("c"), 2, checkpointer=InMemorySaver())
    await moa.ainvoke({"messages": [("user", "one")]}, THREAD)
    asked = {"messages": [("user", "two")]}
    if way == "astream":
        states = [state async for state in moa.astream(asked, THREAD, stream_mode="values")]
    else:
        states = await asyncio.to_thread(lambda: list(moa.stream(asked, THREAD, stream_mode="values")))
    assert texts(states[0]["messages"]) == ["one", "c: one", "two"]
    assert not states[0].get("proposals")
    assert not states[0].get("synthesis")
    assert [p["content"] for p in states[-1]["proposals"]] == ["a: two"]


async def test_the_state_of_a_thread_can_be_read() -> None:
    """`get_state` gives messages, proposals and the last synthesis, with no custom class in them."""
    moa = create_moa([model("a")], model("c"), 2, checkpointer=InMemorySaver())
    await moa.ainvoke(ASK, THREAD)
    values = (await moa.aget_state(THREAD)).values
    assert values.keys() == set(MoAState.__annotations__)
    assert values["synthesis"].endswith("\n1. It is a.")
    assert type(values["proposals"][0]) is dict


# In a larger graph, and larger graphs in it


def parent_of(node: Any, **options: Any) -> Any:
    """A chat graph that greets, hands over to `node`, and says goodbye."""
    return (
        StateGraph(MessagesState)
        .add_node("greet", lambda state: {"messages": [AIMessage("Hello.")]})
        .add_node("moa", node)
        .add_node("part", lambda state: {"messages": [AIMessage("Bye.")]})
        .add_edge(START, "greet")
        .add_edge("greet", "moa")
        .add_edge("moa", "part")
        .add_edge("part", END)
        .compile(**options)
    )


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("options", [{}, {"checkpointer": InMemorySaver()}], ids=["plain", "checkpointed"])
async def test_it_is_a_node_of_a_chat_graph(way: str, options: dict[str, Any]) -> None:
    """Embedded, it adds one message and repeats none, over two turns on a thread."""
    parent = parent_of(create_moa([echo("a")], model("c"), 2), **options)
    thread = {"configurable": {"thread_id": way}}
    turns = 2 if options else 1
    for _ in range(turns):
        out = await parent.ainvoke(ASK, thread) if way == "ainvoke" else parent.invoke(ASK, thread)
    assert texts(out["messages"]) == ["Why?", "Hello.", "It is c.", "Bye."] * turns
    assert out.keys() == {"messages"}


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_streaming_passes_through_a_parent(way: str) -> None:
    """From the parent's stream come the final model's tokens, one by one, and no proposer's."""
    streamed = await tokens(parent_of(moa_of()), way)
    said = [text for text, metadata in streamed if metadata.get("moa_role")]
    assert said == ["It", " is", " c."]
    assert not any("It is" in text for text, _ in streamed)


async def test_a_parent_may_keep_the_proposals() -> None:
    """A parent whose state has `proposals` gets them."""
    moa = create_moa([model("a")], model("c"), 2)
    parent = StateGraph(MoAState).add_node("moa", moa).add_edge(START, "moa").add_edge("moa", END).compile()
    out = await parent.ainvoke(ASK)
    assert [p["content"] for p in out["proposals"]] == ["It is a."]


def agent(answer: str) -> Any:
    """A graph from a messages state to a messages state, with a step between question and answer."""
    think = lambda state: {"messages": [AIMessage("Let me see.")]}  # noqa: E731
    say = lambda state: {"messages": [AIMessage(f"{answer} {state['messages'][0].text}")]}  # noqa: E731
    graph = StateGraph(MessagesState).add_node("think", think).add_node("say", say)
    return graph.add_edge(START, "think").add_edge("think", "say").add_edge("say", END).compile(name="agent")


GUESTS: dict[str, Callable[[], Any]] = {
    "nested mixture": lambda: create_moa([model("x")], echo("guest"), 2),
    "agent": lambda: agent("guest:"),
    "bound agent": lambda: agent("guest:").with_config(tags=["x"]),
    "lambda to text": lambda: RunnableLambda(lambda messages: f"guest: {messages[-1].text}"),
    "lambda to message": lambda: RunnableLambda(lambda messages: AIMessage(f"guest: {messages[-1].text}")),
    "lambda to human message": lambda: RunnableLambda(lambda messages: HumanMessage(f"guest: {messages[-1].text}")),
    "sequence": lambda: RunnableLambda(lambda messages: messages) | echo("guest"),
    "bound model": lambda: echo("guest").bind(stop=["x"]),
}


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_any_runnable_is_a_proposer_and_an_aggregator(guest: str, way: str) -> None:
    """From messages to a message, or from a messages state to one: its last message is its answer."""
    made = GUESTS[guest]()
    moa = create_moa([Proposer(made, name="guest"), model("a")], made, 2)
    ask = {"messages": [HumanMessage("Why?")]}
    out = await moa.ainvoke(ask) if way == "ainvoke" else moa.invoke(ask)
    assert (out["proposals"][0]["status"], out["proposals"][0]["content"]) == ("ok", "guest: Why?")
    assert len(out["messages"]) == 2
    assert isinstance(out["messages"][-1], AIMessage)


async def test_what_gives_no_message_is_named() -> None:
    """A proposer that returns neither message nor text fails with its name and what it gave."""
    out = await create_moa([RunnableLambda(lambda _: 42, name="odd"), model("a")], model("c"), 2).ainvoke(ASK)
    assert "odd gave int" in out["proposals"][0]["error"]


async def test_a_person_is_asked_within_a_proposer() -> None:
    """An interrupt inside a proposer interrupts the mixture, and is resumed with the answer."""
    ask = RunnableLambda(lambda _: f"a person says {interrupt('Yes or no?')}", name="person")
    moa = create_moa([Proposer(ask, name="person")], model("c"), 2, checkpointer=InMemorySaver())
    stopped = await moa.ainvoke(ASK, THREAD)
    assert [each.value for each in stopped["__interrupt__"]] == ["Yes or no?"]
    out = await moa.ainvoke(Command(resume="yes"), THREAD)
    assert out["proposals"][0]["content"] == "a person says yes"


# One layer by itself


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_layer_alone(way: str) -> None:
    """`create_layer` turns a conversation into proposals and their synthesis."""
    layer = create_layer([model("a"), model("b")], prompt="Merge:")
    out = await layer.ainvoke(ASK) if way == "ainvoke" else layer.invoke(ASK)
    assert out["synthesis"] == "Merge:\n1. It is a.\n2. It is b."
    assert [(p["layer"], p["slot"]) for p in out["proposals"]] == [(1, 1), (1, 2)]
    assert out.keys() == {"proposals", "synthesis"}


async def test_layers_embedded_one_after_the_other() -> None:
    """Two layers in a parent of MoAState make the input of a third: each reads the synthesis before it."""
    second = model("b")
    parent = (
        StateGraph(MoAState)
        .add_node("one", create_layer([model("a")], layer=1))
        .add_node("two", create_layer([second], layer=2))
        .add_edge(START, "one")
        .add_edge("one", "two")
        .add_edge("two", END)
        .compile()
    )
    out = await parent.ainvoke(ASK)
    assert [p["layer"] for p in out["proposals"]] == [1, 2]
    assert second.prompts[0][0] == SystemMessage(f"{AGGREGATE_AND_SYNTHESIZE}\n1. It is a.")
    assert out["synthesis"].endswith("\n1. It is b.")
    assert texts(out["messages"]) == ["Why?"]


async def test_a_layer_alone_misses_its_quorum() -> None:
    """A layer by itself raises QuorumError too."""
    with pytest.raises(QuorumError, match="a: InternalServerError"):
        await create_layer([model("a", server_error())], policy=LayerPolicy(retries=0)).ainvoke(ASK)


# What is refused


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("given", [{"messages": []}, {}])
async def test_nothing_is_asked_where_nothing_was_said(layers: int, given: dict[str, Any]) -> None:
    """Without a message no model is asked: the error says what to give."""
    a = model("a")
    with pytest.raises(MoAConfigError, match="there is no message to answer"):
        await create_moa([a], a, layers).ainvoke(given)
    assert a.calls == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proposers": []}, r"panel is empty.*layers=1"),
        ({"proposers": [[]]}, "layer 1: the panel is empty"),
        ({"proposers": [["m"], []]}, "layer 2: the panel is empty"),
        ({"proposers": "openai:gpt"}, "a list of models"),
        ({"proposers": "m"}, "a list of models"),
        ({"proposers": 3}, "a list of models"),
        ({"proposers": ["m", ["m"]]}, "mix models and panels"),
        ({"proposers": [["m", ["m"]]]}, "panel within a panel"),
        ({"layers": 0}, "layers is 0: .*at least 1"),
        ({"layers": -1}, "layers is -1"),
        ({"layers": 2.0}, r"layers is 2\.0"),
        ({"layers": True}, "layers is True"),
        ({"proposers": [["m"], ["m"]], "layers": 2}, "layers is 2, but 2 panels .* 3"),
        ({"aggregator": []}, "no aggregator"),
        ({"aggregator": "nobody:x"}, "aggregator: 'nobody:x'.*openai"),
        ({"aggregator": [None]}, "aggregator: NoneType is no model"),
        ({"aggregator": ["m", 3]}, "aggregator 2: int is no model"),
        ({"aggregator": Proposer(ScriptedChatModel(), samples=2)}, "aggregator answers once"),
        ({"policy": LayerPolicy(quorum=2)}, "layer 1: a quorum of 2 .* 1 proposers"),
        ({"aggregator": len}, "aggregator: .* is no model: .*RunnableLambda"),
        ({"aggregator": "gpt-4o"}, "aggregator: 'gpt-4o'.*did you mean openai:gpt-4o"),
        ({"policy": {"quorum": 1}}, "policy is .* give a LayerPolicy"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": 5}, "prompt is 5: give a text, or a Prompt"),
        ({"cache": True}, "cache is True: give a LangGraph cache"),
        ({"budget": 3}, "budget"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_a_mixture_described_wrongly_is_refused(arguments: dict[str, Any], message: str) -> None:
    """What cannot work is said when it is built, with the culprit and the valid choices."""

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(each) for each in value]
        return model("m") if value == "m" else value

    given = {"proposers": ["m"], "aggregator": "m", "layers": None, **arguments}
    if given["proposers"] != "m":
        given["proposers"] = filled(given["proposers"])
    given["aggregator"] = filled(given["aggregator"])
    with pytest.raises(MoAConfigError, match=message):
        create_moa(**given)
