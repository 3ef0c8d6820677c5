"""How sure a mean is."""

import pytest

from moa_graph.interval import Interval, bootstrap, sign_test


def test_an_interval_is_around_its_mean():
    """Of mixed scores it holds the mean, and leaves room on both sides."""
    found = bootstrap([1, 0, 0.5, 1, 0, 1, 1, 0.5])
    assert found.low < found.mean == 0.625 < found.high


def test_an_interval_is_that_of_the_normal_distribution_for_many_values():
    """For 400 wins and losses it comes out as 1.96 standard errors on each side."""
    found = bootstrap([1.0, 0.0] * 200)
    assert (found.low, found.high) == pytest.approx((0.451, 0.549), abs=0.006)


def test_an_interval_can_be_made_again():
    """The same values and seed give the same interval, another seed a slightly different one."""
    values = [1, 0, 0.5, 1, 0, 1, 1, 0.5, 0, 0, 1] * 3
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_a_higher_level_is_a_wider_interval():
    """99% reaches further than 80%."""
    values = [1, 0, 0.5, 1, 0, 1, 1, 0.5, 0, 0, 1]
    wide, narrow = bootstrap(values, level=0.99), bootstrap(values, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_another_statistic():
    """What is drawn anew is whatever is computed of the values."""
    assert bootstrap([1, 2, 9], statistic=max).mean == 9


def test_no_value_has_no_interval():
    """Nothing is made up of nothing."""
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_an_interval_holds_its_ends():
    """A value on the edge is within."""
    assert Interval(0.6, 0.5, 0.7).holds(0.5)
    assert not Interval(0.7, 0.6, 0.8).holds(0.5)


def test_few_pairs_prove_nothing():
    """Five wins of five are by chance alone more likely than 1 in 20, six of six are less."""
    assert sign_test(5, 0) == pytest.approx(0.0625)
    assert sign_test(0, 6) == pytest.approx(0.03125)
    assert sign_test(0, 0) == sign_test(4, 4) == 1.0
