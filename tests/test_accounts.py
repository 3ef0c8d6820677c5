"""Receipts of many faulty runs, of every kind, beside what the server counted."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from moa_graph import ChatMoA, LayerPolicy, Proposer, create_moa
from moa_graph.errors import QuorumError
from moa_graph.prices import Price
from tests.accounts import Count, FaultyServer, ask_all
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why is it so?")]}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)


def model(server: RecordingServer, name: str) -> Proposer:
    return Proposer(f"openai:{name}", base_url=server.base_url)


async def test_receipts_add_up_to_what_the_server_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Fifty mixtures with every fault, nested, resumed, cut and streamed: of each, and of all, calls and tokens agree.

    What the server sent while a call was cut, and who was cut before asking, is taken from LangChain's callbacks.
    """
    caplog.set_level(logging.CRITICAL)  # LangGraph's and asyncio's words on threads and connections that end early
    with FaultyServer(seed=11) as server:
        threads, heard = await ask_all(server, seed=11, runs=50, at_once=8)
        for thread in threads:
            requests = [request for request in server.requests if request.model.startswith(thread.prefix)]
            missed = heard.missed(requests, thread.prefix)
            assert Count.of(thread.receipts) == Count.by(requests).plus(missed, -1), thread.prefix
    assert all(server.faults.values()), server.faults
    assert len([receipt for thread in threads for receipt in thread.receipts]) > 50


class Breaking(FakeListChatModel):
    """Tells its usage as it streams; its first answer breaks off then."""

    asked: int = 0

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        self.asked += 1
        usage = UsageMetadata(input_tokens=4, output_tokens=3, total_tokens=7)
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=usage))
        if self.asked == 1:
            raise ConnectionResetError
        yield ChatGenerationChunk(message=AIMessageChunk("It is so."))


async def test_a_stream_that_breaks_after_its_usage_is_counted() -> None:
    """Both attempts were paid for; what the first one cost is known in part."""
    breaking = Proposer(Breaking(responses=[""]), name="breaking", price=Price(input=1, output=1))
    moa = create_moa([breaking], FakeListChatModel(responses=["Indeed."]), 2, stream_proposers=True)
    _, *rest = [part async for part in moa.astream(ASK, stream_mode=["messages", "values"], subgraphs=True)]
    out = [data for path, mode, data in rest if mode == "values" and not path][-1]
    (call,) = out["messages"][-1].response_metadata["moa"]["layers"][0]["proposals"]
    assert (call["attempts"], call["usage"]) == (2, {"input_tokens": 8, "output_tokens": 6, "total_tokens": 14})
    assert (call["cost_usd"], call["cost_usd_at_least"]) == (None, 14e-6)


@pytest.mark.parametrize("end", ["cut", "error"])
async def test_a_mixture_as_a_chat_model_counts_with_what_it_asked_until_it_failed(
    server: RecordingServer, end: str
) -> None:
    """Its own receipt never comes, and its calls and tokens are in the receipt around it all the same."""
    server.script("d", Behaviour(hang=True) if end == "cut" else Behaviour(status=400))
    inner = ChatMoA(proposers=[model(server, "c")], aggregator=model(server, "d"), layers=2)
    panel = [model(server, "a"), Proposer(inner, name="inner")]
    out = await create_moa(panel, model(server, "b"), 2, policy=LayerPolicy(grace=0.5)).ainvoke(ASK)
    inside = out["messages"][-1].response_metadata["moa"]["layers"][0]["proposals"][1]
    assert (inside["status"], inside["calls"], inside["attempts"]) == (end, 2, 1)
    assert inside["usage"] == {"input_tokens": 4, "output_tokens": 4, "total_tokens": 8}


async def test_what_an_agents_client_sends_again_is_counted(server: RecordingServer) -> None:
    """The retries of a client inside an agent are requests too."""
    server.script("agent", *[Behaviour(status=429, retry_after="0.01")] * 2, Behaviour())
    agent = create_agent(ChatOpenAI(model="agent", base_url=server.base_url, api_key="key"), [])
    out = await create_moa([Proposer(agent, name="agent")], model(server, "b"), 2).ainvoke(ASK)
    (call,) = out["messages"][-1].response_metadata["moa"]["layers"][0]["proposals"]
    assert (call["status"], call["attempts"], call["calls"]) == ("ok", 1, 3)
    assert len(server.requests_for("agent")) == 3


async def test_what_a_resumed_thread_finds_of_an_agent_is_not_counted_again(server: RecordingServer) -> None:
    """Its empty answer is in the checkpoint: the resumed run asks nobody, and its receipt says so."""
    server.script("agent", Behaviour(text="", finish_reason="length"))
    agent = create_agent(ChatOpenAI(model="agent", base_url=server.base_url, api_key="key"), [])
    moa = create_moa([Proposer(agent, name="agent")], model(server, "b"), 2, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    receipts = []
    for given in (ASK, None):
        with pytest.raises(QuorumError) as failed:
            await moa.ainvoke(given, config)
        receipts.append(failed.value.receipt)
    assert [receipt["calls"] for receipt in receipts] == [len(server.requests), 0]
    assert [receipt["input_tokens"] for receipt in receipts] == [4, 0]
