"""Does mixing help? Mixtures, the single models of the first one, and the first one with its best single model in the
place of all proposers, on the same questions: answers, cost, seconds, and what a judge prefers.

comparison = await compare({"ours": MoAConfig.preset("moa-lite")}, ["Why is the sky blue?"], "openai:gpt-6-sol")
for standing in comparison.standings:
    print(standing.name, standing.calls, standing.cost_usd, standing.score)

Every contender is judged against the first mixture, the baseline: blind, and in both orders (`moa_graph.judging`).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from moa_graph.budget import Amount, Budget
from moa_graph.config import MoAConfig
from moa_graph.contenders import Contender, mixtures, single_proposer, singles
from moa_graph.errors import BudgetExceededError, MoAConfigError, MoAError, describe
from moa_graph.judging import PairJudge
from moa_graph.outlook import amount
from moa_graph.panel import ProposerLike
from moa_graph.questions import Conversation, conversation
from moa_graph.receipt import known
from moa_graph.run import Run
from moa_graph.standing import Comparison, Outcome, Standing

__all__ = ["Match", "Progress", "compare"]


class Progress(NamedTuple):
    """How far a comparison is. `usd`: what is known of its cost so far."""

    runs: int
    answered: int
    failed: int
    pairs: int
    judged: int
    usd: float


Tell = Callable[[Progress], None]


def _tell_nobody(_: Progress) -> None: ...


async def compare(
    given: Mapping[str, MoAConfig],
    questions: Sequence[Any],
    judge: ProposerLike,
    *,
    alone: bool = True,
    budget: Budget | None = None,
    concurrency: int = 4,
    tell: Tell | None = None,
) -> Comparison:
    """Ask every contender every question, and a judge whose answers are better.

    given: mixtures by name; the first is the baseline. questions: texts, or what a graph takes. alone: compare with
    each single model of the baseline as well, and with the best of them in the place of all proposers. budget: a shared
    one, for all of it, in place of the mixtures' own; contenders that it stops are told as such. concurrency: how many
    runs, and pairs that are judged, at once. tell: is told after each of them how far it is.

    A contender that fails on a question does not stop the others. Raises MoAConfigError where a mixture or the judge
    cannot be made, before anybody is asked.
    """
    match = Match(given, questions, judge, alone=alone, budget=budget, concurrency=concurrency)
    return await match.play(tell)


def _check(given: Mapping[str, MoAConfig], questions: Sequence[Any], budget: Any, at_once: Any, alone: bool) -> None:
    if not given or isinstance(questions, str) or not questions:
        raise MoAConfigError("there is nothing to compare: give mixtures by name, and a list of questions")
    if not alone and len(given) < 2:
        raise MoAConfigError("there is nothing to compare it with: give a second mixture, or its single models as well")
    if budget is not None and not (isinstance(budget, Budget) and budget.shared):
        raise MoAConfigError(f"budget is {budget!r}: one for all of it is needed, such as Budget(usd=5, shared=True)")
    if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
        raise MoAConfigError(f"concurrency is {at_once!r}: a whole number of at least 1 is needed")


class Match:
    """A comparison that is ready to begin, and is played once. Takes what `compare` takes, and raises what it does."""

    def __init__(
        self,
        given: Mapping[str, MoAConfig],
        questions: Sequence[Any],
        judge: ProposerLike,
        *,
        alone: bool = True,
        budget: Budget | None = None,
        concurrency: int = 4,
    ) -> None:
        _check(given, questions, budget, concurrency, alone)
        self._judge, self._budget = PairJudge(judge, budget=budget), budget
        self._tell: Tell = _tell_nobody
        self._questions, self._turns = asyncio.Semaphore(concurrency), asyncio.Semaphore(concurrency)
        self._graphs: dict[str, Any] = {}
        asked = [conversation(one) for one in questions]
        self.comparison = Comparison(asked, self._judge.model, [], judge_calls=self._judge.calls)
        for contender in mixtures(given):
            self._enter(contender)
        first = self.comparison.baseline.contender
        self._own = [self._enter(single) for single in (singles(first.config, [*given]) if alone else ())]

    def graph(self, name: str) -> Any:
        """A contender's graph."""
        return self._graphs[name]

    async def play(self, tell: Tell | None = None) -> Comparison:
        """Ask, and judge. It can be called once."""
        self._tell = tell or _tell_nobody
        spared = self._spare() if self._own else None
        await self._ask(self.comparison.standings[:])
        if spared and self._budget:
            self._budget.purse().end(spared)
        if self._own:
            await self._ask_single_proposer()
        return self.comparison

    def _enter(self, contender: Contender) -> Standing:
        """Take in a contender. Raises MoAConfigError where its graph cannot be made."""
        runtime: dict[str, Any] = {"budget": self._budget} if self._budget else {}
        try:
            self._graphs[contender.name] = contender.config.build(**runtime)
        except MoAConfigError as error:
            raise MoAConfigError(f"{contender.name}: {error}") from error
        standing = Standing(contender, [None] * len(self.comparison.questions))
        self.comparison.standings.append(standing)
        return standing

    def _spare(self) -> Run | None:
        """Set aside what the single-proposer mixture takes, which is asked at the end; `None`: there is not that much.

        It takes about what the first mixture takes.
        """
        if self._budget is None:
            return None
        config, run = self.comparison.baseline.contender.config, Run()
        aside = Amount.sum([amount(config.estimate(one)) for one in self.comparison.questions])
        return None if self._budget.purse().hold(run, [], aside) else run

    async def _ask(self, standings: Sequence[Standing]) -> None:
        """Question by question, some at once: all of these answer it, then their answers are judged."""
        async with asyncio.TaskGroup() as group:
            for k in range(len(self.comparison.questions)):
                group.create_task(self._question(k, standings))

    async def _ask_single_proposer(self) -> None:
        """The first mixture with the best single model in the place of all proposers."""
        first, notes = self.comparison.baseline.contender, self.comparison.notes
        best = _best(self._own)
        self.comparison.best = best.name if best else None
        chosen = best or self._own[-1]
        if best is None:
            notes.append(f"no single model could be judged: the single-proposer mixture is of {chosen.name}")
        made = single_proposer(first.config, chosen.contender, [*self._graphs])
        if made is None:
            notes.append(f"no single-proposer mixture of {chosen.name}: {first.name} is one, or has no proposers")
            return
        try:
            await self._ask([self._enter(made)])
        except MoAConfigError as error:
            notes.append(f"no single-proposer mixture: {error}")

    async def _question(self, k: int, standings: Sequence[Standing]) -> None:
        async with self._questions:
            for part in (self._answer, self._prefer):
                async with asyncio.TaskGroup() as group:
                    for standing in standings:
                        group.create_task(part(standing, k))

    async def _answer(self, standing: Standing, k: int) -> None:
        async with self._turns:
            standing.outcomes[k] = await _outcome(self._graphs[standing.name], self.comparison.questions[k])
        self._tell(self._progress())

    async def _prefer(self, standing: Standing, k: int) -> None:
        """Have an answer judged beside the baseline's, where both are there."""
        baseline, made = self.comparison.baseline.outcomes[k], standing.outcomes[k]
        if standing is self.comparison.baseline or not (baseline and made and baseline.answer and made.answer):
            return
        async with self._turns:
            made.preference = await self._judge.prefer(self.comparison.questions[k], made.answer, baseline.answer)
        self._tell(self._progress())

    def _progress(self) -> Progress:
        comparison, everyone = self.comparison, self.comparison.standings
        answered = sum(standing.count("ok") for standing in everyone)
        return Progress(
            runs=len(everyone) * len(comparison.questions),
            answered=answered,
            failed=sum(standing.count("failed") + standing.count("stopped") for standing in everyone),
            pairs=(len(everyone) - 1) * len(comparison.questions),
            judged=sum(len(standing.preferences) for standing in everyone),
            usd=known([*(s.cost_usd_at_least for s in everyone), comparison.judge_cost_usd_at_least]),
        )


async def _outcome(graph: Any, question: Conversation) -> Outcome:
    try:
        message = (await graph.ainvoke({"messages": list(question)}))["messages"][-1]
    except BudgetExceededError as error:
        return Outcome("stopped", error=str(error), receipt=error.receipt)
    except Exception as error:
        why = str(error) if isinstance(error, MoAError) else describe(error)
        return Outcome("failed", error=why, receipt=getattr(error, "receipt", None))
    return Outcome("ok", message.text, receipt=message.response_metadata["moa"])


def _best(own: Sequence[Standing]) -> Standing | None:
    """The single model that did best, a question without an answer counting as lost; the cheaper one of equals."""

    def rank(standing: Standing) -> tuple[float, float]:
        missing = standing.count("failed") + standing.count("stopped")
        return -sum(standing.scores) / (len(standing.scores) + missing), standing.cost_usd_at_least

    return min((standing for standing in own if standing.scores), key=rank, default=None)
