"""The last node of a mixture: the final model answers, and the receipt is made."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from moa_graph.asking import Asking
from moa_graph.bill import UNKNOWN, Bill
from moa_graph.budget import Amount, Holding, spent
from moa_graph.cache import Answers
from moa_graph.errors import FinalError, MoAError
from moa_graph.events import Done, FinalStarted, Tell
from moa_graph.nodes import Node, State, counted, no_text
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt
from moa_graph.reading import asked, expected, read
from moa_graph.receipt import Call, Receipt, final_call, receipt
from moa_graph.run import exceeded, run_of
from moa_graph.state import Decision, Fitting, Proposal

__all__ = ["End", "Tally", "Writer", "final", "final_started"]

FINAL: Final = "the final model"


def final(writer: "Writer") -> Node:
    """x_l -> A_{l,1}(x_l), the mixture's answer, with the receipt of the run in it. Raises as `Writer.write` does."""

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        end = End(state, config)
        return end.done(*await writer.write(end, state, config, tell), tell)

    return Node("final", call)


class End:
    """One node at a mixture's end, in one run: what it asks, and the receipt of all that was asked."""

    def __init__(self, state: State, config: RunnableConfig) -> None:
        asked(state)
        self.state, self.run, self.tally = state, run_of(config), Tally()
        self.proposals: list[Proposal] = state.get("proposals", [])
        self.decisions: list[Decision] = list(state.get("decisions") or ())
        self.stopped: str | None = (state.get("carry") or {}).get("stopped") or None
        self._began = time.monotonic()
        if self.run.purse:
            before = spent([d["call"] for d in self.decisions if d["step"] == "aggregator" and "call" in d])
            self.run.purse.begin(before.plus(Amount(*(state.get("carry") or {}).get("spent", ()))))

    def answers(self) -> list[Proposal]:
        """Those of the last layer that answered, as far as they are read on."""
        last = max((p["layer"] for p in self.proposals), default=0)
        return [p for p in self.proposals if p["layer"] == last and p["status"] == "ok" and "unread" not in p]

    def keep(self, decision: Decision) -> None:
        """What was asked for it is done: what comes next is another call."""
        self.decisions.append(decision)
        self.run.decided.append(decision)
        self.tally = Tally()

    def lap(self) -> float:
        """Seconds since it began, or since the last time."""
        began, self._began = self._began, time.monotonic()
        return round(self._began - began, 3)

    def receipt(self, call: Call) -> Receipt:
        call["seconds"] = round(time.monotonic() - self._began, 3)
        run = self.run
        return receipt(
            self.proposals, call, run.id, run.seconds, stopped=self.stopped, decisions=self.decisions, seed=run.seed
        )

    def admit(self, seat: Seat, reads: State, who: str = FINAL, aside: int = 0) -> Holding:
        """What is held back for what `seat` is going to take. Raises BudgetExceededError where that is too much.

        `aside`: how many such calls are to come. Before the last one, from what there is, it may always answer.
        """
        run, need = self.run, expected(seat, reads)
        if purse := run.purse:
            wants = purse.budget.on_exceed == "answer"
            rest = Amount(*(part * aside for part in need)) if wants or purse.budget.shared else Amount()
            why = purse.hold(run, [need], rest, anyway=wants and not aside and bool(self.proposals))
            if why:
                why = f"before {who} the budget is too small: {why}"
                raise exceeded(run, why, self.proposals, self.receipt(self.tally.call(seat)))
        return run.holding(lambda: need)

    def failed(self, why: str, call: Call) -> FinalError:
        """The error of a run that ends here without an answer."""
        failure = FinalError(why, self.proposals)
        failure.receipt = self.receipt(call)
        self.run.end()
        return failure

    def done(self, answer: AIMessage, call: Call, tell: Tell) -> dict[str, Any]:
        """The answer, with the receipt in it, as the state has it."""
        self.run.end()
        moa = self.receipt(call)
        tell(Done(type="moa.done", run=self.run.id, receipt=moa))
        metadata = {**answer.response_metadata, "moa": moa}
        return {"messages": [answer.model_copy(update={"response_metadata": metadata})]}


@dataclass(frozen=True)
class Writer:
    """The final model, and those that are asked in its place: the next when one fails before its first token."""

    seats: Sequence[Seat]
    answers: Answers
    prompt: Prompt

    async def write(
        self, end: End, reads: State, config: RunnableConfig, tell: Tell, who: str = FINAL, aside: int = 0
    ) -> tuple[AIMessage, Call]:
        """Its answer to `reads`, a state. Raises FinalError, with the proposals, where none is left to ask;
        BudgetExceededError where its call would take more than there is.
        """
        tally = end.tally
        for seat in self.seats:
            held = end.admit(seat, reads, who, aside)
            ask, bill = Asking(seat, self.answers, config, may_again=held.again), UNKNOWN
            tell(final_started(seat, end.run.id, tally.failures))
            try:
                async with seat.policy.turn(), asyncio.timeout(seat.policy.timeout) as limit:
                    messages, fitting = await read(seat, reads, self.prompt)
                    answer = await ask.answer(messages)
                    if not answer.content and not answer.tool_calls:
                        raise MoAError(no_text(answer))
                bill = ask.bill()
            except GraphBubbleUp:
                raise
            except Exception as error:
                bill = ask.bill(error)
                tally.failures.append(f"{seat.model.id}: {ask.why(error, limit)}")
                tally.add(ask, bill)
                if ask.began or seat is self.seats[-1]:
                    why = f"{who} failed: {'; '.join(tally.failures)}"
                    raise end.failed(why, tally.call(seat, "error")) from error
                continue
            finally:
                held.settle([counted(ask, bill)], priced=bill.cost_usd is not None, told=ask.told)
            tally.add(ask, bill)
            return answer, tally.call(seat, "ok", ask, fitting)
        raise AssertionError("a mixture has a final model")


class Tally:
    """What the final model and those asked before it used: together they are one call in the receipt."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self._attempts = self._calls = 0
        self._usage, self._bills = Counter[str](), list[Bill]()

    def add(self, ask: Asking, bill: Bill) -> None:
        self._attempts += ask.made
        self._calls += ask.calls
        self._usage.update(ask.usage)
        self._bills.append(bill)

    def call(
        self, seat: Seat, status: str = "unasked", ask: Asking | None = None, fitting: Fitting | None = None
    ) -> Call:
        """The final model's part in the receipt."""
        call: Call = {
            **final_call(status, ask.model if ask else seat.model.id),
            **Bill.sum(self._bills).told(),
            "attempts": self._attempts,
            "usage": dict(self._usage),
            "error": "; ".join(self.failures) or None,
            "cached": bool(ask and ask.cached),
        }
        if ask and ask.finish_reason:
            call["finish_reason"] = ask.finish_reason
        if self._calls != self._attempts:
            call["calls"] = self._calls
        if fitting:
            call["fit"] = fitting
        return call


def final_started(seat: Seat, run: str, failures: Sequence[str]) -> FinalStarted:
    told = FinalStarted(type="moa.final_started", run=run, layer=seat.layer, model=seat.model.id)
    if failures:
        told["error"] = failures[-1]
    return told
