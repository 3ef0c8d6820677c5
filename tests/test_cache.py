"""`cache=`: what was answered once is not asked for again, and nothing else is ever taken from it."""

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.cache.memory import InMemoryCache
from langgraph.cache.sqlite import SqliteCache

from moa_graph import FinalError, LayerPolicy, Proposer, create_layer, create_moa
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, server_error
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why?")]}
WAYS = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


async def run(graph: Any, way: str = "ainvoke", asked: Any = ASK) -> Any:
    return await graph.ainvoke(asked) if way == "ainvoke" else graph.invoke(asked)


def receipt_of(out: Any) -> Any:
    return out["messages"][-1].response_metadata["moa"]


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        yield InMemoryCache()
    else:
        kept = SqliteCache(path=str(tmp_path / "cache.sqlite"))
        yield kept
        kept._conn.close()


@WAYS
async def test_it_reaches_every_layer_and_the_final_model(cache: Any, way: str) -> None:
    """The same question again asks no model of any layer, and gets the same answer; also of another graph."""
    asked = [model("a"), model("b"), model("c")]
    out = [await run(create_moa(asked[:2], asked[2], 4, cache=cache), way) for _ in range(2)]
    assert [each.calls for each in asked] == [3, 3, 1]
    said = [[(p["content"], p["status"], p["model"], p["usage"]) for p in each["proposals"]] for each in out]
    assert said[0] == said[1]
    assert out[0]["messages"][-1].text == out[1]["messages"][-1].text


@WAYS
async def test_cached_answers_are_marked_and_not_counted(cache: Any, way: str) -> None:
    """The receipt says which answers came from the cache, with what they used then, and counts no call or token."""
    moa = create_moa([model("a"), model("b")], model("c"), 3, cache=cache)
    first, second = receipt_of(await run(moa, way)), receipt_of(await run(moa, way))
    every = [call for layer in second["layers"] for call in layer["proposals"]] + [second["final"]]
    assert first["calls"] == 5
    assert not any(call["cached"] for layer in first["layers"] for call in layer["proposals"])
    assert all(call["cached"] and call["attempts"] == 0 and call["usage"] for call in every)
    assert (second["calls"], second["input_tokens"], second["output_tokens"]) == (0, 0, 0)
    assert [layer["answered"] for layer in second["layers"]] == [2, 2]


async def test_another_question_is_another_entry(cache: Any) -> None:
    """The whole prompt counts: another word anywhere is asked for."""
    a = model("a")
    moa = create_moa([a], model("c"), 2, cache=cache)
    for messages in (
        [("user", "Why?")],
        [("user", "Why")],
        [("system", "Be terse."), ("user", "Why?")],
        [("user", "Hi."), ("assistant", "Hi."), ("user", "Why?")],
        [("user", "Hi."), ("user", "Hi."), ("user", "Why?")],
    ):
        await run(moa, asked={"messages": messages})
    assert a.calls == 5


async def test_message_ids_make_no_difference(cache: Any) -> None:
    """The same text in messages with other ids is the same question."""
    a = model("a")
    moa = create_moa([a], model("c"), 2, cache=cache)
    for name in ("one", "two"):
        await run(moa, asked={"messages": [HumanMessage("Why?", id=name)]})
    assert a.calls == 1


async def test_a_layer_reads_what_the_layer_before_it_said(cache: Any) -> None:
    """Where layer 1 says something else, layer 2 and the final model are asked again."""
    b, final = model("b", "three", "four"), model("c")
    for said in ("one", "two"):
        await run(create_moa([[model(said)], [b]], final, cache=cache))
    assert (b.calls, final.calls) == (2, 2)


async def test_another_prompt_is_another_entry(cache: Any) -> None:
    """What references are shown with is part of what the final model reads."""
    a, final = model("a"), model("c")
    for prompt in ("Merge:", "Judge:"):
        await run(create_moa([a], final, 2, prompt=prompt, cache=cache))
    assert (a.calls, final.calls) == (1, 2)


async def test_a_proposers_system_prompt_is_part_of_the_question(cache: Any) -> None:
    """The same model with another `system` is asked."""
    a = model("a")
    for system in (None, "Be terse.", "Be long."):
        await run(create_moa([Proposer(a, system=system)], model("c"), 2, cache=cache))
    assert a.calls == 3


async def test_samples_are_different_entries(cache: Any) -> None:
    """Samples of one proposer stay different answers, kept by their place; more samples ask only for the new ones."""
    a = model("a", "one", "two", "three", "four")
    panels = [[Proposer(a, samples=n)] for n in (3, 3, 4)]
    outs = [await run(create_moa(panel, model("c"), 2, cache=cache)) for panel in panels]
    said = [[p["content"] for p in out["proposals"]] for out in outs]
    assert sorted(said[0]) == sorted(["one", "two", "three"])
    assert said[1] == said[0]
    assert said[2] == [*said[0], "four"]


def chat(server: RecordingServer, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "a", "base_url": server.base_url, "api_key": "key", "temperature": 0.5} | options)


@pytest.mark.parametrize(
    "other",
    [
        lambda server: Proposer(chat(server), name="a", temperature=0.1),
        lambda server: Proposer(chat(server), name="a", max_tokens=5),
        lambda server: Proposer(chat(server), name="a", parameters={"seed": 1}),
        lambda server: chat(server, temperature=0.1),
        lambda server: chat(server, seed=1),
        lambda server: chat(server, model="b"),
        lambda server: chat(server, extra_body={"top_k": 1}),
        lambda server: chat(server).bind(stop=["x"]),
        lambda server: chat(server).bind(temperature=0.1).with_config(tags=["x"]),
        lambda server: chat(server, temperature=0.1) | (lambda message: message),
        lambda server: Proposer("openai:a", base_url=server.base_url),
        lambda server: Proposer("openai:a", base_url=server.base_url, temperature=0.1),
    ],
)
async def test_models_and_sampling_parameters_are_part_of_the_key(server: RecordingServer, other: Any) -> None:
    """Another model, temperature, limit, seed or stop is asked, wherever it was set; the same again is not."""
    cache, final = InMemoryCache(), model("c")
    for proposer in (chat(server), other(server), chat(server), other(server)):
        moa = create_moa([proposer], final, 2, cache=cache)
        await run(moa)
    assert len(server.requests) == 2


async def test_the_same_model_at_another_endpoint_is_another_model() -> None:
    """Two servers may call different models by one name."""
    cache = InMemoryCache()
    with RecordingServer(Behaviour(text="one")) as one, RecordingServer(Behaviour(text="two")) as two:
        outs = [await run(create_moa([chat(each)], model("c"), 2, cache=cache)) for each in (one, two)]
    assert [out["proposals"][0]["content"] for out in outs] == ["one", "two"]


@WAYS
@pytest.mark.parametrize(
    "failure",
    [bad_request(), server_error(), Answer("never", stall_after=0), "", AIMessage("<think>Hm.</think>")],
    ids=["permanent", "transient", "timeout", "empty", "only thinking"],
)
async def test_failures_are_never_kept(cache: Any, way: str, failure: Any) -> None:
    """A failure, of whatever kind, is asked again the next time, and its answer then is kept."""
    a = model("a", failure, "now")
    policy = LayerPolicy(retries=0, timeout=0.2)
    moa = create_moa([a, model("b")], model("c"), 2, policy=policy, cache=cache)
    outs = [await run(moa, way) for _ in range(3)]
    assert [out["proposals"][0]["status"] == "ok" for out in outs] == [False, True, True]
    assert [out["proposals"][0]["cached"] for out in outs] == [False, False, True]
    assert a.calls == 2


async def test_a_failed_final_model_is_asked_again_alone(cache: Any) -> None:
    """After FinalError without a checkpointer, the same question costs the final model's call alone."""
    a, final = model("a"), model("c", bad_request(), "Done.")
    moa = create_moa([a], final, 3, cache=cache)
    with pytest.raises(FinalError):
        await run(moa)
    out = await run(moa)
    assert (a.calls, final.calls) == (2, 2)
    assert receipt_of(out)["calls"] == 1


async def test_what_failed_before_a_cached_answer_is_counted(cache: Any) -> None:
    """Where a first aggregator fails and the next one's answer is cached, the failed call was sent, and counts."""
    a, broken, second = model("a"), model("x", bad_request()), model("c")
    moa = create_moa([a], [broken, second], 2, cache=cache)
    receipts = [receipt_of(await run(moa)) for _ in range(2)]
    assert second.calls == 1
    assert [receipt["calls"] for receipt in receipts] == [3, 1]
    assert receipts[1]["final"]["cached"]


async def test_a_retried_answer_is_kept(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came at the second attempt is found the next time."""
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)
    a = model("a", server_error(), "at last")
    moa = create_moa([a], model("c"), 2, cache=cache)
    outs = [await run(moa) for _ in range(2)]
    assert [out["proposals"][0]["content"] for out in outs] == ["at last"] * 2
    assert a.calls == 2


@WAYS
async def test_a_layer_alone_uses_it(cache: Any, way: str) -> None:
    """`create_layer(cache=)` keeps its answers too."""
    a = model("a")
    for _ in range(2):
        await run(create_layer([a], cache=cache), way)
    assert a.calls == 1


async def test_without_a_cache_everything_is_asked() -> None:
    """No cache, no memory."""
    a = model("a")
    moa = create_moa([a], model("c"), 2)
    for _ in range(2):
        await run(moa)
    assert a.calls == 2


def test_sqlite_keeps_it_over_the_end_of_a_process(tmp_path: Path) -> None:
    """A cache on disk, closed and opened again, has the answers."""
    path = str(tmp_path / "cache.sqlite")
    a = model("a")
    for _ in range(2):
        kept = SqliteCache(path=path)
        create_moa([a], model("c"), 2, cache=kept).invoke(ASK)
        kept._conn.close()
    assert a.calls == 1


async def test_a_cached_call_takes_no_place_in_the_queue_for_long(cache: Any) -> None:
    """With a limit of 1, cached answers come while nothing else holds the place."""
    moa = create_moa([model("a"), model("b")], model("c"), 3, policy=LayerPolicy(max_concurrency=1), cache=cache)
    for _ in range(2):
        assert (await run(moa))["messages"][-1].text == "It is c."
