"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): two turns, each graded from 1 to 10 by itself.

Its own judge prompts, which are data: with the reference answer where there is one (math, reasoning, coding), and with
the whole conversation for the second turn.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from moa_graph.eval import data
from moa_graph.eval.items import Item
from moa_graph.eval.rubric import Answers, Ask, UnparsedError

__all__ = ["CATEGORIES", "MTBench", "rating"]

CATEGORIES: Final = ("writing", "roleplay", "extraction", "reasoning", "coding", "math", "stem", "humanities")

_NUMBER: Final = r"(\d+(?:\.\d+)?)(?:\s*/\s*10)?"
_RATINGS: Final = (
    re.compile(rf"\[\[\s*(?:rating\s*:?\s*)?{_NUMBER}\s*\]\]", re.IGNORECASE),
    re.compile(rf"\[\s*(?:rating\s*:?\s*)?{_NUMBER}\s*\]", re.IGNORECASE),
    re.compile(rf"\brating\**\s*[:=]\s*\**\s*{_NUMBER}\**\.?\s*$", re.IGNORECASE | re.MULTILINE),
)


class MTBench:
    """Its rubric."""

    unit = "of 10"

    def __init__(self, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir

    @cached_property
    def _prompts(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in data.rows("mt_bench/judge_prompts.jsonl", self._data_dir)}

    def asks(self, item: Item, contender: str, answers: Answers) -> Sequence[Ask]:
        if (said := answers(contender)) is None:
            return []
        return [
            Ask(item.id, contender, turn, self._messages(item, said, turn), rating)
            for turn in range(1, len(item.turns) + 1)
        ]

    def _messages(self, item: Item, said: Sequence[str], turn: int) -> list[tuple[str, str]]:
        name = ("single-math-v1" if item.reference else "single-v1") + ("-multi-turn" if turn > 1 else "")
        prompt = self._prompts[name]
        given = {"question": item.turns[0], "answer": said[0]}
        for k in range(turn):
            given |= {f"question_{k + 1}": item.turns[k], f"answer_{k + 1}": said[k]}
            given |= {f"ref_answer_{k + 1}": item.reference[k]} if item.reference else {}
        return [("system", prompt["system_prompt"]), ("user", prompt["prompt_template"].format(**given))]

    def score(self, item: Item, contender: str, judgements: Sequence[Mapping[str, Any]]) -> float | None:
        """The mean of its turns, where each has a rating."""
        scores = [judgement["score"] for judgement in judgements if judgement["status"] == "ok"]
        return sum(scores) / len(scores) if len(scores) == len(item.turns) else None

    def parts(self, item: Item, judgement: Mapping[str, Any]) -> Mapping[str, float]:
        return {f"turn {judgement['turn']}": judgement["score"], item.category: judgement["score"]}


def rating(reply: str) -> dict[str, float]:
    """The last `[[rating]]` of a reply, from 1 to 10. Raises UnparsedError."""
    for pattern in _RATINGS:
        if found := pattern.findall(reply):
            score = float(found[-1])
            if not 1 <= score <= 10:
                raise UnparsedError(f"the rating is {found[-1]}: from 1 to 10 was asked for")
            return {"score": score}
    raise UnparsedError("there is no [[rating]] in it")
