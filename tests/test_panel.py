"""Who is asked: names, samples, and the panels that are refused."""

from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from moa_graph import Layer, LayerPolicy, MoAConfigError, Proposer
from moa_graph.panel import seats, slug
from moa_graph.testing import ScriptedChatModel


def model(name: str = "m") -> ScriptedChatModel:
    return ScriptedChatModel(model_name=name)


def names(*proposers: Any) -> list[str]:
    return [seat.name for seat in seats(1, Layer(proposers), LayerPolicy())]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("together:Qwen/Qwen2.5-72B-Instruct-Turbo", "qwen2.5-72b-instruct-turbo"),
        ("openai:gpt-6-luna", "gpt-6-luna"),
        ("gpt-6-luna", "gpt-6-luna"),
        ("ollama:qwen2.5:7b", "qwen2.5-7b"),
        ("openrouter:deepseek/deepseek-r1:free", "deepseek-r1-free"),
        ("local:", "local"),
        ("Modell für alles", "modell-f-r-alles"),
    ],
)
def test_a_readable_name_is_made_of_a_model_id(model: str, name: str) -> None:
    """Provider and organisation are left out, and what a node's name may not have."""
    assert slug(model) == name


def test_an_objects_tag_is_kept_in_its_name() -> None:
    """An object's model id has no provider before its colon: `qwen2.5:7b` is not a model named `7b`."""
    assert names(model("qwen2.5:7b"), model("llama3.1:8b")) == ["qwen2.5-7b", "llama3.1-8b"]


@pytest.mark.parametrize(
    ("proposers", "wanted"),
    [
        ([model("a"), model("b")], ["a", "b"]),
        ([model("a"), model("a"), model("b")], ["a-1", "a-2", "b"]),
        ([Proposer(model("a"), samples=3)], ["a-1", "a-2", "a-3"]),
        ([Proposer(model("a"), name="luna", samples=2), model("a")], ["luna-1", "luna-2", "a"]),
        ([Proposer(model("a"), name="Mixed Case, ünïcode")], ["Mixed Case, ünïcode"]),
        ([RunnableLambda(lambda x: x, name="mine")], ["mine"]),
        ([model("a").bind(stop=["x"]).with_config(tags=["t"])], ["a"]),
    ],
)
def test_names_are_unique_and_in_declared_order(proposers: list[Any], wanted: list[str]) -> None:
    """A name of one's own stays as it is; repeats are numbered from 1."""
    assert names(*proposers) == wanted


def test_a_seat_knows_its_place_and_its_policy() -> None:
    """Slots count from 1 over samples too; a proposer's timeout and retries go before the layer's."""
    panel = Layer([Proposer(model("a"), samples=2, timeout=1.0), Proposer(model("b"), retries=0, system="S")])
    made = seats(3, panel, LayerPolicy(timeout=9.0))
    assert [(seat.layer, seat.slot) for seat in made] == [(3, 1), (3, 2), (3, 3)]
    assert [seat.policy.timeout for seat in made] == [1.0, 1.0, 9.0]
    assert [seat.policy.retries for seat in made] == [2, 2, 0]
    assert [seat.system for seat in made] == [None, None, "S"]
    assert made[0].model is made[1].model


def test_a_layers_policy_goes_before_the_mixtures() -> None:
    """A Layer with a policy of its own is not checked against the mixture's."""
    (seat,) = seats(1, Layer([model()], LayerPolicy(retries=7)), LayerPolicy(quorum=5))
    assert (seat.policy.retries, seat.policy.quorum) == (7, 1)


@pytest.mark.parametrize(
    ("proposers", "message"),
    [
        ([], "layer 2: the panel is empty"),
        ([[]], "layer 2: a panel within a panel"),
        ([Layer([model()])], "layer 2: a panel within a panel"),
        ([Proposer(model(), samples=0)], "layer 2: samples is 0: .*at least 1"),
        ([Proposer(model(), samples=1.5)], r"layer 2: samples is 1\.5"),
        ([Proposer(model(), samples=True)], "layer 2: samples is True"),
        ([Proposer(model("a"), name="x"), Proposer(model("b"), name="x")], "layer 2: two proposers are named 'x'"),
        ([Proposer(model(), name="x-1"), Proposer(model(), name="x", samples=2)], "two proposers are named 'x-1'"),
        ([Proposer(model(), name="a:b")], "'a:b' cannot be a proposer's name: no ':'"),
        ([Proposer(model(), name="a|b")], r"'a\|b' cannot be"),
        ([Proposer(model(), name=" a")], "' a' cannot be"),
        ([Proposer(model(), name="aggregate")], "'aggregate' cannot be .* aggregate, carry, critique"),
        ([Proposer(model(), name="messages")], "'messages' cannot be"),
        ([Proposer(model(), name="__end__")], "'__end__' cannot be"),
        ([3], r"layer 2, proposer 1 \(int\): int is no model"),
        ([model(), "nobody:x"], r"layer 2, proposer 2 \(nobody:x\): 'nobody:x'"),
        ([Proposer("nobody:x", name="me")], r"layer 2, proposer 1 \(me\)"),
        ([Proposer(model(), timeout=-1)], "timeout is -1"),
        ([Proposer(model(), retries=-1)], "retries is -1"),
    ],
)
def test_a_panel_described_wrongly_is_refused(proposers: list[Any], message: str) -> None:
    """The message names the layer, the proposer and what would be valid."""
    with pytest.raises(MoAConfigError, match=message):
        seats(2, Layer(proposers), LayerPolicy())


@pytest.mark.parametrize("proposers", ["openai:gpt", model(), None])
def test_a_layer_wants_a_list(proposers: Any) -> None:
    """One model is a list of one: a text is not taken for a list of characters."""
    with pytest.raises(MoAConfigError, match="a list of models"):
        Layer(proposers)
