"""What a layer does about providers that fail: real clients, a real server, every way to let a caller down."""

import asyncio
import email.utils
import time
from typing import Any

import pytest
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from langchain_together import ChatTogether

from moa_graph import FinalError, LayerPolicy, Proposer, create_moa
from moa_graph.retry import Attempts, retry_after, transient
from moa_graph.testing import (
    ScriptedChatModel,
    bad_request,
    connection_lost,
    rate_limited,
    server_error,
    timed_out,
    unauthorized,
)
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why?")]}
LONG = 30.0  # seconds nobody waits for
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])
SILENT = {
    "hang": Behaviour(hang=True),
    "headers, then nothing": Behaviour(stall_after=0),
    "stall in mid-answer": Behaviour(stall_after=3, text="one two three four"),
    "too slow": Behaviour(per_token=LONG, text="one two", latency=0.01),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting between attempts is what these tests count, not what they spend their time with."""
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)


def chat(server: RecordingServer, name: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=server.base_url, api_key="key", **options)


def moa_of(server: RecordingServer, faulty: Any = None, **policy: Any) -> Any:
    """Proposers `good` and `faulty`, and a final model."""
    panel = [chat(server, "good"), Proposer(chat(server, "faulty") if faulty is None else faulty, name="faulty")]
    return create_moa(panel, chat(server, "final"), 2, policy=LayerPolicy(**policy))


async def run(moa: Runnable[Any, Any], way: str) -> Any:
    async with asyncio.timeout(LONG):
        return await moa.ainvoke(ASK) if way == "ainvoke" else await asyncio.to_thread(moa.invoke, ASK)


def faulty_of(out: Any) -> Any:
    return out["proposals"][1]


# Time


@WAYS
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("fault", SILENT)
async def test_a_silent_server_is_left_when_the_time_is_over(
    server: RecordingServer, way: str, fault: str, streaming: bool
) -> None:
    """Whatever a server does not send, its proposer ends at its timeout, and its connection is closed."""
    if fault == "too slow" and not streaming:
        pytest.skip("only a stream is slow by the word")
    server.script("faulty", SILENT[fault])
    started = time.monotonic()
    out = await run(moa_of(server, chat(server, "faulty", streaming=streaming), timeout=0.5), way)
    assert time.monotonic() - started < LONG / 2
    proposal = faulty_of(out)
    assert (proposal["status"], proposal["attempts"]) == ("timeout", 1)
    assert proposal["error"] == "no answer within 0.5 s"
    assert proposal["content"] == ""
    assert out["proposals"][0]["status"] == "ok"
    await server.until(lambda: server.in_flight == 0)
    assert [request.outcome for request in server.requests_for("faulty")] == ["closed_by_client"]


@WAYS
async def test_all_attempts_together_have_one_timeout(server: RecordingServer, way: str) -> None:
    """Retries do not begin the time anew: failures, then a hang, end at the one timeout; the last failure is told."""
    server.script("faulty", Behaviour(status=500), Behaviour(status=503, error="busy"), Behaviour(hang=True))
    proposal = faulty_of(await run(moa_of(server, timeout=0.6, retries=5), way))
    assert (proposal["status"], proposal["attempts"]) == ("timeout", 3)
    assert proposal["error"].startswith("no answer within 0.6 s; before that: ")
    assert "503 - busy" in proposal["error"]
    assert 0.6 <= proposal["seconds"] < LONG / 2


@WAYS
async def test_a_retry_after_beyond_the_timeout_is_not_waited_for(server: RecordingServer, way: str) -> None:
    """A server that asks for an hour is out of time at once: the proposer's time is not spent on waiting in vain."""
    server.script("faulty", Behaviour(status=429, retry_after="3600"))
    proposal = faulty_of(await run(moa_of(server, timeout=LONG), way))
    assert (proposal["status"], proposal["attempts"]) == ("timeout", 1)
    assert "429" in proposal["error"]
    assert proposal["error"].endswith(f"; it asks for a wait beyond the {LONG:g} s")
    assert proposal["seconds"] < LONG / 2


@WAYS
async def test_the_final_model_has_its_time_too(server: RecordingServer, way: str) -> None:
    """A final model that hangs is FinalError at its timeout, with its connection closed."""
    server.script("final", Behaviour(hang=True))
    with pytest.raises(FinalError, match=r"final: no answer within 0\.5 s"):
        await run(moa_of(server, timeout=0.5), way)
    await server.until(lambda: server.in_flight == 0)
    assert server.requests_for("final")[0].outcome == "closed_by_client"


# Cut


@WAYS
@pytest.mark.parametrize("fault", ["hang", "headers, then nothing", "stall in mid-answer"])
async def test_a_cut_straggler_closes_its_connection(server: RecordingServer, way: str, fault: str) -> None:
    """Cutting is cancelling for real: before the run ends, the server sees that the client is gone."""
    server.script("faulty", SILENT[fault])
    server.script("final", Behaviour(latency=0.1))
    out = await run(moa_of(server, chat(server, "faulty", streaming=True), timeout=LONG, grace=0.2), way)
    assert faulty_of(out)["status"] == "cut"
    straggler, final = server.requests_for("faulty")[0], server.requests_for("final")[0]
    await server.until(lambda: server.in_flight == 0)
    assert straggler.outcome == "closed_by_client"
    assert straggler.finished is not None
    assert final.finished is not None
    assert straggler.finished < final.finished


@WAYS
async def test_a_straggler_between_two_attempts_asks_no_more(server: RecordingServer, way: str) -> None:
    """Cut while it waits to ask again, a proposer makes no further request."""
    server.script("faulty", Behaviour(status=429, retry_after="1"))
    server.script("final", Behaviour(latency=1.2))
    out = await run(moa_of(server, timeout=LONG, grace=0.2), way)
    assert faulty_of(out)["status"] == "cut"
    assert len(server.requests_for("faulty")) == 1


# Again, and not again


@WAYS
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_a_failure_that_may_pass_is_tried_again(server: RecordingServer, way: str, status: int) -> None:
    """Rate limits, timeouts and the server's own failures are retried until there is an answer."""
    server.script("faulty", Behaviour(status=status), Behaviour(status=status), Behaviour(text="At last."))
    proposal = faulty_of(await run(moa_of(server), way))
    assert (proposal["status"], proposal["content"], proposal["attempts"]) == ("ok", "At last.", 3)
    assert len(server.requests_for("faulty")) == 3


@WAYS
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("words", [0, 2])
async def test_a_connection_closed_half_way_is_tried_again(
    server: RecordingServer, way: str, streaming: bool, words: int
) -> None:
    """Half an answer is no answer: it is asked again, and nothing of the half is left in the whole."""
    server.script("faulty", Behaviour(text="Half an answer.", close_after=words), Behaviour(text="A whole one."))
    proposal = faulty_of(await run(moa_of(server, chat(server, "faulty", streaming=streaming)), way))
    assert (proposal["status"], proposal["content"], proposal["attempts"]) == ("ok", "A whole one.", 2)


@WAYS
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
async def test_a_connection_always_closed_half_way_is_an_error(
    server: RecordingServer, way: str, streaming: bool
) -> None:
    """After its retries a proposer whose server always hangs up has failed; half an answer is never passed on."""
    server.script("faulty", Behaviour(text="Half an answer.", close_after=2))
    proposal = faulty_of(await run(moa_of(server, chat(server, "faulty", streaming=streaming), retries=1), way))
    assert (proposal["status"], proposal["content"], proposal["attempts"]) == ("error", "", 2)
    assert "Half" not in server.requests_for("final")[0].raw.decode()


@WAYS
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_failure_that_will_not_pass_is_not_tried_again(server: RecordingServer, way: str, status: int) -> None:
    """A bad request, a wrong key or an unknown model is asked once, and told with the server's words."""
    server.script("faulty", Behaviour(status=status, error="that is not right"))
    proposal = faulty_of(await run(moa_of(server, retries=5), way))
    assert (proposal["status"], proposal["attempts"]) == ("error", 1)
    assert "that is not right" in proposal["error"]
    assert len(server.requests_for("faulty")) == 1


@WAYS
@pytest.mark.parametrize("kind", ["ChatOpenAI", "ChatTogether", "string", "bind"])
async def test_the_clients_own_retries_do_not_multiply_with_ours(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, way: str, kind: str
) -> None:
    """`retries` is what there is, whatever the client's max_retries says: n retries are n + 1 requests."""
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    server.script("faulty", Behaviour(status=500))
    many = {"base_url": server.base_url, "api_key": "key", "max_retries": 4}
    made: Any = {
        "ChatOpenAI": lambda: ChatOpenAI(model="faulty", **many),
        "ChatTogether": lambda: ChatTogether(model="faulty", **many),
        "string": lambda: "openai:faulty",
        "bind": lambda: ChatOpenAI(model="faulty", **many).bind(seed=1),
    }[kind]()
    proposer = Proposer(made, name="faulty", base_url=server.base_url if kind == "string" else None)
    moa = create_moa([chat(server, "good"), proposer], chat(server, "final"), 2, policy=LayerPolicy(retries=1))
    proposal = faulty_of(await run(moa, way))
    assert (proposal["status"], proposal["attempts"]) == ("error", 2)
    assert len(server.requests_for("faulty")) == 2


async def test_a_proposers_own_retries_go_before_the_policys(server: RecordingServer) -> None:
    """`Proposer(retries=0)` asks once, whatever the policy says."""
    server.script("faulty", Behaviour(status=500))
    own = Proposer(chat(server, "faulty"), retries=0)
    moa = create_moa([chat(server, "good"), own], chat(server, "final"), 2, policy=LayerPolicy(retries=5))
    assert faulty_of(await run(moa, "ainvoke"))["attempts"] == 1
    assert len(server.requests_for("faulty")) == 1


@WAYS
async def test_the_final_model_is_tried_again(server: RecordingServer, way: str) -> None:
    """The final model's failures before its first token are retried as a proposer's are."""
    server.script("final", Behaviour(status=503), Behaviour(text="Done."))
    out = await run(moa_of(server), way)
    assert out["messages"][-1].text == "Done."
    assert out["messages"][-1].response_metadata["moa"]["final"]["attempts"] == 2


async def test_a_stream_that_broke_off_is_not_begun_again(server: RecordingServer) -> None:
    """Once tokens of a proposer were streamed to the reader, it is not asked again: they cannot be taken back."""
    server.script("faulty", Behaviour(text="one two three", close_after=2))
    panel = [chat(server, "good"), chat(server, "faulty")]
    moa = create_moa(panel, chat(server, "final"), 2, stream_proposers=True)
    states = [data async for data in moa.astream(ASK, stream_mode=["messages", "values"])]
    assert states[-1][1]["proposals"][1]["attempts"] == 1
    assert len(server.requests_for("faulty")) == 1


# Retry-After


@WAYS
async def test_retry_after_in_seconds_is_kept(server: RecordingServer, way: str) -> None:
    """A rate-limited proposer waits as long as it was told before it asks again."""
    server.script("faulty", Behaviour(status=429, retry_after="1"), Behaviour(text="Thanks."))
    assert faulty_of(await run(moa_of(server), way))["status"] == "ok"
    first, second = server.requests_for("faulty")
    assert first.finished is not None
    assert 1.0 <= second.started - first.finished < LONG / 2


@WAYS
async def test_retry_after_as_a_date_is_kept(server: RecordingServer, way: str) -> None:
    """An HTTP date is as good: the second request comes when it has come."""
    wall = time.time() - time.monotonic()
    date = int(time.time()) + 2
    server.script("faulty", Behaviour(status=503, retry_after=email.utils.formatdate(date, usegmt=True)), Behaviour())
    assert faulty_of(await run(moa_of(server), way))["status"] == "ok"
    assert date - 0.05 <= server.requests_for("faulty")[1].started + wall < date + LONG / 2


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), ("0", 0), ("1.5", 1.5), ("-3", 0), ("soon", None), ("", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_what_a_server_may_say_about_waiting(said: str | None, seconds: float | None) -> None:
    """Seconds, a date that is over, and what is neither: never negative, never an error."""
    assert retry_after(rate_limited(said)) == seconds


def test_a_date_to_come_is_counted_from_now() -> None:
    """A Retry-After date is turned into the seconds until then."""
    said = retry_after(rate_limited(email.utils.formatdate(time.time() + 100, usegmt=True)))
    assert said == pytest.approx(100, abs=5)


# Which failures may pass


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (rate_limited(), True),
        (server_error(), True),
        (server_error(503), True),
        (timed_out(), True),
        (connection_lost(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (bad_request(), False),
        (unauthorized(), False),
        (ValueError("a bug"), False),
        (KeyError("a bug"), False),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_which_failures_are_tried_again(error: Exception, may_pass: bool) -> None:
    """Only what asking again may mend: a bug, a bad request or a wrong key is not asked twice."""
    assert transient(error) is may_pass
    model = ScriptedChatModel(answers=[error, "ok"])
    attempts = Attempts(1)
    if may_pass:
        assert (await attempts.ask(lambda: model.ainvoke("x"))).text == "ok"
    else:
        with pytest.raises(type(error)):
            await attempts.ask(lambda: model.ainvoke("x"))
    assert attempts.made == model.calls == 1 + may_pass


def test_a_used_up_quota_does_not_pass() -> None:
    """A 429 that says that the money is gone is not a rate limit."""
    error = rate_limited()
    error.code = "insufficient_quota"
    assert not transient(error)


def test_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Retry-After, waits double from the first to the longest, each within a quarter of it."""
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.5)
    from moa_graph.retry import _wait

    for attempt, wanted in enumerate([0.5, 1, 2, 4, 8, 8, 8], 1):
        waits = {_wait(server_error(), attempt) for _ in range(20)}
        assert all(0.75 * wanted <= wait <= 1.25 * wanted for wait in waits)
        assert len(waits) > 1
