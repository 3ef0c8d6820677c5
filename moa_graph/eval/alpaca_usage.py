"""What AlpacaEval's judge uses: the package that asks it tells no more than tokens in all.

So its client notes what each answer used. What is known of a batch, and not of an item, is shared out over the items
whose reply could not be read: the package drops those.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["NOTHING", "Usage", "counting", "told_of", "whole"]

Usage = dict[str, int]

NOTHING: Final[Usage] = {"input_tokens": 0, "output_tokens": 0}
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
