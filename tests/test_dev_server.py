"""What a mixture promises, kept under LangGraph's own server: cuts, resumed threads, streamed answers."""

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.dev_server import Dev, dev_server, needs_server
from tests.server import Behaviour, RecordingServer

ASKED: Any = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
MODULE = """
import os

from moa_graph import LayerPolicy, Proposer, create_moa


def models(*names):
    return [Proposer(f"openai:{name}", name=name, base_url=os.environ["MODELS_URL"]) for name in names]


hasty = create_moa(models("quick", "straggler"), models("final"), 2, policy=LayerPolicy(quorum=1, grace=0.2))
strict = create_moa(models("fine", "failing", "slow"), models("last"), 2, policy=LayerPolicy(quorum=3))
plain = create_moa(models("one", "two"), models("speaker"), 2)
loud = create_moa(models("first", "second"), models("summing"), 2, stream_proposers=True)
"""

pytestmark = [needs_server, pytest.mark.timeout(20, func_only=True)]  # the server's start has a limit of its own


@pytest.fixture(scope="module")
def models() -> Iterator[RecordingServer]:
    """The models of every graph in `MODULE`; each test scripts its own graph's."""
    with RecordingServer() as server:
        yield server


@pytest.fixture(scope="module")
def dev(models: RecordingServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """The server, serving `MODULE`."""
    folder = tmp_path_factory.mktemp("dev")
    graphs = {name: f"./mixtures.py:{name}" for name in ("hasty", "strict", "plain", "loud")}
    (folder / "mixtures.py").write_text(MODULE, encoding="utf-8")
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}), encoding="utf-8")
    with dev_server(folder, MODELS_URL=models.base_url) as server:
        yield server


@pytest.fixture
async def client(dev: Dev) -> AsyncIterator[Any]:
    """LangGraph's client of that server, which may not log a blocking call."""
    from langgraph_sdk import get_client

    async with get_client(url=dev.url) as client:
        yield client
    assert "Blocking call" not in dev.said


async def test_a_straggler_is_cut(client: Any, models: RecordingServer) -> None:
    """Once the grace is over, the straggler's connection is closed, its proposal is "cut", and the answer comes."""
    models.script("straggler", Behaviour(hang=True))
    out = await client.runs.wait(None, "hasty", input=ASKED)
    assert out["messages"][-1]["content"] == "answer of final #1"
    assert [(p["proposer"], p["status"]) for p in out["proposals"]] == [("quick", "ok"), ("straggler", "cut")]
    [straggler] = models.requests_for("straggler")
    await models.until(lambda: straggler.outcome)
    assert straggler.outcome == "closed_by_client"
    [final] = models.requests_for("final")
    assert "answer of quick #1" in str(final.messages)


async def test_a_missed_quorum_is_told_and_resumed(client: Any, models: RecordingServer) -> None:
    """QuorumError's message stands in the run and its thread; resumed, it asks only those that had not answered."""
    models.script("failing", Behaviour(status=400, error="no such thing", latency=0.5), Behaviour())
    models.script("slow", Behaviour(hang=True), Behaviour())
    message = r"layer 1: 1 of 3 proposers answered and 3 must; failing: .*no such thing; slow: cut after .* s"
    created = await client.threads.create()
    with pytest.raises(Exception, match=f"QuorumError: {message}"):
        await client.runs.wait(created["thread_id"], "strict", input=ASKED)
    [run] = await client.runs.list(created["thread_id"])
    thread = await client.threads.get(created["thread_id"])
    [layer] = (await client.threads.get_state(created["thread_id"]))["tasks"]
    assert (run["status"], thread["status"], thread["error"]["error"]) == ("error", "error", "QuorumError")
    assert re.fullmatch(message, thread["error"]["message"])
    assert layer["name"] == "layer_1"
    assert re.search(message, layer["error"])
    await models.until(lambda: asked(models)["slow"] == ["closed_by_client"])
    assert asked(models) == {"fine": ["ok"], "failing": ["fault"], "slow": ["closed_by_client"], "last": []}

    out = await client.runs.wait(created["thread_id"], "strict", input=None)
    assert out["messages"][-1]["content"] == "answer of last #1"
    answers = ["answer of fine #1", "answer of failing #2", "answer of slow #2"]
    assert [p["content"] for p in out["proposals"]] == answers
    assert asked(models) == {
        "fine": ["ok"], "failing": ["fault", "ok"], "slow": ["closed_by_client", "ok"], "last": ["ok"],
    }  # fmt: skip


def asked(models: RecordingServer) -> dict[str, list[str | None]]:
    """The outcomes of every request to the models of `strict`."""
    return {
        name: [request.outcome for request in models.requests_for(name)] for name in ("fine", "failing", "slow", "last")
    }


async def test_the_answer_streams(client: Any, models: RecordingServer) -> None:
    """The final answer, and nothing else, comes in several chunks, the first while the model is still speaking."""
    text = "Short waves of light scatter most of all."
    models.script("speaker", Behaviour(text=text, per_token=0.1))
    chunks, finished = [], []
    async for event in client.runs.stream(None, "plain", input=ASKED, stream_mode="messages-tuple"):
        if event.event == "messages":
            chunk, metadata = event.data
            assert metadata["langgraph_node"] == "final"
            chunks.append(chunk["content"])
            finished.append(models.requests_for("speaker")[0].finished)
    assert "".join(chunks) == text
    assert finished[0] is None
    assert len([chunk for chunk in chunks if chunk]) == len(text.split())


async def test_proposers_and_progress_stream_too(client: Any, models: RecordingServer) -> None:
    """With `stream_proposers=True` each token tells its layer, proposer and model, and the typed events come along."""
    said: dict[tuple[Any, ...], str] = {}
    told: list[str] = []
    modes = ["messages-tuple", "custom"]
    async for event in client.runs.stream(None, "loud", input=ASKED, stream_mode=modes, stream_subgraphs=True):
        kind = event.event.partition("|")[0]
        if kind == "messages":
            chunk, metadata = event.data
            who = tuple(metadata.get(name) for name in ("moa_role", "moa_layer", "langgraph_node", "moa_model"))
            said[who] = said.get(who, "") + chunk["content"]
        elif kind == "custom":
            told.append(event.data["type"])
    assert said == {
        ("proposer", 1, "first", "openai:first"): "answer of first #1",
        ("proposer", 1, "second", "openai:second"): "answer of second #1",
        ("final", 2, "final", "openai:summing"): "answer of summing #1",
    }
    assert (told[0], told[-3:]) == ("moa.layer_started", ["moa.layer_done", "moa.final_started", "moa.done"])
