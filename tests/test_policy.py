"""What a layer asks of its panel: the values that are refused."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from moa_graph import LayerPolicy, MoAConfigError, Proposer, create_moa
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, rate_limited

ASK = {"messages": [("user", "Why?")]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quorum": 0}, "quorum is 0: .*at least 1"),
        ({"quorum": 1.0}, r"quorum is 1\.0"),
        ({"quorum": True}, "quorum is True"),
        ({"quorum": "2"}, "quorum is '2'"),
        ({"timeout": 0}, "timeout is 0: .*more than 0"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": float("inf")}, "timeout is inf: .*or None"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": "60"}, "timeout is '60'"),
        ({"grace": -0.1}, r"grace is -0\.1: .*0 or more"),
        ({"grace": False}, "grace is False"),
        ({"retries": -1}, "retries is -1: .*at least 0"),
        ({"retries": None}, "retries is None"),
        ({"max_concurrency": 0}, "max_concurrency is 0: .*at least 1"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    """The message names the field, the value and what is valid."""
    with pytest.raises(MoAConfigError, match=message):
        LayerPolicy(**values)


def test_values_at_the_edge_are_taken() -> None:
    """No limit, no patience, no retries are choices, not mistakes."""
    policy = LayerPolicy(quorum=1, timeout=None, grace=0, retries=0, max_concurrency=1)
    assert (policy.timeout, policy.grace, policy.retries) == (None, 0, 0)


def test_the_defaults_are_bounded() -> None:
    """Unless asked to, nothing waits without a bound."""
    policy = LayerPolicy()
    assert (policy.quorum, policy.timeout, policy.grace, policy.retries) == (1, 120.0, None, 2)


@pytest.mark.parametrize("size", [1, 2])
def test_a_quorum_above_the_panel_is_refused(size: int) -> None:
    """The message says where, the quorum, the size and the range."""
    with pytest.raises(MoAConfigError, match=rf"layer 2: a quorum of 3 .* {size} proposers: 1 to {size}"):
        LayerPolicy(quorum=3).check_panel(size, "layer 2")


def test_an_override_of_none_changes_nothing() -> None:
    """A proposer's own timeout goes before the policy's where it has one; and overrides are checked."""
    policy = LayerPolicy(timeout=9.0)
    assert policy.but(timeout=None, retries=None) == policy
    assert policy.but(timeout=1.0, retries=0) == LayerPolicy(timeout=1.0, retries=0)
    with pytest.raises(MoAConfigError, match="timeout is -1"):
        policy.but(timeout=-1)


def test_it_cannot_be_changed_and_compares_by_value() -> None:
    """A policy is a value."""
    policy = LayerPolicy(max_concurrency=2)
    assert policy == LayerPolicy(max_concurrency=2)
    with pytest.raises(FrozenInstanceError):
        policy.quorum = 3


def slow(name: str, seconds: float) -> ScriptedChatModel:
    return ScriptedChatModel(answers=[f"It is {name}."], model_name=name, latency=seconds)


async def test_grace_cuts_who_is_late() -> None:
    """Once the quorum has answered, the others get `grace` seconds more, then are cancelled and marked "cut"."""
    late = slow("late", 30)
    moa = create_moa([slow("a", 0), slow("b", 0.1), late], slow("c", 0), 2, policy=LayerPolicy(quorum=1, grace=0.5))
    out = await moa.ainvoke(ASK)
    assert [p["status"] for p in out["proposals"]] == ["ok", "ok", "cut"]
    assert out["proposals"][2]["seconds"] < 5
    assert late.cancelled == 1


async def test_without_grace_everybody_is_waited_for() -> None:
    """`grace=None` waits for all, however small the quorum."""
    out = await create_moa([slow("a", 0), slow("b", 0.2)], slow("c", 0), 2).ainvoke(ASK)
    assert [p["status"] for p in out["proposals"]] == ["ok", "ok"]


async def test_a_proposers_own_timeout_and_retries_go_first() -> None:
    """Only the proposer with a timeout of its own times out; one with retries=0 is asked once."""
    once = ScriptedChatModel(answers=[rate_limited(), "It is once."], model_name="once")
    panel = [Proposer(slow("a", 30), timeout=0.1), slow("b", 0.3), Proposer(once, retries=0)]
    out = await create_moa(panel, slow("c", 0), 2, policy=LayerPolicy(timeout=20)).ainvoke(ASK)
    assert [p["status"] for p in out["proposals"]] == ["timeout", "ok", "error"]
    assert once.calls == 1


async def test_a_timeout_covers_all_attempts() -> None:
    """A proposer that is told to wait longer than it has times out, and says what happened before."""
    limited = ScriptedChatModel(answers=[rate_limited(retry_after=60)], model_name="limited")
    moa = create_moa([limited, slow("b", 0)], slow("c", 0), 2, policy=LayerPolicy(timeout=0.3))
    limited_told, _ = (await moa.ainvoke(ASK))["proposals"]
    assert (limited_told["status"], limited_told["attempts"]) == ("timeout", 1)
    assert "RateLimitError" in limited_told["error"]


async def test_max_concurrency_holds_over_layers() -> None:
    """No more calls than that are in flight at once."""
    shared = ScriptedChatModel(answers=["x"], model_name="a", latency=0.02)
    moa = create_moa([Proposer(shared, samples=6)], shared, 3, policy=LayerPolicy(max_concurrency=2))
    await moa.ainvoke(ASK)
    assert (shared.calls, shared.max_in_flight) == (13, 2)


async def test_waiting_for_a_turn_ends_with_the_failure_before_it() -> None:
    """A failed call gives its turn on."""
    failing = ScriptedChatModel(answers=[Answer(error=bad_request(), latency=0.01)], model_name="f")
    moa = create_moa(
        [Proposer(failing, samples=3), slow("a", 0)], slow("c", 0), 2, policy=LayerPolicy(max_concurrency=1)
    )
    out = await moa.ainvoke(ASK)
    assert [p["status"] for p in out["proposals"]] == ["error", "error", "error", "ok"]
