"""What a person does in Studio, against LangGraph's own server: assistants, chat, edits, other programs' ways in."""

import asyncio
import json
import shutil
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from tests.dev_server import ROOT, Dev, dev_server, needs_server
from tests.server import Behaviour, RecordingServer

ASKED: Any = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
THREE = {"layers": 3, "panel": ["openai:alpha", "openai:beta"], "aggregator": "openai:last"}

pytestmark = [needs_server, pytest.mark.timeout(20, func_only=True)]  # the server's start has a limit of its own


@pytest.fixture(scope="module")
def recording() -> Iterator[RecordingServer]:
    """What every model of OpenAI is here."""
    with RecordingServer() as server:
        yield server


@pytest.fixture(scope="module")
def dev(recording: RecordingServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """The server, serving `langgraph.json` to somebody with a key of OpenAI."""
    folder = tmp_path_factory.mktemp("studio")
    shutil.copy(ROOT / "langgraph.json", folder)
    with dev_server(folder, OPENAI_API_KEY="sk-very-secret", OPENAI_BASE_URL=recording.base_url) as server:
        yield server


@pytest.fixture
def models(recording: RecordingServer) -> RecordingServer:
    """The models, which have not been asked anything in this test."""
    recording.clear()
    return recording


@pytest.fixture
async def client(dev: Dev) -> AsyncIterator[Any]:
    """LangGraph's client of that server, which may not log a blocking call or a key."""
    from langgraph_sdk import get_client

    async with get_client(url=dev.url) as client:
        yield client
    assert "Blocking call" not in dev.said
    assert "very-secret" not in dev.said


async def assistant(client: Any, context: Any, graph: str = "moa", name: str | None = None) -> str:
    made = await client.assistants.create(graph, context=context, name=name)
    return str(made["assistant_id"])


async def new_thread(client: Any) -> str:
    return str((await client.threads.create())["thread_id"])


async def drawn(client: Any, assistant_id: str) -> list[str]:
    """The proposers and the final model in the picture of an assistant's graph."""
    picture = await client.assistants.get_graph(assistant_id, xray=True)
    nodes = [node["id"] for node in picture["nodes"]]
    return [node for node in nodes if not node.endswith(("__start__", "__end__", ":aggregate"))]


def asked(models: RecordingServer) -> list[str]:
    return sorted(request.model for request in models.requests)


def read(models: RecordingServer, model: str, n: int = 1) -> str:
    """All that a model was sent with its n-th request."""
    return json.dumps(models.requests_for(model)[n - 1].messages)


async def test_an_assistants_form_makes_picture_and_run(client: Any, models: RecordingServer) -> None:
    """Layers, panel, final model, prompt, temperature and longest answer of the form are drawn, and sent to models."""
    form = {**THREE, "prompt": "Choose the best.", "temperature": 0.25, "max_tokens": 99}
    chosen = await assistant(client, form)
    assert await drawn(client, chosen) == ["final", "layer_1:alpha", "layer_1:beta", "layer_2:alpha", "layer_2:beta"]
    out = await client.runs.wait(None, chosen, input=ASKED)
    assert out["messages"][-1]["content"] == "answer of last #1"
    assert asked(models) == ["alpha", "alpha", "beta", "beta", "last"]
    assert {request.body["temperature"] for request in models.requests} == {0.25}
    assert {request.body.get("max_tokens") or request.body["max_completion_tokens"] for request in models.requests} == {
        99
    }
    [system, _] = models.requests_for("last")[0].messages
    assert system["content"] == "Choose the best.\n1. answer of alpha #2\n2. answer of beta #2"


async def test_the_policy_is_the_forms(client: Any, models: RecordingServer) -> None:
    """Quorum, grace and retries of the form hold in a run."""
    models.script("alpha", Behaviour(status=500))
    models.script("gamma", Behaviour(hang=True))
    panel = ["openai:alpha", "openai:beta", "openai:gamma"]
    chosen = await assistant(client, {"panel": panel, "quorum": 1, "grace": 0.2, "retries": 0})
    out = await client.runs.wait(None, chosen, input=ASKED)
    assert [(p["status"], p["attempts"]) for p in out["proposals"]] == [("error", 1), ("ok", 1), ("cut", 1)]


async def test_several_topologies_on_one_server(client: Any, models: RecordingServer) -> None:
    """Assistants with different forms have different pictures and runs, at the same time."""
    forms: list[dict[str, Any]] = [{}, {"layers": 1, "aggregator": "openai:alone"}, THREE]
    made = [await assistant(client, form) for form in forms]
    pictures = await asyncio.gather(*(drawn(client, one) for one in made))
    outs = await asyncio.gather(*(client.runs.wait(None, one, input=ASKED) for one in made))
    assert [[node.rpartition(":")[2] for node in picture] for picture in pictures] == [
        ["final", "sol", "terra", "luna"],
        ["final"],
        ["final", "alpha", "beta", "alpha", "beta"],
    ]
    assert [out["messages"][-1]["response_metadata"]["moa"]["calls"] for out in outs] == [4, 1, 5]
    assert [[p["proposer"] for p in out["proposals"]] for out in outs] == [
        ["sol", "terra", "luna"],
        [],
        ["alpha", "beta", "alpha", "beta"],
    ]


async def test_a_changed_form_changes_the_assistant(client: Any) -> None:
    """An assistant that is edited has another picture at once, and its former version the former one."""
    chosen = await assistant(client, THREE)
    await client.assistants.update(chosen, context={**THREE, "layers": 2, "panel": ["openai:new"]})
    assert await drawn(client, chosen) == ["final", "layer_1:new"]
    await client.assistants.set_latest(chosen, 1)
    assert len(await drawn(client, chosen)) == 5


async def test_a_run_may_fill_in_more(client: Any, models: RecordingServer) -> None:
    """A run's own context goes before its assistant's, field by field."""
    chosen = await assistant(client, THREE)
    await client.runs.wait(None, chosen, input=ASKED, context={"layers": 2})
    assert asked(models) == ["alpha", "beta", "last"]


async def test_the_schema_is_a_form(client: Any) -> None:
    """The server tells a form's types, descriptions, bounds and nodes, takes messages in chat, and tells no key."""
    schemas = await client.assistants.get_schemas(await assistant(client, THREE))
    layers, prompt = (schemas["context_schema"]["properties"][name] for name in ("layers", "prompt"))
    assert (layers["type"], layers["minimum"], layers["maximum"]) == ("integer", 1, 10)
    assert layers["description"].startswith("Number of layers")
    assert layers["langgraph_nodes"] == ["layer_1", "layer_2", "final"]
    assert prompt["langgraph_type"] == "prompt"
    for state in ("input_schema", "output_schema", "state_schema"):
        assert "messages" in schemas[state]["properties"]
    assert "very-secret" not in json.dumps(schemas)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"layers": 0}, "layers: input should be greater than or equal to 1, not 0"),
        ({"temperature": "hot"}, "temperature: input should be a valid number, .*'hot'"),
        ({"panel": ["openai:alpha", "nobody:x"]}, r"panel: .*proposer 2 \(nobody:x\): 'nobody:x' does not begin with"),
        ({"quorum": 7}, "preset openai: layer 1: a quorum of 7 needs more than its 3 proposers"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
async def test_a_bad_value_is_named(client: Any, models: RecordingServer, form: Any, error: str) -> None:
    """A run fails with the field's name and asks nobody; the picture tells it too, and the form can be mended."""
    bad, thread = await assistant(client, form), await new_thread(client)
    with pytest.raises(Exception, match=f"MoAConfigError: {error}"):
        await client.runs.wait(thread, bad, input=ASKED)
    assert models.requests == []
    [node] = await drawn(client, bad)
    assert node.startswith(error.partition(":")[0])
    assert "layers" in (await client.assistants.get_schemas(bad))["context_schema"]["properties"]

    await client.assistants.update(bad, context={**THREE, "layers": 2})
    out = await client.runs.wait(thread, bad, input=ASKED)
    assert [message["content"] for message in out["messages"]] == ["Why is the sky blue?", "answer of last #1"]


async def test_chat(client: Any, models: RecordingServer) -> None:
    """On a thread, messages go in and out turn by turn, and every model reads the turns before."""
    chosen, thread = await assistant(client, {**THREE, "layers": 2}), await new_thread(client)
    await client.runs.wait(thread, chosen, input=ASKED)
    again: Any = {"messages": [{"type": "human", "content": "And at dusk?"}]}
    out = await client.runs.wait(thread, chosen, input=again)
    said = ["Why is the sky blue?", "answer of last #1", "And at dusk?", "answer of last #2"]
    assert [message["content"] for message in out["messages"]] == said
    assert [message["content"] for message in models.requests_for("alpha")[1].messages] == said[:3]
    assert len(out["proposals"]) == 2


async def test_a_run_stops_between_layers(client: Any, models: RecordingServer) -> None:
    """Interrupted after layer 1, a thread shows its proposals and waits; resumed, nobody is asked twice."""
    chosen, thread = await assistant(client, THREE), await new_thread(client)
    await client.runs.wait(thread, chosen, input=ASKED, interrupt_after=["layer_1"])
    state = await client.threads.get_state(thread)
    assert (await client.threads.get(thread))["status"] == "interrupted"
    assert state["next"] == ["layer_2"]
    assert [p["content"] for p in state["values"]["proposals"]] == ["answer of alpha #1", "answer of beta #1"]
    assert asked(models) == ["alpha", "beta"]

    out = await client.runs.wait(thread, chosen, input=None)
    assert out["messages"][-1]["content"] == "answer of last #1"
    assert asked(models) == ["alpha", "alpha", "beta", "beta", "last"]


async def test_time_travel(client: Any, models: RecordingServer) -> None:
    """A finished thread forked after layer 1 with an edited proposal: layer 2 reads the edit, layer 1 is not asked."""
    chosen, thread = await assistant(client, {**THREE, "prompt": "Weigh them."}), await new_thread(client)
    await client.runs.wait(thread, chosen, input=ASKED)
    history = await client.threads.get_history(thread)
    [before] = [state for state in history if state["next"] == ["layer_2"]]
    models.clear()

    edited = {**before["values"]["proposals"][0], "content": "Because of Rayleigh."}
    fork = await client.threads.update_state(
        thread, {"proposals": [edited]}, as_node="layer_1", checkpoint=before["checkpoint"]
    )
    out = await client.runs.wait(thread, chosen, input=None, checkpoint=fork["checkpoint"])
    assert asked(models) == ["alpha", "beta", "last"]
    for model in ("alpha", "beta"):
        system = models.requests_for(model)[0].messages[0]["content"]
        assert system == "Weigh them.\n1. Because of Rayleigh.\n2. answer of beta #1"
    assert "Rayleigh" not in read(models, "last")
    assert out["proposals"][0]["content"] == "Because of Rayleigh."
    assert out["messages"][-1]["content"] == "answer of last #1"
    kept = [state for state in await client.threads.get_history(thread) if not state["next"]]
    assert len(kept) == 2


async def test_a_thread_is_read_by_the_form_that_made_it(client: Any, models: RecordingServer) -> None:
    """A thread stands before the right node, and can be edited there, after its assistant's form has changed."""
    chosen, thread = await assistant(client, {**THREE, "layers": 2}), await new_thread(client)
    await client.runs.wait(thread, chosen, input=ASKED)
    await client.assistants.update(chosen, context=THREE)
    await client.runs.wait(thread, chosen, input=ASKED, interrupt_after=["layer_1"])
    assert (await client.threads.get_state(thread))["next"] == ["layer_2"]
    models.clear()
    await client.threads.update_state(thread, {"synthesis": "Edited."}, as_node="layer_1")
    await client.runs.wait(thread, chosen, input=None)
    assert asked(models) == ["alpha", "beta", "last"]


async def test_a_thread_is_read_by_a_runs_own_form(client: Any) -> None:
    """What a run alone has filled in is known to who reads its thread."""
    thread = await new_thread(client)
    await client.runs.wait(thread, "moa", input=ASKED, context=THREE, interrupt_after=["layer_1"])
    assert (await client.threads.get_state(thread))["next"] == ["layer_2"]


def post(url: str, method: str, params: Any) -> Any:
    """The result of a JSON-RPC call."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return json.load(answer)["result"]


async def test_mcp(dev: Dev, client: Any, models: RecordingServer) -> None:
    """Over MCP every assistant is a tool that takes the question, by its own topology."""
    await assistant(client, {**THREE, "layers": 2}, name="two of them")
    url = f"{dev.url}/mcp"
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    assert (await asyncio.to_thread(post, url, "initialize", hello))["capabilities"]["tools"]
    listed = await asyncio.to_thread(post, url, "tools/list", {})
    tools = {tool["name"]: tool for tool in listed["tools"]}
    assert {"moa", "moa_local", "chat_moa_agent", "two_of_them"} <= tools.keys()
    assert tools["moa"]["inputSchema"]["properties"]["messages"]["type"] == "string"

    call = {"name": "two_of_them", "arguments": {"messages": "Why is the sky blue?"}}
    result = await asyncio.to_thread(post, url, "tools/call", call)
    assert not result.get("isError")
    assert "answer of last #1" in result["content"][0]["text"]
    assert asked(models) == ["alpha", "beta", "last"]
    assert "Why is the sky blue?" in read(models, "alpha")


async def test_a2a(dev: Dev, client: Any, models: RecordingServer) -> None:
    """Over A2A an assistant answers a message, and another one in the same conversation."""
    url = f"{dev.url}/a2a/{await assistant(client, {**THREE, 'layers': 2})}"

    def message(text: str, **more: str) -> Any:
        return {"message": {"role": "user", "messageId": text, "parts": [{"kind": "text", "text": text}], **more}}

    first = await asyncio.to_thread(post, url, "message/send", message("Why is the sky blue?"))
    assert written(first) == ["answer of last #1"]
    second = await asyncio.to_thread(post, url, "message/send", message("And at dusk?", contextId=first["contextId"]))
    assert written(second) == ["answer of last #2"]
    assert "answer of last #1" in read(models, "alpha", 2)


def written(task: Any) -> Sequence[str]:
    assert task["status"]["state"] == "completed"
    return [part["text"] for artifact in task["artifacts"] for part in artifact["parts"]]


async def test_agent(client: Any, models: RecordingServer) -> None:
    """The agent's final model is given the tools, its proposers read of them, and its picture has model and tools."""
    chosen = await assistant(client, {**THREE, "layers": 2}, "chat_moa_agent")
    out = await client.runs.wait(None, chosen, input=ASKED)
    assert out["messages"][-1]["content"] == "answer of last #1"
    assert out["messages"][-1]["response_metadata"]["moa"]["calls"] == 3
    [final] = models.requests_for("last")
    assert [tool["function"]["name"] for tool in final.body["tools"]] == ["calculate", "now"]
    assert "tools" not in models.requests_for("alpha")[0].body
    assert "calculate" in read(models, "alpha")
    assert sorted(await drawn(client, chosen)) == ["model", "tools"]
