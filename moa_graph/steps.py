"""What may happen within a layer beside proposing: who is asked, which answers are read on, whether it is the end.

Each step is a small object (`moa_graph.route`, `.select`, `.critique`, `.stop`) that is given a `Situation`, and a
node of the layer's graph that writes down what came of it. A step may ask a model; what it asks is in the receipt.
"""

import asyncio
import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from moa_graph.answers import text_of
from moa_graph.asking import Asking, unheard
from moa_graph.bill import UNKNOWN, Bill
from moa_graph.budget import Holding
from moa_graph.cache import Answers
from moa_graph.errors import MoARunError, clean
from moa_graph.panel import ProposerLike, Seat
from moa_graph.receipt import Call
from moa_graph.run import Run
from moa_graph.state import Decision, Proposal

__all__ = ["Ask", "Asked", "Judgement", "Situation", "Step", "UndecidedError"]

T = TypeVar("T")


class Ask(Protocol):
    """Asks the step's model. Its answer is read with `read`, which raises ValueError for one that makes no sense;
    the model is asked again then, `tries` times in all. Raises UndecidedError where that, or the model, fails.
    """

    async def __call__(self, messages: Sequence[BaseMessage], read: Callable[[str], T], *, tries: int = 3) -> T: ...


class UndecidedError(MoARunError):
    """A model whose decision was asked for gave none: it failed, or its answers made no sense."""


@dataclass(frozen=True)
class Situation:
    """What a step knows: the conversation, and the answers of its layer in declared order."""

    layer: int
    conversation: Sequence[BaseMessage]
    proposals: Sequence[Proposal]
    """Those that are read on: status `ok`, and not left out by a step before. Empty for a route."""
    panel: Sequence[str]
    """The names of the layer's proposers, in declared order."""
    quorum: int = 1
    """How many of them must answer."""
    timeout: float | None = None
    """Seconds that the step may wait for something beside its model; `None`: no limit."""
    seed: int = 0
    """The run's; a step that draws lots draws them with it."""
    before: Sequence[Decision] = ()
    """What this kind of step has decided in the layers before."""
    ask: Ask | None = None
    """`None` where the step has no model."""

    @property
    def answers(self) -> list[str]:
        return [proposal["content"] for proposal in self.proposals]

    @property
    def names(self) -> list[str]:
        """Who gave the answers."""
        return [proposal["proposer"] for proposal in self.proposals]

    @property
    def question(self) -> str:
        """The text of the user's last message."""
        said = [message.text for message in self.conversation if message.type == "human"]
        return str(said[-1]) if said else ""

    @property
    def transcript(self) -> str:
        """What is to be answered, as a judge reads it: the question; with who said what, where more was said."""
        if len(self.conversation) == 1:
            return self.question
        who = {"human": "User", "ai": "Assistant", "system": "System"}
        return "\n\n".join(f"{who.get(m.type, m.type.title())}: {m.text}" for m in self.conversation)


@dataclass(frozen=True)
class Judgement:
    """What a step decided. `chosen`: names of proposers, of those it was about; `said`: why, in one line."""

    chosen: list[str] = field(default_factory=list)
    said: str = ""
    stop: bool = False
    """No further layer is asked."""
    texts: dict[str, str] = field(default_factory=dict)
    """What it has to say of a proposer's answer, by the proposer's name."""
    score: float | None = None
    """What it measured; in the decision, so that the layers after can know it."""


@runtime_checkable
class Step(Protocol):
    """A value object. `model`: who is asked, if anybody is; resolved when the mixture is built."""

    @property
    def kind(self) -> str:
        """Where it stands in a layer: `route`, `select`, `critique` or `stop`."""

    @property
    def model(self) -> ProposerLike | None: ...

    @property
    def name(self) -> str:
        """As the receipt and YAML have it: `top_k`, `agreement`."""

    def check(self, panel: Sequence[str], where: str) -> None:
        """Raises MoAConfigError for a value that does not suit a panel of these proposers."""

    async def decide(self, situation: Situation) -> Judgement: ...


class Asked:
    """One step's model in one run, and what it was asked in all."""

    def __init__(
        self,
        seat: Seat,
        answers: Answers,
        config: RunnableConfig,
        run: Run,
        may_again: Callable[[], bool] = lambda: True,
    ) -> None:
        self._seat, self._answers, self._config, self._run = seat, answers, unheard(config), run
        self._may_again = may_again
        self._began = time.monotonic()
        self.asked: list[tuple[Asking, Bill]] = []

    async def __call__(self, messages: Sequence[BaseMessage], read: Callable[[str], T], *, tries: int = 3) -> T:
        who, why = f"{self._seat.name}, {self._seat.model.id}", ""
        for k in range(tries):
            text = await self._one(list(messages), who, self._answers if k == 0 else Answers(None))
            try:
                return read(text)
            except ValueError as error:
                why = f"{error} ({clean(text)[:80]!r})"
            if k + 1 < tries and not self._may_again():
                tries, why = k + 1, f"{why}; the budget is too small for another"
                break
        raise UndecidedError(f"{who}: no usable answer in {tries} attempt{'s' * (tries != 1)}: {why}", self._run.asked)

    def bound(self, **keywords: Any) -> "Asked":
        """The same model, asked with these keywords; what it is asked counts here."""
        made = copy.copy(self)
        runnable = cast("Any", self._seat.model.runnable).bind(**keywords)
        made._seat = replace(self._seat, model=replace(self._seat.model, runnable=runnable))
        return made

    async def _one(self, messages: list[BaseMessage], who: str, answers: Answers) -> str:
        ask = Asking(self._seat, answers, self._config, may_again=self._may_again)
        bill = UNKNOWN
        try:
            async with self._seat.policy.turn(), asyncio.timeout(self._seat.policy.timeout) as limit:
                text = text_of(await ask.answer(messages))
            bill = ask.bill()
        except GraphBubbleUp:
            raise
        except Exception as error:
            bill = ask.bill(error)
            raise UndecidedError(f"{who}: {ask.why(error, limit)}", self._run.asked) from error
        finally:
            self.asked.append((ask, bill))
        return text

    def settle(self, held: Holding) -> None:
        """All of it has ended: what it took goes from the budget."""
        calls = [self.call()] if self.asked else []
        priced = all(bill.cost_usd is not None for _, bill in self.asked)
        held.settle(calls, priced=priced, told=lambda: all(ask.told() for ask, _ in self.asked))

    def call(self) -> Call:
        """All of it as one call of the receipt."""
        asked = [ask for ask, _ in self.asked]
        cached = all(ask.cached for ask in asked)
        used = [Counter(ask.usage) for ask in asked if cached or not ask.cached]
        call = Call(
            proposer=self._seat.name, model=asked[-1].model,
            status="ok" if any(ask.answered for ask in asked) else "error", attempts=sum(ask.made for ask in asked),
            calls=sum(ask.calls for ask in asked), seconds=round(time.monotonic() - self._began, 3),
            usage=dict(sum(used, Counter[str]())), cost_usd=None, tflops=None, error=None, cached=cached, resumed=False,
        )  # fmt: skip
        call.update(Bill.sum([bill for _, bill in self.asked]).told())  # type: ignore[typeddict-item]
        return call
