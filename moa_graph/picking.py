"""The last node of a mixture that gives one of the answers word for word: it is named by a model, or counted out."""

import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase

from moa_graph.aggregator import REQUEST, Outcome, Picks, named, schema
from moa_graph.errors import MoARunError
from moa_graph.events import Tell, decided
from moa_graph.final import End, Writer, final_started
from moa_graph.nodes import Node, State
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt
from moa_graph.reading import asked, read, reference, shown
from moa_graph.receipt import Call, final_call
from moa_graph.run import exceeded
from moa_graph.state import Decision, Fitting, Proposal
from moa_graph.steps import Asked, UndecidedError

__all__ = ["picking"]

_REFUSED = (400, 404, 415, 422)  # a server that knows no schema says so


def picking(family: Picks, writer: Writer, layer: int) -> Node:
    """The last layer's answers -> one of them, with the receipt of the run in it.

    Raises FinalError where none can be told and nothing else was declared; BudgetExceededError as `Writer.write`.
    """

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        end = End(state, config)
        choose = _Choose(end, writer, config, tell, family.name)
        if not (answers := end.answers()):
            raise _nothing(end, choose.call("unasked"))
        try:
            outcome = await family.pick(answers, choose)
        except UndecidedError as error:
            raise end.failed(f"the final answer could not be told: {error}", choose.call("error")) from error
        chosen = [one["proposer"] for one in ([outcome.answer] if outcome.answer else outcome.among)]
        decision = Decision(
            layer=layer, step="aggregator", by=family.name, chosen=chosen, said=outcome.said, run=end.run.id
        )
        end.decisions.append(decision)
        tell(decided(decision))
        answer, made = await _answered(outcome, end, writer, config, tell, choose)
        return {**end.done(answer, made, tell), "decisions": [decision]}

    return Node("final", call)


async def _answered(
    outcome: Outcome, end: End, writer: Writer, config: RunnableConfig, tell: Tell, choose: "_Choose"
) -> tuple[AIMessage, Call]:
    """The answer that was chosen, word for word; or one that is written from those that were."""
    if (chosen := outcome.answer) is None:
        texts = [reference(one) for one in outcome.among]
        return await writer.write(end, shown(end.state, texts, writer.prompt, end.run.seed), config, tell)
    metadata = {"model_name": chosen["model"]}
    return AIMessage(chosen["content"], id=str(uuid.uuid4()), response_metadata=metadata), choose.call("ok")


def _nothing(end: End, call: Call) -> MoARunError:
    if end.stopped:
        return exceeded(end.run, f"there is no answer to choose from: {end.stopped}", end.proposals, end.receipt(call))
    return end.failed("there is no answer to choose from", call)


class _Choose:
    """Has one of several responses named by the final model, or by those asked in its place. Nobody hears it."""

    def __init__(self, end: End, writer: Writer, config: RunnableConfig, tell: Tell, name: str) -> None:
        self._end, self._writer, self._config, self._tell, self._name = end, writer, config, tell, name
        self._last: tuple[Seat, Asked] | None = None
        self._fitting: Fitting | None = None

    async def __call__(self, prompt: str | Prompt, answers: Sequence[Proposal]) -> list[int]:
        order = list(range(len(answers)))
        if not isinstance(prompt, Prompt):
            prompt = replace(self._writer.prompt, text=prompt, envelope="sealed")
        if prompt.shuffle:
            random.Random(f"{self._end.run.seed}:aggregator").shuffle(order)  # noqa: S311
        texts = [reference(answers[place]) for place in order]
        state = {**self._end.state, "messages": _with_request(asked(self._end.state))}
        plain = replace(prompt, shuffle=False)
        reads = shown(state, texts, plain)
        for seat in self._writer.seats:
            try:
                return [order[number - 1] for number in await self._of(seat, reads, plain, len(texts))]
            except UndecidedError as error:
                self._end.tally.failures.append(str(error))
        raise UndecidedError("; ".join(self._end.tally.failures), self._end.proposals)

    async def _of(self, seat: Seat, reads: State, prompt: Prompt, count: int) -> list[int]:
        """The numbers that `seat` names, of those that it is shown."""
        end = self._end
        held = end.admit(seat, reads)
        self._tell(final_started(seat, end.run.id, end.tally.failures))
        ask = Asked(seat, self._writer.answers, self._config, end.run, held.again)
        self._last = seat, ask
        try:
            try:
                messages, self._fitting = await read(seat, reads, prompt)
            except MoARunError as error:
                raise UndecidedError(f"{seat.model.id}: {error}", end.proposals) from error
            dropped = self._fitting["dropped"] if self._fitting else []
            kept = [number for number in range(1, count + 1) if number not in dropped]
            places = await _names(ask, seat, messages, len(kept))
            return [kept[place - 1] for place in places]
        finally:
            for each in ask.asked:
                end.tally.add(*each)
            ask.settle(held)

    def call(self, status: str) -> Call:
        """Its part in the receipt."""
        if self._last is None:
            return final_call(status, self._name)
        seat, ask = self._last
        return self._end.tally.call(seat, status, ask.asked[-1][0] if ask.asked else None, self._fitting)


async def _names(ask: Asked, seat: Seat, messages: list[BaseMessage], count: int) -> list[int]:
    """Asked for with a schema where that is known to be understood; in words where a server refuses it."""
    if not _takes_schema(seat):
        return await ask(messages, lambda text: named(text, count))
    try:
        return await ask.bound(response_format=schema(count))(messages, lambda text: named(text, count))
    except UndecidedError as error:
        if getattr(error.__cause__, "status_code", None) not in _REFUSED:
            raise
    return await ask(messages, lambda text: named(text, count))


def _takes_schema(seat: Seat) -> bool:
    inner: Any = seat.model.runnable
    while isinstance(inner, RunnableBindingBase):
        if "response_format" in inner.kwargs:
            return False
        inner = inner.bound
    return any(kind.__name__ == "BaseChatOpenAI" for kind in type(inner).__mro__)


def _with_request(conversation: list[BaseMessage]) -> list[BaseMessage]:
    """The request stands in the user's last message: some models take no two in a row."""
    *before, last = conversation
    if last.type != "human":
        return [*conversation, HumanMessage(REQUEST)]
    said = last.content
    content = f"{said}\n\n{REQUEST}" if isinstance(said, str) else [*said, {"type": "text", "text": REQUEST}]
    return [*before, last.model_copy(update={"content": content})]
