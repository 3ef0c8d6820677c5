"""Who is compared."""

from typing import Any

import pytest

from moa_graph import MoAConfig
from moa_graph.contenders import members, mixtures, repeated, single_proposer, singles
from moa_graph.testing import ScriptedChatModel

A, B, C = ("openai:a", "openai:b", "openai:c")


def described(**changes: Any) -> MoAConfig:
    return MoAConfig(**{"proposers": [A, B], "aggregator": C, "layers": 2, **changes})


def names(mixture: MoAConfig) -> list[str]:
    return [single.name for single in singles(mixture)]


def calls(config: MoAConfig) -> int:
    return config.estimate("Why?")["calls"]


def test_each_model_is_asked_alone():
    """Those of the panel and the final one, once, in one call each."""
    found = singles(described())
    assert [(one.name, one.kind, calls(one.config)) for one in found] == [(n, "single", 1) for n in "abc"]


def test_the_same_model_is_there_once():
    """Two that differ in nothing but the name are one; another system prompt makes another model."""
    voices = [
        {"model": A, "name": "one"},
        {"model": A, "name": "two"},
        {"model": A, "name": "terse", "system": "Short."},
    ]
    assert names(described(proposers=voices, aggregator=A)) == ["one", "terse"]


def test_what_a_mixture_says_of_all_models_is_what_each_is_asked_with():
    """The same model is the same, whether its temperature is its own or the mixture's; a single one keeps both."""
    mixture = described(proposers=[{"model": A, "temperature": 0.2}], aggregator=A, temperature=0.2, max_tokens=9)
    [single] = singles(mixture)
    [final] = single.config.arguments()["aggregator"]
    assert (final.temperature, final.max_tokens) == (0.2, 9)


def test_names_are_taken_once():
    """A model that goes by the name of a mixture gets a number."""
    assert [one.name for one in singles(described(), taken=["a"])] == ["a-2", "b", "c"]


def test_a_plain_call_is_not_compared_with_itself():
    """Of a mixture of one layer its final model is no further contender."""
    assert names(described(layers=1)) == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "2 x b"),
        ({"layers": 3}, "2 x b"),
        ({"proposers": [{"model": A, "samples": 4}, B]}, "5 x b"),
        ({"proposers": [[A, B], [{"model": C, "samples": 3}]], "layers": None}, "2+3 x b"),
        ({"roles": ["Be brief.", "Be thorough."]}, "2 x b"),
        ({"stop": {"sentinel": {"text": "FINAL"}}, "layers": 3}, "2 x b"),
        ({"aggregator": {"rank": C}}, "2 x b"),
        ({"aggregator": {"vote": "number"}}, "2 x b"),
        ({"select": {"top_k": {"k": 1, "judge": C}}}, "2 x b"),
    ],
)
def test_one_model_in_the_place_of_all_proposers(changes: dict[str, Any], name: str):
    """It makes as many calls, in the mixture's shape, with its steps and its own final model."""
    mixture = described(**changes)
    single = next(one for one in singles(mixture) if one.name == "b")
    made = single_proposer(mixture, single)
    assert made is not None
    assert (made.name, calls(made.config)) == (name, calls(mixture))
    assert {one.model for panel in made.config.panels() for one in panel} == {B}
    assert made.config.finals == mixture.finals
    assert made.config.build(stand_in=lambda _: ScriptedChatModel()).name == "moa"


@pytest.mark.parametrize("changes", [{"layers": 1}, {"proposers": [{"model": A, "samples": 2}], "aggregator": A}])
def test_nothing_to_be_made_of_one_model(changes: dict[str, Any]):
    """A mixture without proposers, and one that is single-proposer already, have no such counterpart."""
    mixture = described(**changes)
    assert single_proposer(mixture, singles(mixture)[0]) is None


def test_copies_have_no_route_and_no_roles():
    """Nobody is chosen among copies of one model, in a layer of its own neither."""
    routed = {"route": {"model": C}}
    mixture = described(proposers=[{"proposers": [A, B], **routed}, [A, B]], layers=None, roles=["Brief.", "Long."])
    made = repeated(mixture, members(mixture)[0])
    assert made is not None
    assert [layer.route for layer in made._layers()] == [None, None]
    assert {one.system for panel in made.panels() for one in panel} == {None}


def test_the_final_model_in_all_places():
    """Where the one model is the final one too, nobody else is asked: Self-MoA."""
    mixture = described()
    made = repeated(mixture, mixture.finals[0])
    assert made is not None
    assert {one.model for one in made.members()} == {C}


def test_a_role_is_not_the_models():
    """A model that is there in two roles is one, and is asked without them alone."""
    mixture = described(proposers=[{"model": A, "samples": 1}, {"model": A, "name": "again"}], roles=["X.", "Y."])
    assert [(one.model, one.system) for one in members(mixture)] == [(A, None), (C, None)]


def test_a_contender_knows_all_its_models():
    """Fallbacks too."""
    [one] = mixtures({"ours": described(aggregator=[C, "openai:d"])})
    assert one.models == {A, B, C, "openai:d"}
