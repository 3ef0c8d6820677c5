"""Who is asked."""

from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from moa_graph import Layer, LayerPolicy, MoAConfigError, Proposer, Route, create_moa
from moa_graph.steps import UndecidedError
from moa_graph.testing import unauthorized
from tests.steps import ASK, decisions, mixture, panel, read_on, receipt, says

THREE = ["one", "two", "three"]


async def test_a_function_chooses() -> None:
    """It is given the conversation and the names, and only those it names are asked, in declared order."""
    given: list[Any] = []

    def choose(messages: Any, names: Any) -> list[str]:
        given.append(([m.text for m in messages], names))
        return ["c", "a"]

    proposers, final = [says(text) for text in THREE], says("So.")
    out = await mixture(proposers, final=final, route=choose).ainvoke(ASK)
    assert given == [(["Why is the sky blue?"], ["a", "b", "c"])]
    assert [p.calls for p in proposers] == [1, 0, 1]
    assert "1. one\n2. three" in read_on(final)
    assert decisions(out) == [(1, "route", "route", ["a", "c"], "asks 2 of 3: a, c")]
    assert [c["proposer"] for c in receipt(out)["layers"][0]["proposals"]] == ["a", "c"]


async def test_an_async_function_chooses_for_each_layer() -> None:
    """It is asked for every layer that has it."""
    turns = iter([["a"], ["b", "c"]])

    async def choose(_: Any, __: Any) -> list[str]:
        return next(turns)

    out = await mixture(THREE, layers=3, route=Route(choose)).ainvoke(ASK)
    assert [d[3] for d in decisions(out)] == [["a"], ["b", "c"]]


def test_without_async() -> None:
    """`.invoke()` does the same."""
    out = mixture(THREE, route=lambda _, names: names[:1]).invoke(ASK)
    assert decisions(out)[0][3] == ["a"]


async def test_a_model_chooses() -> None:
    """It reads the question, the names and what is said of them, and gives a list of names."""
    model = says('I would ask these: ["b", "a"]')
    out = await mixture(THREE, route=Route(model=model, most=2, describe={"b": "knows optics"})).ainvoke(ASK)
    system, human = model.prompts[0]
    assert system.text.endswith("The models:\n- a\n- b: knows optics\n- c")
    assert "Why is the sky blue?" in human.text
    assert "names of 1 to 2 of the models" in human.text
    assert decisions(out)[0][3] == ["a", "b"]
    assert receipt(out)["calls"] == 1 + 2 + 1


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: Proposer(m), lambda m: RunnableLambda(lambda _: '["c"]')])
async def test_a_bare_model_is_a_route(wrap: Any) -> None:
    """A model object, a proposer or a runnable may stand there by itself."""
    out = await mixture(THREE, route=wrap(says('["c"]'))).ainvoke(ASK)
    assert decisions(out)[0][3] == ["c"]


def test_a_bare_string_is_a_model() -> None:
    """It is resolved as any model is, when the mixture is built."""
    with pytest.raises(MoAConfigError, match=r"layer 1, route.*nope"):
        mixture(THREE, route="nope:x")


@pytest.mark.parametrize("nonsense", ["all", "[]", '["d"]', '["a", "a"]', "[1]", '["a", "b", "c"]'])
async def test_a_model_is_asked_again(nonsense: str) -> None:
    """Nobody, an unknown name, a name twice, too many: asked again, three times in all, and then it is an error."""
    out = await mixture(THREE, route=Route(model=says(nonsense, '["b"]'), most=2)).ainvoke(ASK)
    assert decisions(out)[0][3] == ["b"]
    with pytest.raises(UndecidedError, match=r"layer 1, route \(route\): .* no usable answer in 3 attempts"):
        await mixture(THREE, route=Route(model=says(nonsense), most=2)).ainvoke(ASK)


async def test_samples_are_addressed_one_by_one() -> None:
    """A proposer with two samples is two names; its own name is none of them."""
    sampled = [Proposer(says("one"), name="luna", samples=2)]
    out = await mixture(sampled, route=lambda _, names: [names[1]]).ainvoke(ASK)
    assert decisions(out)[0][3] == ["luna-2"]
    with pytest.raises(UndecidedError, match="no proposer is named 'luna'; they are luna-1, luna-2"):
        await mixture(sampled, route=lambda *_: ["luna"]).ainvoke(ASK)


@pytest.mark.parametrize("route", [lambda *_: [], lambda *_: "a", lambda *_: None, Route(model=says(unauthorized()))])
async def test_all_are_asked_where_that_was_declared(route: Any) -> None:
    """With `otherwise="all"` a choice that is none, or a model that fails, asks all, and the receipt says why."""
    given = route if isinstance(route, Route) else Route(route)
    declared = Route(given.choose, given.model, otherwise="all")
    out = await mixture(THREE, route=declared).ainvoke(ASK)
    [(*_, chosen, said)] = decisions(out)
    assert chosen == ["a", "b", "c"]
    assert said.startswith("asks all, as declared: ")
    with pytest.raises(UndecidedError):
        await mixture(THREE, route=given).ainvoke(ASK)


async def test_fewer_than_the_quorum() -> None:
    """A choice that cannot meet the layer's quorum is none; a model is told how many are needed at least."""
    model = says('["a"]', '["a", "b"]')
    out = await mixture(THREE, policy=LayerPolicy(quorum=2), route=model).ainvoke(ASK)
    assert decisions(out)[0][3] == ["a", "b"]
    assert "names of 2 to 3 of the models" in model.prompts[0][1].text


async def test_a_function_that_raises() -> None:
    """The error names the layer, the step and the reason."""
    with pytest.raises(UndecidedError, match=r"layer 1, route \(route\): ZeroDivisionError"):
        await mixture(THREE, route=lambda *_: 1 / 0).ainvoke(ASK)


async def test_a_function_that_hangs_is_bounded() -> None:
    """The layer's timeout bounds it."""
    import asyncio

    async def hang(*_: Any) -> list[str]:
        await asyncio.sleep(60)
        return []

    with pytest.raises(UndecidedError, match="TimeoutError"):
        await mixture(THREE, policy=LayerPolicy(timeout=0.2), route=hang).ainvoke(ASK)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Route(), "either `choose`, a function, or `model`"),
        (lambda: Route(len, model="x:y"), "either `choose`"),  # type: ignore[arg-type]
        (lambda: Route("x:y"), "choose is 'x:y'"),  # type: ignore[arg-type]
        (lambda: Route(model="x:y", most=0), "most is 0"),
        (lambda: Route(model="x:y", describe={"a": 1}), "mapping from names to texts"),  # type: ignore[dict-item]
        (lambda: Route(model="x:y", otherwise="first"), "one of error, all"),  # type: ignore[arg-type]
        (lambda: mixture(THREE, route=Route(model=says("x"), most=4)), "most is 4, and the panel has 3"),
        (lambda: mixture(THREE, route=Route(model=says("x"), describe={"d": "x"})), "'d'; the proposers are a, b, c"),
        (lambda: mixture(THREE, route=3), "route: 3 is no step; give a Route, a model, or a function"),
    ],
)
def test_values_are_checked(make: Any, said: str) -> None:
    """A value that makes no sense is refused where it is given, or when the mixture is built."""
    with pytest.raises(MoAConfigError, match=said):
        make()


async def test_another_panel_behind_a_route() -> None:
    """A layer without a route asks everybody."""
    moa = create_moa([Layer(panel(*THREE), route=lambda *_: ["b"]), panel("x", "y")], says("So."))
    out = await moa.ainvoke(ASK)
    assert [layer["asked"] for layer in receipt(out)["layers"]] == [1, 2]
