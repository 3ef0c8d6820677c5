"""One run of a mixture: which one it is, since when, and what it has asked so far."""

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from langchain_core.runnables import RunnableConfig

from moa_graph.budget import Amount, Holding, Purse
from moa_graph.errors import BudgetExceededError
from moa_graph.receipt import Receipt, final_call, receipt
from moa_graph.state import Decision, Proposal

__all__ = ["RUN", "Run", "exceeded", "run_of"]

RUN: Final = "__moa_run"
"""Where a run stands in `config["configurable"]`."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run. A resumed thread is another run. `started`: `time.monotonic()`."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.monotonic)
    purse: Purse | None = None
    """What it may spend; `None`: whatever it takes."""
    seed: int = field(default_factory=lambda: random.SystemRandom().randrange(2**31))
    """What lots are drawn with."""
    asked: list[Proposal] = field(default_factory=list)
    """Every proposal made in this run, the failed ones too, as they ended."""
    decided: list[Decision] = field(default_factory=list)
    """Every decision of this run."""

    def holding(self, need: Callable[[], Amount]) -> Holding:
        """What was held back for a model that is asked now."""
        return Holding(self.purse, self, need() if self.purse else Amount())

    def end(self) -> None:
        """Nothing more is asked in this run."""
        if self.purse:
            self.purse.end(self)

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def receipt(self) -> Receipt:
        """What a run that failed before its final model has asked."""
        made = sorted(self.asked, key=lambda proposal: (proposal["layer"], proposal["slot"]))
        final = final_call("unasked")
        return receipt(made, final, self.id, self.seconds, decisions=self.decided, seed=self.seed)


def exceeded(run: Run, why: str, proposals: Sequence[Proposal], spent: Receipt) -> BudgetExceededError:
    """The error of a run that may not go on, and ends here."""
    run.end()
    error = BudgetExceededError(why, proposals)
    error.add_note("With a checkpointer, the thread goes on with a higher budget.")
    error.receipt = spent
    return error


def run_of(config: RunnableConfig) -> Run:
    """The run that a node is part of."""
    return config["configurable"][RUN]  # type: ignore[no-any-return]
