"""What a comparison is going to take, before anybody is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moa_graph.budget import Amount
from moa_graph.config import MoAConfig
from moa_graph.contenders import Contender, mixtures, single_proposer, singles
from moa_graph.estimate import Estimate
from moa_graph.fit import about
from moa_graph.judging import JUDGE, VERDICT_TOKENS
from moa_graph.prices import Prices
from moa_graph.questions import conversation
from moa_graph.receipt import known, total

__all__ = ["Outlook", "amount", "outlook"]


@dataclass(frozen=True)
class Outlook:
    """Everybody asked once, and every pair judged in two calls. `cost_usd` is `None` where it is not known."""

    mixtures: int
    singles: int
    single_proposer: bool
    questions: int
    calls: int
    judge_calls: int
    tokens: int
    cost_usd: float | None
    cost_usd_at_least: float
    own: list[str]
    """The contenders whose model the judge is: models tend to prefer their own answers."""


def outlook(given: Mapping[str, MoAConfig], questions: Sequence[Any], judge: str, *, alone: bool = True) -> Outlook:
    """What `moa_graph.compare.compare` is going to take. Which single model is best is not known yet: the dearest one
    is assumed. Raises MoAConfigError for a question that is none.
    """
    everyone = mixtures(given)
    own = singles(everyone[0].config, [*given]) if alone else []
    asked = [conversation(one) for one in questions]
    rows = [_sum([one.config.estimate(q) for q in asked]) for one in [*everyone, *own]]
    made = [single_proposer(everyone[0].config, one, [*given]) for one in own]
    last = [_sum([one.config.estimate(q) for q in asked]) for one in made if one]
    rows += [max(last, key=lambda row: (row[1] or 0.0, row[0].tokens))] if last else []
    pairs, prices = (len(rows) - 1) * len(asked), Prices()
    usage = _judged([one.config for one in everyone], asked)
    verdict = prices.cost([judge], usage)
    verdicts = None if verdict is None else 2 * pairs * verdict
    return Outlook(
        mixtures=len(everyone),
        singles=len(own),
        single_proposer=bool(last),
        questions=len(asked),
        calls=round(sum(amount.calls for amount, _ in rows)),
        judge_calls=2 * pairs,
        tokens=round(sum(amount.tokens for amount, _ in rows)) + 2 * pairs * sum(usage.values()),
        cost_usd=total([*(usd for _, usd in rows), verdicts]),
        cost_usd_at_least=known([*(amount.usd for amount, _ in rows), verdicts]),
        own=[one.name for one in [*everyone, *own] if _is_of(one, judge)],
    )


def amount(estimate: Estimate) -> Amount:
    """What is known of an estimate."""
    tokens = estimate["input_tokens"] + estimate["output_tokens"]
    return Amount(estimate["cost_usd_at_least"], tokens, estimate["calls"])


def _sum(estimates: Sequence[Estimate]) -> tuple[Amount, float | None]:
    return Amount.sum([amount(one) for one in estimates]), total(one["cost_usd"] for one in estimates)


def _judged(mixtures: Sequence[MoAConfig], questions: Sequence[Any]) -> dict[str, int]:
    """The tokens of one verdict: the question, and two answers as long as the longest expected one."""
    layers = [layer for one in mixtures for layer in one.estimate(questions[0])["layers"] if layer["calls"]]
    said = max(layer["output_tokens"] // layer["calls"] for layer in layers)
    texts = sum(about("\n".join(message.text for message in q)) for q in questions) // len(questions)
    return {"input_tokens": about(JUDGE) + texts + 2 * said, "output_tokens": VERDICT_TOKENS}


def _is_of(contender: Contender, judge: str) -> bool:
    return judge in contender.models
