"""What AlpacaEval's judge costs, and how far the money goes."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from moa_graph.config import MoAConfig
from moa_graph.eval.alpaca_usage import NOTHING, Usage
from moa_graph.eval.contenders import adjusted
from moa_graph.fit import about
from moa_graph.prices import Prices
from moa_graph.receipt import known

__all__ = ["Meter", "expected"]

_PROMPT: Final = 450  # tokens of AlpacaEval's prompt around question and answers


def expected(config: MoAConfig, texts: str) -> Any:
    """An estimate of one judgement: it is one token, of a prompt around the texts."""
    return adjusted(config, None, 1).estimate(f"{texts}\n{'word ' * _PROMPT}")


class Meter:
    """What the judge has cost and may cost. `left`: $; `None`: as much as it takes."""

    def __init__(self, config: MoAConfig, left: float | None = None) -> None:
        self._model = config.finals[0].model
        price = config.own(config.finals[0])["price"]
        self._prices = Prices({self._model: price} if price else None)
        self._limit, self._left = left, left

    def receipt(self, usages: Sequence[Usage | None]) -> dict[str, Any]:
        """What these calls cost; it is taken off what is left."""
        costs = [None if usage is None else self._prices.cost([self._model], usage) for usage in usages]
        least = known(costs)
        if self._left is not None:
            self._left -= least
        tokens = {name: sum((usage or NOTHING)[name] for usage in usages) for name in NOTHING}
        calls = sum(usage != NOTHING for usage in usages)
        return {"calls": calls, **tokens, "cost_usd": None if None in costs else least, "cost_usd_at_least": least}

    def batch(self, texts: Iterator[str], most: int) -> int:
        """How many of these, `most` at most, there is enough left for."""
        if self._left is None:
            return most
        sum_, count = 0.0, 0
        for text in texts:
            sum_ += self._prices.cost([self._model], {"input_tokens": about(text) + _PROMPT, "output_tokens": 1}) or 0.0
            if count == most or sum_ > self._left * (1 + 1e-9):
                break
            count += 1
        return count

    def stopped(self) -> str:
        """Why it goes no further."""
        return f"${self._left:.4g} of ${self._limit:.4g} is left, and one more judgement is expected to cost more"
