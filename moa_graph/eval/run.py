"""A whole evaluation: what it compares, what it is going to take, and its stages one after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from moa_graph import __version__
from moa_graph.budget import USUAL_OUTPUT
from moa_graph.config import MoAConfig
from moa_graph.contenders import alone
from moa_graph.errors import MoAConfigError
from moa_graph.eval import data
from moa_graph.eval.alpaca_cost import expected
from moa_graph.eval.alpaca_judging import judge_alpaca_eval, judge_of
from moa_graph.eval.calls import booked
from moa_graph.eval.contenders import Contender, adjusted, contenders, fingerprint, plain
from moa_graph.eval.extra import INSTALL
from moa_graph.eval.generate import AT_ONCE, OnProgress, Progress, Stage, built, generate
from moa_graph.eval.items import BENCHMARKS, Item, digest, load, sample
from moa_graph.eval.judge import built_judge, judge, judge_told
from moa_graph.eval.rubric import JUDGED
from moa_graph.eval.score import rubric_of
from moa_graph.eval.store import ANSWER, JUDGEMENT, Lines, RunDirectory, check
from moa_graph.eval.variants import varied
from moa_graph.receipt import known, total

__all__ = ["Evaluation", "Plan", "planned", "sampled"]

T = TypeVar("T")

_LOOKED_AT: Final = 16  # items that an estimate is made from; the others are taken to be like them


@dataclass(frozen=True)
class Plan:
    """What a stage is still going to take. `cost_usd` `None`: the price of a model is unknown."""

    stage: Stage
    left: int
    calls: int
    cost_usd: float | None
    cost_usd_at_least: float


def sampled(
    pending: Sequence[T], estimates: Callable[[T], Sequence[Mapping[str, Any]]]
) -> tuple[float, float | None, float]:
    """What all of these take, by the estimates of a few: calls, $ (`None`: unknown), and what of it is known."""
    looked_at = pending[:: max(1, len(pending) // _LOOKED_AT)]
    made = [each for one in looked_at for each in estimates(one)]
    share, cost = len(pending) / max(1, len(looked_at)), total(each["cost_usd"] for each in made)
    least = known(each["cost_usd_at_least"] for each in made)
    return share * sum(each["calls"] for each in made), None if cost is None else cost * share, share * least


def planned(
    stage: Stage,
    pending: Sequence[tuple[Contender, Sequence[Item]]],
    estimates: Callable[[Contender, Item], Sequence[Mapping[str, Any]]],
) -> Plan:
    """What a stage takes, of what is not done of each contender."""
    takes = [sampled(items, partial(estimates, one)) for one, items in pending]
    calls, costs, least = zip(*takes, strict=True) if takes else ((), (), ())
    return Plan(stage, sum(len(items) for _, items in pending), round(sum(calls)), total(costs), known(least))


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: mixtures on the items of a benchmark, or of a file of the user's own.

    mixtures: name -> mixture. judge: its name and itself. singles: compare each mixture with its single models and
    with single-proposer mixtures. baseline: the contender that the user's own prompts are judged beside; the first
    mixture's final model alone where nothing is said. vary: which of `variants.VARIATIONS` are asked as well.
    judged: the states of a judgement that is not asked for again.

    Raises MoAConfigError: unknown benchmark or baseline, data that cannot be read.
    """

    benchmark: str
    mixtures: Mapping[str, MoAConfig]
    out: Path
    judge: tuple[str, MoAConfig] | None = None
    limit: int | None = None
    seed: int = 0
    singles: bool = True
    baseline: str | None = None
    data_dir: Path | None = None
    vary: Sequence[str] = ()
    judged: Sequence[str] = JUDGED
    items: list[Item] = field(init=False)
    contenders: list[Contender] = field(init=False)
    left_out: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "items", sample(load(self.benchmark, self.data_dir), self.limit, self.seed))
        unvaried = contenders(self.mixtures, singles=self.singles)
        found = varied(unvaried, self.mixtures, self.vary)
        set_(self, "contenders", found.contenders)
        set_(self, "left_out", found.left_out)
        if self.benchmark not in BENCHMARKS:
            if self.data_dir is not None:
                raise MoAConfigError(f"--data-dir is where a benchmark's data lie: leave it out for {self.benchmark}")
            set_(self, "baseline", self._chosen_baseline([one.name for one in unvaried]))
        elif self.baseline is not None:
            raise MoAConfigError(f"a baseline goes with your own prompts; {self.benchmark} has its own way to judge")

    def _chosen_baseline(self, unvaried: Sequence[str]) -> str | None:
        """Whatever is varied, nothing else is the baseline for it."""
        names = [one.name for one in self.contenders]
        if self.baseline is None:
            return self._final_alone() or (unvaried[0] if len(names) > 1 else None)
        if self.baseline not in names:
            raise MoAConfigError(f"there is no contender {self.baseline!r} for a baseline: one of {', '.join(names)}")
        return self.baseline

    def _final_alone(self) -> str | None:
        """The first mixture's final model; where it has none, the last of its models. `None`: no model is alone."""
        mixture = next(iter(self.mixtures.values()))
        models = {fingerprint(alone(mixture, model)) for model in mixture.finals[:1]}
        singles = [one for one in self.contenders if one.kind == "single" and one.of[0] == next(iter(self.mixtures))]
        last = [one.name for one in singles if not models or fingerprint(one.config) in models]
        return last[-1] if last else None

    def described(self) -> dict[str, Any]:
        """What is compared, as run.json has it."""
        judged = self.judge and judge_told(*self.judge)
        configs = {name: {"fingerprint": fingerprint(c), "config": plain(c)} for name, c in self.mixtures.items()}
        return {
            "version": __version__, "benchmark": self.benchmark, "items": len(self.items),
            "items_sha256": digest(self.items), "seed": self.seed, "limit": self.limit, "singles": self.singles,
            "judge": judged or None, "baseline": self.baseline, "configs": configs,
            "contenders": [one.told() for one in self.contenders],
        }  # fmt: skip

    def plans(self, stages: Sequence[Stage], usd: float | None = None) -> list[Plan]:
        """What stages are still going to take, from a few of the items. Nobody is asked, and nothing written.

        Raises MoAConfigError where one cannot be begun, or the directory is another evaluation's.
        """
        if "judge" in stages:
            if self.benchmark not in BENCHMARKS and self.baseline is None:  # so there is one contender
                raise MoAConfigError(
                    "your own prompts are judged beside a baseline, and there is nobody beside "
                    f"{self.contenders[0].name}: give another --config too, or leave out --no-singles"
                )
            self._check_alpaca_eval()
        check(self.out, self.described())
        pending = {stage: self._pending(stage) for stage in stages}
        if self.judge and any(items for _, items in pending.get("judge", ())):
            built_judge(*self.judge, usd)
        for one, items in pending.get("generate", ()):
            if items:  # who is done with needs no client, which takes a second to load
                built(one.config, one.name, usd)
        return [planned(stage, each, partial(self._estimates, stage)) for stage, each in pending.items()]

    def _check_alpaca_eval(self) -> None:
        if self.benchmark != "alpaca-eval" or self.judge is None:
            return
        judge_of(self.judge[1], self.judge[0])
        if find_spec("alpaca_eval") is None:
            raise MoAConfigError(f"alpaca-eval is judged by the package alpaca_eval, which is not installed: {INSTALL}")

    def licences(self) -> list[str]:
        """Whose the data are, and under which terms."""
        return data.licences(self.benchmark)

    def _pending(self, stage: Stage) -> list[tuple[Contender, list[Item]]]:
        """What is not done, by contender."""
        fields, file = (ANSWER, "answers.jsonl") if stage == "generate" else (JUDGEMENT, "judgements.jsonl")
        lines = Lines(self.out / file, fields)
        orders = ("first", "second") if self.baseline and stage == "judge" else ("",)
        done = ("ok",) if stage == "generate" else self.judged

        def is_done(one: Contender, item: Item) -> bool:
            keys = [(item.id, one.name, self.seed, turn) for turn in range(1, len(item.turns) + 1)]
            whole = keys if stage == "generate" else [(*key, order) for key in keys for order in orders]
            return all(lines.status(key) in done for key in whole)

        asked = [one for one in self.contenders if stage == "generate" or one.name != self.baseline]
        return [(one, [item for item in self.items if not is_done(one, item)]) for one in asked]

    def _estimates(self, stage: Stage, one: Contender, item: Item) -> list[Any]:
        """An estimate for each call of a judge, or each run of a contender, that an item takes."""
        answer = "word " * USUAL_OUTPUT
        questions = [*(message["content"] for message in item.history), *item.turns]
        if stage == "judge":
            assert self.judge is not None, "a plan to judge has a judge"
            shown, times = (2, 2) if self.baseline else (1, len(item.turns))
            text = "\n".join([*questions, *item.reference, *([answer] * shown)])
            made = expected(self.judge[1], text) if self.benchmark == "alpaca-eval" else self.judge[1].estimate(text)
            return [made] * times
        config = adjusted(one.config, item.temperature, item.max_tokens)
        before = len(questions) - len(item.turns)
        return [
            config.estimate("\n".join([*questions[: before + k + 1], *([answer] * k)])) for k in range(len(item.turns))
        ]

    def opened(self) -> Any:
        """The directory, for this process alone: a context manager that gives a `RunDirectory`."""
        return RunDirectory.working(self.out, self.described(), [item.told() for item in self.items])

    async def run(
        self,
        stage: Stage,
        directory: RunDirectory,
        *,
        at_once: int = AT_ONCE,
        usd: float | None = None,
        on_progress: OnProgress = lambda _: None,
    ) -> Progress:
        """Do a stage, as far as it is not done. Raises MoAConfigError where it cannot be begun."""
        how: dict[str, Any] = {"seed": self.seed, "at_once": at_once, "usd": usd, "on_progress": on_progress}
        if stage == "generate":
            return await generate(directory, self.items, self.contenders, **how)
        if self.judge is None:
            raise MoAConfigError("there is no judge: give --judge provider:model")
        how["done"] = self.judged
        booked(directory)
        if self.benchmark == "alpaca-eval":
            return await judge_alpaca_eval(directory, self.items, self.contenders, self.judge, **how)
        rubric = rubric_of(self.benchmark, self.data_dir, self.baseline)
        return await judge(directory, self.items, self.contenders, rubric, self.judge[1], **how)
