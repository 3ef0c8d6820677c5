"""The user's own prompts: each answer beside a baseline's, judged twice, the second time in the other order."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from moa_graph.eval.items import Item
from moa_graph.eval.rubric import Answers, Ask, UnparsedError

__all__ = ["Own", "preferred"]

_ANSWER = "<answer A {code}>"
_REFERENCE = "<right answer {{code}}>\n{}\n</right answer {{code}}>\n\n"


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
            Ask(item.id, contender, 1, [("user", _prompt(item, *pair))], partial(preferred, order), order)
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


def _prompt(item: Item, first: str, second: str) -> str:
    """What `moa compare` asks its judge, with the right answer where one is known."""
    from langchain_core.messages import HumanMessage, convert_to_messages

    from moa_graph.judging import JUDGE, judge_prompt

    prompt = JUDGE
    if item.reference:
        right = item.reference[0].strip().replace("{", "{{").replace("}", "}}")
        prompt = prompt.replace(_ANSWER, _REFERENCE.format(right) + _ANSWER, 1)
    said = [(message["role"], message["content"]) for message in item.history]
    return judge_prompt([*convert_to_messages(said), HumanMessage(item.turns[0])], first, second, prompt)


def preferred(order: str, reply: str) -> dict[str, float]:
    """100 where the contender, shown `order`, is preferred; 50 for a tie, else 0. Raises UnparsedError."""
    from moa_graph.judging import read_verdict

    try:
        verdict = read_verdict(reply)
    except ValueError as error:
        raise UnparsedError(f"the judge gave {error}") from error
    if verdict == "tie":
        return {"score": 50.0}
    return {"score": 100.0 if (verdict == "A") == (order == "first") else 0.0}
