"""What AlpacaEval's judge uses and costs: the package that asks it tells no more than tokens in all.

So its client notes what each answer used. What is known of a batch, and not of an item, is shared out over the items
whose reply could not be read: the package drops those.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from moa_graph.config import MoAConfig
from moa_graph.eval.contenders import adjusted
from moa_graph.fit import about
from moa_graph.prices import Prices
from moa_graph.receipt import known

__all__ = ["NOTHING", "Meter", "Usage", "counting", "expected", "told_of", "whole"]

Usage = dict[str, int]

NOTHING: Final[Usage] = {"input_tokens": 0, "output_tokens": 0}
_PROMPT: Final = 450  # tokens of AlpacaEval's prompt around question and answers
_FIELD: Final = "moa_graph_usage"


def counting(used: list[Usage | None]) -> type:
    """OpenAI's client, which notes what each answer used, and leaves it with the answer. `None`: not reported."""
    import openai

    class Counting(openai.OpenAI):
        def post(self, *args: Any, **kwargs: Any) -> Any:
            answer = super().post(*args, **kwargs)
            used.append(usage := _usage(getattr(answer, "usage", None)))
            for choice in getattr(answer, "choices", None) or ():
                setattr(choice, _FIELD, usage)
            return answer

    return Counting


def _usage(told: Any) -> Usage | None:
    if told is None:
        return None
    details = getattr(told, "prompt_tokens_details", None)
    cached = {"cached_input_tokens": n} if (n := getattr(details, "cached_tokens", None)) else {}
    return {"input_tokens": told.prompt_tokens, "output_tokens": told.completion_tokens, **cached}


def told_of(completion: Any) -> Usage | None:
    """What one answer used, as it was left with it."""
    return completion.get(_FIELD) if isinstance(completion, Mapping) else None


def whole(found: Sequence[Usage | None], used: Sequence[Usage | None]) -> list[Usage | None]:
    """What each of a batch used: as it is known, else its share of the rest. `None`: that was not reported."""
    missing = sum(usage is None for usage in found)
    told = [usage for usage in used if usage is not None]
    if not missing or len(told) < len(used):
        return list(found)
    rest = {
        name: sum(usage.get(name, 0) for usage in told) - sum((usage or {}).get(name, 0) for usage in found)
        for name in sorted({name for usage in told for name in usage})
    }
    shares = iter([{name: (n + k) // missing for name, n in rest.items()} for k in range(missing)])
    return [next(shares) if usage is None else usage for usage in found]


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
