"""The receipt against what the server counted: nothing sent is left out, nothing is counted twice."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI

from moa_graph import Layer, LayerPolicy, Proposer, create_moa
from moa_graph.asking import Asking
from moa_graph.cache import Answers
from moa_graph.panel import seats
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why is it so?")]}
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])
FAULTS: dict[str, list[Behaviour]] = {
    "none": [Behaviour()],
    "limited twice": [Behaviour(status=429), Behaviour(status=429, retry_after="0"), Behaviour(text="Now then.")],
    "closed once": [Behaviour(close_after=1), Behaviour()],
    "bad request": [Behaviour(status=400)],
    "down": [Behaviour(status=503)],
    "hangs": [Behaviour(hang=True)],
    "stalls": [Behaviour(stall_after=2)],
    "fails, then hangs": [Behaviour(status=500), Behaviour(hang=True)],
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)


def moa_of(server: RecordingServer, **policy: Any) -> Any:
    chat = {n: ChatOpenAI(model=n, base_url=server.base_url, api_key="key") for n in ("a", "b", "faulty", "final")}
    return create_moa([chat["a"], chat["faulty"], chat["b"]], chat["final"], 3, policy=LayerPolicy(**policy))


async def run(moa: Any, way: str) -> Any:
    out = await moa.ainvoke(ASK) if way == "ainvoke" else await asyncio.to_thread(moa.invoke, ASK)
    return out["messages"][-1].response_metadata["moa"]


def check(receipts: list[Any], server: RecordingServer) -> None:
    answered = [request for request in server.requests if request.outcome == "ok"]
    assert sum(r["calls"] for r in receipts) == len(server.requests)
    assert sum(r["input_tokens"] for r in receipts) == sum(request.prompt_tokens for request in answered)
    assert sum(r["output_tokens"] for r in receipts) == sum(request.completion_tokens for request in answered)


@WAYS
@pytest.mark.parametrize("fault", FAULTS)
async def test_calls_and_tokens_are_what_the_server_counted(server: RecordingServer, way: str, fault: str) -> None:
    """`calls` are the requests, retries and given-up ones included; tokens are those of the answered ones."""
    server.script("faulty", *FAULTS[fault])
    receipt = await run(moa_of(server, timeout=1.0), way)
    await server.until(lambda: server.in_flight == 0)
    check([receipt], server)


@WAYS
async def test_each_call_tells_its_own_part(server: RecordingServer, way: str) -> None:
    """Per proposer: attempts as sent, usage as reported, the status and the reason where there is no answer."""
    server.script("faulty", *FAULTS["limited twice"])
    server.script("b", Behaviour(status=404, error="no such model"))
    receipt = await run(moa_of(server), way)
    first = {call["proposer"]: call for call in receipt["layers"][0]["proposals"]}
    assert [first[name]["attempts"] for name in ("a", "faulty", "b")] == [1, 3, 1]
    assert [first[name]["status"] for name in ("a", "faulty", "b")] == ["ok", "ok", "error"]
    assert first["faulty"]["usage"] == {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6}
    assert first["b"]["usage"] == {}
    assert "no such model" in first["b"]["error"]
    assert first["a"]["error"] is None
    assert [(layer["layer"], layer["asked"], layer["answered"]) for layer in receipt["layers"]] == [
        (1, 3, 2),
        (2, 3, 2),
    ]
    assert (receipt["final"]["proposer"], receipt["final"]["model"]) == ("final", "final")


@WAYS
async def test_the_critical_path_is_a_floor_of_the_run(server: RecordingServer, way: str) -> None:
    """Each layer's slowest answer and the final model: no more than the run took, and no less than the server did."""
    server.script("b", Behaviour(latency=0.2))
    server.script("final", Behaviour(latency=0.1))
    receipt = await run(moa_of(server), way)
    assert 0.5 <= receipt["critical_path_seconds"] <= receipt["seconds"] + 0.01
    assert [layer["seconds"] >= 0.2 for layer in receipt["layers"]] == [True, True]


async def test_who_was_cut_is_not_on_the_critical_path(server: RecordingServer) -> None:
    """A straggler's time is told, and is not taken for the time the answer needed."""
    server.script("faulty", Behaviour(hang=True))
    receipt = await run(moa_of(server, grace=0.5), "ainvoke")
    slowest = sum(max(c["seconds"] for c in layer["proposals"] if c["status"] == "ok") for layer in receipt["layers"])
    assert receipt["critical_path_seconds"] == pytest.approx(slowest + receipt["final"]["seconds"], abs=0.002)
    assert receipt["seconds"] >= 1.0


def chat(server: RecordingServer, name: str) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=server.base_url, api_key="key")


@WAYS
@pytest.mark.parametrize("place", ["proposer", "final"])
async def test_a_mixture_inside_counts_with_all_its_calls(server: RecordingServer, way: str, place: str) -> None:
    """A nested mixture's requests and tokens, retries and failures among them, are in the receipt around it."""
    server.script("faulty", *FAULTS["limited twice"])
    inner = moa_of(server)
    a, b = chat(server, "a"), chat(server, "c")
    moa = create_moa([a, inner], b, 2) if place == "proposer" else create_moa([a, b], inner, 2)
    receipt = await run(moa, way)
    check([receipt], server)
    one = receipt["layers"][0]["proposals"][1] if place == "proposer" else receipt["final"]
    assert (one["attempts"], one["calls"]) == (1, 9)


@WAYS
async def test_a_chain_inside_counts_each_of_its_calls(server: RecordingServer, way: str) -> None:
    """A function that asks two models counts as two requests, also where it then fails: they were paid for."""

    def twice(messages: Any) -> Any:
        chat(server, "a").invoke(messages)
        chat(server, "b").invoke(messages)
        raise ValueError("no good")

    receipt = await run(create_moa([chat(server, "a"), RunnableLambda(twice)], chat(server, "final"), 2), way)
    check([receipt], server)
    assert receipt["calls"] == 4


@WAYS
async def test_what_prefix_caches_had_is_told(server: RecordingServer, way: str) -> None:
    """Input tokens that providers read from their caches stand with each call and in sum, streamed or not."""
    server.script("a", Behaviour(cached_tokens=1))
    moa = create_moa([chat(server, "a"), chat(server, "b")], chat(server, "c"), 2, stream_proposers=way == "ainvoke")
    server.script("c", Behaviour(cached_tokens=3))
    receipt = await run(moa, way)
    a, b = (call["usage"] for call in receipt["layers"][0]["proposals"])
    assert (a["cached_input_tokens"], "cached_input_tokens" in b) == (1, False)
    assert receipt["cached_input_tokens"] == 4


async def test_an_agent_that_is_cut_before_it_begins_has_asked_nobody(server: RecordingServer) -> None:
    """Its seat was asked and its graph never ran: no request, so no call."""
    agent = create_agent(ChatOpenAI(model="a", base_url=server.base_url, api_key="key"), [])
    (seat,) = seats(1, Layer([Proposer(agent, name="agent")]), LayerPolicy())
    ask = Asking(seat, Answers(None), {})
    asking = asyncio.create_task(ask.answer([HumanMessage("Why?")]))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert (ask.made, ask.calls, server.requests) == (1, 0, [])
