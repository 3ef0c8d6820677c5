"""The receipt: who answered, how long it took, and what it used."""

import json
from typing import Any

import pytest

from moa_graph import LayerPolicy, Proposal, create_moa
from moa_graph.receipt import Call, receipt, usage_of
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, rate_limited

FINAL = Call(
    proposer="final", model="c", status="ok", seconds=0.5, attempts=1, cached=False, resumed=False,
    usage={"input_tokens": 7, "output_tokens": 3},
)  # fmt: skip


def proposal(layer: int, slot: int, seconds: float, status: str = "ok", **more: Any) -> Proposal:
    usage = {"input_tokens": 10, "output_tokens": 2} if status == "ok" else {}
    told = {"layer": layer, "slot": slot, "proposer": f"p{slot}", "model": f"m{slot}", "status": status}
    return Proposal(**told, content="x", seconds=seconds, attempts=1, usage=usage, run="now", **more)


def test_layers_are_told_apart_and_summed_up() -> None:
    """Asked, answered and calls count; tokens add up; the critical path is each layer's slowest answer, and the end."""
    told = [
        proposal(1, 1, 0.1),
        proposal(1, 2, 0.3),
        proposal(1, 3, 0.9, "timeout", error="no answer within 0.9 s"),
        proposal(2, 1, 0.2),
    ]
    made = receipt(told, FINAL, "now", 1.75)
    assert [(layer["layer"], layer["asked"], layer["answered"]) for layer in made["layers"]] == [(1, 3, 2), (2, 1, 1)]
    assert made["layers"][0]["proposals"][2]["error"] == "no answer within 0.9 s"
    assert made["layers"][0]["proposals"][2]["status"] == "timeout"
    assert (made["calls"], made["input_tokens"], made["output_tokens"]) == (5, 37, 9)
    assert (made["critical_path_seconds"], made["seconds"]) == (1.0, 1.75)
    assert made["final"] == FINAL


@pytest.mark.parametrize("field", ["cached", "resumed"])
def test_what_was_not_asked_now_is_told_and_not_counted(field: str) -> None:
    """Answers from the cache, or of an earlier run of the thread, cost nothing again."""
    known = proposal(1, 1, 0.1) | ({"cached": True, "attempts": 0} if field == "cached" else {"run": "before"})
    made = receipt([known, proposal(1, 2, 0.2)], FINAL, "now")
    assert [call[field] for call in made["layers"][0]["proposals"]] == [True, False]
    assert (made["calls"], made["input_tokens"], made["output_tokens"]) == (2, 17, 5)


def test_a_plain_call_has_no_layers() -> None:
    """Without proposers, the receipt is the final model's."""
    made = receipt([], FINAL, "now")
    assert (made["layers"], made["calls"], made["critical_path_seconds"]) == ([], 1, 0.5)


@pytest.mark.parametrize(
    ("metadata", "usage"),
    [
        (None, {}),
        ({}, {}),
        (
            {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8},
            {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8},
        ),
        (
            {"input_tokens": 5, "output_tokens": 3, "input_token_details": {"cache_read": 4, "audio": 1}},
            {"input_tokens": 5, "output_tokens": 3, "cached_input_tokens": 4},
        ),
        ({"output_tokens": 3, "output_token_details": {"reasoning": 2}}, {"output_tokens": 3, "reasoning_tokens": 2}),
        ({"input_token_details": None, "output_token_details": {"reasoning": 0}}, {}),
    ],
)
def test_usage_is_flat_counts(metadata: Any, usage: dict[str, int]) -> None:
    """Cached and reasoning tokens are told where the provider tells them, under a name of their own."""
    assert usage_of(metadata) == usage


async def test_the_answer_carries_the_receipt() -> None:
    """It counts each request with its retries, names failures, and is plain JSON."""
    retried = ScriptedChatModel(answers=[rate_limited(retry_after=0), "It is a."], model_name="a", latency=0.05)
    failed = ScriptedChatModel(answers=[bad_request()], model_name="b")
    usage = {"input_tokens": 40, "output_tokens": 2, "total_tokens": 42}
    final = ScriptedChatModel(answers=[Answer("It is c.", usage=usage)], model_name="c", latency=0.05)
    moa = create_moa([retried, failed], final, 2, policy=LayerPolicy(retries=1))
    answer = (await moa.ainvoke({"messages": [("user", "Why?")]}))["messages"][-1]
    made = answer.response_metadata["moa"]
    assert json.loads(json.dumps(made)) == made
    (layer,) = made["layers"]
    assert [(call["proposer"], call["status"], call["attempts"]) for call in layer["proposals"]] == [
        ("a", "ok", 2),
        ("b", "error", 1),
    ]
    assert "bad request" in layer["proposals"][1]["error"]
    assert (made["calls"], made["input_tokens"], made["output_tokens"]) == (4, 41, 5)
    assert made["final"]["usage"] == usage
    assert 0.14 <= made["critical_path_seconds"] <= made["seconds"] + 0.01
    assert answer.response_metadata["model_name"] == "c"
