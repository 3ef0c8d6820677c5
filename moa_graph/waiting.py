"""How one run of a layer waits: for its quorum, for the grace after it, and until it is known to be impossible.

A superstep ends with its slowest node, and a node that raises cancels its siblings. So each proposer's node
waits here: an answer is returned at once; a failure is returned once the quorum is met, and raised, by every
proposer that failed, once it cannot be. What was answered is checkpointed by then, and a resumed thread asks
only those that raised.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from langgraph.errors import GraphInterrupt

from moa_graph.errors import QuorumError
from moa_graph.events import LayerStarted, Tell, proposer_done
from moa_graph.policy import LayerPolicy
from moa_graph.run import Run
from moa_graph.state import Proposal

__all__ = ["KEY", "LayerRun", "too_few"]

KEY: Final = "__moa_layer_run"
"""Where a layer's run stands in `config["configurable"]`."""

_ARRIVE: Final = 5.0  # seconds in which every proposer of a layer has begun, however busy the machine


class LayerRun:
    """Shared by the proposers of one layer in one run; all of them on one event loop.

    `earlier` tells what an interrupted run of this layer had finished: a resumed layer does not ask those again.
    `kept` waits until the answers of these slots are where a resumed layer will find them. `tell` is told the
    events of run `run`; `None`: whoever hears the first proposer's stream hears them.
    """

    def __init__(
        self,
        layer: int,
        size: int,
        policy: LayerPolicy,
        earlier: Callable[[], Awaitable[Mapping[int, Proposal] | None]],
        kept: Callable[[set[int]], Awaitable[None]],
        at_once: int | None = None,
        run: Run | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.run, self._tell_event = run or Run(), tell
        self.number, self.left_out = layer, ""
        self._refused: str | None = None
        self._one_at_a_time, self._told = asyncio.Lock(), False
        self._began = time.monotonic()
        self._layer, self._size, self._policy = layer, size, policy
        self._turns = asyncio.Semaphore(at_once or size)
        self._ask_earlier, self._until_kept = earlier, kept
        self._earlier: Mapping[int, Proposal] | None = None
        self._limits: dict[int, asyncio.Timeout] = {}
        self._outcomes: dict[int, Proposal] = {}
        self._arrived: set[int] = set()
        self._paused: set[int] = set()
        self._answered: set[asyncio.Task[object]] = set()
        self._news = asyncio.Condition()
        self._cut_at: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time since this run of the layer began."""
        return round(time.monotonic() - self._began, 3)

    def tell(self, event: Any) -> None:
        """Tell whoever listens to this run."""
        if self._tell_event is not None:
            self._tell_event(event)

    def hear(self, tell: Tell) -> None:
        """Whoever hears this node's stream hears the layer's events, unless somebody does already."""
        self._tell_event = self._tell_event or tell

    def arrive(self, slot: int, tell: Tell, routed: Sequence[str] | None = None) -> None:
        """`slot` has begun. `routed`: who is asked in this layer, where a route has chosen."""
        self.hear(tell)
        self._arrived.add(slot)
        if routed:
            self._size = len(routed)

    async def refused(self, hold: Callable[[Sequence[Proposal]], str]) -> str:
        """What the first to arrive is told by `hold`, which is given those that were answered in an earlier run."""
        async with self._one_at_a_time:
            if self._refused is None:
                await self._know_earlier()
                self._refused = hold([*(self._earlier or {}).values()])
        return self._refused

    def leave_out(self, why: str) -> None:
        """Nobody of this layer is asked."""
        self.left_out = why

    def start(self) -> None:
        """A proposer is asked, perhaps after a time in a queue. The first of them tells that the layer has begun."""
        if not self._told:
            self._told = True
            self.tell(LayerStarted(type="moa.layer_started", run=self.run.id, layer=self._layer, asked=self._size))

    def limit(self, slot: int) -> asyncio.Timeout:
        """The time `slot` has, its place in a queue included: until the grace ends."""
        limit = self._limits[slot] = asyncio.timeout_at(self._cut_at)
        return limit

    @asynccontextmanager
    async def turn(self, slot: int, policy: LayerPolicy) -> AsyncIterator[None]:
        """Wait for `slot`'s turn to ask; its own timeout runs from then on."""
        async with self._turns, policy.turn():
            limit = self._limits[slot]
            if policy.timeout is not None and not limit.expired():
                ends = asyncio.get_running_loop().time() + policy.timeout
                limit.reschedule(ends if (at := limit.when()) is None else min(ends, at))
            yield

    def was_cut(self, slot: int) -> bool:
        """Whether it was the grace's end, not its own timeout, that ended `slot`'s time."""
        return self._cut_at is not None and self._limits[slot].when() == self._cut_at

    async def settle(self, proposal: Proposal) -> Proposal:
        """Take in an outcome, and give it back when the layer may go on. Raises QuorumError."""
        slot = proposal["slot"]
        self._outcomes[slot] = proposal
        self.run.asked.append(proposal)
        self.tell(proposer_done(proposal, self.run.id))
        await self._know_earlier()
        if proposal["status"] == "ok":
            if task := asyncio.current_task():
                self._answered.add(task)
            if self._count() >= self._policy.quorum and self._policy.grace is not None:
                self._cut(asyncio.get_running_loop().time() + self._policy.grace)
            await self._notify()
            return proposal
        await self._notify()
        await self._decided()
        if self._met():
            return proposal
        await self._give_up()
        raise self._error()

    async def pause(self, slot: int) -> None:
        """`slot` asks a person something: its outcome is left to the run that is resumed with the answer."""
        self._paused.add(slot)
        await self._notify()

    async def _decided(self) -> None:
        """Wait until the quorum is met or cannot be. Each proposer still answering is bounded by its own time."""
        while not (self._met() or self._impossible()):
            if self._paused and self._all_done():
                raise GraphInterrupt  # a person decides: who failed is left undone too, and asked again then
            try:
                async with asyncio.timeout(_ARRIVE), self._news:
                    await self._news.wait()
            except TimeoutError:
                if self._all_done():
                    return  # whoever is missing was never started, and never will be

    def _all_done(self) -> bool:
        return self._arrived <= self._outcomes.keys() | self._paused

    def _count(self) -> int:
        return sum(p["status"] == "ok" for p in self._known().values())

    def _met(self) -> bool:
        return self._count() >= self._policy.quorum

    def _impossible(self) -> bool:
        failed = sum(p["status"] != "ok" for p in self._known().values())
        return self._size - failed < self._policy.quorum

    def _known(self) -> dict[int, Proposal]:
        return {**(self._earlier or {}), **self._outcomes}

    async def _know_earlier(self) -> None:
        if self._earlier is None and len(self._arrived) < self._size:
            self._earlier = {}  # asked once, by the first who has an outcome
            earlier = await self._ask_earlier() or {}
            self._earlier = {slot: p for slot, p in earlier.items() if slot not in self._arrived}

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _cut(self, at: float) -> None:
        """Let nobody still answering go on beyond `at` (the event loop's time)."""
        if self._cut_at is None or at < self._cut_at:
            self._cut_at = at
        for slot, limit in self._limits.items():
            if slot not in self._outcomes and not limit.expired() and (limit.when() or at) >= at:
                limit.reschedule(at)

    async def _give_up(self) -> None:
        """The quorum cannot be met: cut whoever is still answering, and wait until what was answered is kept."""
        self._cut(asyncio.get_running_loop().time())
        async with self._news:
            await self._news.wait_for(self._all_done)
        if others := self._answered - {asyncio.current_task()}:
            await asyncio.wait(others)
        await self._until_kept({slot for slot, p in self._outcomes.items() if p["status"] == "ok"})

    def _error(self) -> QuorumError:
        known = self._known()
        proposals = [known[slot] for slot in sorted(known)]
        error = too_few(self._layer, self._policy.quorum, self._size, proposals)
        error.receipt = self.run.receipt()
        self.run.end()
        return error


def too_few(layer: int, quorum: int, asked: int, proposals: list[Proposal]) -> QuorumError:
    """The error of a layer in which too few answered: names each that failed, and why."""
    got = sum(p["status"] == "ok" for p in proposals)
    reasons: dict[str, list[str]] = {}
    for p in proposals:
        if p["status"] != "ok":
            reasons.setdefault(p.get("error", p["status"]), []).append(p["proposer"])
    why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    return QuorumError(f"layer {layer}: {got} of {asked} proposers answered and {quorum} must; {why}", proposals)
