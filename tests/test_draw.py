"""Pictures of mixtures and of their runs, offline."""

import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.graph import END, START, MessagesState, StateGraph

from moa_graph import (
    Agreement,
    Budget,
    Cluster,
    Diverse,
    Layer,
    LayerPolicy,
    MoAConfig,
    MoAConfigError,
    Proposer,
    QuorumError,
    TopK,
    create_layer,
    create_moa,
)  # fmt: skip
from moa_graph.config import presets
from moa_graph.draw import Picture, draw
from moa_graph.testing import Answer, ScriptedChatModel, bad_request

CONFIG = MoAConfig(
    proposers=[{"model": "openai:z", "name": "zoe"}, {"model": "together:a", "name": "ann"}],
    aggregator="openai:last",
)


def scripted(name: str, *answers: Any) -> Proposer:
    return Proposer(ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=f"m-{name}"), name=name)


def faulty(**more: Any) -> Any:
    """A mixture in which one answers, one fails and one is cut."""
    panel = [scripted("zoe"), scripted("bob", bad_request()), scripted("ann", Answer("x", stall_after=0))]
    return create_moa(panel, scripted("last"), 2, policy=LayerPolicy(grace=0.5), **more)


def around(moa: Any, *, twice: bool = False) -> Any:
    """A graph with a mixture in it, and a way around it and one back to it."""
    parent = StateGraph(MessagesState)
    for name, node in {"route": lambda s: s, "plain": moa if twice else lambda s: s, "moa": moa}.items():
        parent.add_node(name, node)
    parent.add_node("check", lambda s: s).add_edge(START, "route").add_edge("moa", "check").add_edge("plain", "check")
    parent.add_conditional_edges("route", lambda s: "moa", ["moa", "plain"])
    parent.add_conditional_edges("check", lambda s: END, {"again": "moa", "good": END})
    return parent.compile()


def receipt_of(moa: Any) -> Any:
    return moa.invoke({"messages": [("user", "?")]})["messages"][-1].response_metadata["moa"]


def box(picture: Picture, name: str) -> str:
    """A box as Mermaid has it."""
    [line] = [line.strip() for line in picture.mermaid.splitlines() if f'"<b>{name}</b>' in line]
    return line


def arrows(picture: Picture) -> list[str]:
    return [line.strip() for line in picture.mermaid.splitlines() if re.search(r" -(-|\.-)>", line)]


# What is in a picture


def test_mermaid(snapshot: Any):
    """As Mermaid: each layer opened, its proposers in declared order with name and model, and the final model."""
    assert draw(CONFIG).mermaid == snapshot


def test_text(snapshot: Any):
    """As plain text: who is asked in each layer, in declared order."""
    assert draw(CONFIG).text == snapshot


def test_text_of_a_larger_graph(snapshot: Any):
    """A mixture within a larger graph stands in its place, and where ways part, they are told."""
    assert draw(around(create_moa([scripted("zoe"), scripted("ann")], scripted("last")))).text == snapshot


def test_collapsed():
    """Collapsed, a layer is one box that says how many are in it."""
    picture = draw(CONFIG, expand=False)
    assert picture.text == "layer 1  2 proposers\nlayer 2  2 proposers\nfinal    openai:last\n"
    assert "subgraph" not in picture.mermaid


def test_collapsed_samples_of_one_model():
    """Collapsed, samples of one model are counted and the model is named."""
    self_moa = MoAConfig(proposers=[{"model": "openai:z", "samples": 3}], aggregator="openai:z", layers=2)
    assert draw(self_moa, expand=False).text == "layer 1  3 x openai:z\nfinal    openai:z\n"


def test_plain_call():
    """One layer is the final model alone."""
    picture = draw(MoAConfig(proposers=[], aggregator="openai:last", layers=1))
    assert arrows(picture) == ["__start__ --> final", "final --> __end__"]


def test_a_layer_by_itself():
    """A layer that is no part of a mixture is drawn as one."""
    picture = draw(create_layer([scripted("zoe"), scripted("ann")]))
    assert picture.text == "layer 1\n├─ zoe  m-zoe\n└─ ann  m-ann\n"
    assert "__start__ --> layer" in arrows(picture)


@pytest.mark.parametrize("name", presets())
def test_every_preset_can_be_drawn(name: str):
    """A picture needs neither keys nor the embedded model."""
    config = MoAConfig.preset(name)
    assert draw(config).mermaid.count("subgraph ") == config.depth - 1


def test_an_inner_graph_is_left_by_one_arrow():
    """Ways that part within an inner graph and end at one place are one sure way out of it."""
    inner = StateGraph(MessagesState).add_node("a", lambda s: s).add_node("b", lambda s: s).add_edge(START, "a")
    inner.add_conditional_edges("a", lambda s: END, ["b", END]).add_edge("b", END)
    outer = StateGraph(MessagesState).add_node("inner", inner.compile()).add_node("last", lambda s: s)
    outer.add_edge(START, "inner").add_edge("inner", "last").add_edge("last", END)
    assert arrows(draw(outer.compile())) == [
        "inner__a -.-> inner__b", "__start__ --> inner", "inner --> last", "last --> __end__",
    ]  # fmt: skip


def test_what_cannot_be_drawn():
    """A graph that is not compiled yet is an error that says what is needed."""
    with pytest.raises(MoAConfigError, match="a StateGraph cannot be drawn: give a compiled graph or a MoAConfig"):
        draw(StateGraph(MessagesState))


def test_a_drawn_config_is_not_to_be_run():
    """The stand-ins that are drawn in place of models say so when they are run, instead of answering."""
    from moa_graph.draw import _named

    with pytest.raises(RuntimeError, match="openai:last is drawn, not built"):
        _named("openai:last").invoke([])


# A run's picture


def test_a_run_by_its_receipt():
    """With a receipt each box has the look of how its model fared, and says so in signs, words, seconds and tokens."""
    moa = faulty()
    picture = draw(moa, receipt=receipt_of(moa))
    assert re.search(r'm-zoe<br/>✓ \d\.\d s · \d+ in, 3 out"\]:::ok$', box(picture, "zoe"))
    assert re.search(r'm-bob<br/>✗ BadRequestError after 0\.\d s"\]:::failed$', box(picture, "bob"))
    assert re.search(r'm-ann<br/>- cut after 0\.\d s"\]:::cut$', box(picture, "ann"))
    assert re.search(r'm-last<br/>✓ \d\.\d s · \d+ in, 3 out"\]:::ok$', box(picture, "final"))
    assert '"<b>layer 1 · 1 of 3 answered</b>"' in picture.mermaid
    assert re.search(r'__end__\("end<br/>4 calls · \d\.\d s · \d+ tokens in, 6 out"\)', picture.mermaid)


def test_who_gave_nothing_has_a_dotted_arrow():
    """Without colours too it can be seen whose answer reached the aggregate."""
    moa = faulty()
    within = [arrow for arrow in arrows(draw(moa, receipt=receipt_of(moa))) if arrow.endswith("aggregate")]
    assert [re.split(" -.*> ", arrow)[0].removeprefix("layer_1__") for arrow in within if "-.->" in arrow] == [
        "bob",
        "ann",
    ]


def test_a_collapsed_run():
    """Collapsed, a layer tells how many of its proposers answered, and looks like it."""
    moa = faulty()
    picture = draw(moa, expand=False, receipt=receipt_of(moa))
    assert box(picture, "layer 1").endswith('3 proposers<br/>- 1 of 3 answered"]:::cut')


def test_cached_answers():
    """What came from the cache looks otherwise and says so."""
    moa = create_moa([scripted("zoe")], scripted("last"), 2, cache=InMemoryCache())
    receipt_of(moa)
    assert box(draw(moa, receipt=receipt_of(moa)), "zoe").endswith('✓ cached"]:::cached')


def test_a_fallback_is_named():
    """Where the final model's fallback answered, its name stands in the box."""
    moa = create_moa([scripted("zoe")], [scripted("first", bad_request()), scripted("second")], 2)
    assert re.search(r"<br/>m-second<br/>✓ .* \(fallback\)", box(draw(moa, receipt=receipt_of(moa)), "final"))


def test_what_a_person_added():
    """A proposal that a person wrote between the layers has a box of its own in the run's picture."""
    moa = create_moa([scripted("zoe")], scripted("last"), 2)
    receipt = receipt_of(moa)
    [zoe] = receipt["layers"][0]["proposals"]
    receipt["layers"][0]["proposals"].append({**zoe, "proposer": "person", "attempts": 0})
    picture = draw(moa, receipt=receipt)
    assert box(picture, "person").endswith('✓ added by a person"]:::ok')
    assert "layer_1__person --> layer_1__aggregate" in arrows(picture)


def test_a_run_in_a_larger_graph():
    """In a larger graph the mixture that ran is coloured, and tells of its run in its title."""
    moa = faulty()
    picture = draw(around(moa), receipt=receipt_of(moa))
    assert box(picture, "bob").endswith(":::failed")
    assert re.search(r"moa  4 calls · .* out  → check", picture.text)


def test_a_run_that_failed():
    """A run that failed has no receipt; the proposals in its error serve as well."""
    panel = [scripted("zoe", Answer("x", stall_after=0)), scripted("bob", bad_request())]
    moa = create_moa(panel, scripted("last"), policy=LayerPolicy(quorum=2))
    with pytest.raises(QuorumError) as failed:
        moa.invoke({"messages": [("user", "?")]})
    lines = draw(moa, receipt=failed.value.proposals).text.splitlines()
    assert lines[0] == "layer 1  0 of 2 answered"
    assert "✗ BadRequestError" in lines[2]
    assert lines[3:] == ["layer 2", "├─ zoe  m-zoe", "└─ bob  m-bob", "final  m-last"]


@pytest.mark.parametrize(
    ("receipt", "told"),
    [
        ({"layers": [{"layer": 1, "proposals": [{"proposer": "eve", "attempts": 1}]}]}, "another mixture.* with eve"),
        ({"layers": []}, "another mixture: one of 1 layers, with no proposers"),
        ([], "another mixture"),
        ({"answer": "x"}, r'this is no receipt: give the answer\'s response_metadata\["moa"\]'),
        ("moa.json", "this is no receipt"),
    ],
)
def test_a_receipt_of_something_else(receipt: Any, told: str):
    """A receipt that is not of this mixture colours nothing: it is an error that says what it is of."""
    with pytest.raises(MoAConfigError, match=told):
        draw(CONFIG, receipt=receipt)


def test_a_receipt_of_one_of_two():
    """Where two mixtures could have given the receipt, neither is coloured."""
    moa = create_moa([scripted("zoe")], scripted("last"), 2)
    with pytest.raises(MoAConfigError, match="the receipt fits moa and plain: draw the one that ran by itself"):
        draw(around(moa, twice=True), receipt=receipt_of(moa))


# Files and notebooks


@pytest.fixture(scope="module")
def drawn() -> Picture:
    """A picture with every name that could be mistaken for Mermaid or HTML."""
    pytest.importorskip("mermaidx", reason='needs pip install "moa-graph[draw]"')
    names = ['a "b" <b> & #1; `c` *d* [e]', "end", "1. x", "ü", "u"]
    return draw(create_moa([scripted(name) for name in names], scripted("last"), 2))


def test_svg(drawn: Picture):
    """The SVG has every name as it is, and the drawing's own size, at most as wide as the page."""
    svg = drawn.svg()
    for text in ("a &quot;b&quot; &lt;b&gt; &amp; #1; `c` *d* [e]", ">end<", ">1. x<", ">ü<", ">m-last<"):
        assert text in svg.replace('"b"', "&quot;b&quot;")
    [(width, height)] = re.findall(r'^<svg id="moa-\w+" width="(\S+)" height="(\S+)"', svg)
    assert 400 < float(width) < 1200
    assert 200 < float(height) < 800
    assert 'style="max-width: 100%; height: auto;"' in svg
    assert len(svg) < 40_000


def test_png(drawn: Picture, tmp_path: Path):
    """The PNG is twice as large as the SVG."""
    drawn.save(tmp_path / "moa.png")
    png = (tmp_path / "moa.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width = float(re.findall(r'width="(\S+)"', drawn.svg())[0])
    assert struct.unpack(">I", png[16:20])[0] == pytest.approx(2 * width, abs=2)


def test_a_notebook_shows_it(drawn: Picture):
    """In a notebook a picture shows itself as SVG, which needs no web service; elsewhere as text."""
    shown = drawn._repr_mimebundle_(include=None, exclude=None)
    assert shown == {"image/svg+xml": drawn.svg(), "text/plain": str(drawn)}


@pytest.mark.parametrize(("suffix", "start"), [(".svg", "<svg"), (".mmd", "---\nconfig:"), (".txt", "layer 1\n")])
def test_the_suffix_decides(suffix: str, start: str, tmp_path: Path, drawn: Picture):
    """What a picture is written as, its file's name tells; a file that is there is replaced."""
    path = tmp_path / f"moa{suffix}"
    path.write_text("before")
    drawn.save(str(path))
    assert path.read_text(encoding="utf-8").startswith(start)


@pytest.mark.parametrize("name", ["moa.gif", "moa", "moa.png.bak"])
def test_another_suffix(name: str, tmp_path: Path):
    """What is no picture's suffix is told with those that are, and nothing is written."""
    with pytest.raises(MoAConfigError, match=rf"{name}: a picture ends in one of \.png, \.svg, \.mmd, \.txt"):
        draw(CONFIG, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path):
    """A folder that is not there is one clear line."""
    with pytest.raises(MoAConfigError, match=r"moa\.txt: cannot be written \(No such file or directory\)"):
        draw(CONFIG, tmp_path / "nowhere" / "moa.txt")


def test_without_mermaidx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Without its package a PNG says what to install; Mermaid and text do without it, in a notebook too."""
    monkeypatch.setitem(sys.modules, "mermaidx", None)
    with pytest.raises(MoAConfigError, match="pip install mermaidx; "):
        draw(CONFIG, tmp_path / "moa.png")
    draw(CONFIG, tmp_path / "moa.mmd")
    draw(CONFIG, tmp_path / "moa.txt")
    assert draw(CONFIG)._repr_mimebundle_()["text/plain"].startswith("layer 1\n├─ zoe")


def test_a_layer_that_was_left_out() -> None:
    """A budget kept a layer from being asked: its boxes stay as they are, and it is said."""
    member, budget = Proposer(ScriptedChatModel(), name="a"), Budget(calls=2, on_exceed="answer")
    moa = create_moa([member], ScriptedChatModel(), 3, budget=budget)
    receipt = moa.invoke({"messages": [("user", "Why?")]})["messages"][-1].response_metadata["moa"]
    text = draw(moa, receipt=receipt).text
    assert "layer 1  1 of 1 answered" in text
    assert "layer 2  left out\n└─ a  scripted\n" in text


def test_a_run_that_failed_by_its_receipt() -> None:
    """The receipt of an error colours what was asked, and says what was not."""
    moa = create_moa([[Proposer(ScriptedChatModel(answers=[bad_request()]), name="a")]] * 2, ScriptedChatModel(), 3)
    with pytest.raises(QuorumError) as raised:
        moa.invoke({"messages": [("user", "Why?")]})
    text = draw(moa, receipt=raised.value.receipt).text
    assert "✗ BadRequestError" in text
    assert "layer 2  not asked" in text
    assert "final  scripted  not asked" in text


# Steps between the layers


def stepped(*answers: str, layers: int = 2, **steps: Any) -> Any:
    names = ("zoe", "amy", "bob")
    panel = [scripted(name, text) for name, text in zip(names, answers, strict=False)]
    return create_moa(Layer(panel, **steps), scripted("last"), layers)


def ran(moa: Any) -> Any:
    return moa.invoke({"messages": [("user", "Why?")]})["messages"][-1].response_metadata["moa"]


def test_a_step_is_a_box_of_its_layer() -> None:
    """It has its kind, which one it is and its model, between those that it comes behind and before."""
    judge = scripted("judge", "[1]").model
    picture = draw(stepped("a", "b", select=TopK(1, judge)))
    assert "└─ select  top_k · m-judge" in picture.text
    assert "layer_1__amy --> layer_1__select" in arrows(picture)
    assert "layer_1__select --> layer_1__aggregate" in arrows(picture)


def test_a_step_that_ran_says_what_it_decided() -> None:
    """In colour and in words, long ones over several lines; who is not read on says so."""
    moa = stepped("red green blue", "cat dog", "red green blue sky", select=Cluster())
    picture = draw(moa, receipt=ran(moa))
    assert 'cluster<br/>kept 2 of 3, the larger group: groups of 2 and 1,<br/>0.87 apart"]:::ok' in picture.mermaid
    assert re.search(r"amy .*· unread", picture.text)
    assert not re.search(r"(zoe|bob) .*· unread", picture.text)


def test_a_route_is_dotted_until_it_has_chosen() -> None:
    """Then the ways that it chose are not, and who was not chosen says so and is not counted."""
    moa = stepped("a", "b", route=lambda _, names: names[:1])
    assert {"layer_1__route -.-> layer_1__zoe", "layer_1__route -.-> layer_1__amy"} <= set(arrows(draw(moa)))
    picture = draw(moa, receipt=ran(moa))
    assert {"layer_1__route --> layer_1__zoe", "layer_1__route -.-> layer_1__amy"} <= set(arrows(picture))
    assert "layer_1__amy -.-> layer_1__aggregate" in arrows(picture)
    assert "layer 1  1 of 1 answered" in picture.text
    assert re.search(r"amy +m-amy +not asked", picture.text)
    assert re.search(r"layer 1 .* ✓ 1 of 1 answered", draw(moa, expand=False, receipt=ran(moa)).text)


@pytest.mark.parametrize(
    ("answers", "sure", "said"), [(("a", "a"), "final", "left out"), (("a", "b"), "layer_2", "2 of 2 answered")]
)
def test_a_stop_is_a_fork(answers: Any, sure: str, said: str) -> None:
    """Both ways are dotted before a run, and one is not after it; the final model stands behind all layers."""
    moa = stepped(*answers, layers=3, stop=Agreement())
    ways = {"final", "layer_2"}
    assert {f"layer_1 -.-> {way}" for way in ways} <= set(arrows(draw(moa)))
    picture = draw(moa, receipt=ran(moa))
    assert f"layer_1 --> {sure}" in arrows(picture)
    assert f"layer_1 -.-> {(ways - {sure}).pop()}" in arrows(picture)
    assert [line.split("  ")[0] for line in picture.text.splitlines() if line[0].isalpha()] == [
        "layer 1",
        "layer 2",
        "final",
    ]
    assert f"layer 2  {said}" in picture.text


def test_a_closed_layer_names_its_steps() -> None:
    """One box says who is in it and what is decided in it; a layer that was left out has not failed."""
    moa = stepped("a", "a", layers=3, select=Diverse(2), stop=Agreement())
    picture = draw(moa, expand=False, receipt=ran(moa))
    assert re.search(r"layer 1 +2 proposers · select · stop +✓ 2 of 2 answered", picture.text)
    assert re.search(r"layer 2 +2 proposers · select +left out", picture.text)
    assert "✗" not in picture.text
