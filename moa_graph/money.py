"""Sums of $ as people read them."""

from decimal import ROUND_CEILING, Decimal
from math import floor, log10

__all__ = ["dollars", "money"]


def money(usd: float | None, at_least: float, *, up: bool = False) -> str:
    """A sum in words; what is unknown is never 0. `up`: as in `dollars`."""
    if usd is not None:
        return f"${dollars(usd, up=up)}"
    return f"$ unknown (at least ${dollars(at_least, up=up)})" if at_least else "$ unknown"


def dollars(usd: float | None, at_least: float = 0.0, *, up: bool = False) -> str:
    """A sum as a column has it: cents and above with two digits that count, `12.3+` where there is more.

    `up`: of what is still to be spent, rounded up, so that a budget of what is shown is enough.
    """
    if usd is None:
        return f"{dollars(at_least, up=up)}+" if at_least else "?"
    if up and usd:
        usd = _rounded_up(usd)
    if usd == 0 or usd >= 1:
        return f"{usd:.2f}" if usd else "0"
    return f"{usd:.2g}" if usd >= 1e-4 else f"{usd:.{1 - floor(log10(usd))}f}"


def _rounded_up(usd: float) -> float:
    """To the last digit that is shown; what is behind the twelfth digit is no part of a sum."""
    last = -2 if usd >= 1 else floor(log10(usd)) - 1
    return float(Decimal(f"{usd:.12g}").quantize(Decimal(1).scaleb(last), ROUND_CEILING))
