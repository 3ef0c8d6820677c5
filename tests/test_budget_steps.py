"""A budget and the steps of a layer: what a route, a judge or a critic is asked is held back before the layer, too."""

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from moa_graph import (
    Budget,
    BudgetExceededError,
    Critique,
    Judge,
    Layer,
    LayerPolicy,
    MoAConfig,
    Proposer,
    Route,
    TopK,
    create_moa,
)
from moa_graph.steps import UndecidedError
from moa_graph.testing import Answer, ScriptedChatModel
from tests.server import Behaviour, RecordingServer
from tests.steps import ASK, decisions, panel, receipt, says

EACH = 1 + 3 + 1 + 3 + 1  # calls of a layer: a route, proposers, who picks, critiques, who stops
THREE = ["one", "two", "three"]
GO_ON = '{"stop": false}'


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_graph.retry._FIRST_WAIT", 0.01)


def at(server: RecordingServer, name: str) -> Proposer:
    return Proposer(f"openai:{name}", base_url=server.base_url, name=name)


def served(server: RecordingServer, budget: Budget) -> Any:
    """Two layers with each step that asks somebody, and the final model: 8 + 1 + 8 calls if nothing is asked again."""
    server.script("route", Behaviour(text='["a", "b", "c"]'))
    server.script("pick", Behaviour(text="none of them"), Behaviour(text="[1, 2]"))
    server.script("critic", Behaviour(status=500), Behaviour(text="It is wrong."))
    server.script("stop", Behaviour(text=GO_ON))
    layer = Layer(
        [at(server, name) for name in "abc"], route=Route(model=at(server, "route")),
        select=TopK(2, at(server, "pick")), critique=Critique(at(server, "critic")), stop=Judge(at(server, "stop")),
    )  # fmt: skip
    return create_moa(layer, at(server, "final"), 3, budget=budget, policy=LayerPolicy(retries=3))


@pytest.mark.parametrize("on_exceed", ["stop", "answer"])
@pytest.mark.parametrize("limit", range(1, 23))
async def test_a_run_with_steps_never_goes_over(server: RecordingServer, limit: int, on_exceed: Any) -> None:
    """Whatever a step asks, and asks again, the server sees no more requests than the budget, and the receipt as many;
    but for the final model's, where an answer is wanted in any case.
    """
    made: Any
    try:
        made = receipt(await served(server, Budget(calls=limit, on_exceed=on_exceed)).ainvoke(ASK))
    except (BudgetExceededError, UndecidedError) as error:  # a judge that made no sense could not be asked again
        made = error.receipt
    before = [request for request in server.requests if request.model != "final"]
    assert len(server.requests if on_exceed == "stop" else before) <= limit
    assert made["calls"] == len(server.requests)


@pytest.mark.parametrize("limit", [3, EACH - 1])
async def test_a_layer_does_not_begin_without_enough_for_its_steps(server: RecordingServer, limit: int) -> None:
    """Three proposers could be asked, but not what comes behind them: nobody is."""
    with pytest.raises(BudgetExceededError, match="from layer 1 on"):
        await served(server, Budget(calls=limit)).ainvoke(ASK)
    assert server.requests == []


def described(budget: Budget | None) -> MoAConfig:
    prices = {name: {"input": 1, "output": 10} for name in ("a", "b", "c", "d")}
    return MoAConfig(
        proposers=["openai:a", "openai:b"], aggregator="openai:c", layers=3, budget=budget, prices=prices,
        route="openai:d", select={"top_k": {"k": 1, "judge": "openai:d"}}, critique="openai:d",
        stop={"judge": {"model": "openai:d"}},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["usd", "tokens", "calls"])
async def test_a_budget_expects_of_steps_what_an_estimate_does(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """A run for which all is set aside begins with what was estimated, steps of later layers too; not with less."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    estimated: Any = described(None).estimate("Why is the sky blue?")
    assert estimated["calls"] == 2 * (1 + 2 + 1 + 2) + 1 + 1
    tokens = estimated["input_tokens"] + estimated["output_tokens"]
    whole = {"usd": estimated["cost_usd"], "tokens": tokens, "calls": estimated["calls"]}[name]

    def answers(messages: Any) -> str:
        demand = messages[-1].text
        return next((said for key, said in SAYS.items() if key in demand), "Scattering.")

    async def run(limit: float) -> Any:
        graph = described(Budget(**{name: limit}, shared=True)).build(  # type: ignore[arg-type]
            stand_in=lambda model: ScriptedChatModel(answers=answers, model_name=model)
        )
        return await graph.ainvoke(ASK)

    assert receipt(await run(whole))["decisions"]
    with pytest.raises(BudgetExceededError, match="from layer 1 on"):
        await run(whole * 0.999 if name == "usd" else whole - 1)


SAYS = {"names of": '["a", "b"]', "numbers of": "[1]", "critique": "It is wrong.", '"stop"': GO_ON}


def longer(budget: Budget, pick: ScriptedChatModel, **more: Any) -> Any:
    """A layer whose answers turn out ten times as long as a budget expects."""
    members = [Proposer(ScriptedChatModel(answers=["word " * 500]), name=n, usual_output=50) for n in "ab"]
    return create_moa(Layer(members, select=TopK(1, Proposer(pick))), says("So."), 2, budget=budget, **more)


async def test_a_step_is_looked_at_again_before_it_asks() -> None:
    """Where answers took more than was expected, who is to judge them is not asked; a higher budget asks only then."""
    pick, saver, config = says("[1]"), InMemorySaver(), {"configurable": {"thread_id": "t"}}
    with pytest.raises(BudgetExceededError, match="before the select of layer 1 the budget is too small") as raised:
        await longer(Budget(tokens=1200), pick, checkpointer=saver).ainvoke(ASK, config)
    assert (pick.calls, [p["proposer"] for p in raised.value.proposals]) == (0, ["a", "b"])
    with pytest.raises(BudgetExceededError, match=r"1,0\d\d tokens of 1,201 tokens are spent"):
        await longer(Budget(tokens=1201), pick, checkpointer=saver).ainvoke(None, config)
    out = await longer(Budget(tokens=9000), pick, checkpointer=saver).ainvoke(None, config)
    assert (pick.calls, receipt(out)["calls"]) == (1, 2)


async def test_with_answer_such_a_step_is_left_out() -> None:
    """`on_exceed="answer"`: all answers are read on, and the receipt says why nobody was asked."""
    pick = says("[1]")
    out = await longer(Budget(tokens=1200, on_exceed="answer"), pick).ainvoke(ASK)
    [(layer, step, by, chosen, said)] = decisions(out)
    assert (layer, step, by, chosen, pick.calls) == (1, "select", "top_k", ["a", "b"], 0)
    assert said.startswith("nobody was asked: the budget is too small: about ")
    assert out["messages"][-1].text == "So."


async def test_what_is_not_asked_is_given_back() -> None:
    """Of a shared budget nothing stays taken for proposers that a route left out, nor for a judge without a choice."""
    budget = Budget(calls=20, shared=True)
    layer = Layer(panel(*THREE), route=Route(model=says('["b"]')), select=TopK(2, says("[1, 2]")))
    await create_moa(layer, says("So."), 2, budget=budget).ainvoke(ASK)
    assert (budget.purse()._held.calls, budget.purse()._spent.calls) == (0, 3)
    first = Layer(panel(*THREE), route=Route(lambda _, names: names[:1]))
    await create_moa(first, says("So."), 2, budget=budget).ainvoke(ASK)
    assert (budget.purse()._held, budget.purse()._spent.calls) == ((0, 0, 0), 5)


async def test_what_a_failed_step_took_counts() -> None:
    """Its attempts are spent, what was held back for it is not held any more, and the next run finds what is left."""
    budget = Budget(calls=12, shared=True)
    moa = create_moa(Layer(panel(*THREE), select=TopK(2, says("neither"))), says("So."), 2, budget=budget)
    with pytest.raises(UndecidedError, match="no usable answer in 3 attempts"):
        await moa.ainvoke(ASK)
    assert (budget.purse()._held, budget.purse()._spent.calls) == ((0, 0, 0), 6)


async def test_further_attempts_of_a_step_leave_the_final_model_its_call() -> None:
    """A judge that makes no sense is not asked again with the last call of the budget."""
    pick = says("neither")
    layer = Layer(panel(*THREE), select=TopK(2, pick, otherwise="all"))
    out = await create_moa(layer, says("So."), 2, budget=Budget(calls=6)).ainvoke(ASK)
    assert (pick.calls, receipt(out)["calls"]) == (2, 6)


async def test_tokens_that_are_told_count_whatever_they_cost() -> None:
    """Of a model without a price the tokens are known all the same: what was expected does not count in their place."""
    budget = Budget(tokens=5000, shared=True)
    out = await create_moa(panel(*THREE), says("So."), 2, budget=budget).ainvoke(ASK)
    made = receipt(out)
    assert budget.purse()._spent.tokens == made["input_tokens"] + made["output_tokens"] < 500


async def test_what_a_cut_call_took_is_not_forgotten_behind_its_layer() -> None:
    """A run's own budget counts what was expected of a call that was cut until the run has ended."""
    members = [*panel("Quick."), Proposer(ScriptedChatModel(answers=[Answer("Never.", stall_after=0)]), name="cut")]
    moa = create_moa(members, says("So."), 3, budget=Budget(tokens=1800), policy=LayerPolicy(grace=0.01))
    with pytest.raises(BudgetExceededError, match=r"from layer 2 on .* 5\d\d tokens of 1,800 tokens are spent"):
        await moa.ainvoke(ASK)
