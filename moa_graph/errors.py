"""What can go wrong, in one place.

MoAError
├── MoAConfigError (also ValueError)    it was built wrong: said before any model is asked
└── MoARunError (also RuntimeError)     it failed while running
    ├── QuorumError                     a layer got too few answers
    ├── FinalError                      the final model, and every fallback of it, failed, or did not say which answer
    └── BudgetExceededError             what comes next would cost more than its budget has left

Every message is one line: what, why, and what would be valid. A secret never reaches one (see `clean`).
"""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moa_graph.receipt import Receipt
    from moa_graph.state import Proposal

__all__ = [
    "BudgetExceededError",
    "FinalError",
    "MoAConfigError",
    "MoAError",
    "MoARunError",
    "QuorumError",
    "clean",
    "describe",
]

_SECRET = re.compile(
    r"\b(?:(?:sk|pk|tgp|gsk|xai|key|hf)[-_][A-Za-z0-9*_-]{6,}|AIza[A-Za-z0-9_-]{20,})|(?i:bearer)\s+\S+"
)
_SECRET_VARIABLE = re.compile(r"(?i)(KEY|TOKEN|SECRET|PASSWORD)")
_LONGEST = 300


class MoAError(Exception):
    """The base of every error that moa_graph raises by itself."""


class MoAConfigError(MoAError, ValueError):
    """The mixture was described wrongly: an empty panel, an unknown provider, a missing key, ..."""


class MoARunError(MoAError, RuntimeError):
    """The mixture was built well and failed while running."""

    def __init__(self, message: str, proposals: Sequence["Proposal"] = ()) -> None:
        super().__init__(message)
        self.proposals = list(proposals)
        """Every proposal known when it failed, the answered ones too: nothing paid for is lost."""
        self.receipt: Receipt | None = None
        """What the run had asked until then, and what that cost. `None` where an edit failed, and nothing was asked."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.proposals), {"receipt": self.receipt}


class QuorumError(MoARunError):
    """A layer got fewer answers than its quorum. Names each proposer that failed, and why."""


class BudgetExceededError(MoARunError):
    """What comes next would cost more than the budget has left. With a checkpointer the thread is resumable.

    `proposals` holds what this run's layers had answered.
    """


class FinalError(MoARunError):
    """The final model and all its fallbacks failed. `proposals` holds what the layers had answered."""


def clean(text: str) -> str:
    """One line of at most 300 characters, without any API key: of the environment's or of a common shape."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    line = " ".join(_SECRET.sub("***", text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _cause(error: BaseException) -> list[str]:
    """Why a connection failed: the client libraries say "Connection error." and leave the reason to a cause."""
    if not any(kind.__name__ == "APIConnectionError" for kind in type(error).__mro__):
        return []
    cause = error.__cause__
    while cause and str(cause) in ("", str(error)):
        cause = cause.__cause__
    return [f"({cause})"] if cause else []


def describe(error: BaseException) -> str:
    """`Type: message` of an error, made safe to keep in a state, a receipt or a log."""
    message = clean(" ".join([str(error), *_cause(error)]))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
