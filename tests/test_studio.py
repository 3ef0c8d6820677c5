"""LangGraph's own server, which Studio talks to, serves the mixtures of `langgraph.json`."""

import json
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph.state import CompiledStateGraph

from moa_graph import local, studio
from tests.dev_server import ROOT, Dev, dev_server, needs_server

GRAPHS = json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))["graphs"]
ASKED: Any = {"messages": [{"role": "user", "content": "What is 2 + 2? Answer with one number."}]}

needs_local = pytest.mark.skipif(not local.available(), reason='needs pip install "moa-graph[local]"')


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """The server, offline and without keys, in a folder with nothing but `langgraph.json`."""
    folder = tmp_path_factory.mktemp("studio")
    shutil.copy(ROOT / "langgraph.json", folder)
    with dev_server(folder) as server:
        yield server


@needs_local
@pytest.mark.parametrize("name", GRAPHS)
def test_target_is_a_graph(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Every target of langgraph.json imports, and without any key makes a graph with no checkpointer of its own."""
    monkeypatch.chdir(tmp_path)
    module, _, attribute = GRAPHS[name]["path"].partition(":")
    graph = getattr(import_module(module), attribute)()
    assert isinstance(graph, CompiledStateGraph)
    assert graph.name == name
    assert (graph.checkpointer, graph.store, graph.cache) == (None, None, None)
    assert GRAPHS[name]["description"]


def test_targets_are_all_there_is():
    """What the module offers and what langgraph.json serves are the same."""
    assert sorted(graph["path"] for graph in GRAPHS.values()) == [f"moa_graph.studio:{name}" for name in studio.__all__]


def test_keys_choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`moa` is the mixture that the keys allow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    [(_, layer)] = studio.moa().get_subgraphs()
    assert {"sol", "terra", "luna"} < set(layer.nodes)


@needs_local
@needs_server
@pytest.mark.timeout(240)
async def test_served(dev: Dev):
    """The server runs `moa_local` on plain `messages`, streams it and its subgraphs, and logs no blocking call."""
    from langgraph_sdk import get_client

    async with get_client(url=dev.url) as client:
        check_output(await client.runs.wait(None, "moa_local", input=ASKED))

        thread = await client.threads.create()
        modes: Any = ["values", "messages-tuple"]
        events = [
            event
            async for event in client.runs.stream(
                thread["thread_id"], "moa_local", input=ASKED, stream_mode=modes, stream_subgraphs=True
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
