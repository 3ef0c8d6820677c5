"""`Layer(route=…)`: which proposers of a layer are asked this question: by a function, or by a small model.

Proposers are addressed by their names as the receipt has them: one with `samples=2` is two, `luna-1` and `luna-2`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, ClassVar, Final, Literal

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

from moa_graph.errors import MoAConfigError
from moa_graph.panel import Proposer, ProposerLike
from moa_graph.steps import Judgement, Situation, UndecidedError
from moa_graph.verdicts import check_text, one_of, read_list, whole, why_not

__all__ = ["ROUTE", "Choose", "Route", "as_route"]

ROUTE: Final = """\
Several models can be asked what a user wants to know. Decide which of them are to be asked: those that are likely \
to contribute something right, and no more of them than help."""
"""What a model is told that chooses who is asked."""

Choose = Callable[[Sequence[BaseMessage], Sequence[str]], Sequence[str] | Awaitable[Sequence[str]]]
"""From the conversation and the names of a layer's proposers to the names of those that are asked."""


@dataclass(frozen=True)
class Route:
    """Who is asked: as `choose` says, or as `model` says, which reads the question and the proposers' names.

    choose: `(messages, names) -> names`, sync (called in a thread) or async. most: at most so many are asked.
    describe: name -> what that proposer is good at, for the model to read. prompt: what the model is told.
    otherwise: where no usable choice is made - nobody, an unknown name, one twice, more than `most`, fewer than the
    layer's quorum; by a model three times, or it fails - `"error"`, or `"all"` are asked.

    Raises MoAConfigError for a value that makes no sense, and when built, for an unknown name in `describe`.
    """

    choose: Choose | None = None
    model: ProposerLike | None = None
    most: int | None = None
    describe: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ROUTE
    otherwise: Literal["error", "all"] = "error"

    kind: ClassVar = "route"
    name: ClassVar = "route"

    def __post_init__(self) -> None:
        if (self.choose is None) == (self.model is None):
            raise MoAConfigError("Route: give either `choose`, a function, or `model`")
        if self.choose is not None and not callable(self.choose):
            raise MoAConfigError(f"Route: choose is {self.choose!r}: a function from messages and names to names")
        if self.most is not None:
            whole("Route: most", self.most)
        if not isinstance(self.describe, Mapping) or not all(isinstance(text, str) for text in self.describe.values()):
            raise MoAConfigError(f"Route: describe is {self.describe!r}: a mapping from names to texts is needed")
        check_text("Route: prompt", self.prompt)
        one_of("Route: otherwise", self.otherwise, ("error", "all"))

    def check(self, panel: Sequence[str], where: str) -> None:
        if self.most is not None and self.most > len(panel):
            raise MoAConfigError(
                f"{where}: most is {self.most}, and the panel has {len(panel)} proposers: 1 to {len(panel)}"
            )
        if unknown := [name for name in self.describe if name not in panel]:
            raise MoAConfigError(f"{where}: describe has {unknown[0]!r}; the proposers are {', '.join(panel)}")

    async def decide(self, situation: Situation) -> Judgement:
        try:
            names = await (self._called(situation) if self.choose else self._asked(situation))
        except UndecidedError as error:
            if self.otherwise == "error":
                raise
            return Judgement(list(situation.panel), f"asks all, as declared: {why_not(error)}")
        return Judgement(names, f"asks {len(names)} of {len(situation.panel)}: {', '.join(names)}")

    async def _called(self, situation: Situation) -> list[str]:
        choose: Any = self.choose
        async with asyncio.timeout(situation.timeout):
            made = await asyncio.to_thread(choose, list(situation.conversation), list(situation.panel))
            names = await made if isawaitable(made) else made
        try:
            return self._valid(names, situation)
        except ValueError as error:
            raise UndecidedError(f"the function gave {names!r}: {error}") from error

    async def _asked(self, situation: Situation) -> list[str]:
        assert situation.ask is not None, "it has a model"
        lines = [
            f"- {name}: {about}" if (about := self.describe.get(name)) else f"- {name}" for name in situation.panel
        ]
        least, most = situation.quorum, min(self.most or len(lines), len(lines))
        many = f"{least} to {most}" if least < most else str(most)
        demand = f'Give the names of {many} of the models as a JSON list, such as ["{situation.panel[0]}"]. '
        said = f"What was asked:\n\n{situation.transcript}\n\n{demand}Give nothing else."
        messages = [SystemMessage("\n".join([self.prompt, "", "The models:", *lines])), HumanMessage(said)]
        return await situation.ask(messages, lambda text: self._valid(read_list(text), situation))

    def _valid(self, names: Any, situation: Situation) -> list[str]:
        """The names in declared order. Raises ValueError for a choice that cannot be."""
        if isinstance(names, str) or not isinstance(names, Sequence | set | frozenset):
            raise ValueError("not a list of names")
        if unknown := [name for name in names if name not in situation.panel]:
            raise ValueError(f"no proposer is named {unknown[0]!r}; they are {', '.join(situation.panel)}")
        if len(set(names)) < len(names):
            raise ValueError("a name twice")
        least = max(1, situation.quorum)
        if len(names) < least:
            raise ValueError(f"{len(names)} chosen, and {least} must answer")
        if self.most is not None and len(names) > self.most:
            raise ValueError(f"{len(names)} chosen, at most {self.most} may be")
        return [name for name in situation.panel if name in names]


def as_route(given: Any) -> Any:
    """A model or a function as the route that it is meant to be; anything else as it is."""
    if isinstance(given, str | Proposer | Runnable):
        return Route(model=given)
    if callable(given) and not isinstance(given, type) and not hasattr(given, "decide"):
        return Route(given)
    return given
