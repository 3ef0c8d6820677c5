"""How each contender fared: its answers, what they took, and what a judge prefers."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from moa_graph.contenders import Contender, Kind
from moa_graph.interval import Interval, bootstrap, sign_test
from moa_graph.judging import Preference
from moa_graph.questions import Conversation
from moa_graph.receipt import Call, Receipt, known, total

__all__ = ["Comparison", "Finding", "Outcome", "Standing"]

_SURE: Final = 0.05

Finding = Literal["better", "worse", "open", "none"]


@dataclass
class Outcome:
    """What came of one question to one contender. `stopped`: it was not answered because the budget is spent."""

    status: Literal["ok", "failed", "stopped"]
    answer: str = ""
    error: str = ""
    receipt: Receipt | None = None
    preference: Preference | None = None
    """Of this answer to the baseline's. `None`: not judged, one of the two is missing; or it is the baseline's."""


@dataclass
class Standing:
    """How a contender fared. `outcomes`: one for each question, in order; `None` where it was not reached."""

    contender: Contender
    outcomes: list[Outcome | None]

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def kind(self) -> Kind:
        return self.contender.kind

    def count(self, status: str) -> int:
        """How many questions were answered (`ok`), failed, or were stopped."""
        return sum(outcome.status == status for outcome in self.outcomes if outcome)

    @property
    def receipts(self) -> list[Receipt]:
        """Those of its runs that are known; a run that failed has one too."""
        return [outcome.receipt for outcome in self.outcomes if outcome and outcome.receipt]

    @property
    def cost_usd(self) -> float | None:
        """Of all its runs; `None`: unknown of one of them."""
        return total([*(made["cost_usd"] for made in self.receipts), *([None] if self._unaccounted else [])])

    @property
    def cost_usd_at_least(self) -> float:
        return known(made["cost_usd_at_least"] for made in self.receipts)

    @property
    def _unaccounted(self) -> bool:
        return any(outcome and outcome.status == "failed" and not outcome.receipt for outcome in self.outcomes)

    def mean(self, *names: str) -> float | None:
        """The mean over the questions it answered of a number in their receipts, or of the sum of several."""
        answered: list[Any] = [o.receipt for o in self.outcomes if o and o.status == "ok" and o.receipt]
        values = [total(made[name] for name in names) for made in answered]
        return None if not values or None in values else known(values) / len(values)

    @property
    def preferences(self) -> list[Preference]:
        return [outcome.preference for outcome in self.outcomes if outcome and outcome.preference]

    @property
    def scores(self) -> list[float]:
        """1 where its answer was preferred to the baseline's, 0.5 for a tie, 0; of the pairs that could be judged."""
        return [preference.score for preference in self.preferences if preference.score is not None]

    @property
    def unjudged(self) -> int:
        """Pairs of answers for which the judge gave no verdict."""
        return sum(preference.score is None for preference in self.preferences)

    @property
    def score(self) -> float | None:
        """The share of pairs it won, ties counting half."""
        return sum(self.scores) / len(self.scores) if self.scores else None

    def interval(self, seed: int = 0) -> Interval | None:
        """The score with its 95% bootstrap interval over the questions; `None`: nothing was judged."""
        return bootstrap(self.scores, seed=seed) if self.scores else None

    def finding(self, seed: int = 0) -> Finding:
        """What these questions tell of it beside the baseline; `open`: nothing, it may be chance.

        `better` and `worse` want an interval without 0.5 in it, and a result that by chance alone would be less
        likely than 1 in 20 (a sign test): of few pairs an interval is too narrow.
        """
        if (interval := self.interval(seed)) is None:
            return "none"
        wins, losses = self.scores.count(1.0), self.scores.count(0.0)
        if interval.holds(0.5) or sign_test(wins, losses) >= _SURE:
            return "open"
        return "better" if interval.mean > 0.5 else "worse"


@dataclass
class Comparison:
    """What came of it. The first standing is the baseline's."""

    questions: list[Conversation]
    judge: str
    standings: list[Standing]
    best: str | None = None
    """The single model that did best on these questions; chosen on them, which flatters it."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    judge_calls: list[Call] = field(default_factory=list)

    @property
    def baseline(self) -> Standing:
        return self.standings[0]

    @property
    def judge_cost_usd(self) -> float | None:
        return total(call["cost_usd"] for call in self.judge_calls)

    @property
    def judge_cost_usd_at_least(self) -> float:
        return known(call["cost_usd"] or call.get("cost_usd_at_least") for call in self.judge_calls)

    @property
    def judge_requests(self) -> int:
        return sum(call.get("calls", call["attempts"]) for call in self.judge_calls)
