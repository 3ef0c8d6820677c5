"""A system prompt for each proposer."""

from typing import Any

import pytest

from moa_graph import Layer, MoAConfigError, Proposer, create_moa
from moa_graph.roles import roles
from tests.steps import ASK, says

TWO = ["You are a physicist.", {"name": "critic", "system": "You doubt."}]


async def test_one_model_in_every_role() -> None:
    """It is asked once in each role, with that system prompt; a role's name is the proposer's."""
    model = says("one", "two")
    out = await create_moa(roles(Proposer(model, name="luna"), TWO), says("So."), 2).ainvoke(ASK)
    assert [p["proposer"] for p in out["proposals"]] == ["luna-1", "critic"]
    assert sorted(prompt[0].text for prompt in model.prompts) == ["You are a physicist.", "You doubt."]


async def test_as_many_models_as_roles() -> None:
    """Each gets one, in order, and keeps what else it has."""
    models = [Proposer(says("one"), name="a", retries=0), says("two")]
    made = roles(models, TWO)
    assert [(p.name, p.system, p.retries) for p in made] == [("a", TWO[0], 0), ("critic", "You doubt.", None)]


def test_samples_as_many_as_roles() -> None:
    """One model with as many samples as there are roles gives each of them one."""
    assert [(p.system, p.samples) for p in roles(Proposer("x:y", samples=2), ["A.", "B."])] == [("A.", 1), ("B.", 1)]


def test_in_a_layer() -> None:
    """They are proposers like any others."""
    moa = create_moa([Layer(roles(says("x"), ["A.", "B."]))], says("So."))
    assert [p["proposer"] for p in moa.invoke(ASK)["proposals"]] == ["scripted-1", "scripted-2"]


@pytest.mark.parametrize(
    ("models", "given", "said"),
    [
        (["x:a", "x:b"], ["A.", "B.", "C."], "3 roles for 2 models: give as many models as roles, or just one"),
        (Proposer("x:a", samples=3), ["A.", "B."], "has 3 samples, and 2 roles"),
        ([Proposer("x:a", samples=2), "x:b"], ["A.", "B."], "has 2 samples, and 1 roles"),
        (Proposer("x:a", system="S."), ["A."], "x:a has a system prompt of its own"),
        ("x:a", [], "a list of system prompts is needed"),
        ("x:a", "A.", "a list of system prompts is needed"),
        ("x:a", [""], r"roles\.1: a system prompt, or a mapping"),
        ("x:a", ["A.", {"name": "b"}], r"roles\.2: a system prompt, or a mapping"),
        ("x:a", [{"system": "A.", "nam": "b"}], r"roles\.1: a system prompt, or a mapping"),
    ],
)
def test_what_is_no_role(models: Any, given: Any, said: str) -> None:
    """The wrong number, a second system prompt, or what is no role, is refused where it is given."""
    with pytest.raises(MoAConfigError, match=said):
        roles(models, given)
