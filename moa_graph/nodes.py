"""The nodes of a layer: propose, aggregate."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp

from moa_graph.admission import Terms, left_out
from moa_graph.answers import text_of
from moa_graph.asking import Asking, unheard
from moa_graph.bill import UNKNOWN, Bill
from moa_graph.budget import Amount, spent
from moa_graph.cache import Answers
from moa_graph.errors import MoAError
from moa_graph.events import LayerDone, LayerLeftOut, Tell, teller
from moa_graph.loops import run_sync
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt
from moa_graph.reading import about_answers, about_reference, asked, expected, read, reference
from moa_graph.state import Carry, Proposal
from moa_graph.waiting import KEY, LayerRun, too_few

__all__ = ["Node", "aggregate", "counted", "no_text", "propose"]

State = Any  # LayerState or MoAState: LangGraph hands over the node's part of it
_NOTHING_CARRIED: Final = Carry(spans=[], length=0, spent=[], stopped="")


class Node(Runnable[State, dict[str, Any]]):
    """A node written once, as a coroutine: `.invoke()` awaits it on the loop behind the sync entry points."""

    def __init__(self, name: str, call: Callable[[State, RunnableConfig, Tell], Awaitable[dict[str, Any]]]) -> None:
        self.name = name
        self._call = call

    async def ainvoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return await self._call(input, config or {}, teller(config or {}))

    def invoke(self, input: State, config: RunnableConfig | None = None, **_: Any) -> dict[str, Any]:  # noqa: A002
        return run_sync(self._call, input, config or {}, teller(config or {}))


def propose(seat: Seat, answers: Answers, terms: Terms) -> Node:
    """x_i -> A_{i,j}(x_i), as a proposal. Raises QuorumError once its layer cannot get enough answers.

    Raises BudgetExceededError where the layer would take more than there is.
    """
    who = {"layer": seat.layer, "slot": seat.slot, "proposer": seat.name, "model": seat.model.id}

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        layer: LayerRun = config["configurable"][KEY]
        asked(state)
        layer.arrive(seat.slot, tell, state.get("routed"))
        if await left_out(layer, state, terms):
            return {"proposals": []}
        layer.start()
        if not terms.stream:
            config = unheard(config)
        held = layer.run.holding(lambda: expected(seat, state))

        def began() -> None:
            layer.tell(_first_token(who, layer.run.id, ask.seconds))

        ask = Asking(seat, answers, config, began, held.again)
        proposal = Proposal(
            layer=seat.layer, slot=seat.slot, proposer=seat.name, model=seat.model.id, status="ok", content="",
            seconds=0.0, attempts=0, run=layer.run.id,
        )  # fmt: skip
        bill = UNKNOWN
        try:
            async with layer.limit(seat.slot) as limit, layer.turn(seat.slot, seat.policy):
                layer.tell({"type": "moa.proposer_started", "run": layer.run.id, **who})
                messages, fitting = await read(seat, state, terms.prompt)
                if fitting:
                    proposal["fit"] = fitting
                proposal["content"] = _text(await ask.answer(messages))
            bill = ask.bill()
        except GraphBubbleUp:
            await layer.pause(seat.slot)
            raise  # a person is asked something: not a failure
        except Exception as error:
            cut = limit.expired() and layer.was_cut(seat.slot)
            proposal["status"] = "cut" if cut else "timeout" if limit.expired() or ask.too_long else "error"
            proposal["error"] = f"cut after {ask.seconds:.1f} s" if cut else ask.why(error, limit)
            bill = ask.bill(error)
        finally:
            proposal |= cast("Proposal", counted(ask, bill))
            held.settle([proposal], priced=bill.cost_usd is not None, told=ask.told)
        return {"proposals": [await layer.settle(proposal)]}

    return Node(seat.name, call)


class Aggregate(Node):
    """A layer's proposals -> ⊕[…]. It calls no model. Raises QuorumError where too few answered."""

    def __init__(self, layer: int, size: int, quorum: int, prompt: Prompt) -> None:
        super().__init__("aggregate", self._aggregate)
        self._layer, self._size, self._quorum, self._prompt = layer, size, quorum, prompt

    def synthesis(self, state: Mapping[str, Any], seed: str, *, counted: bool) -> dict[str, Any]:
        """What the next layer reads, and must know, as the state has it.

        `seed`: of the order, where it is shuffled; `counted`: its tokens are wanted, for a budget.
        """
        own = [p for p in state.get("proposals") or () if p["layer"] == self._layer]
        answered = [p for p in own if p["status"] == "ok"]
        if len(answered) < self._quorum:
            raise too_few(self._layer, self._quorum, max(self._asked(state), len(own)), own)
        read_on = [p for p in answered if "unread" not in p]
        synthesis, spans = self._prompt.placed([reference(p) for p in read_on], seed)
        decided = [d for d in state.get("decisions") or () if d["layer"] == self._layer]
        used = spent([*own, *(d["call"] for d in decided if "call" in d and d["step"] != "stop")])
        before = Amount(*(state.get("carry") or {}).get("spent", ()))
        carry = Carry(spans=spans, length=len(synthesis), spent=[*before.plus(used)], stopped="")
        if counted:
            carry["tokens"] = about_answers(self._prompt, [*map(about_reference, read_on)])
        return {"synthesis": synthesis, "carry": carry}

    def _asked(self, state: Mapping[str, Any]) -> int:
        """How many proposers are asked: those of the layer, or whom a route chose."""
        return len(state.get("routed") or ()) or self._size

    async def _aggregate(self, state: State, config: RunnableConfig, _: Tell) -> dict[str, Any]:
        run: LayerRun = config["configurable"][KEY]
        told = {"run": run.run.id, "layer": self._layer}
        if run.left_out:
            run.tell(LayerLeftOut(type="moa.layer_left_out", why=run.left_out, **told))  # type: ignore[typeddict-item]
            return {"carry": {**_NOTHING_CARRIED, **(state.get("carry") or {}), "stopped": run.left_out}}
        made = self.synthesis(state, f"{run.run.seed}:{self._layer}", counted=run.run.purse is not None)
        answered = sum(p["status"] == "ok" for p in state.get("proposals") or () if p["layer"] == self._layer)
        run.tell(
            LayerDone(
                type="moa.layer_done", run=run.run.id, layer=self._layer, asked=self._asked(state), answered=answered,
                seconds=run.seconds,
            )
        )  # fmt: skip
        return made


def aggregate(layer: int, size: int, quorum: int, prompt: Prompt) -> Node:
    """The node in which a layer's proposals meet."""
    return Aggregate(layer, size, quorum, prompt)


def _text(message: AIMessage) -> str:
    if not (text := text_of(message)):
        raise MoAError(no_text(message))
    return text


def no_text(message: AIMessage) -> str:
    reason = message.response_metadata.get("finish_reason")
    return f"the answer has no text{f' (finish_reason: {reason})' if reason else ''}"


def counted(ask: Asking, bill: Bill) -> dict[str, Any]:
    """What was asked, by whom, what it used and cost, as a proposal has it."""
    counted = {"model": ask.model, "seconds": ask.seconds, "attempts": ask.made, "cached": ask.cached, **bill.told()}
    if ask.finish_reason:
        counted["finish_reason"] = ask.finish_reason
    calls = {"calls": ask.calls} if ask.calls != ask.made else {}
    return {**counted, **calls, **({"usage": usage} if (usage := ask.usage) else {})}


def _first_token(who: Mapping[str, Any], run: str, seconds: float) -> dict[str, Any]:
    return {"type": "moa.proposer_first_token", "run": run, **who, "seconds": seconds}
