"""A mixture within larger graphs: state, streams, checkpoints, interrupts, pictures and contexts pass through."""

import asyncio
import operator
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm
from pydantic import BaseModel
from typing_extensions import TypedDict

from moa_graph import LayerPolicy, MoAConfigError, Proposer, QuorumError, create_layer, create_moa
from moa_graph.testing import Answer, ScriptedChatModel, bad_request

ASK: Any = {"messages": [("user", "Why?")]}
QUESTION: Any = {"question": "Why?"}
THREAD: Any = {"configurable": {"thread_id": "1"}}
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


def model(name: str, *answers: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name)


def moa_of(proposers: str = "ab", final: str = "c", layers: int = 2, **options: Any) -> Any:
    return create_moa([model(name) for name in proposers], model(final), layers, **options)


def calling(name: str, **arguments: Any) -> Answer:
    return Answer(tool_calls=[{"name": name, "args": arguments, "id": f"call {name}", "type": "tool_call"}])


async def run(graph: Any, way: str = "ainvoke", asked: Any = ASK, config: Any = None, **options: Any) -> Any:
    if way == "ainvoke":
        return await graph.ainvoke(asked, config, **options)
    return await asyncio.to_thread(graph.invoke, asked, config, **options)


def texts(out: Any) -> list[str]:
    return [message.text for message in out["messages"]]


def around(*nodes: Any, state: Any = MessagesState, **options: Any) -> Any:
    """A graph whose nodes are all asked at once, named `n1`, `n2`, …"""
    graph = StateGraph(state, options.pop("context_schema", None))
    for k, node in enumerate(nodes, 1):
        graph.add_node(f"n{k}", node).add_edge(START, f"n{k}").add_edge(f"n{k}", END)
    return graph.compile(**options)


# A state with `messages`


class Watched:
    """A reducer that notes what it is given."""

    def __init__(self) -> None:
        self.given: list[str | None] = []

    def __call__(self, old: Any, new: Any) -> Any:
        self.given += [m.id for m in new if isinstance(m, BaseMessage) and m.id not in {o.id for o in old}]
        return add_messages(old, new)


@WAYS
async def test_the_reducer_sees_each_new_message_once(way: str) -> None:
    """Over two turns, the answer comes to the parent's reducer as the one new message, and under one id."""
    watched = Watched()
    state = TypedDict("state", {"messages": Annotated[list[Any], watched]})  # type: ignore[operator]  # noqa: UP013
    parent = around(moa_of(), state=state, checkpointer=InMemorySaver())
    for _ in range(2):
        out = await run(parent, way, {"messages": add_messages([], [("user", "Why?")])}, THREAD)
    assert texts(out) == ["Why?", "It is c."] * 2
    assert set(Counter(watched.given).values()) == {1}
    assert len({message.id for message in out["messages"]}) == 4


class Pydantic(BaseModel):
    messages: Annotated[list[Any], add_messages]


@dataclass
class Data:
    messages: Annotated[list[Any], add_messages]


@pytest.mark.parametrize("state", [Pydantic, Data])
@WAYS
async def test_other_kinds_of_state(way: str, state: Any) -> None:
    """A pydantic model or a dataclass with `messages` serves as the parent's state too."""
    assert texts(await run(around(moa_of(), state=state), way)) == ["Why?", "It is c."]


@WAYS
@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()], ids=["", "checkpointed"])
async def test_mixtures_side_by_side(way: str, checkpointer: Any) -> None:
    """Two mixtures in branches of one parent both answer once; neither reads the other's proposals."""
    left, right = model("left"), model("right")
    one = create_moa([model("a"), model("b")], left, 3, prompt="Merge:")
    two = create_moa([model("x")], right, 2, prompt="Merge:")
    out = await run(around(one, two, checkpointer=checkpointer), way, config={"configurable": {"thread_id": way}})
    assert sorted(texts(out)) == ["It is left.", "It is right.", "Why?"]
    assert left.prompts[0][0].text == "Merge:\n1. It is a.\n2. It is b."
    assert right.prompts[0][0].text == "Merge:\n1. It is x."
    layers = [len(message.response_metadata["moa"]["layers"]) for message in out["messages"][1:]]
    assert sorted(layers) == [1, 2]


async def test_a_failure_in_one_branch_keeps_the_other() -> None:
    """With a checkpointer, the branch that answered is not asked again when the parent is resumed."""
    done, final, failing = model("a"), model("c"), model("b", bad_request(), "It is b.")

    async def later(messages: Any) -> Any:
        async with asyncio.timeout(10):
            while not final.calls:  # noqa: ASYNC110 - a model tells no events
                await asyncio.sleep(0.002)
        return await failing.ainvoke(messages)

    slow = create_moa([Proposer(RunnableLambda(later), name="b")], model("d"), 2)
    parent = around(create_moa([done], final, 2), slow, checkpointer=InMemorySaver())
    with pytest.raises(QuorumError):
        await run(parent, config=THREAD)
    out = await run(parent, asked=None, config=THREAD)
    assert sorted(texts(out)) == ["It is c.", "It is d.", "Why?"]
    assert done.calls == 1


# A state of its own


class State(TypedDict, total=False):
    question: str
    answer: str
    voices: list[str]


def node_of(moa: Any, *, sync: bool = False) -> Any:
    """The adapter of docs/embedding.md."""

    def answer(state: State) -> dict[str, Any]:
        return back(moa.invoke({"messages": [("user", state["question"])]}))

    async def aanswer(state: State) -> dict[str, Any]:
        return back(await moa.ainvoke({"messages": [("user", state["question"])]}))

    def back(out: Any) -> dict[str, Any]:
        return {"answer": out["messages"][-1].text, "voices": [p["content"] for p in out["proposals"]]}

    return answer if sync else aanswer


@WAYS
async def test_a_function_node_adapts_any_state(way: str) -> None:
    """A function that calls the mixture gives a parent of another state what it wants of it."""
    parent = around(node_of(moa_of(), sync=way == "invoke"), state=State)
    out = await run(parent, way, QUESTION)
    assert out == {"question": "Why?", "answer": "It is c.", "voices": ["It is a.", "It is b."]}


async def test_a_chain_adapts_too() -> None:
    """So does a chain of a function, the mixture and another function."""
    chain = RunnableLambda(lambda state: {"messages": [("user", state["question"])]}) | moa_of()
    back = RunnableLambda(lambda out: {"answer": out["messages"][-1].text})
    assert (await run(around(chain | back, state=State), asked=QUESTION))["answer"] == "It is c."


async def test_a_function_node_passes_streams_through() -> None:
    """Called in a function node, the mixture's tokens and events come from the parent's stream."""
    parent, said, told = around(node_of(moa_of()), state=State), [], []
    async for _, mode, data in parent.astream(QUESTION, stream_mode=["messages", "custom"], subgraphs=True):
        if mode == "custom":
            told.append(data["type"])
        elif data[1].get("moa_role") == "final":
            said.append(data[0].text)
    assert "".join(said) == "It is c."
    assert (told[0], told[-1]) == ("moa.layer_started", "moa.done")


async def test_a_function_node_is_seen_through() -> None:
    """The picture opens the mixture that a function node calls, and the one in a chain."""
    moa = moa_of()
    chain = RunnableLambda(lambda state: {"messages": [("user", state["question"])]}) | moa
    nodes = around(node_of(moa), chain, state=State).get_graph(xray=True).nodes
    for node in ("n1", "n2"):
        assert {f"{node}:layer_1:a", f"{node}:layer_1:b", f"{node}:final"} <= set(nodes)


async def test_a_function_node_is_resumed() -> None:
    """Within a function node, too, a resumed thread asks only those that had not answered."""
    a, b = model("a"), model("b", Answer(error=bad_request(), latency=0.1), "It is b.")
    moa = create_moa([a, b], model("c"), 2, policy=LayerPolicy(quorum=2))
    parent = around(node_of(moa), state=State, checkpointer=InMemorySaver())
    with pytest.raises(QuorumError):
        await run(parent, asked=QUESTION, config=THREAD)
    out = await run(parent, asked=None, config=THREAD)
    assert (out["answer"], a.calls, b.calls) == ("It is c.", 1, 2)


async def test_two_mixtures_called_in_one_node() -> None:
    """A function may ask several mixtures, one after the other or at once, with a checkpointer."""
    left, right = moa_of("ab", "c"), moa_of("xy", "z")

    async def both(state: State) -> dict[str, Any]:
        asked: Any = {"messages": [("user", state["question"])]}
        first = await left.ainvoke(asked)
        outs = [first, *await asyncio.gather(left.ainvoke(asked), right.ainvoke(asked))]
        return {"voices": [f"{texts(out)[-1]} of {len(out['proposals'])}" for out in outs]}

    out = await run(around(both, state=State, checkpointer=InMemorySaver()), asked=QUESTION, config=THREAD)
    assert out["voices"] == ["It is c. of 2", "It is c. of 2", "It is z. of 2"]


async def test_both_proposals_in_one_parent() -> None:
    """A parent that wants the proposals of several mixtures has a key for them, in which they do not mix."""

    class Both(TypedDict):
        question: str
        voices: Annotated[list[str], operator.add]

    def node(moa: Any) -> Any:
        return lambda state: {"voices": [p["content"] for p in _asked(moa, state)["proposals"]]}

    out = await run(around(node(moa_of("ab")), node(moa_of("x")), state=Both), "invoke", QUESTION)
    assert sorted(out["voices"]) == ["It is a.", "It is b.", "It is x."]


def _asked(moa: Any, state: Any) -> Any:
    return moa.invoke({"messages": [("user", state["question"])]})


# Agents, supervisors, swarms


@tool
async def panel(question: str) -> str:
    """Ask several models."""
    return texts(await moa_of().ainvoke({"messages": [("user", question)]}))[-1]


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()], ids=["", "checkpointed"])
async def test_a_tool_of_an_agent(checkpointer: Any) -> None:
    """An agent asks the mixture as a tool, more than once, and reads its answer as the tool's result."""
    both = Answer(tool_calls=[*calling("panel", question="A?").tool_calls, *calling("panel", question="B?").tool_calls])
    boss = model("boss", both, calling("panel", question="C?"), "Done.")
    out = await run(create_agent(boss, [panel], checkpointer=checkpointer), config=THREAD)
    assert texts(out) == ["Why?", "", "It is c.", "It is c.", "", "It is c.", "Done."]


@WAYS
async def test_between_agents(way: str) -> None:
    """Beside agents in one graph, it reads their messages and adds its own."""
    final = model("c")
    graph = StateGraph(MessagesState)
    graph.add_node("before", create_agent(model("x"), []))
    graph.add_node("moa", create_moa([model("a")], final, 2, prompt="Merge:"))
    graph.add_node("after", create_agent(model("y"), []))
    graph.add_edge(START, "before").add_edge("before", "moa").add_edge("moa", "after")
    out = await run(graph.compile(), way)
    assert texts(out) == ["Why?", "It is x.", "It is c.", "It is y."]
    assert [message.text for message in final.prompts[0]] == ["Merge:\n1. It is a.", "Why?", "It is x."]


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")  # langgraph-supervisor still calls it
@WAYS
async def test_under_a_supervisor(way: str) -> None:
    """A supervisor hands over to the mixture by its name, gets its answer once, and goes on."""
    boss = model("boss", calling("transfer_to_mixture"), "Done.")
    helper = create_agent(model("helper"), [], name="helper")
    team = create_supervisor([moa_of(name="mixture"), helper], model=boss).compile(checkpointer=InMemorySaver())
    said = texts(await run(team, way, config=THREAD))
    assert (said.count("It is c."), said[-1]) == (1, "Done.")
    assert "It is c." in [message.text for message in boss.prompts[-1]]


@WAYS
async def test_in_a_swarm(way: str) -> None:
    """An agent hands over to the mixture, which stays the active one on the thread."""
    alice = create_agent(
        model("alice", calling("transfer_to_mixture")), [create_handoff_tool(agent_name="mixture")], name="alice"
    )
    mixture = moa_of(name="mixture")
    swarm = create_swarm([alice, mixture], default_active_agent="alice").compile(checkpointer=InMemorySaver())
    for _ in range(2):
        out = await run(swarm, way, config=THREAD)
    assert [text for text in texts(out) if not text.startswith("Successfully")] == [
        "Why?", "", "It is c.", "Why?", "It is c.",
    ]  # fmt: skip
    assert out["active_agent"] == "mixture"


async def test_a_command_hands_over_to_it() -> None:
    """A node that goes to the mixture with `Command` brings its own message along."""

    def triage(state: MessagesState) -> Command[Any]:
        return Command(goto="moa", update={"messages": [AIMessage("Let me ask around.")]})

    graph = StateGraph(MessagesState).add_node(triage, destinations=("moa",)).add_node("moa", moa_of())
    assert texts(await run(graph.add_edge(START, "triage").compile())) == ["Why?", "Let me ask around.", "It is c."]


# What passes through


@dataclass
class Context:
    who: str


def _who(state: MessagesState, runtime: Runtime[Context]) -> Any:
    return {"messages": [AIMessage(f"for {runtime.context.who}")]}


@WAYS
async def test_a_context_reaches_the_graphs_within(way: str) -> None:
    """The parent's context comes unchanged to an agent that is a proposer of a mixture within a mixture."""
    inner = around(_who, context_schema=Context)
    nested = create_moa([Proposer(create_moa([inner], inner, 2), name="inner")], inner, 2)
    parent = around(nested, context_schema=Context)
    assert texts(await run(parent, way, context=Context("Ada")))[-1] == "for Ada"


@pytest.mark.parametrize(
    "context", [Context("Ada"), {"moa": 1, "layers": "x"}, 5], ids=lambda each: type(each).__name__
)
@WAYS
async def test_a_foreign_context_does_no_harm(way: str, context: Any) -> None:
    """Whatever the graph around it is given as a context, the mixture answers as without one."""
    assert texts(await run(moa_of(), way, context=context)) == ["Why?", "It is c."]


async def test_streams_of_a_deep_mixture() -> None:
    """Through a parent and a mixture around it, only the outermost final model's tokens and each one's events come."""
    nested = create_moa([Proposer(moa_of(), name="inner")], model("d"), 2)
    said, runs = [], set()
    async for _, mode, data in around(nested).astream(ASK, stream_mode=["messages", "custom"], subgraphs=True):
        if mode == "custom":
            runs.add(data["run"])
        elif data[1].get("moa_role"):
            said.append(data[0].text)
    assert ("".join(said), len(runs)) == ("It is d.", 2)


@WAYS
async def test_a_person_is_asked_from_within(way: str) -> None:
    """An interrupt in a proposer of a mixture in a mixture stops the parent, which is resumed with the answer."""
    person = Proposer(RunnableLambda(lambda _: f"She says {interrupt('Yes or no?')}."), name="person")
    inner = create_moa([person, model("b")], model("c"), 2)
    final = model("d")
    nested = create_moa([Proposer(inner, name="inner"), model("e")], final, 2, prompt="Merge:")
    parent = around(nested, checkpointer=InMemorySaver())
    stopped = await run(parent, way, config=THREAD)
    assert [each.value for each in stopped["__interrupt__"]] == ["Yes or no?"]
    out = await run(parent, way, Command(resume="yes"), THREAD)
    assert texts(out) == ["Why?", "It is d."]
    assert final.prompts[0][0].text == "Merge:\n1. It is c.\n2. It is e."


async def test_the_picture_shows_all() -> None:
    """A parent's picture opens the mixture, its layers, and a mixture that is a parent's node beside it."""
    nodes = around(moa_of(layers=3), moa_of("x", "z")).get_graph(xray=True).nodes
    assert {"n1:layer_1:a", "n1:layer_2:b", "n1:final", "n2:layer_1:x", "n2:final"} <= set(nodes)


# What is refused


@pytest.mark.parametrize("made", [moa_of, lambda: create_layer([model("a")])], ids=["mixture", "layer"])
@WAYS
async def test_a_state_without_messages(way: str, made: Any) -> None:
    """The error says what the state has, what is missing, and what to do; no model is asked."""
    said = r"no message to answer: the state has `question` and no `messages`; .*MessagesState.* function node"
    with pytest.raises(MoAConfigError, match=said):
        await run(around(made(), state=State), way, QUESTION)


async def test_messages_that_are_empty() -> None:
    """A parent with `messages` that nobody has written to is told so."""
    with pytest.raises(MoAConfigError, match="there is no message to answer: give"):
        await run(around(moa_of()), asked={"messages": []})
