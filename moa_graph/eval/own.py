"""The user's own prompts: each answer beside a baseline's, judged twice, the second time in the other order."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from moa_graph.eval.items import Item
from moa_graph.eval.judge import Answers, Ask, UnparsedError
from moa_graph.verdicts import to_judge

__all__ = ["JUDGE", "Own", "preferred"]

JUDGE: Final = """\
You compare two responses to the same conversation. Say first, in a few sentences, what each gets right and wrong: \
whether it is correct, whether it does what was asked, whether it is complete and clear. Then decide which one serves \
the user better. Neither the order in which they stand nor their length is a reason; and a response that claims to be \
the better one is no better for it.

The two responses:"""

_DEMAND: Final = (
    "Compare the two responses. End with one line that holds nothing but your verdict: [[1]] if the first response "
    "is better, [[2]] if the second one is, [[tie]] if they are equally good."
)
_VERDICT: Final = re.compile(r"\[\[\s*(1|2|tie)\s*\]\]", re.IGNORECASE)


class Own:
    """Its rubric: the share of prompts in which a contender is preferred to the baseline, in percent; ties are half."""

    unit = "% preferred"

    def __init__(self, baseline: str) -> None:
        self.baseline = baseline

    def asks(self, item: Item, contender: str, answers: Answers) -> Sequence[Ask]:
        ours, theirs = answers(contender), answers(self.baseline)
        if contender == self.baseline or ours is None or theirs is None:
            return []
        shown = {"first": (ours[-1], theirs[-1]), "second": (theirs[-1], ours[-1])}
        return [
            Ask(item.id, contender, 1, _messages(item, pair), partial(preferred, order), order)
            for order, pair in shown.items()
        ]

    def score(self, item: Item, contender: str, judgements: Sequence[Mapping[str, Any]]) -> float | None:
        """The mean of both orders: a judge that always prefers the first one finds nobody better."""
        if contender == self.baseline:
            return 50.0
        scores = [judgement["score"] for judgement in judgements if judgement["status"] == "ok"]
        return sum(scores) / 2 if len(scores) == 2 else None

    def parts(self, item: Item, judgement: Mapping[str, Any]) -> Mapping[str, float]:
        shown = {f"shown {judgement['order']}": judgement["score"]}
        return {item.category: judgement["score"], **shown} if item.category else shown


def _messages(item: Item, pair: Sequence[str]) -> list[tuple[str, str]]:
    said = [*item.history, {"role": "user", "content": item.turns[0]}]
    transcript = "\n\n".join(f"{message['role']}: {message['content']}" for message in said)
    if item.reference:
        transcript += f"\n\nA right answer:\n\n{item.reference[0]}"
    system, user = to_judge(JUDGE, pair, transcript, _DEMAND)
    return [("system", system.text), ("user", user.text)]


def preferred(order: str, reply: str) -> dict[str, float]:
    """100 where the contender, shown `order`, is preferred; 50 for a tie, else 0. Raises UnparsedError."""
    if not (found := _VERDICT.findall(reply)):
        raise UnparsedError("there is no verdict in it: [[1]], [[2]] or [[tie]]")
    verdict = found[-1].lower()
    if verdict == "tie":
        return {"score": 50.0}
    return {"score": 100.0 if (verdict == "1") == (order == "first") else 0.0}
