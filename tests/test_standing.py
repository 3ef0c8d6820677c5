"""What so many wins, ties and losses tell."""

from typing import Any, Literal

import pytest

from moa_graph import MoAConfig
from moa_graph.contenders import Contender
from moa_graph.judging import Preference
from moa_graph.standing import Outcome, Standing

ONE = Contender("one", "mixture", MoAConfig(proposers=["openai:a"], aggregator="openai:a"))


def standing(*scores: float | None, status: Literal["ok", "failed"] = "ok") -> Standing:
    preferences = [Preference(score, (None, None)) for score in scores]
    return Standing(ONE, [Outcome(status, "text", preference=preference) for preference in preferences])


@pytest.mark.parametrize(
    ("scores", "finding"),
    [
        ([1.0] * 5, "open"),  # by chance alone 1 in 16
        ([1.0] * 6, "better"),
        ([0.0] * 6, "worse"),
        ([0.5] * 100, "open"),
        ([1.0, 0.0] * 50, "open"),
        ([1.0] * 60 + [0.0] * 40, "open"),
        ([1.0] * 70 + [0.0] * 30, "better"),
        ([1.0] * 30 + [0.0] * 70, "worse"),
        ([None] * 9, "none"),
        ([], "none"),
    ],
)
def test_what_scores_tell(scores: list[Any], finding: str):
    """Better or worse only where both the interval and the sign test say so."""
    assert standing(*scores).finding() == finding


def test_ties_count_half():
    """One win, one tie, one loss: a half; what was not judged is in no score."""
    assert standing(1.0, 0.5, 0.0).score == 0.5
    assert standing(1.0, 0.5, None, None).score == 0.75
    assert standing(1.0, 0.5, None, None).unjudged == 2


def test_the_cost_of_a_run_without_a_receipt_is_unknown():
    """It is None, never 0; that of a question that was not reached is nothing."""
    lost = Standing(ONE, [Outcome("failed", error="gone"), None])
    assert (lost.cost_usd, lost.cost_usd_at_least, lost.mean("calls")) == (None, 0, None)
    assert Standing(ONE, [None]).cost_usd == 0
