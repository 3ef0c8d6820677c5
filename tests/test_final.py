"""The final model and its fallbacks: the next one is asked before the first token, never after it."""

import asyncio
from typing import Any

import pytest
from langchain_openai import ChatOpenAI

from moa_graph import FinalError, LayerPolicy, Proposer, create_moa
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, rate_limited, server_error, unauthorized
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why?")]}
HANG = Answer("never", stall_after=0)
LONG = 30.0  # seconds nobody waits for
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.005)


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


def moa_of(*aggregators: Any, **policy: Any) -> Any:
    return create_moa([model("a")], list(aggregators), 2, policy=LayerPolicy(**policy))


async def run(moa: Any, way: str) -> tuple[Any, list[str]]:
    """The final state, and the tokens streamed on the way."""
    modes = ["messages", "values"]
    async with asyncio.timeout(LONG):
        if way == "ainvoke":
            return await moa.ainvoke(ASK), []
        if way == "invoke":
            return await asyncio.to_thread(moa.invoke, ASK), []
        if way == "astream":
            parts = [part async for part in moa.astream(ASK, stream_mode=modes)]
        else:
            parts = await asyncio.to_thread(lambda: list(moa.stream(ASK, stream_mode=modes)))
    tokens = [data[0].text for mode, data in parts if mode == "messages" and data[1].get("moa_role") == "final"]
    return [data for mode, data in parts if mode == "values"][-1], [token for token in tokens if token]


def final_of(state: Any) -> Any:
    return state["messages"][-1].response_metadata["moa"]["final"]


@WAYS
@pytest.mark.parametrize("failure", [bad_request(), unauthorized(), server_error(), rate_limited(), HANG], ids=str)
async def test_the_next_one_is_asked_before_the_first_token(way: str, failure: Any) -> None:
    """Whatever the failure, its own time over too, the next model answers; the receipt says who, and why."""
    first, second, third = model("first", failure), model("second"), model("third")
    state, tokens = await run(moa_of(first, second, third, retries=0, timeout=0.3), way)
    assert state["messages"][-1].text == "It is second."
    assert "".join(tokens) in ("", "It is second.")
    assert (second.calls, third.calls) == (1, 0)
    final = final_of(state)
    assert (final["model"], final["status"]) == ("second", "ok")
    assert final["error"].startswith("first: ")
    assert second.prompts == first.prompts


@WAYS
async def test_a_model_has_its_retries_before_the_next_one_is_asked(way: str) -> None:
    """Fallbacks come after the retries of a model, and every request of both counts."""
    first, second = model("first", server_error()), model("second", server_error(), "Done.")
    state, _ = await run(moa_of(first, second, retries=2), way)
    assert (first.calls, second.calls) == (3, 2)
    assert final_of(state)["attempts"] == 5
    assert state["messages"][-1].response_metadata["moa"]["calls"] == 6


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("ending", [{"error": server_error(), "error_after": 2}, {"stall_after": 2}], ids=str)
async def test_nobody_else_is_asked_after_the_first_token(way: str, ending: dict[str, Any]) -> None:
    """A reader who has seen tokens gets an error, not another answer behind them, and no second attempt either."""
    first, second = model("first", Answer("one two three", **ending)), model("second")
    if way == "stream":
        first.release()
    with pytest.raises(FinalError, match="the final model failed: first: "):
        await run(moa_of(first, second, retries=3, timeout=0.3), "astream")
    assert (first.calls, second.calls) == (1, 0)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_half_an_answer_that_nobody_saw_may_be_replaced(way: str) -> None:
    """Where nothing is streamed, a failure in mid-answer is as any other: the next one answers in whole."""
    first, second = model("first", Answer("one two three", error=server_error(), error_after=2)), model("second")
    state, _ = await run(moa_of(first, second, retries=0), way)
    assert state["messages"][-1].text == "It is second."


@WAYS
async def test_where_all_fail_the_error_names_each(way: str) -> None:
    """FinalError tells every model that was asked and why it failed, in order, and carries the proposals."""
    models = [model("first", bad_request()), model("second", HANG), model("third", unauthorized())]
    with pytest.raises(FinalError) as caught:
        await run(moa_of(*models, retries=0, timeout=0.2), way)
    said = str(caught.value)
    assert said.index("first: BadRequestError") < said.index("second: no answer within 0.2 s") < said.index("third: ")
    assert [p["content"] for p in caught.value.proposals] == ["It is a."]
    assert isinstance(caught.value.__cause__, type(unauthorized()))


async def test_each_aggregator_has_its_own_time_and_retries() -> None:
    """Proposer(timeout=, retries=) in the list of aggregators go before the policy's."""
    hanging, failing = model("hanging", HANG), model("failing", server_error())
    moa = moa_of(Proposer(hanging, timeout=0.1), Proposer(failing, retries=3), model("c"), timeout=LONG, retries=0)
    state, _ = await run(moa, "ainvoke")
    assert (hanging.calls, failing.calls) == (1, 4)
    assert final_of(state)["error"].startswith("hanging: no answer within 0.1 s; failing: ")


async def test_seconds_of_the_final_call_are_those_of_all_that_were_asked() -> None:
    """What the failed ones took is part of the final call's time."""
    state, _ = await run(moa_of(model("first", HANG), model("c"), timeout=0.2), "ainvoke")
    assert final_of(state)["seconds"] >= 0.2


@pytest.mark.parametrize("way", ["invoke", "astream"])
async def test_a_provider_that_fails_before_its_first_token(server: RecordingServer, way: str) -> None:
    """Real clients: headers and then a closed connection are before the first token; words are after it."""
    chat = {n: ChatOpenAI(model=n, base_url=server.base_url, api_key="key") for n in ("first", "second")}
    server.script("first", Behaviour(close_after=0))
    state, _ = await run(moa_of(*chat.values(), retries=0), way)
    assert final_of(state)["model"] == "second"
    server.script("first", Behaviour(text="one two three", close_after=2))
    if way == "astream":
        with pytest.raises(FinalError):
            await run(moa_of(*chat.values(), retries=2), way)
        assert [request.model for request in server.requests] == ["first", "second", "first"]


async def test_an_answer_with_nothing_in_it_is_none() -> None:
    """A final model that says nothing has failed: the next one is asked, and the reason is told."""
    silent, second = ScriptedChatModel(answers=[""]), ScriptedChatModel(answers=["Because."])
    out = await create_moa([ScriptedChatModel()], [silent, second], 2).ainvoke({"messages": [("user", "Why?")]})
    assert out["messages"][-1].text == "Because."
    assert "the answer has no text" in out["messages"][-1].response_metadata["moa"]["final"]["error"]
