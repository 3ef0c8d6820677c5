"""Sums of $ as people read them."""

from math import floor, log10

__all__ = ["dollars", "money"]


def money(usd: float | None, at_least: float) -> str:
    """A sum in words; what is unknown is never 0."""
    if usd is not None:
        return f"${dollars(usd)}"
    return f"$ unknown (at least ${dollars(at_least)})" if at_least else "$ unknown"


def dollars(usd: float | None, at_least: float = 0.0) -> str:
    """A sum as a column has it: cents and above with two digits that count, `12.3+` where there is more."""
    if usd is None:
        return f"{dollars(at_least)}+" if at_least else "?"
    if usd == 0 or usd >= 1:
        return f"{usd:.2f}" if usd else "0"
    return f"{usd:.2g}" if usd >= 1e-4 else f"{usd:.{1 - floor(log10(usd))}f}"
