"""The tree of a run: who is asked in which layer, and how it goes, from the run's events."""

import re
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache

from moa_graph import Diverse, FinalError, Layer, LayerPolicy, Proposer, QuorumError, Sentinel, create_moa
from moa_graph.cli.live import tree_of
from moa_graph.cli.tree import Tree
from moa_graph.testing import Answer, ScriptedChatModel, bad_request

ASK = {"messages": [("user", "Why?")]}


def model(name: str, *answers: Any, **how: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name, **how)


async def ran(graph: Any, upto: str | None = None) -> tuple[Tree, list[str]]:
    """The tree after a run, or after the first event of kind `upto`; and the lines it had to tell."""
    tree, told = tree_of(graph), []
    try:
        async for _, mode, event in graph.astream(ASK, stream_mode=["custom", "messages"], subgraphs=True):
            if mode != "custom":
                continue
            if line := tree.take(event):
                told.append(line)
            if event["type"] == f"moa.{upto}":
                break
    except (QuorumError, FinalError):
        tree.stop(failed=True)
    return tree, told


def lines(tree: Tree, width: int = 80, height: int = 50) -> list[str]:
    """The picture's lines, with `#` for any number of seconds."""
    picture = re.sub(r"\d+\.\d s", "# s", tree.picture(width, height).plain)
    return [line.rstrip() for line in picture.splitlines()]


def whole(tree: Tree, width: int = 80) -> list[str]:
    return [line.rstrip() for line in tree.whole(width).plain.splitlines()]


def test_everyone_waits_in_declared_order():
    """Before a run every layer stands there with its proposers as they were declared, and the final model."""
    moa = create_moa([model("zoe"), model("amy"), model("p10"), model("p2")], model("last"), 3)
    panel = ["├─ · zoe  waiting", "├─ · amy  waiting", "├─ · p10  waiting", "└─ · p2   waiting"]
    assert lines(tree_of(moa)) == ["layer 1", *panel, "layer 2", *panel, "final model", "└─ · last  waiting"]


def test_a_plain_call_is_the_final_model_alone():
    """With one layer there is nothing but the final model."""
    assert lines(tree_of(create_moa([], model("last"), 1))) == ["final model", "└─ · last  waiting"]


async def test_an_answer_has_seconds_and_tokens():
    """Who has answered is marked, with seconds and tokens; so is the final model; each layer says how many did."""
    tree, told = await ran(create_moa([model("a")], model("c"), 2))
    assert lines(tree) == [
        "layer 1  1 of 1 answered, # s",
        "└─ ✓ a  # s, 3 tokens",
        "final model",
        "└─ ✓ c  # s, 3 tokens",
    ]
    assert [re.sub(r"\d+\.\d", "#", line) for line in told] == ["layer 1, a: # s, 3 tokens"]


async def test_failed_and_cut_say_why():
    """Who failed is told with the reason, who was cut with the seconds."""
    panel = [model("a"), model("b", bad_request()), model("d", Answer("late", stall_after=0))]
    tree, _ = await ran(create_moa(panel, model("c"), 2, policy=LayerPolicy(grace=0.5)))
    assert lines(tree)[2:4] == ["├─ ✗ b  BadRequestError: scripted: bad request (# s)", "└─ - d  cut after # s"]


async def test_a_cached_answer_is_told_as_cached():
    """What comes from the cache says so in place of seconds."""
    moa = create_moa([model("a")], model("c"), 2, cache=InMemoryCache())
    await moa.ainvoke(ASK)
    tree, told = await ran(moa)
    assert [line for line in lines(tree) if "cached" in line] == [
        "└─ ✓ a  cached, 3 tokens",
        "└─ ✓ c  cached, 3 tokens",
    ]
    assert told == ["layer 1, a: cached, 3 tokens"]


async def test_a_fallback_stands_below_the_one_that_failed():
    """Each final model that failed keeps its line and its reason; who is asked in its place comes below it."""
    tree, told = await ran(create_moa([], [model("x", bad_request()), model("c")], 1))
    assert lines(tree) == [
        "final model",
        "├─ ✗ x  BadRequestError: scripted: bad request",
        "└─ ✓ c  # s, 3 tokens",
    ]
    assert told == ["final model, x: BadRequestError: scripted: bad request; asking c"]


async def test_a_final_model_that_failed_is_marked():
    """Where the last final model fails there is no event: the end of the run marks it."""
    tree, _ = await ran(create_moa([model("a")], model("c", bad_request()), 2))
    assert lines(tree)[-1] == "└─ ✗ c  failed after # s"


async def test_who_is_asked_now_has_a_running_clock():
    """While somebody is asked, the line shows the seconds so far; who streams, when the first token came."""
    tree, _ = await ran(create_moa([model("a")], model("c"), 2), upto="proposer_started")
    assert lines(tree)[1][5:] == "a  # s"
    moa = create_moa([model("a")], model("c"), 2, stream_proposers=True)
    tree, _ = await ran(moa, upto="proposer_first_token")
    assert lines(tree)[1][5:] == "a  # s, first token after # s"


def test_what_was_answered_before_is_told_so():
    """What a resumed run finds done is no waiting proposer."""
    tree = tree_of(create_moa([model("a"), model("b")], model("c"), 2))
    tree.known([{"layer": 1, "slot": 2, "status": "ok"}, {"layer": 1, "slot": 1, "status": "error"}])
    assert lines(tree)[1:3] == ["├─ · a  waiting", "└─ ✓ b  answered before"]


async def test_events_of_a_mixture_within_are_left_out():
    """A proposer that is a mixture itself is one line; what goes on in it does not touch the tree."""
    inner = create_moa([model("x"), model("y")], model("z"), 2, name="inner")
    tree, told = await ran(create_moa([model("a"), inner], model("c"), 2))
    assert [line[:10].rstrip() for line in lines(tree)[1:3]] == ["├─ ✓ a", "└─ ✓ inner"]
    assert len(told) == 2


@pytest.mark.parametrize("height", [3, 6, 9, 14])
async def test_a_picture_is_no_higher_than_the_screen(height: int):
    """Where the screen is low, waiting and finished layers become one line each; whoever is at work stays."""
    moa = create_moa([model(name) for name in "abcd"], model("z"), 4)
    tree, _ = await ran(moa, upto="layer_done")
    drawn = lines(tree, height=height)
    assert len(drawn) <= height
    assert drawn[0] == "layer 1  4 of 4 answered, # s"
    assert height < 6 or "layer 3  4 waiting" in drawn


@pytest.mark.parametrize("width", [40, 80, 120])
async def test_a_picture_is_no_wider_than_the_screen(width: int):
    """A long name and a long reason keep within the width; in the last picture the reason stands there in full."""
    long = bad_request()
    long.args = ("a reason that goes on " * 8,)
    name = "a-name-that-is-" * 5
    moa = create_moa([model("a"), model(name, long)], model("c"), 2)
    tree, _ = await ran(moa)
    assert max(len(line) for line in whole(tree, width)) <= width
    said = " ".join(" ".join(line.strip("│ ") for line in whole(tree, width)).split())
    assert said.count("a reason that goes on") == 8


# Steps between the layers


async def test_decisions_stand_in_their_layer():
    """A route stands before whom it chose from, who was not chosen is not asked, the others behind the answers."""
    panel = [Proposer(model(name, "FINAL"), name=name) for name in ("zoe", "amy", "bob")]
    layer = Layer(panel, route=lambda *_: ["zoe", "bob"], select=Diverse(1), stop=Sentinel("FINAL"))
    tree, told = await ran(create_moa(layer, model("last"), 3))
    assert lines(tree)[:8] == [
        "layer 1  2 of 2 answered, # s",
        "├─ » route   asks 2 of 3: zoe, bob",
        "├─ ✓ zoe     # s, 1 token",
        "├─ · amy     not asked",
        "├─ ✓ bob     # s, 1 token",
        "├─ » select  kept 1 of 2, the least alike",
        "└─ » stop    1 of 1 answers hold 'FINAL', 1 must",
        "layer 2  left out",
    ]
    assert "layer 1, route: asks 2 of 3: zoe, bob" in told
    assert "layer 1, select (diverse): kept 1 of 2, the least alike" in told


async def test_a_layer_in_one_line_counts_whom_the_route_chose():
    """Where there is no room for its members, who was not asked is not missing."""
    layer = Layer([model("zoe"), model("amy")], route=lambda _, names: names[:1])
    tree, _ = await ran(create_moa(layer, model("last"), 2))
    assert lines(tree, height=3)[0] == "layer 1  1 of 1 answered, # s"
