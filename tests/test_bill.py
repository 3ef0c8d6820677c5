"""What calls cost, in the receipt: by list price, and in operations."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages.ai import UsageMetadata
from langchain_openai import ChatOpenAI

from moa_graph import LayerPolicy, Proposer, QuorumError, create_moa
from moa_graph.prices import Price
from moa_graph.testing import Answer, ScriptedChatModel, bad_request, connection_lost, rate_limited
from tests.server import Behaviour, RecordingServer

ASK = {"messages": [("user", "Why is the sky blue?")]}
USAGE = UsageMetadata(input_tokens=1000, output_tokens=200, total_tokens=1200)
CACHED = UsageMetadata(**USAGE, input_token_details={"cache_read": 600})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)


def model(name: str, *answers: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [Answer("Yes.", usage=USAGE)], model_name=name)


def receipt(*proposers: Any, final: Any = None, layers: int = 2, **more: Any) -> Any:
    last = final or Proposer(model("gpt-4o"), price=Price(5, 15))
    out = create_moa(list(proposers), last, layers, **more).invoke(ASK)
    return out["messages"][-1].response_metadata["moa"]


def test_each_call_has_its_price_and_the_run_their_sum() -> None:
    """Input and output at their prices, cached input at its own: 0.0035 and 0.0026 and 0.008 $."""
    a = Proposer(model("a"), name="a", price=Price(1.5, 10))
    b = Proposer(model("b", Answer("No.", usage=CACHED)), name="b", price=Price(1.5, 10, cached_input=0))
    made = receipt(a, b)
    assert [call["cost_usd"] for call in made["layers"][0]["proposals"]] == [0.0035, 0.0026]
    assert (made["final"]["cost_usd"], made["cost_usd"], made["cost_usd_at_least"]) == (0.008, 0.0141, 0.0141)


def test_an_unknown_price_is_unknown() -> None:
    """Never 0: the call's is `None`, the run's too, beside what is known at least."""
    made = receipt(model("nobody-knows-it"))
    assert made["layers"][0]["proposals"][0]["cost_usd"] is None
    assert (made["cost_usd"], made["cost_usd_at_least"]) == (None, 0.008)


def test_the_known_list_is_used(server: RecordingServer) -> None:
    """A model that a provider sells has its list price, that of the version which the provider says it was."""
    server.script("gpt-4o", Behaviour(reported_model="gpt-4o-2024-05-13"))
    chat = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="key")
    made = receipt(final=chat, layers=1)
    [asked] = server.requests
    assert made["cost_usd"] == pytest.approx((5 * asked.prompt_tokens + 15 * asked.completion_tokens) / 1e6)


@pytest.mark.parametrize(
    ("answers", "cost"),
    [
        ([rate_limited(retry_after=0.0), Answer("Yes.", usage=USAGE)], 0.0035),
        ([bad_request()], 0.0),
        ([Answer("", usage=USAGE)], 0.0035),
        ([Answer("Never.", stall_after=0)], None),
        ([connection_lost()], None),
    ],
)
def test_what_a_failure_costs(answers: list[Any], cost: float | None) -> None:
    """A refused call costs nothing, an answer without text what it used, a cut or lost one nobody knows what."""
    a, b = (Proposer(model(n, *given), name=n, price=Price(1.5, 10)) for n, given in (("a", answers), ("b", [])))
    policy = LayerPolicy(grace=0.5, retries=1)
    made = receipt(a, b, policy=policy)
    assert made["layers"][0]["proposals"][0]["cost_usd"] == cost
    assert made["cost_usd"] == (None if cost is None else pytest.approx(0.0115 + cost))


def test_an_answer_without_text_is_counted() -> None:
    """A model that used up its tokens thinking is a failure, and its tokens are in the receipt."""
    made = receipt(model("a"), model("b", Answer("", usage=USAGE)))
    assert (made["layers"][0]["proposals"][1]["status"], made["output_tokens"]) == ("error", 600)


def test_operations_are_the_papers() -> None:
    """2 x active parameters x output tokens: of each layer the largest, and all of them."""
    made = receipt(model("Qwen1.5-72B-Chat"), model("dbrx-instruct"), final=model("Qwen1.5-110B-Chat"), layers=3)
    assert made["tflops_critical"] == pytest.approx((72 + 72 + 111) * 2 * 200 / 1000)
    assert made["tflops_total"] == pytest.approx((2 * (72 + 36) + 111) * 2 * 200 / 1000)
    assert receipt(model("nobody-knows-it"))["tflops_critical"] is None


def test_a_nested_mixture_and_an_agent_cost_what_they_asked() -> None:
    """The calls inside count: those of a nested mixture by its receipt, those of an agent one by one."""
    price = Price(1.5, 10)
    inner = create_moa([Proposer(model("a"), price=price)], Proposer(model("b"), price=price), 2, name="inner")
    made = receipt(Proposer(inner, name="inner"), Proposer(create_agent(model("gpt-4-0314")), name="agent"))
    nested, agent = made["layers"][0]["proposals"]
    assert (nested["cost_usd"], nested["calls"]) == (0.007, 2)
    assert agent["cost_usd"] == 0.042
    assert made["cost_usd"] == 0.057


def test_a_fallback_adds_to_what_failed_before_it() -> None:
    """The final model's call holds what those before it cost."""
    first = Proposer(model("a", Answer("", usage=USAGE)), price=Price(1.5, 10))
    made = receipt(final=[first, Proposer(model("b"), price=Price(5, 15))], layers=1)
    assert made["final"]["cost_usd"] == 0.0115
    assert made["final"]["usage"]["output_tokens"] == 400


def test_a_failed_run_has_a_receipt() -> None:
    """The error that ends a run tells what it asked and what that cost."""
    a = Proposer(model("a"), name="a", price=Price(1.5, 10))
    moa = create_moa(
        [a, model("b", Answer(error=bad_request(), latency=0.2))], model("c"), 2, policy=LayerPolicy(quorum=2)
    )
    with pytest.raises(QuorumError) as raised:
        moa.invoke(ASK)
    made = raised.value.receipt
    assert made
    assert (made["calls"], made["cost_usd"], made["final"]["status"]) == (2, 0.0035, "unasked")
