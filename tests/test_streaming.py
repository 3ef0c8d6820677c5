"""What streams, in every way that LangGraph streams: the answer; proposers only when asked for."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langchain_together import ChatTogether
from langgraph.graph import END, START, MessagesState, StateGraph

from moa_graph import create_moa
from moa_graph.testing import ScriptedChatModel
from tests.server import RecordingServer

ASK: Any = {"messages": [("user", "Why?")]}
NAMES = ("a", "b", "c")
ANSWER = "It is c."
MODES = ["messages", "updates", "values", "custom", "tasks"]
WAYS = pytest.mark.parametrize("way", ["stream", "astream"])
PLACES = pytest.mark.parametrize("place", ["alone", "in a graph"])
KINDS = {"ChatOpenAI": ChatOpenAI, "ChatTogether": ChatTogether}


@pytest.fixture(params=["ScriptedChatModel", *KINDS])
def panel(request: pytest.FixtureRequest, server: RecordingServer) -> list[Any]:
    """Two proposers and a final model: ours for tests, and real clients over HTTP."""
    if request.param not in KINDS:
        return [ScriptedChatModel(answers=[f"It is {name}."], model_name=name) for name in NAMES]
    return [KINDS[request.param](model=name, base_url=server.base_url, api_key="key") for name in NAMES]


def moa_of(panel: list[Any], place: str = "alone", **how: Any) -> Any:
    moa = create_moa(panel[:2], panel[2], 2, **how)
    if place == "alone":
        return moa
    return StateGraph(MessagesState).add_node("moa", moa).add_edge(START, "moa").add_edge("moa", END).compile()


async def parts(graph: Any, way: str, modes: list[str], *, subgraphs: bool = True) -> list[tuple[str, Any]]:
    """(mode, data) of everything that streams."""
    how: dict[str, Any] = {"stream_mode": modes, "subgraphs": subgraphs}
    if way == "astream":
        whole = [part async for part in graph.astream(ASK, **how)]
    else:
        whole = await asyncio.to_thread(lambda: list(graph.stream(ASK, **how)))
    return [(part[-2], part[-1]) for part in whole]


def said(streamed: list[tuple[str, Any]]) -> dict[tuple[Any, ...], list[str]]:
    """The tokens, by who said them."""
    tokens: dict[tuple[Any, ...], list[str]] = {}
    for mode, data in streamed:
        if mode == "messages" and data[0].text:
            who = tuple(data[1].get(name) for name in ("moa_role", "moa_layer", "langgraph_node", "moa_model"))
            tokens.setdefault(who, []).append(data[0].text)
    return tokens


@WAYS
@PLACES
@pytest.mark.parametrize("subgraphs", [True, False])
async def test_the_answer_streams_and_no_proposal(panel: list[Any], way: str, place: str, subgraphs: bool) -> None:
    """By default the final model's tokens come one by one, and no proposer's."""
    if place == "in a graph" and not subgraphs:
        pytest.skip("a graph passes a subgraph's tokens on with subgraphs=True alone")
    tokens = said(await parts(moa_of(panel, place), way, ["messages"], subgraphs=subgraphs))
    [(who, words)] = tokens.items()
    assert who[0] == "final"
    assert len(words) > 1


@WAYS
@PLACES
async def test_proposers_stream_when_asked_for(panel: list[Any], way: str, place: str) -> None:
    """With `stream_proposers=True` each token says whose it is: layer, proposer, model."""
    tokens = said(await parts(moa_of(panel, place, stream_proposers=True), way, ["messages"]))
    assert set(tokens) == {("proposer", 1, "a", "a"), ("proposer", 1, "b", "b"), ("final", 2, "final", "c")}
    assert all(len(words) > 1 for words in tokens.values())


@PLACES
@pytest.mark.parametrize("stream_proposers", [True, False])
async def test_astream_events_streams_the_same(panel: list[Any], place: str, stream_proposers: bool) -> None:
    """`astream_events` has the final model's tokens, and the proposers' when asked for."""
    roles: set[str] = set()
    async for event in moa_of(panel, place, stream_proposers=stream_proposers).astream_events(ASK, version="v2"):
        if event["event"] == "on_chat_model_stream":
            roles.add(event["metadata"]["moa_role"])
    assert roles == ({"final", "proposer"} if stream_proposers else {"final"})


async def test_astream_events_brings_the_typed_events_too(panel: list[Any]) -> None:
    """The custom stream comes through `astream_events` as it does through `astream`."""
    told = [
        event["data"]["chunk"][1]["type"]
        async for event in moa_of(panel).astream_events(ASK, version="v2", stream_mode=["custom"])
        if event["event"] == "on_chain_stream" and event["name"] == "moa"
    ]
    assert (told[0], told[-1]) == ("moa.layer_started", "moa.done")


@WAYS
@PLACES
async def test_all_modes_at_once(panel: list[Any], way: str, place: str) -> None:
    """Messages, updates, values, custom and tasks together: each brings its part, and the answer is the same."""
    streamed = await parts(moa_of(panel, place), way, MODES)
    assert {mode for mode, _ in streamed} == set(MODES)
    values = [data for mode, data in streamed if mode == "values"]
    [words] = said(streamed).values()
    assert values[-1]["messages"][-1].text == "".join(words)


@WAYS
async def test_a_silent_agent_stays_silent(way: str) -> None:
    """An agent among hidden proposers shows neither tokens nor the messages its own nodes return."""
    inner = create_agent(ScriptedChatModel(answers=["It is a."], model_name="a"), [])
    final = ScriptedChatModel(answers=[ANSWER], model_name="c")
    tokens = said(await parts(create_moa([inner], final, 2), way, ["messages"]))
    assert {who[0] for who in tokens} == {"final"}


@pytest.mark.parametrize("kind", KINDS)
async def test_usage_is_there_while_streaming(server: RecordingServer, kind: str) -> None:
    """A custom base URL's streamed answer is counted, for OpenAI's and Together's client: final model and proposers."""
    models = [KINDS[kind](model=name, base_url=server.base_url, api_key="key") for name in NAMES]
    streamed = await parts(moa_of(models, stream_proposers=True), "astream", ["messages", "values"])
    receipt = [data for mode, data in streamed if mode == "values"][-1]["messages"][-1].response_metadata["moa"]
    usages = [call["usage"] for call in [*receipt["layers"][0]["proposals"], receipt["final"]]]
    assert all(usage["output_tokens"] > 0 for usage in usages)
