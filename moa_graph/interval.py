"""How sure a mean is: a bootstrap interval over questions, and a sign test for few of them."""

import math
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from statistics import fmean
from typing import Final, NamedTuple

__all__ = ["DRAWS", "Interval", "bootstrap", "sign_test"]

DRAWS: Final = 2000
_KEPT: Final = 4_000_000  # places in draws, of 8 bytes


class Interval(NamedTuple):
    """A mean, and from where to where it may as well lie."""

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether it holds `value`: the mean is no more than chance away from it."""
        return self.low <= value <= self.high


def bootstrap(
    values: Sequence[float],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    statistic: Callable[[Sequence[float]], float] = fmean,
) -> Interval:
    """The percentile bootstrap interval of a mean (or another statistic) over questions.

    values: one for each question. To compare two contenders on the same questions, give the difference of each pair,
    or the score of each pair: so the interval is paired. The same values and seed give the same interval; of few
    values, or of equal ones, it is too narrow (see `sign_test`). Raises ValueError where there is no value.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    size = len(values)
    if size > 1 and size * draws <= _KEPT:
        samples = (draw(values) for draw in _draws(size, draws, seed))
    else:
        dice = random.Random(seed)  # noqa: S311 - lots, no secrets
        samples = (dice.choices(values, k=size) for _ in range(draws))
    drawn = sorted(map(statistic, samples))
    tail = (1 - level) / 2
    return Interval(statistic(values), _quantile(drawn, tail), _quantile(drawn, 1 - tail))


@lru_cache(maxsize=2)
def _draws(size: int, draws: int, seed: int) -> list[Callable[[Sequence[float]], Sequence[float]]]:
    """What is drawn of any sequence of this size: to draw takes longer than to take what was drawn."""
    dice, places = random.Random(seed), [*range(size)]  # noqa: S311 - lots, no secrets
    return [itemgetter(*dice.choices(places, k=size)) for _ in range(draws)]


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    below, above = ordered[math.floor(at)], ordered[math.ceil(at)]
    return below + (above - below) * (at - math.floor(at))


def sign_test(wins: int, losses: int) -> float:
    """How likely a result at least as lopsided is by chance alone, ties left out (two-sided, exact)."""
    pairs = wins + losses
    tail = sum(math.comb(pairs, k) for k in range(max(wins, losses), pairs + 1))
    return min(1.0, tail / (1 << pairs) * 2)
