"""Who is compared with a mixture, and how."""

from pathlib import Path

import pytest

from moa_graph import MoAConfig
from moa_graph.eval.contenders import adjusted, contenders, fingerprint, plain
from moa_graph.eval.run import Evaluation
from tests.evaluation import prompts

TWO = MoAConfig(proposers=["openai:a", "openai:b"], aggregator="openai:c", layers=3)


def test_contenders() -> None:
    """Beside a mixture stand each of its models, and each proposer in the whole panel's place at as many calls."""
    told = [(one.kind, one.name, one.told()["calls"]) for one in contenders({"two": TWO})]
    assert told == [
        ("mixture", "two", 5),
        ("single", "openai:a", 1),
        ("single", "openai:b", 1),
        ("single", "openai:c", 1),
        ("single-proposer", "single-proposer openai:a", 5),
        ("single-proposer", "single-proposer openai:b", 5),
    ]
    assert [one.kind for one in contenders({"two": TWO}, singles=False)] == ["mixture"]


def test_what_two_mixtures_share_is_asked_once() -> None:
    """A model of two mixtures is one contender, that both are compared with."""
    other = TWO.model_copy(update={"layers": 2})
    found = {one.name: one for one in contenders({"two": TWO, "other": other})}
    assert len(found) == 2 + 3 + 4
    assert found["openai:a"].of == ("two", "other")
    assert found["single-proposer openai:a in two"].of == ("two",)
    assert found["single-proposer openai:a in other"].of == ("other",)


def test_other_families() -> None:
    """A mixture that ranks or votes has its contenders too, and an item's temperature reaches its judge."""
    ranked = MoAConfig(proposers=["openai:a"], aggregator={"rank": "openai:c"}, layers=2)
    voted = MoAConfig(proposers=["openai:a", "openai:b"], aggregator={"vote": "number"}, layers=2)
    assert adjusted(ranked, 0.1, None).finals[0].temperature == 0.1
    assert [one.name for one in contenders({"voted": voted}) if one.kind == "single"] == ["openai:a", "openai:b"]


@pytest.mark.parametrize("preset", ["local", "moa-lite", "self-moa"])
def test_presets_have_their_contenders(preset: str) -> None:
    """The mixtures that ship can be evaluated: each contender makes as many calls as its kind should."""
    mixture, *others = contenders({preset: MoAConfig.preset(preset)})
    for one in others:
        assert one.told()["calls"] == (1 if one.kind == "single" else mixture.told()["calls"]), one.name


def test_one_model_alone_has_nobody_beside_it() -> None:
    """A mixture of one model is a single-proposer mixture already: the model alone stands beside it."""
    same = MoAConfig(proposers=[{"model": "openai:a", "samples": 3}], aggregator="openai:a", layers=2)
    assert [one.kind for one in contenders({"same": same})] == ["mixture", "single"]
    assert [one.kind for one in contenders({"plain": same.model_copy(update={"layers": 1})})] == ["mixture"]


def test_panels_of_their_own() -> None:
    """Where each layer has its own panel, one model takes as many places in each."""
    made = MoAConfig(proposers=[["openai:a", "openai:b", "openai:b2"], ["openai:a"]], aggregator="openai:c")
    found = {one.name: one.config for one in contenders({"made": made})}
    assert [panel[0].samples for panel in found["single-proposer openai:b"].panels()] == [3, 1]


def test_sampling_of_an_item() -> None:
    """An item's temperature goes to every model but those that are sent none; its max_tokens is an upper limit."""
    given = MoAConfig(
        proposers=["openai:a", {"model": "openai:b", "temperature": None, "max_tokens": 100}, "openai:gpt-5"],
        aggregator={"model": "openai:c", "temperature": 1.0},
    )
    made = adjusted(given, 0.1, 1024)
    models = [*made.panels()[0], *made.finals]
    assert [model.temperature for model in models] == [0.1, None, None, 0.1]
    assert [model.max_tokens for model in models] == [1024, 100, 1024, 1024]
    assert adjusted(given, None, None) is given


def test_fingerprint() -> None:
    """What has a part in the answers tells mixtures apart; a description, a price and a budget have none."""
    same = TWO.model_copy(update={"description": "x", "prices": {"a": {"input": 1, "output": 1}}})
    assert fingerprint(TWO) == fingerprint(same)
    for change in ({"layers": 2}, {"temperature": 0.1}, {"proposers": TWO.proposers[:1]}):
        assert fingerprint(TWO) != fingerprint(TWO.model_copy(update=change))


def test_no_secret_is_kept() -> None:
    """Keys among the parameters, a user and a key in an address do not reach a file."""
    address = "http://me:word@host/v1?version=2&api-key=sk-secret"
    model = {"model": "openai:a", "base_url": address, "params": {"api_key": "sk-secret", "top_p": 1}}
    told = str(plain(MoAConfig(proposers=[model], aggregator=model)))
    assert "secret" not in told
    assert "http://host/v1?version=2&api-key=***'" in told
    assert "'top_p': 1" in told


def test_the_baseline_where_none_is_given(tmp_path: Path) -> None:
    """The first mixture's final model alone, though it proposes as well, and whatever is compared beside it."""
    prompts(tmp_path / "own.jsonl", "Why?")
    first = MoAConfig(proposers=["openai:a", "openai:b"], aggregator="openai:a", layers=2)
    for mixtures in ({"first": first}, {"first": first, "two": TWO}):
        assert Evaluation(str(tmp_path / "own.jsonl"), mixtures, tmp_path / "out").baseline == "openai:a"
