"""Each answer of a layer is criticised."""

from dataclasses import replace
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache

from moa_graph import Budget, Critique, Layer, LayerPolicy, MoAConfigError, Proposer, create_moa
from moa_graph.prices import Price
from moa_graph.steps import UndecidedError
from moa_graph.testing import Answer, ScriptedChatModel, unauthorized
from tests.steps import ASK, decisions, mixture, panel, read_on, receipt, says

THREE = ["one", "two", "three"]


def critic(**more: Any) -> ScriptedChatModel:
    """Criticises whichever response it is shown."""

    def answer(messages: Any) -> Any:
        found = next(text for text in THREE if f"\n{text}\n" in messages[0].text)
        return more.get(found, f"{found} is wrong.")

    return ScriptedChatModel(answers=answer, **{k: v for k, v in more.items() if k not in THREE})


async def test_critiques_join_the_references() -> None:
    """The next model reads each answer with what the critic says of it."""
    final = says("So.")
    out = await mixture(THREE, final=final, select=None, critique=Critique(critic())).ainvoke(ASK)
    for k, text in enumerate(THREE, 1):
        assert f"{k}. {text}\n\nA critic says of this response: {text} is wrong." in read_on(final)
    assert decisions(out) == [(1, "critique", "critique", ["a", "b", "c"], "criticised 3 of 3")]
    assert [p["critique"] for p in out["proposals"]] == [f"{text} is wrong." for text in THREE]


async def test_each_is_criticised_by_itself_all_at_once() -> None:
    """One call for each answer, which reads the question and that answer alone; the calls count, and their tokens."""
    model = critic(latency=0.5)
    out = await mixture(THREE, critique=Critique(model)).ainvoke(ASK)
    assert (model.calls, model.max_in_flight) == (3, 3)
    assert all(sum(f"\n{text}\n" in system.text for text in THREE) == 1 for system, _ in model.prompts)
    assert all("Why is the sky blue?" in human.text for _, human in model.prompts)
    assert receipt(out)["calls"] == 3 + 3 + 1
    assert receipt(out)["decisions"][0]["call"]["usage"]["output_tokens"] == 9


async def test_only_what_is_read_on_is_criticised() -> None:
    """A failed proposer's answer is not there to be criticised."""
    model = critic()
    out = await mixture(["one", unauthorized(), "three"], critique=Critique(model)).ainvoke(ASK)
    assert decisions(out)[0][3] == ["a", "c"]
    assert model.calls == 2


async def test_a_critique_that_fails_is_an_error() -> None:
    """The error says so when all critics are done, and all of their calls are in its receipt."""
    model = critic(two=unauthorized())
    with pytest.raises(UndecidedError, match=r"layer 1, critique \(critique\): .*AuthenticationError") as error:
        await mixture(THREE, critique=Critique(model)).ainvoke(ASK)
    assert error.value.receipt
    assert error.value.receipt["calls"] == 3 + 3


async def test_a_critique_that_fails_is_left_out_where_that_was_declared() -> None:
    """Its answer is read without one, and the receipt names it; an empty critique is none."""
    final = says("So.")
    model = critic(two=Answer(""))
    out = await mixture(THREE, final=final, critique=Critique(model, otherwise="without")).ainvoke(ASK)
    assert "2. two\n3. three\n\nA critic says" in read_on(final)
    [(*_, chosen, said)] = decisions(out)
    assert chosen == ["a", "c"]
    assert said.startswith("criticised 2 of 3; the others go without, as declared: b: ")
    assert model.calls == 1 + 3 + 1


async def test_a_critic_that_hangs_is_bounded() -> None:
    """The layer's timeout is the critic's too."""
    with pytest.raises(UndecidedError, match=r"no answer within 0\.2 s"):
        await mixture(THREE, policy=LayerPolicy(timeout=0.2), critique=Critique(critic(latency=60))).ainvoke(ASK)


async def test_a_concurrency_limit_is_the_critics_too() -> None:
    """No more of its calls are in flight at once than the policy allows."""
    model = critic(latency=0.05)
    await mixture(THREE, policy=LayerPolicy(max_concurrency=2), critique=Critique(model)).ainvoke(ASK)
    assert model.max_in_flight == 2


async def test_critiques_are_taken_from_the_budget() -> None:
    """Three answers and three critiques leave nothing of seven calls for a second layer of three."""
    moa = create_moa(
        Layer(panel(*THREE), critique=Critique(critic())), says("So."), 3, budget=Budget(calls=7, on_exceed="answer")
    )
    out = await moa.ainvoke(ASK)
    assert receipt(out)["calls"] == 7
    assert "from layer 2 on the budget is too small" in receipt(out)["stopped"]


async def test_what_the_cache_had_is_not_counted_again() -> None:
    """Of three critiques two are in the cache: the tokens are those of the third, and the calls one."""
    cache, model = InMemoryCache[Any](), critic()
    critique = Critique(model)
    await create_moa(Layer(panel("one", "two"), critique=critique), says("So."), 2, cache=cache).ainvoke(ASK)
    out = await create_moa(Layer(panel(*THREE), critique=critique), says("So."), 2, cache=cache).ainvoke(ASK)
    call = receipt(out)["decisions"][0]["call"]
    assert (call["calls"], call["usage"]["output_tokens"], call["cached"]) == (1, 3, False)
    assert model.calls == 3


def test_a_budget_in_dollars_wants_the_critics_price() -> None:
    """A step's model is a model like the others."""
    priced = [replace(p, price=Price(input=1, output=1)) for p in panel(*THREE)]
    final = Proposer(says("So."), price=Price(input=1, output=1))
    layer = Layer(priced, critique=Critique(critic(model_name="critic")))
    with pytest.raises(MoAConfigError, match="that of critic is unknown"):
        create_moa(layer, final, 2, budget=Budget(usd=1.0))


def test_a_critic_has_no_samples() -> None:
    """It is asked once for each answer."""
    with pytest.raises(MoAConfigError, match="layer 1, critique: its model is asked once: samples goes with proposers"):
        mixture(THREE, critique=Critique(Proposer(critic(), samples=2)))


def test_without_async() -> None:
    """`.invoke()` does the same."""
    assert decisions(mixture(THREE, critique=Critique(critic())).invoke(ASK))[0][4] == "criticised 3 of 3"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Critique("x:y", otherwise="all"), "one of error, without"),  # type: ignore[arg-type]
        (lambda: Critique("x:y", prompt=""), "prompt is ''"),
        (lambda: mixture(THREE, critique=Critique("nope:x")), "layer 1, critique"),
        (lambda: mixture(THREE, critique="openai:x"), "'openai:x' is no step; give a Critique"),
    ],
)
def test_values_are_checked(make: Any, said: str) -> None:
    """A value that makes no sense is refused where it is given, or when the mixture is built."""
    with pytest.raises(MoAConfigError, match=said):
        make()
