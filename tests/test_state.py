"""What flows along the edges."""

from typing import Any

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from moa_graph import Proposal
from moa_graph.state import merge_proposals


def proposal(layer: int, slot: int, content: str = "x") -> Proposal:
    return Proposal(
        layer=layer, slot=slot, proposer="a", model="a", status="ok", content=content, seconds=0.1, attempts=1
    )


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (None, [], []),
        (None, [(1, 1)], [(1, 1)]),
        ([(1, 2)], [(1, 1)], [(1, 1), (1, 2)]),
        ([(1, 10)], [(1, 2)], [(1, 2), (1, 10)]),
        ([(1, 1)], [(2, 1)], [(1, 1), (2, 1)]),
        ([(1, 1)], [], [(1, 1)]),
        ([(1, 1)], None, []),
        ([(1, 1), (2, 1), (3, 1)], [(1, 2)], [(1, 1), (1, 2)]),
        ([(1, 1), (2, 1), (2, 2)], [(2, 1)], [(1, 1), (2, 1), (2, 2)]),
    ],
)
def test_proposals_are_merged_by_layer_and_slot(old: Any, new: Any, wanted: Any) -> None:
    """Sorted; `None` begins anew; what later layers answered to a former text is dropped."""
    before, after = (places if places is None else [proposal(*place) for place in places] for places in (old, new))
    assert [(p["layer"], p["slot"]) for p in merge_proposals(before, after)] == wanted


def test_the_new_stands_in_place_of_the_old() -> None:
    """Writing twice changes nothing, so parent and subgraph may share the key; the old list is not touched."""
    old, new = [proposal(1, 1, "old"), proposal(1, 2)], [proposal(1, 1, "new")]
    once = merge_proposals(old, new)
    assert [p["content"] for p in once] == ["new", "x"]
    assert merge_proposals(once, once) == once
    assert old[0]["content"] == "old"


def test_a_checkpoint_can_hold_a_proposal(caplog: pytest.LogCaptureFixture) -> None:
    """A proposal goes through the checkpoint serialiser unchanged, as a plain dict, without a complaint."""
    serde = JsonPlusSerializer()
    back = serde.loads_typed(serde.dumps_typed([proposal(1, 1)]))
    assert back == [proposal(1, 1)]
    assert not caplog.records
