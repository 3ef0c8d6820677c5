"""Pictures of a mixture, offline."""

import re

import pytest

from moa_graph import MoAConfig
from moa_graph.config import presets
from moa_graph.draw import mermaid, outline

CONFIG = MoAConfig(
    proposers=[{"model": "openai:z", "name": "zoe"}, {"model": "together:a", "name": "ann"}],
    aggregator="openai:last",
)


def edges(picture: str) -> list[tuple[str, str]]:
    found = re.findall(r"^\t(\S+?) (?:-->|-\.->) (\S+?);$", picture, re.MULTILINE)
    return [(before.replace("\\3a", ":"), after.replace("\\3a", ":")) for before, after in found]


def test_every_layer_is_open():
    """The picture shows each layer with its proposers in declared order, its aggregate, and then the final model."""
    picture = mermaid(CONFIG)
    assert re.findall(r"^\tsubgraph (\w+)", picture, re.MULTILINE) == ["layer_1", "layer_2"]
    assert [(a, b) for a, b in edges(picture) if a.startswith("layer_1") and b.startswith("layer_1")] == [
        ("layer_1:__start__", "layer_1:zoe"),
        ("layer_1:__start__", "layer_1:ann"),
        ("layer_1:zoe", "layer_1:aggregate"),
        ("layer_1:ann", "layer_1:aggregate"),
    ]
    assert ("final", "__end__") in edges(picture)


def test_models_are_named():
    """Under each name stands the id of its model, and nothing else that a node knows of itself."""
    picture = mermaid(CONFIG)
    for model in ("openai:z", "together:a", "openai:last"):
        assert f"model = {model}" in picture
    assert "moa_" not in picture


def test_plain_call():
    """One layer is the final model alone."""
    assert edges(mermaid(MoAConfig(proposers=[], aggregator="openai:last", layers=1))) == [
        ("__start__", "final"),
        ("final", "__end__"),
    ]


@pytest.mark.parametrize("name", presets())
def test_every_preset_can_be_drawn(name: str):
    """A picture needs neither keys nor the embedded model."""
    picture = mermaid(MoAConfig.preset(name))
    assert picture.count("subgraph ") == MoAConfig.preset(name).depth - 1


def test_outline_is_not_to_be_run():
    """A graph that was made to be drawn says so when it is run, instead of answering."""
    moa = outline(MoAConfig(proposers=[], aggregator="openai:last", layers=1))
    with pytest.raises(RuntimeError, match="openai:last is drawn, not built"):
        moa.invoke({"messages": [("user", "?")]})


def test_same_shape_as_the_graph_that_runs(monkeypatch: pytest.MonkeyPatch):
    """The drawn graph has the nodes and edges of the one that is built to run."""
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    monkeypatch.setenv("TOGETHER_API_KEY", "made-up")
    drawn, built = outline(CONFIG).get_graph(xray=True), CONFIG.build().get_graph(xray=True)
    assert drawn.nodes.keys() == built.nodes.keys()
    assert {(e.source, e.target) for e in drawn.edges} == {(e.source, e.target) for e in built.edges}


def test_proposers_of_one_model():
    """Samples of one model stand side by side, numbered."""
    picture = mermaid(MoAConfig(proposers=[{"model": "openai:z", "samples": 3}], aggregator="openai:z", layers=2))
    assert [b for a, b in edges(picture) if a == "layer_1:__start__"] == [
        "layer_1:z-1",
        "layer_1:z-2",
        "layer_1:z-3",
    ]
