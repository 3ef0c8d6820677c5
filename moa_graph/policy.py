"""What a layer asks of its panel, and how long it waits."""

import math
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace

from moa_graph.errors import MoAConfigError
from moa_graph.limit import Limiter

__all__ = ["LayerPolicy", "checked"]


@dataclass(frozen=True)
class LayerPolicy:
    """What a layer asks of its panel, and how long it waits.

    quorum: how many answers the layer needs (1 to the size of the panel).
    timeout: seconds for one proposer, all its attempts together; `None`: no limit.
    grace: once the quorum has answered, seconds the others get before they are cut; `None`: wait for all.
    retries: further attempts after a transient failure (rate limit, connection, timeout, 5xx).
    max_concurrency: calls in flight at once, over all layers, runs and threads of the process that share this
    policy (the final model's too); `None`: no limit.

    Raises MoAConfigError for a value out of range.
    """

    quorum: int = 1
    timeout: float | None = 120.0
    grace: float | None = None
    retries: int = 2
    max_concurrency: int | None = None
    _limiter: Limiter | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _whole("quorum", self.quorum, 1)
        _seconds("timeout", self.timeout, positive=True)
        _seconds("grace", self.grace, positive=False)
        _whole("retries", self.retries, 0)
        if self.max_concurrency is not None:
            _whole("max_concurrency", self.max_concurrency, 1)
            if self._limiter is None or self._limiter.size != self.max_concurrency:
                object.__setattr__(self, "_limiter", Limiter(self.max_concurrency))

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Held while a call is in flight: waits for its turn where `max_concurrency` is set."""
        return self._limiter if self._limiter and self.max_concurrency else nullcontext()

    def check_panel(self, size: int, where: str) -> "LayerPolicy":
        """This policy, if a panel of `size` can meet its quorum; else MoAConfigError."""
        if self.quorum > size:
            raise MoAConfigError(
                f"{where}: a quorum of {self.quorum} needs more than its {size} proposers: 1 to {size}"
            )
        return self

    def but(self, **changes: float | int | None) -> "LayerPolicy":
        """This policy with other values for some fields; an override of `None` changes nothing."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def checked(policy: object) -> LayerPolicy | None:
    """`policy`, if it is one or `None`; else MoAConfigError."""
    if policy is None or isinstance(policy, LayerPolicy):
        return policy
    raise MoAConfigError(f"policy is {policy!r}: give a LayerPolicy, such as LayerPolicy(quorum=2)")


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MoAConfigError(f"{name} is {value!r}: a whole number of at least {least} is needed")


def _seconds(name: str, value: object, *, positive: bool) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MoAConfigError(f"{name} is {value!r}: seconds as a number, or None")
    if value < 0 or (positive and value == 0):
        raise MoAConfigError(f"{name} is {value!r}: it must be {'more than 0' if positive else '0 or more'} seconds")
