"""What a run may spend: checked before each layer with what that layer is going to cost, and before the final model.

create_moa(..., budget=Budget(usd=0.05))                      # each run by itself
create_moa(..., budget=Budget(usd=5, shared=True))            # all runs together, of a batch for instance
create_moa(..., budget=Budget(calls=20, on_exceed="answer"))  # no error: an answer from what there is
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

from moa_graph.errors import MoAConfigError

__all__ = ["USUAL_OUTPUT", "Amount", "Budget", "Holding", "OnExceed", "Purse", "spent"]

OnExceed = Literal["stop", "answer"]

USUAL_OUTPUT: Final = 500
"""Output tokens that are expected of an answer nothing else is known of, where `max_tokens` allows them: the
paper's models and their kind write about that much on AlpacaEval."""


class Amount(NamedTuple):
    """Something spent: $, tokens (in and out together), calls."""

    usd: float = 0.0
    tokens: float = 0
    calls: float = 0

    def plus(self, other: "Amount") -> "Amount":
        return Amount(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Amount") -> "Amount":
        return Amount(*(a - b for a, b in zip(self, other, strict=True)))

    @classmethod
    def sum(cls, amounts: Sequence["Amount"]) -> "Amount":
        whole = cls()
        for amount in amounts:
            whole = whole.plus(amount)
        return whole


@dataclass(frozen=True)
class Budget:
    """What a run may spend. Limits that are `None` do not limit.

    usd: by list price (`moa_graph.prices`); every model's price must be known then. tokens: in and out together.
    calls: requests to providers, further attempts included.
    on_exceed: `"stop"` raises BudgetExceededError, the proposals are kept, and a thread is resumed with a higher
    budget. `"answer"` leaves out the layers that are too dear, and the final model answers with what there is: its
    call is set aside before every layer but the first. The receipt says so in `stopped`.
    shared: one budget for all runs of all graphs it is given to, in this process; else each run has its own. A run
    begins where there is enough for all of it: ten runs at once are not stopped half-way, each without an answer.

    A layer is expected to cost its prompts, what its steps ask, and of each model its usual answer
    (`Proposer.usual_output`; `MoAConfig` knows it from earlier runs), else `USUAL_OUTPUT` tokens, but no more than
    `max_tokens`. What a call really used counts as soon as it has ended, so that a run goes over by no more than the
    calls that were in flight. What an agent or a graph asks within counts once it has answered.

    Raises MoAConfigError for a limit that is not a positive number, for none, or for another word in `on_exceed`.
    """

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    on_exceed: OnExceed = "stop"
    shared: bool = False
    _purse: "Purse | None" = field(default=None, repr=False, compare=False, init=False)

    def __post_init__(self) -> None:
        if self.usd is self.tokens is self.calls is None:
            raise MoAConfigError("the budget limits nothing: give usd, tokens or calls")
        for name in ("usd", "tokens", "calls"):
            _limit(name, getattr(self, name), whole=name != "usd")
        if self.on_exceed not in get_args(OnExceed):
            raise MoAConfigError(f"budget: on_exceed is {self.on_exceed!r}: one of {', '.join(get_args(OnExceed))}")
        if not isinstance(self.shared, bool):
            raise MoAConfigError(f"budget: shared is {self.shared!r}: True or False")
        if self.shared:
            object.__setattr__(self, "_purse", Purse(self))

    def smaller_than(self, need: Amount) -> list[str]:
        """The limits that `need` goes beyond, in words: `$0.05`, `20 calls`."""
        limits = zip((self.usd, self.tokens, self.calls), need, _SAID, strict=True)
        return [said(limit) for limit, needed, said in limits if limit is not None and needed > limit * (1 + 1e-9)]

    def purse(self) -> "Purse":
        """What one run spends from."""
        return self._purse or Purse(self)


def _limit(name: str, value: object, *, whole: bool) -> None:
    if value is None:
        return
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value <= 0:
        needed = "a whole number of at least 1" if whole else "a number of $ above 0"
        raise MoAConfigError(f"budget: {name} is {value!r}: {needed} is needed, or None")


class Purse:
    """What has been spent of a budget, and what is held back for calls in flight. Any thread may use it."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._limits = (budget.usd, budget.tokens, budget.calls)
        self._spent, self._held, self._begun = Amount(), Amount(), False
        self._promised = WeakKeyDictionary[object, Amount]()  # a run that was cancelled is gone from it
        self._lock = threading.Lock()

    def begin(self, spent: Amount) -> None:
        """A run begins in whose thread this much was spent before; what a purse has seen itself it knows better."""
        with self._lock:
            if not (self._begun or self.budget.shared):
                self._spent, self._begun = spent, True

    def hold(self, run: object, needs: Sequence[Amount], aside: Amount | None = None, *, anyway: bool = False) -> str:
        """Hold back `needs` for a run, if there is that much, and `aside` for the rest of it; else why not.

        `aside`: in place of what was set aside for the run before; `None`: that stays. `anyway`: also where it is
        too much.
        """
        whole = Amount.sum(needs)
        with self._lock:
            rest = self._promised.get(run, Amount()) if aside is None else aside
            others = Amount.sum([amount for other, amount in self._promised.items() if other is not run])
            if not anyway and (why := self._refused(whole.plus(rest), others)):
                return why
            self._held, self._promised[run] = self._held.plus(whole), rest
            return ""

    def promise(self, run: object, rest: Amount) -> None:
        """Further attempts are to leave that much."""
        with self._lock:
            self._promised[run] = rest

    def end(self, run: object) -> None:
        """A run has ended: nothing is promised to it any more."""
        with self._lock:
            self._promised.pop(run, None)

    def settle(self, held: Amount, used: Amount) -> None:
        """Calls have ended that this was held back for."""
        with self._lock:
            self._held, self._spent = self._held.minus(held), self._spent.plus(used)

    def _refused(self, need: Amount, others: Amount) -> str:
        gone = self._spent.plus(self._held).plus(others)
        taken = "spent, or set aside for other runs" if any(others) else "spent"
        for limit, spent, needed, said in zip(self._limits, gone, need, _SAID, strict=True):
            if limit is not None and spent + needed > limit * (1 + 1e-9):
                about = "about " if said is not _calls else ""
                return f"{about}{said(needed)} more would be needed, {said(spent)} of {said(limit)} are {taken}"
        return ""


class Holding:
    """What is held back for one model's answer, or for all that a step asks, until it has ended.

    `each`: for another attempt; as much where nothing is said.
    """

    def __init__(self, purse: Purse | None, run: object, need: Amount, each: Amount | None = None) -> None:
        self._purse, self._run, self._need, self._held = purse, run, need, need
        self._each = need if each is None else each

    def again(self) -> bool:
        """Whether there is enough for another attempt; then that is held back too."""
        if self._purse is None:
            return True
        if self._purse.hold(self._run, [self._each]):
            return False
        self._held = self._held.plus(self._each)
        return True

    def settle(self, calls: Sequence[Any], *, priced: bool, told: Callable[[], bool]) -> None:
        """It has ended, with these calls. Where what they cost is not known (`priced`), or what tokens they used
        (`told`), it took what was expected, or more.
        """
        if self._purse is None:
            return
        used, need = spent(calls), self._need
        usd = used.usd if priced else max(used.usd, need.usd)
        tokens = used.tokens if priced or told() else max(used.tokens, need.tokens)
        self._purse.settle(self._held, Amount(usd, tokens, used.calls))


def spent(calls: Sequence[Any]) -> Amount:
    """What proposals took, as far as it is known."""
    usd, tokens, made = 0.0, 0, 0
    for p in calls:
        if not p.get("cached"):
            usage = p.get("usage", {})
            usd += p.get("cost_usd") or p.get("cost_usd_at_least") or 0.0
            tokens += usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
            made += p.get("calls", p["attempts"])
    return Amount(usd, tokens, made)


def _usd(value: float) -> str:
    return f"${value:.4g}"


def _tokens(value: float) -> str:
    return f"{value:,.0f} token{'s' * (value != 1)}"


def _calls(value: float) -> str:
    return f"{value:.0f} call{'s' * (value != 1)}"


_SAID: Final = (_usd, _tokens, _calls)
