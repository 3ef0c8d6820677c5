"""`Layer(stop=…)`: whether the layers behind this one are asked. The final model is asked in any case.

- `Agreement(threshold, patience)`: the answers of a layer are alike. It asks no model.
- `Sentinel(text)`: the answers hold a text that says that they are final. It asks no model.
- `Judge(model)`: a model reads the question and the answers.

Stopping early can lose right answers: an aggregator sometimes finds one that no proposer gave, also where all of them
agree (arXiv 2605.29116). Measure it on your own questions before you leave it on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, count
from math import ceil
from typing import ClassVar, Final, Literal

from moa_graph.errors import MoAConfigError
from moa_graph.panel import ProposerLike
from moa_graph.similarity import Embed, check_embed, likeness, mean, prepare
from moa_graph.steps import Judgement, Situation, UndecidedError
from moa_graph.verdicts import check_text, one_of, read_object, to_judge, whole, why_not

__all__ = ["STOP", "Agreement", "Judge", "Sentinel", "check_patience"]

STOP: Final = """\
You are given several responses to what a user asked. Further models could read them and answer again, which takes \
time and money. Decide whether that is still needed. It is not where the responses agree, are right, and leave \
nothing out that matters. It is where they contradict each other, where one may be wrong, or where something is \
missing."""
"""What a judge is told that decides whether a mixture goes on."""


@dataclass(frozen=True)
class Agreement:
    """Stop where the answers of `patience` layers in a row are alike: each two of them on average by `threshold`.

    embed: `"provider:model"` or LangChain embeddings; None: by their words (see `moa_graph.similarity`), by which
    answers that say the same in other words come to 0.3 to 0.7. Raises MoAConfigError for a value that makes no sense.
    """

    threshold: float = 0.9
    patience: int = 1
    embed: Embed = None

    kind: ClassVar = "stop"
    name: ClassVar = "agreement"
    model: ClassVar = None

    def __post_init__(self) -> None:
        _share("Agreement: threshold", self.threshold)
        whole("Agreement: patience", self.patience)
        check_embed(self.embed)

    def check(self, panel: Sequence[str], where: str) -> None:
        prepare(self.embed, where)

    async def decide(self, situation: Situation) -> Judgement:
        if len(situation.answers) < 2:
            return Judgement(said="one answer agrees with no other")
        alike = await likeness(situation.answers, self.embed, situation.timeout)
        score = round(mean([alike[i][j] for i, j in combinations(range(len(alike)), 2)]), 4)
        row = 1 + self._before(situation) if score >= self.threshold else 0
        needed = f", {row} of {self.patience} layers in a row" if self.patience > 1 else ""
        said = f"agreement {score:.2f}, {self.threshold:.2f} is needed{needed}"
        return Judgement(said=said, stop=row >= self.patience, score=score)

    def _before(self, situation: Situation) -> int:
        """How many layers in a row, just before this one, were in agreement."""
        scores = {d["layer"]: d["score"] for d in situation.before if d["by"] == self.name and "score" in d}
        enough = (scores.get(situation.layer - k, -1.0) >= self.threshold for k in count(1))
        return next(k for k, agreed in enumerate(enough) if not agreed)


def check_patience(stops: Sequence[object]) -> None:
    """Raises MoAConfigError where no agreement can last as long as it must. stops: of the layers before the last."""
    row, wanted = 0, list[tuple[int, int]]()  # of each agreement: its patience, and how many in a row there are by then
    for step in stops:
        row = row + 1 if isinstance(step, Agreement) else 0
        wanted += [(step.patience, row)] if isinstance(step, Agreement) else []
    if wanted and all(patience > most for patience, most in wanted):
        most = max(most for _, most in wanted)
        raise MoAConfigError(
            f"stop: patience is {min(wanted)[0]}, and only {most} layer{'s' * (most != 1)} in a row can stop, the last "
            f"of proposers never: at most {most}, or give more layers"
        )


@dataclass(frozen=True)
class Sentinel:
    """Stop where the answers hold `text`, such as "FINAL", as it stands: `"all"` of them, `"any"`, or a share of them
    (0.5: at least half). Ask for it in the proposers' system prompts. Raises MoAConfigError for a value that makes no
    sense.
    """

    text: str
    share: float | Literal["all", "any"] = "all"

    kind: ClassVar = "stop"
    name: ClassVar = "sentinel"
    model: ClassVar = None

    def __post_init__(self) -> None:
        check_text("Sentinel: text", self.text)
        if self.share not in ("all", "any"):
            _share("Sentinel: share", self.share, ', or "all" or "any"')

    def check(self, panel: Sequence[str], where: str) -> None:
        """Any panel will do."""

    async def decide(self, situation: Situation) -> Judgement:
        many = len(situation.answers)
        hold = sum(self.text in answer for answer in situation.answers)
        needed = {"all": many, "any": 1}.get(str(self.share)) or max(1, ceil(float(self.share) * many))
        said = f"{hold} of {many} answers hold {self.text!r}, {needed} must"
        return Judgement(said=" ".join(said.split()), stop=0 < needed <= hold)


@dataclass(frozen=True)
class Judge:
    """Stop where `model`, which reads the question and the answers, says so; asked again where it makes no sense.

    prompt: what it is told. otherwise: where it gives no usable answer in three attempts, or fails: `"error"`,
    `"go_on"` or `"stop"`. Raises MoAConfigError for a value that makes no sense.
    """

    model: ProposerLike
    prompt: str = STOP
    otherwise: Literal["error", "go_on", "stop"] = "error"

    kind: ClassVar = "stop"
    name: ClassVar = "judge"

    def __post_init__(self) -> None:
        check_text("Judge: prompt", self.prompt)
        one_of("Judge: otherwise", self.otherwise, ("error", "go_on", "stop"))

    def check(self, panel: Sequence[str], where: str) -> None:
        """Any panel will do."""

    async def decide(self, situation: Situation) -> Judgement:
        demand = (
            'Give a JSON object: {"stop": true, "why": "…"} if no further answers are needed, '
            '{"stop": false, "why": "…"} if they are; "why" in at most ten words. Give nothing else.'
        )
        assert situation.ask is not None, "it has a model"
        try:
            stop, why = await situation.ask(
                to_judge(self.prompt, situation.answers, situation.transcript, demand), _read_stop
            )
        except UndecidedError as error:
            if self.otherwise == "error":
                raise
            does = "stops" if self.otherwise == "stop" else "goes on"
            return Judgement(said=f"{does}, as declared: {why_not(error)}", stop=self.otherwise == "stop")
        return Judgement(said=("enough" if stop else "not enough") + (f": {why}" if why else ""), stop=stop)


def _read_stop(text: str) -> tuple[bool, str]:
    said = read_object(text)
    if not isinstance(stop := said.get("stop"), bool):
        raise ValueError('no "stop": true or false in it')
    return stop, why_not(ValueError(said["why"])) if isinstance(said.get("why"), str) else ""


def _share(what: str, given: object, more: str = "") -> None:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 1:
        raise MoAConfigError(f"{what} is {given!r}: a number above 0, at most 1{more}, is needed")
