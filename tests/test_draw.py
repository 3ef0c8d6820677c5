"""Pictures of a mixture, offline."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import END, START, MessagesState, StateGraph

from moa_graph import LayerPolicy, MoAConfig, MoAConfigError, Proposer, create_moa
from moa_graph.config import presets
from moa_graph.draw import draw, mermaid, outline
from moa_graph.testing import Answer, ScriptedChatModel, bad_request

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
        assert f"<br/><small>{model}</small>" in picture
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


def scripted(name: str, *answers: Any) -> Proposer:
    return Proposer(ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=f"m-{name}"), name=name)


def faulty() -> Any:
    """A mixture in which one answers, one fails and one is cut."""
    panel = [scripted("ann"), scripted("bob", bad_request()), scripted("zoe", Answer("x", stall_after=0))]
    return create_moa(panel, scripted("last"), 2, policy=LayerPolicy(grace=0.1))


def receipt_of(moa: Any) -> Any:
    return moa.invoke({"messages": [("user", "?")]})["messages"][-1].response_metadata["moa"]


def box(picture: str, name: str) -> str:
    return next(line for line in picture.splitlines() if f"({name}<br/>" in line)


def test_a_collapsed_picture_has_a_box_for_each_layer():
    """Collapsed, a layer is one box that says how many are in it."""
    picture = draw(CONFIG, expand=False)
    assert picture.text == "layer_1  2 proposers\nlayer_2  2 proposers\nfinal  openai:last\n"
    assert "subgraph" not in picture.mermaid


def test_the_text_is_the_outline():
    """As plain text: the layers, each proposer with its model, in declared order."""
    assert draw(CONFIG).text.splitlines()[:4] == ["layer_1", "  zoe  openai:z", "  ann  together:a", "  aggregate"]


def test_a_run_is_coloured_by_its_receipt():
    """With a receipt each box has the colour of how its model fared, and says so in words, seconds and tokens."""
    moa = faulty()
    picture = draw(moa, receipt=receipt_of(moa)).mermaid
    assert re.search(r"m-ann</small><br/><small>✓ \d+\.\d s, 3 tokens</small>\):::ok$", box(picture, "ann"))
    assert re.search(r"<small>✗ failed \d+\.\d s</small>\):::error$", box(picture, "bob"))
    assert re.search(r"<small>- cut \d+\.\d s</small>\):::cut$", box(picture, "zoe"))
    assert box(picture, "final").endswith(":::ok")
    assert picture.count("classDef ok ") == 1


def test_a_mixture_in_a_graph_is_drawn_with_it():
    """A graph around a mixture is drawn with the mixture in it, coloured too."""
    moa = faulty()
    parent = StateGraph(MessagesState).add_node("moa", moa).add_edge(START, "moa").add_edge("moa", END).compile()
    picture = draw(parent, receipt=receipt_of(moa))
    assert picture.text.splitlines()[0] == "moa"
    assert box(picture.mermaid, "bob").endswith(":::error")


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<svg"), (".mmd", b"---\nconfig:"), (".txt", b"layer_1")]
)
def test_the_suffix_decides(tmp_path: Path, suffix: str, start: bytes):
    """A picture is written as PNG, SVG, Mermaid or text, without any network."""
    if suffix in (".png", ".svg"):
        pytest.importorskip("mermaidx", reason='needs pip install "moa-graph[draw]"')
    draw(CONFIG, tmp_path / f"moa{suffix}")
    assert (tmp_path / f"moa{suffix}").read_bytes().startswith(start)


def test_another_suffix_is_refused(tmp_path: Path):
    """What is no picture's suffix is told, with those that are."""
    with pytest.raises(MoAConfigError, match=r"moa\.gif: a picture ends in one of \.png, \.svg, \.mmd, \.txt"):
        draw(CONFIG, tmp_path / "moa.gif")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    """A folder that is not there is one clear line."""
    with pytest.raises(MoAConfigError, match=r"moa\.txt: cannot be written: No such file"):
        draw(CONFIG, tmp_path / "nowhere" / "moa.txt")


def test_without_mermaidx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Without its package a PNG says what to install; Mermaid and text do without it, in a notebook too."""
    monkeypatch.setitem(sys.modules, "mermaidx", None)
    with pytest.raises(MoAConfigError, match=r'pip install "moa-graph\[draw\]"'):
        draw(CONFIG, tmp_path / "moa.png")
    draw(CONFIG, tmp_path / "moa.mmd")
    assert draw(CONFIG)._repr_mimebundle_()["text/plain"].startswith("layer_1\n  zoe")


def test_a_notebook_shows_it():
    """In a notebook a picture shows itself as SVG."""
    pytest.importorskip("mermaidx", reason='needs pip install "moa-graph[draw]"')
    assert draw(CONFIG)._repr_mimebundle_()["image/svg+xml"].startswith("<svg")
