"""Whether a difference is more than chance: the paired bootstrap.

found = compare({"q1": 1.0, "q2": 0.5, …}, {"q1": 0.0, "q2": 0.5, …})
print(found.sentence("moa", "luna", " points"))
# Over 805 items, moa has 3.10 points more than luna on average (95% interval: +1.20 to +5.00 points).

The same items are drawn for both contenders, with replacement, many times: how hard an item is drops out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moa_graph.errors import MoAConfigError
from moa_graph.interval import DRAWS, bootstrap

__all__ = ["Estimate", "compare", "mean"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` items, and between which values 95% of the draws are."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def beyond_chance(self) -> bool:
        """Whether 0 is outside the interval: of a difference, that it has a sign."""
        return self.low > 0 or self.high < 0

    def sentence(self, contender: str, other: str, unit: str = "") -> str:
        """What the difference of two contenders says, in words; `unit` follows a number, such as " points"."""
        interval = f"(95% interval: {self.low:+.2f} to {self.high:+.2f}{unit})"
        if self.n < 2:
            return f"{self.n} item tells nothing about {contender} and {other}."
        if not self.beyond_chance:
            return (
                f"Over {self.n} items, {contender} and {other} cannot be told apart: "
                f"{self.mean:+.2f}{unit} on average {interval}."
            )
        difference = f"{abs(self.mean):.2f}{unit} {'more' if self.mean > 0 else 'less'}"
        return f"Over {self.n} items, {contender} has {difference} than {other} on average {interval}."


def mean(scores: Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The mean of one contender's scores. The same seed gives the same interval.

    Raises MoAConfigError where there is no score, or one that is not a finite number.
    """
    if not scores:
        raise MoAConfigError("there is no score to take the mean of")
    if wrong := [score for score in scores if not math.isfinite(score)]:
        raise MoAConfigError(f"{wrong[0]} is no score: leave the item out, and say so")
    return Estimate(*bootstrap(scores, seed=seed, draws=draws), len(scores))


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """How much more `ours` scores than `theirs`, over the items that both have a score of.

    Args:
        ours: a contender's score of each item, by the item's name.
        theirs: the other's. What only one of them has is left out: `n` says how many are left.
        seed: of the draws.
        draws: how often the items are drawn.

    Raises:
        MoAConfigError: they have no item in common, or a score is not a finite number.
    """
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise MoAConfigError("the two contenders have no item in common")
    return mean([ours[item] - theirs[item] for item in both], seed=seed, draws=draws)
