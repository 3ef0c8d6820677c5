"""A mixture with tools: the final model calls them, the proposers advise."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import InvalidToolCall, ToolCall, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_together import ChatTogether
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from moa_graph import ChatMoA, FinalError, Layer, MoAConfigError, Proposer
from moa_graph.testing import Answer, ScriptedChatModel, bad_request
from tests.server import Behaviour, RecordingServer


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def search(query: str) -> str:
    """Search the web."""
    return f"nothing about {query}"


def call(tool: str = "add", name: str = "call_1", /, **args: Any) -> ToolCall:
    return ToolCall(name=tool, args=args or {"a": 1, "b": 2}, id=name, type="tool_call")


def panel(*answers: Any) -> list[ScriptedChatModel]:
    """Two proposers, and a final model that says `answers`."""
    names = {"a": ["I would add."], "b": ["3, I think."], "c": answers or ["It is 3."]}
    return [ScriptedChatModel(answers=said, model_name=name) for name, said in names.items()]


def mixture(models: list[Any], **more: Any) -> ChatMoA:
    return ChatMoA(proposers=models[:2], aggregator=models[2], layers=2, **more)


def online(server: RecordingServer, kind: Any = ChatOpenAI, **more: Any) -> list[Any]:
    return [kind(model=name, base_url=server.base_url, api_key="key", **more) for name in "abc"]


def shown(prompt: list[BaseMessage]) -> list[tuple[str, Any]]:
    return [(message.type, message.content) for message in prompt]


# On the wire


@pytest.mark.parametrize("kind", [ChatOpenAI, ChatTogether])
async def test_only_the_final_model_is_given_the_tools(server: RecordingServer, kind: Any) -> None:
    """The final model's request has the tools, the choice and further keywords, streamed or not; no proposer's has."""
    bound = mixture(online(server, kind)).bind_tools([add], tool_choice="add", parallel_tool_calls=False, strict=True)
    await bound.ainvoke("1+2?", seed=7, stop=["END"])
    assert [chunk async for chunk in bound.astream("1+2?", seed=7, stop=["END"])]
    for request in server.requests:
        sent = request.body.get("tools"), request.body.get("seed"), request.body.get("stop")
        if request.model != "c":
            assert sent == (None, None, None)
            continue
        [[given], seed, stop] = sent
        assert (given["function"]["name"], given["function"]["strict"], seed, stop) == ("add", True, 7, ["END"])
        assert request.body["tool_choice"] == {"type": "function", "function": {"name": "add"}}
        assert request.body["parallel_tool_calls"] is False
        assert "strict" not in request.body
    assert len(server.requests) == 6


def test_fallbacks_are_given_the_tools_too(server: RecordingServer) -> None:
    """When the final model fails, the next one has the same tools."""
    models = online(server)
    server.script("b", Behaviour(status=400))
    moa = ChatMoA(proposers=[models[0]], aggregator=models[1:], layers=2)
    assert moa.bind_tools([add]).invoke("1+2?").text == "answer of c #1"
    assert [bool(request.body.get("tools")) for request in server.requests] == [False, True, True]


def test_a_bound_aggregator_keeps_its_keywords(server: RecordingServer) -> None:
    """What is bound to the final model stays, with tools and without, until a call says otherwise."""
    models = online(server)
    moa = mixture([*models[:2], models[2].bind(seed=7).with_retry(stop_after_attempt=2)])
    for run in (moa, moa.bind_tools([add]), moa.bind_tools([add], seed=8), moa.bind(seed=9)):
        run.invoke("1+2?")
    assert [request.body["seed"] for request in server.requests_for("c")] == [7, 7, 8, 9]
    assert [bool(request.body.get("tools")) for request in server.requests_for("c")] == [False, True, True, False]


def test_tools_go_before_those_bound_to_the_aggregator(server: RecordingServer) -> None:
    """The tools that the mixture is given replace those that its final model came with."""
    models = online(server)
    mixture([*models[:2], models[2].bind_tools([search])]).bind_tools([add]).invoke("1+2?")
    [request] = server.requests_for("c")
    assert [given["function"]["name"] for given in request.body["tools"]] == ["add"]


def test_a_configurable_aggregator_takes_tools(server: RecordingServer) -> None:
    """What is no chat model by itself but can be given tools is given them."""
    final = init_chat_model(
        "openai:c", configurable_fields=("temperature",), base_url=server.base_url, api_key="key", max_retries=0
    )
    moa = mixture([*online(server)[:2], final])
    assert moa.bind_tools([add]).invoke("1+2?").text == "answer of c #1"
    assert "tools" in server.requests_for("c")[0].body


def test_no_tools_is_no_tools(server: RecordingServer) -> None:
    """An empty list of tools sends none, and tells the proposers of none."""
    mixture(online(server)).bind_tools([]).invoke("Hi.")
    assert all("tools" not in request.body for request in server.requests)
    assert [message["role"] for message in server.requests_for("a")[0].messages] == ["user"]


# What the proposers are told


def test_proposers_are_told_of_the_tools() -> None:
    """After its own system prompt, and after the conversation's, a proposer reads which tools there are."""
    models = panel()
    named = Proposer(models[0], system="Be terse.")
    moa = ChatMoA(proposers=[[named], Layer([models[1]])], aggregator=models[2])
    moa.bind_tools([add, search]).invoke([("system", "You are a clerk."), ("user", "1+2?")])
    for model in models[:2]:
        told = model.prompts[0][0].text
        assert "cannot" in told
        assert "- add: Add two numbers.\n  arguments: {" in told
        assert "- search: Search the web." in told
        assert "You are a clerk." in told
    assert "Be terse." in models[0].prompts[0][0].text
    assert "Add two numbers" not in models[2].prompts[0][0].text


def test_a_providers_own_tool_is_told_as_it_is() -> None:
    """A tool that is no function, such as a provider's web search, is shown as the data it is."""
    models = panel()
    mixture(models).bind_tools([{"type": "web_search"}]).invoke("1+2?")
    assert '- {"type": "web_search"}' in models[0].prompts[0][0].text


HISTORY = [
    SystemMessage("You are a clerk."),
    HumanMessage("1+2?"),
    AIMessage("Let me see.", tool_calls=[call(), call("search", "call_2", query="naïve")]),
    ToolMessage("3", tool_call_id="call_1"),
    ToolMessage("no network", tool_call_id="call_2", status="error"),
]


@pytest.mark.parametrize("tools", [[], [add, search]], ids=["no tools", "tools"])
def test_proposers_read_calls_and_results_as_text(tools: list[Any]) -> None:
    """Proposers read earlier calls and results as text; the final model gets them unchanged."""
    models = panel()
    mixture(models).bind_tools(tools).invoke(HISTORY)
    assert shown(models[0].prompts[0])[1:] == [
        ("human", "1+2?"),
        ("ai", 'Let me see.\n[calls add with {"a": 1, "b": 2}]\n[calls search with {"query": "naïve"}]'),
        ("human", "[result of add]\n3"),
        ("human", "[error of search]\nno network"),
    ]
    assert models[2].prompts[0][1:] == HISTORY[1:]


def test_a_call_that_could_not_be_read_is_text_as_well() -> None:
    """A call whose arguments were no JSON is shown as it came."""
    models = panel()
    invalid = InvalidToolCall(name="add", args="{1, 2", id="call_1", error="no JSON", type="invalid_tool_call")
    said = AIMessage("", invalid_tool_calls=[invalid])
    mixture(models).invoke([HumanMessage("1+2?"), said, ToolMessage("Bad arguments.", tool_call_id="call_1")])
    assert shown(models[0].prompts[0])[1:] == [
        ("ai", "[calls add with {1, 2]"),
        ("human", "[result of add]\nBad arguments."),
    ]


def test_a_pictured_result_stays_a_picture() -> None:
    """A tool's result in content blocks reaches the proposers in content blocks."""
    models = panel()
    picture = {"type": "image", "url": "https://x.test/a.png"}
    result = ToolMessage([picture], tool_call_id="call_1", name="draw")
    mixture(models).invoke([HumanMessage("Draw."), AIMessage("", tool_calls=[call("draw")]), result])
    assert models[0].prompts[0][-1].content == [{"type": "text", "text": "[result of draw]"}, picture]


@pytest.mark.parametrize("tools", [[], [add]], ids=["no tools", "tools"])
async def test_content_blocks_pass_unchanged(tools: list[Any]) -> None:
    """Pictures, documents and sounds reach proposers and the final model as they were given."""
    models = panel()
    blocks: list[Any] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        {"type": "file", "base64": "aGk=", "mime_type": "application/pdf"},
        {"type": "audio", "base64": "aGk=", "mime_type": "audio/wav"},
    ]
    await mixture(models).bind_tools(tools).ainvoke([HumanMessage(blocks, name="ann", id="1")])
    assert all(model.prompts[0][-1] == HumanMessage(blocks, name="ann", id="1") for model in models)


# What cannot be given tools


def no_tools() -> dict[str, Any]:
    return {
        "a model without tools": FakeListChatModel(responses=["x"]),
        "an agent": create_agent(ScriptedChatModel(), []),
        "a function": RunnableLambda(lambda messages: AIMessage("x")),
    }


@pytest.mark.parametrize("kind", no_tools())
@pytest.mark.parametrize("more", [[], ["fallback"]], ids=["alone", "as a fallback"])
def test_an_aggregator_without_tools_is_named_when_bound(kind: str, more: list[str]) -> None:
    """An aggregator that cannot be given tools answers without them, and is named in one line when they are bound."""
    final = no_tools()[kind]
    moa = ChatMoA(proposers=panel()[:1], aggregator=[*([ScriptedChatModel()] if more else []), final], layers=2)
    assert moa.invoke("Hi.").text
    where = "aggregator 2" if more else "aggregator"
    with pytest.raises(MoAConfigError, match=rf"^{where} \(.+\): .*{type(final).__name__}") as caught:
        moa.bind_tools([add])
    assert "\n" not in str(caught.value)


# Agents


def agent(*answers: Any, **more: Any) -> tuple[Any, list[ScriptedChatModel]]:
    models = panel(*answers)
    return create_agent(mixture(models), [add], **more), models


TWO_CALLS = (
    Answer(tool_calls=[call()]),
    Answer("And again.", tool_calls=[call("add", "call_2", a=3, b=4)]),
    "It is 7.",
)
ASK: Any = {"messages": [("user", "1+2?")]}
KINDS = ["human", "ai", "tool", "ai", "tool", "ai"]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_an_agent_calls_its_tool(way: str) -> None:
    """An agent on a mixture calls a real tool over two rounds, and every round is a mixture with its receipt."""
    graph, models = agent(*TWO_CALLS)
    out = await graph.ainvoke(ASK) if way == "ainvoke" else graph.invoke(ASK)
    assert [message.type for message in out["messages"]] == KINDS
    assert [message.text for message in out["messages"] if message.type == "tool"] == ["3", "7"]
    assert [m.response_metadata["moa"]["calls"] for m in out["messages"] if m.type == "ai"] == [3, 3, 3]
    assert [model.calls for model in models] == [3, 3, 3]


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_an_agent_streams_each_token_once(way: str) -> None:
    """Streamed, an agent shows each token once, tool messages in order, no proposer's word, and keeps no duplicate."""
    graph, _ = agent(*TWO_CALLS)
    how: dict[str, Any] = {"stream_mode": ["messages", "values"]}
    parts = [p async for p in graph.astream(ASK, **how)] if way == "astream" else list(graph.stream(ASK, **how))
    told = [data[0] for mode, data in parts if mode == "messages"]
    words = [message.text for message in told if message.text]
    assert words == ["3", "And", " again.", "7", "It", " is", " 7."]
    kept = [data for mode, data in parts if mode == "values"][-1]["messages"]
    assert [message.type for message in kept] == KINDS
    by_id: dict[str, AIMessageChunk] = {}
    for message in told:
        if isinstance(message, AIMessageChunk):
            assert message.id is not None
            by_id[message.id] = by_id[message.id] + message if message.id in by_id else message  # type: ignore[assignment]
    assert [(m.id, m.text, m.tool_calls) for m in by_id.values()] == [
        (m.id, m.text, m.tool_calls) for m in kept if m.type == "ai"
    ]


async def test_an_agents_thread_goes_on() -> None:
    """With a checkpointer the thread survives: a second turn sees the first, and all checkpoints are the agent's."""
    saver = InMemorySaver()
    graph, models = agent(Answer(tool_calls=[call()]), "It is 3.", "As I said.", checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke(ASK, config)
    out = await graph.ainvoke({"messages": [("user", "Sure?")]}, config)
    assert [message.type for message in out["messages"]] == ["human", "ai", "tool", "ai", "human", "ai"]
    assert [message.type for message in models[2].prompts[-1]][1:] == ["human", "ai", "tool", "ai", "human"]
    assert {kept.config["configurable"]["checkpoint_ns"] for kept in saver.list(config)} == {""}


def test_an_agent_is_a_proposer() -> None:
    """An agent advises with tools of its own, and reads the conversation's calls as text."""
    expert = ScriptedChatModel(answers=[Answer(tool_calls=[call("search", query="1+2")]), "The web says 3."])
    models = panel()
    moa = mixture([create_agent(expert, [search]), *models[1:]])
    answer = moa.bind_tools([add]).invoke(HISTORY)
    assert "The web says 3." in models[2].prompts[0][0].text
    assert shown(expert.prompts[0])[-1] == ("human", "[error of search]\nno network")
    assert answer.response_metadata["moa"]["calls"] == 4


# Structured output


class City(BaseModel):
    """A city."""

    name: str
    people: int


class CityDict(TypedDict):
    """A city."""

    name: str
    people: int


DATA = {"name": "Paris", "people": 2}


@pytest.mark.parametrize("schema", [City, CityDict, City.model_json_schema()], ids=["pydantic", "TypedDict", "JSON"])
async def test_structured_output(schema: Any) -> None:
    """A class gives its object, a TypedDict and a JSON schema give a dict; with the raw message where asked for."""
    wanted = City(**DATA) if schema is City else DATA
    moa = mixture(panel(Answer(tool_calls=[call("CityDict" if schema is CityDict else "City", **DATA)])))
    plain, raw = moa.with_structured_output(schema), moa.with_structured_output(schema, include_raw=True)
    assert plain.invoke("Which city?") == await plain.ainvoke("Which city?") == wanted
    assert list(plain.stream("Which city?"))[-1] == wanted
    out: Any = raw.invoke("Which city?")
    assert (out["parsed"], out["parsing_error"]) == (wanted, None)
    assert out["raw"].response_metadata["moa"]["calls"] == 3


def test_structured_output_is_asked_of_the_final_model_alone(server: RecordingServer) -> None:
    """The schema goes to the final model as a tool that it must call."""
    list(mixture(online(server)).with_structured_output(City, include_raw=True).stream("Which city?"))
    [request] = server.requests_for("c")
    assert (request.body["tools"][0]["function"]["name"], request.body["tool_choice"]) == ("City", "required")
    assert "tools" not in server.requests_for("a")[0].body


def test_structured_output_that_does_not_parse() -> None:
    """What does not fit the schema raises the schema's error, as LangChain has it, or comes with the raw message."""
    moa = mixture(panel(Answer(tool_calls=[call("City", name="Paris", people="many")])))
    with pytest.raises(ValidationError, match="people"):
        moa.with_structured_output(City).invoke("Which city?")
    out: Any = moa.with_structured_output(City, include_raw=True).invoke("Which city?")
    assert isinstance(out["parsing_error"], ValidationError)
    assert out["raw"].tool_calls[0]["args"]["people"] == "many"


def test_an_agent_with_a_response_format() -> None:
    """An agent's structured response comes from the mixture's final model."""
    models = panel(Answer(tool_calls=[call()]), Answer(tool_calls=[call("City", **DATA)]))
    graph = create_agent(mixture(models), [add], response_format=City)
    assert graph.invoke(ASK)["structured_response"] == City(**DATA)


# Failures with tools


class BreaksOff(ScriptedChatModel):
    """It streams half a tool call, then its connection is lost."""

    async def _astream(self, *args: Any, **keywords: Any) -> AsyncIterator[ChatGenerationChunk]:
        half = tool_call_chunk(name="add", args='{"a": 1', id="call_0", index=0)
        yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[half]))
        raise bad_request()


async def test_half_a_call_is_a_failure() -> None:
    """A call that broke off as it streamed has begun: nobody else is asked, and what was said stays half a call."""
    models = panel(Answer(tool_calls=[call("add", "call_9", a=8, b=9)]))
    moa = ChatMoA(proposers=models[:2], aggregator=[BreaksOff(), models[2]], layers=2)
    with pytest.raises(FinalError):  # noqa: PT012
        async for chunk in moa.bind_tools([add]).astream("1+2?"):
            assert not chunk.tool_calls or chunk.tool_calls[0]["id"] != "call_9"


def test_arguments_survive_as_they_are() -> None:
    """Streamed tool calls have the arguments that the final model gave, whatever is in them."""
    args = {"a": 'ü\n"quoted" \\ 東京', "b": [1.5, None, {"c": True}]}
    moa = mixture(panel(Answer(tool_calls=[call(**args), call("search", "call_2", query="x")])))
    chunks = list(moa.bind_tools([add, search]).stream("1+2?"))
    whole: Any = sum(chunks[1:], chunks[0])
    assert whole.tool_calls == moa.bind_tools([add, search]).invoke("1+2?").tool_calls
    assert json.loads(json.dumps(whole.tool_calls[0]["args"])) == args
