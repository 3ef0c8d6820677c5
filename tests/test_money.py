"""Sums of $ as people read them."""

import random

import pytest

from moa_graph.money import dollars, money


@pytest.mark.parametrize(
    ("usd", "shown", "up"),
    [
        (0.0, "0", "0"),
        (0.031, "0.031", "0.031"),
        (0.0311, "0.031", "0.032"),
        (0.30000000000000004, "0.3", "0.3"),
        (0.07, "0.07", "0.07"),
        (0.996, "1", "1.00"),
        (1.001, "1.00", "1.01"),
        (12.3, "12.30", "12.30"),
        (0.0000123, "0.000012", "0.000013"),
    ],
)
def test_two_digits_count(usd: float, shown: str, up: str) -> None:
    """To the nearest; of what is still to be spent the next one above, and never more than that."""
    assert (dollars(usd), dollars(usd, up=True)) == (shown, up)


def test_a_budget_of_what_is_shown_is_enough() -> None:
    """Whatever the sum, what is shown of it rounded up is no less, and at most a tenth more."""
    for k in range(2000):
        usd = round(10 ** random.Random(k).uniform(-6, 3), 9)
        assert usd * (1 - 1e-9) <= float(dollars(usd, up=True)) <= usd * 1.1 + 1e-9


def test_unknown_is_said_to_be() -> None:
    """With what is known, and never as 0."""
    assert (dollars(None), dollars(None, 0.0311), dollars(None, 0.0311, up=True)) == ("?", "0.031+", "0.032+")
    assert money(None, 0.0) == "$ unknown"
    assert money(None, 0.0311, up=True) == "$ unknown (at least $0.032)"
