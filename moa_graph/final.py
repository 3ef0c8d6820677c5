"""The last node of a mixture: the final model answers, and the receipt is made."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from moa_graph.asking import Asking
from moa_graph.bill import UNKNOWN, Bill
from moa_graph.budget import Amount, Purse
from moa_graph.cache import Answers
from moa_graph.errors import FinalError, MoAError
from moa_graph.events import Done, FinalStarted, Tell
from moa_graph.nodes import Node, State, counted, no_text
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt
from moa_graph.reading import asked, expected, read, spent
from moa_graph.receipt import Call, Receipt, final_call, receipt
from moa_graph.run import Run, exceeded, run_of
from moa_graph.state import Fitting, Proposal

__all__ = ["final"]


def final(seats: Sequence[Seat], answers: Answers, prompt: Prompt) -> Node:
    """x_l -> A_{l,1}(x_l), the mixture's answer, with the receipt of the run in it.

    The next of `seats` is asked when one fails before its first token. Raises FinalError, with the proposals,
    where none is left; BudgetExceededError where its call would take more than there is.
    """

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        run, made, began = run_of(config), state.get("proposals", []), time.monotonic()
        stopped, tally = (state.get("carry") or {}).get("stopped") or None, Tally()
        asked(state)

        def told(call: Call) -> Receipt:
            call["seconds"] = round(time.monotonic() - began, 3)
            decisions = state.get("decisions") or ()
            return receipt(made, call, run.id, run.seconds, stopped=stopped, decisions=decisions, seed=run.seed)

        if run.purse:
            run.purse.begin(Amount(*(state.get("carry") or {}).get("spent", ())))
        for seat in seats:
            if run.purse and (why := _refused(run.purse, run, expected(seat, state), made)):
                raise exceeded(run, f"before the final model {why}", made, told(tally.call(seat)))
            held = run.holding(lambda: expected(seat, state))  # noqa: B023
            ask, bill = Asking(seat, answers, config, may_again=held.again), UNKNOWN
            tell(_final_started(seat, run.id, tally.failures))
            try:
                async with seat.policy.turn(), asyncio.timeout(seat.policy.timeout) as limit:
                    messages, fitting = await read(seat, state, prompt)
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
                if ask.began or seat is seats[-1]:
                    failure = FinalError(f"the final model failed: {'; '.join(tally.failures)}", made)
                    failure.receipt = told(tally.call(seat, "error"))
                    run.end()
                    raise failure from error
                continue
            finally:
                held.settle(spent([counted(ask, bill)]), known=bill.cost_usd is not None)
            run.end()
            tally.add(ask, bill)
            moa = told(tally.call(seat, "ok", ask, fitting))
            tell(Done(type="moa.done", run=run.id, receipt=moa))
            metadata = {**answer.response_metadata, "moa": moa}
            return {"messages": [answer.model_copy(update={"response_metadata": metadata})]}
        raise AssertionError("a mixture has a final model")

    return Node("final", call)


def _refused(purse: Purse, run: Run, need: Amount, made: Sequence[Proposal]) -> str:
    """Hold back what the final model is going to take; else why not. From what there is, it may always answer."""
    anyway = purse.budget.on_exceed == "answer" and bool(made)
    why = purse.hold(run, [need], Amount(), anyway=anyway)
    return why and f"the budget is too small: {why}"


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


def _final_started(seat: Seat, run: str, failures: Sequence[str]) -> FinalStarted:
    told = FinalStarted(type="moa.final_started", run=run, layer=seat.layer, model=seat.model.id)
    if failures:
        told["error"] = failures[-1]
    return told
