"""Whether a difference is more than chance: the paired bootstrap, and what it says in words."""

import random
import statistics
from collections.abc import Callable

import pytest

from moa_graph.errors import MoAConfigError
from moa_graph.eval.statistics import Estimate, compare, mean


def scores(n: int, seed: int, shift: float = 0.0) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(shift, 1) for _ in range(n)]


def test_the_interval_is_that_of_the_normal_law() -> None:
    """Of many scores, it is 1.96 standard errors wide on each side of the mean."""
    given = scores(800, seed=1)
    found = mean(given)
    error = statistics.stdev(given) / len(given) ** 0.5
    assert found.mean == pytest.approx(statistics.fmean(given))
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((1.96 * error, 1.96 * error), rel=0.05)
    assert found.n == 800


def test_it_holds_the_truth_95_times_in_100() -> None:
    """Of 200 samples of 60, about 190 intervals hold the mean that they were drawn from."""
    held = sum(found.low <= 0 <= found.high for found in (mean(scores(60, seed), draws=400) for seed in range(200)))
    assert 180 <= held <= 198


def test_the_same_seed_draws_the_same() -> None:
    """An interval can be had again; with another seed it is another, and nearly the same."""
    given = scores(50, seed=1)
    assert mean(given, seed=3) == mean(given, seed=3)
    assert mean(given, seed=3) != mean(given, seed=4)
    assert mean(given, seed=3).low == pytest.approx(mean(given, seed=4).low, abs=0.1)


def test_pairs_are_compared_item_by_item() -> None:
    """Items of very different difficulty hide no difference that is the same in each."""
    hard = {str(k): 100 * value for k, value in enumerate(scores(40, seed=2))}
    noise = scores(40, seed=3)
    ours = {item: value + 1 + noise[int(item)] / 10 for item, value in hard.items()}
    found = compare(ours, hard)
    assert found.mean == pytest.approx(1, abs=0.1)
    assert found.beyond_chance
    assert not (mean(list(ours.values())).low > mean(list(hard.values())).mean)


def test_what_only_one_of_them_has_is_left_out() -> None:
    """`n` says how many items are left."""
    found = compare({"a": 1, "b": 3, "c": 9}, {"b": 1, "a": 1, "d": 9})
    assert (found.mean, found.n) == (1, 2)


@pytest.mark.parametrize(
    ("interval", "sentence"),
    [
        (
            Estimate(3.0, 1.0, 5.0, 100),
            "Over 100 items, moa has 3.00 points more than luna on average (95% interval: +1.00 to +5.00 points).",
        ),
        (
            Estimate(-3.0, -5.0, -1.0, 100),
            "Over 100 items, moa has 3.00 points less than luna on average (95% interval: -5.00 to -1.00 points).",
        ),
        (
            Estimate(3.0, -1.0, 5.0, 20),
            "Over 20 items, moa and luna cannot be told apart: "
            "+3.00 points on average (95% interval: -1.00 to +5.00 points).",
        ),
        (Estimate(3.0, 3.0, 3.0, 1), "1 item tells nothing about moa and luna."),
    ],
)
def test_it_is_said_in_words(interval: Estimate, sentence: str) -> None:
    """Who is better, or that it cannot be told."""
    assert interval.sentence("moa", "luna", " points") == sentence


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: mean([]), "there is no score"),
        (lambda: mean([1, float("nan")]), "nan is no score"),
        (lambda: compare({"a": 1}, {"b": 1}), "no item in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(ask: Callable[[], Estimate], message: str) -> None:
    """A missing score is never made up."""
    with pytest.raises(MoAConfigError, match=message):
        ask()
