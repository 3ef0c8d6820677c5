"""What `--vary` adds, and what analyses are told of a mixture's shape."""

from typing import Any

from moa_graph import MoAConfig
from moa_graph.eval.contenders import Contender, contenders, shape
from moa_graph.eval.variants import varied

A, B, C = "openai:a", "openai:b", "openai:c"
MIXTURE = MoAConfig(proposers=[A, B], aggregator=C, layers=3)


def added(config: MoAConfig, *variations: str, singles: bool = True) -> dict[str, Contender]:
    there = contenders({"moa": config}, singles=singles)
    found = varied(there, {"moa": config}, variations).contenders
    assert found[: len(there)] == there  # nothing changes of what is there
    return {one.name: one for one in found[len(there) :]}


def told(one: Contender) -> tuple[Any, ...]:
    seen = shape(one.config)
    return seen["depth"], seen["proposers"], seen["final"], seen["aggregator"]


def test_proposers() -> None:
    """The first of its proposers, and as many samples of the final model; all of them are there already."""
    made = added(MIXTURE, "proposers")
    assert {name: told(one)[1][0] for name, one in made.items()} == {
        "moa, 1 proposer": [A],
        f"moa, 1 x {C}": [C],
        f"moa, 2 x {C}": [C, C],
    }
    six = MIXTURE.model_copy(update={"proposers": MoAConfig(proposers=[*"abcdefgh"], aggregator="x").proposers})
    assert [told(one)[1][0] for name, one in added(six, "proposers").items() if "proposer" in name] == [
        ["a"], ["a", "b"], ["a", "b", "c"], [*"abcdef"]
    ]  # fmt: skip


def test_a_quorum_is_no_larger_than_its_panel() -> None:
    """A mixture that needs two answers can be asked with one proposer."""
    made = added(MoAConfig(proposers=[A, B], aggregator=C, layers=2, policy={"quorum": 2}), "proposers")
    assert made["moa, 1 proposer"].config.policy.quorum == 1


def test_what_is_too_small_is_left_out() -> None:
    """Where two proposers are picked, there is no variant with one: it is told, and the others are there."""
    picked = MoAConfig(proposers=[A, B, C], aggregator=C, layers=2, select={"top_k": {"k": 2, "judge": C}})
    found = varied([], {"moa": picked}, ["proposers"])
    assert list(found.left_out) == ["moa, 1 proposer", f"moa, 1 x {C}"]
    assert all("k is 2" in why for why in found.left_out.values())
    assert [one.name for one in found.contenders] == [
        "moa, 2 proposers", f"moa, 2 x {C}", f"moa, 3 x {C}"
    ]  # fmt: skip


def test_roles() -> None:
    """Each other model at the end; without single models, each in the place of all proposers too."""
    assert {name: told(one)[2] for name, one in added(MIXTURE, "roles").items()} == {
        f"moa, final {A}": A,
        f"moa, final {B}": B,
    }
    alone = added(MIXTURE, "roles", singles=False)
    assert told(alone[f"moa, proposer {A}"])[1:3] == ([[A, A], [A, A]], C)


def test_a_name_alone_makes_no_other_model() -> None:
    """The final model may propose by a name of its own: whoever is the final one, the panel's shape is the same."""
    named = MoAConfig(proposers=[{"model": A, "name": "first"}, B], aggregator=A, layers=2)
    assert told(Contender("moa", "mixture", named)) == (2, [[A, B]], A, "synthesize")
    assert [told(one)[1:3] for one in added(named, "roles").values()] == [([[A, B]], B)]
    hot = named.model_copy(update={"proposers": [named.proposers[0].model_copy(update={"temperature": 1.0})]})
    assert told(Contender("moa", "mixture", hot))[1:3] == ([[f"{A} (first)"]], A)


def test_layers_and_ranker() -> None:
    """Fewer layers, down to the final model, who is there already; the ranker at each depth that is asked."""
    assert {name: told(one)[0] for name, one in added(MIXTURE, "layers").items()} == {"moa, 2 layers": 2}
    assert "moa, 1 layer" in added(MIXTURE, "layers", singles=False)
    assert list(added(MIXTURE, "ranker")) == ["moa, ranked"]
    both = added(MIXTURE, "layers", "ranker")
    assert told(both["moa, ranked, 2 layers"]) == (2, [[A, B]], C, "rank")
    panels = MoAConfig(proposers=[[A, B], [B]], aggregator=C)
    assert told(added(panels, "layers")["moa, 2 layers"])[:2] == (2, [[A, B]])


def test_nothing_is_made_of_what_cannot_be_varied() -> None:
    """A vote has no final model and no ranker; a mixture of one layer has nothing to vary."""
    vote = MoAConfig(proposers=[A, B], aggregator={"vote": "number"}, layers=2)
    assert added(vote, "ranker", "layers", "roles") == {}
    assert added(MIXTURE.model_copy(update={"layers": 1}), "ranker", "layers", "roles", "proposers") == {}


def test_shape_tells_prompts_apart() -> None:
    """Two mixtures with the same models and another prompt are no two points of one line."""
    other = MIXTURE.model_copy(update={"prompt": MoAConfig(proposers=[A], aggregator=A, prompt="Merge.").prompt})
    assert shape(MIXTURE)["otherwise"] != shape(other)["otherwise"]
    assert shape(MIXTURE)["otherwise"] == shape(MIXTURE.model_copy(update={"layers": 2}))["otherwise"]
