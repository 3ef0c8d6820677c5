"""What the end of a mixture does with the answers of its last layer: `aggregator=` of `create_moa`.

    Synthesize(model)            writes an answer of its own: what a bare model means
    Rank(model)                  names the best answer, which is given word for word
    Sequential(model, window=6)  synthesizes many answers, a few at a time (Self-MoA-Seq, arXiv 2502.00674)
    Vote("number")               counts what the answers come down to; asks no model
    Consistent(model)            names the answer that agrees most with the others (arXiv 2311.17311)

A model is whatever `aggregator=` takes by itself: a model, a `Proposer`, or a list of them, of which the next one is
asked where one fails.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Literal, Protocol, get_args

from moa_graph.errors import MoAConfigError, clean, describe
from moa_graph.extract import Extract, extractor, objects
from moa_graph.panel import ProposerLike
from moa_graph.prompts import Prompt
from moa_graph.state import Proposal
from moa_graph.steps import UndecidedError

__all__ = [
    "REQUEST",
    "Aggregator",
    "Choose",
    "Consistent",
    "Models",
    "Otherwise",
    "Outcome",
    "Picks",
    "Rank",
    "Sequential",
    "Synthesize",
    "Vote",
    "aggregator_of",
    "mapped",
    "models_of",
    "named",
    "schema",
]

Models = ProposerLike | Sequence[ProposerLike]
Otherwise = Literal["error", "first"]

BEST: Final = """\
Several models have each answered the user's latest message on their own; you find their responses below. You do not \
answer the user: you judge. Name the one response that serves the user best. Judge what is right before how it is \
said: a response may be wrong, however sure it sounds, and neither its length nor its place in the list speaks for it.

Responses from models:"""
"""What the model of `Rank` is told."""

MOST_CONSISTENT: Final = """\
Several models have each answered the user's latest message on their own; you find their responses below. You do not \
answer the user: you compare. Name the one response that agrees best with most of the others: what most of them come \
to, by whatever way, counts; how they say it does not.

Responses from models:"""
"""What the model of `Consistent` is told (Chen et al. 2023, arXiv 2311.17311, in our own words)."""

REQUEST: Final = (
    "(This is not to be answered now: name the one response that you were asked to name, by its number. Give nothing "
    'but JSON such as {"best": 2}.)'
)
"""Stands behind the user's message when a response is to be named."""

_MARKED = re.compile(r"\[\[\s*(\d+)\s*\]\]")
_SHOWN: Final = 40  # characters of what was extracted


class Choose(Protocol):
    """Asks a family's models which of these answers, told so by `prompt`; gives their places in the list, from 0.

    Raises UndecidedError where no model names any.
    """

    async def __call__(self, prompt: str | Prompt, answers: Sequence[Proposal]) -> list[int]: ...


@dataclass(frozen=True)
class Outcome:
    """What came of the answers: one of them; or, where it is `None`, those that an answer is to be written from."""

    answer: Proposal | None
    said: str
    """Why, in one line."""
    among: Sequence[Proposal] = ()


class Picks(Protocol):
    """A family that gives one of the answers word for word."""

    @property
    def name(self) -> str: ...

    async def pick(self, answers: Sequence[Proposal], choose: Choose) -> Outcome:
        """Raises UndecidedError where there is no telling, and nothing else was declared."""


@dataclass(frozen=True)
class Synthesize:
    """The model reads the answers and writes its own, with the mixture's `prompt` (paper, section 2.2)."""

    model: Models
    name: ClassVar[str] = "synthesize"


@dataclass(frozen=True)
class Sequential:
    """The model reads the answers `window` at a time, and takes what it made of them along: thirty samples where the
    context holds six (Self-MoA-Seq, arXiv 2502.00674).

    The first window reads the first `window` answers; each further one the last `keep` syntheses and the next
    `window - keep` answers. The last one's answer is the mixture's. Each but the last is a node of the graph. Raises
    MoAConfigError for a window below 2, or a `keep` that leaves no room in it.
    """

    model: Models
    window: int = 6
    keep: int = 1
    name: ClassVar[str] = "sequential"
    _last: Any = field(default=None, repr=False, compare=False)
    """The models of the last window, where they are others."""

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise MoAConfigError(f"Sequential: window is {self.window!r}: a whole number of at least 2 is needed")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or not 1 <= self.keep < self.window:
            raise MoAConfigError(
                f"Sequential: keep is {self.keep!r}: a whole number from 1 to {self.window - 1} is needed, as the "
                f"window is {self.window}"
            )

    def parts(self, answers: int) -> list[tuple[int, int]]:
        """Which of so many answers each window reads: from, to."""
        ends = [*range(min(self.window, answers), answers, self.window - self.keep), answers]
        return list(zip([0, *ends[:-1]], ends, strict=True))


@dataclass(frozen=True)
class _Names:
    model: Models
    prompt: str | Prompt | None = None
    otherwise: Otherwise = "error"
    name: ClassVar[str]
    told: ClassVar[str]

    def __post_init__(self) -> None:
        if self.prompt is not None and not isinstance(self.prompt, Prompt):
            Prompt(self.prompt)
        _check_otherwise(self.otherwise, type(self).__name__)

    async def pick(self, answers: Sequence[Proposal], choose: Choose) -> Outcome:
        if len(answers) == 1:
            return Outcome(answers[0], f"{answers[0]['proposer']} alone answered: nobody was asked")
        try:
            places = await choose(self.prompt or self.told, answers)
        except UndecidedError as error:
            if self.otherwise == "error":
                raise
            return Outcome(answers[0], f"{answers[0]['proposer']}, the first: {error}")
        first = answers[min(places)]
        if len(places) == 1:
            return Outcome(first, f"{first['proposer']}, of {len(answers)} answers")
        tied = ", ".join(answers[place]["proposer"] for place in sorted(places))
        return Outcome(first, f"{first['proposer']}, the first of a tie: {tied}")


@dataclass(frozen=True)
class Rank(_Names):
    """The model reads the numbered answers and names the best, which is given word for word: the paper's baseline.

    prompt: what the answers follow, a text or a `Prompt`. With a text they stand between marks with a code
    (`envelope="sealed"`), and are shuffled and made to fit as the mixture's own prompt says.
    An answer of the model that names none of them is asked for again, three times in all. Then `otherwise="error"`
    raises FinalError, from which a thread can be resumed, and `"first"` gives the first answer; so where the model
    fails. Where it names several, the first of those is given. One answer alone is given without asking. The
    receipt's `decisions` tell each of these. Raises MoAConfigError.
    """

    name: ClassVar[str] = "rank"
    told: ClassVar[str] = BEST


@dataclass(frozen=True)
class Consistent(_Names):
    """The model reads the numbered answers and names the one that agrees with most of them: universal
    self-consistency (arXiv 2311.17311), for answers that cannot be counted. Otherwise as `Rank`.
    """

    name: ClassVar[str] = "consistent"
    told: ClassVar[str] = MOST_CONSISTENT


@dataclass(frozen=True)
class Vote:
    """What most answers come down to; the first of those that say so is given word for word. Asks no model.

    extract: what is counted. `"number"`: the last number, of `\\\\boxed{…}` where there is one; `"choice"`: a letter
    from A to E; a regular expression: the first group of its last match; `"json:field.path"`: a field; or a function
    from a text to a text or `None`. An answer with nothing to extract does not vote, and the receipt tells whose.
    tie: `"first"` (the one that a proposer gave first, in declared order), `"error"`, or another aggregator:
    `Rank(model)`, `Consistent(model)`, `Synthesize(model)`, which reads those that tie. otherwise: where nobody votes,
    `"error"` raises FinalError, `"first"` gives the first answer. Raises MoAConfigError.
    """

    extract: Extract = "number"
    tie: "Literal['first', 'error'] | Rank | Consistent | Synthesize" = "first"
    otherwise: Otherwise = "error"
    name: ClassVar[str] = "vote"
    _extract: Callable[[str], str | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_extract", extractor(self.extract))
        if self.tie not in ("first", "error") and not isinstance(self.tie, Rank | Consistent | Synthesize):
            raise MoAConfigError(
                f"Vote: tie is {self.tie!r}: one of first, error, Rank(model), Consistent(model), Synthesize(model)"
            )
        _check_otherwise(self.otherwise, "Vote")

    async def pick(self, answers: Sequence[Proposal], choose: Choose) -> Outcome:
        votes, silent = self._votes(answers)
        if not votes:
            if self.otherwise == "error":
                raise UndecidedError(f"vote: none of {len(answers)} answers says anything to count ({self._how})")
            return Outcome(answers[0], f"{answers[0]['proposer']}, the first: nobody said anything to count")
        most = max(map(len, votes.values()))
        tied = {said: voters for said, voters in votes.items() if len(voters) == most}
        counted = _counted(tied, len(answers), silent)
        if len(tied) == 1:
            return Outcome(next(iter(tied.values()))[0], counted)
        return await self._untied(tied, counted, choose)

    async def _untied(self, tied: Mapping[str, Sequence[Proposal]], counted: str, choose: Choose) -> Outcome:
        firsts = [voters[0] for voters in tied.values()]
        if self.tie == "error":
            raise UndecidedError(f"vote: a tie: {counted}")
        if self.tie == "first":
            return Outcome(firsts[0], f"a tie: {counted}; {firsts[0]['proposer']} is first")
        if isinstance(self.tie, Synthesize):
            voters = [voter for each in tied.values() for voter in each]
            return Outcome(None, f"a tie: {counted}; synthesize: from those", sorted(voters, key=lambda p: p["slot"]))
        outcome = await self.tie.pick(firsts, choose)
        return replace(outcome, said=f"a tie: {counted}; {self.tie.name}: {outcome.said}")

    def _votes(self, answers: Sequence[Proposal]) -> tuple[dict[str, list[Proposal]], list[str]]:
        """Who said what, and who said nothing that counts."""
        votes, silent = dict[str, list[Proposal]](), []
        for answer in answers:
            if said := self._of(answer):
                votes.setdefault(said, []).append(answer)
            else:
                silent.append(answer["proposer"])
        return votes, silent

    def _of(self, answer: Proposal) -> str | None:
        try:
            said = self._extract(answer["content"])
        except Exception as error:
            raise UndecidedError(f"vote: extract on the answer of {answer['proposer']}: {describe(error)}") from error
        if said is not None and not isinstance(said, str):
            raise UndecidedError(f"vote: extract gave {type(said).__name__}, not a text or None")
        return said.strip() if said else None

    @property
    def _how(self) -> str:
        return repr(self.extract) if isinstance(self.extract, str) else getattr(self.extract, "__name__", "a function")


Aggregator = Synthesize | Rank | Consistent | Sequential | Vote


def _counted(tied: Mapping[str, Sequence[Proposal]], answers: int, silent: Sequence[str]) -> str:
    said = ", ".join(f"{len(voters)} of {answers} said {_short(text)}" for text, voters in tied.items())
    return said + (f"; {', '.join(silent)} said nothing to count" if silent else "")


def _short(text: str) -> str:
    line = clean(text)
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _check_otherwise(otherwise: object, where: str) -> None:
    if otherwise not in get_args(Otherwise):
        raise MoAConfigError(f"{where}: otherwise is {otherwise!r}: one of {', '.join(get_args(Otherwise))}")


# What is said of them elsewhere


def aggregator_of(given: Any) -> Aggregator:
    """A bare model, or a list of models, is `Synthesize`. Raises MoAConfigError for an aggregator in a list."""
    if isinstance(given, Aggregator):
        return given
    for one in given if isinstance(given, list | tuple) else ():
        if isinstance(one, Aggregator):
            kind = type(one).__name__
            raise MoAConfigError(f"aggregator: {kind} stands by itself; the list goes into it: {kind}([model, model])")
    return Synthesize(given)


def models_of(given: Any) -> list[Any]:
    """The models that an aggregator asks, in order."""
    family = aggregator_of(given)
    if isinstance(family, Vote):
        return [] if isinstance(family.tie, str) else models_of(family.tie)
    return list(family.model) if isinstance(family.model, list | tuple) else [family.model]


def mapped(given: Any, change: Callable[[Any], Any]) -> Any:
    """The same aggregator with other models; of a bare model, or a list of them, their list."""
    if isinstance(given, Vote):
        return given if isinstance(given.tie, str) else replace(given, tie=mapped(given.tie, change))
    made = [change(model) for model in models_of(given)]
    return replace(given, model=made) if isinstance(given, Synthesize | Sequential | _Names) else made


# Which response a model names


def schema(count: int) -> dict[str, Any]:
    """What makes an OpenAI-compatible server give nothing but the number of one of `count` responses."""
    best = {"type": "integer", "enum": list(range(1, count + 1))}
    shape = {"type": "object", "properties": {"best": best}, "required": ["best"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "best", "strict": True, "schema": shape}}


def named(text: str, count: int) -> list[int]:
    """The responses, from 1, that a model names: as JSON, as `[[3]]`, or as the only number in what it says.

    Several are a tie. Raises ValueError where it names none, or one that is not there.
    """
    found = [whole["best"] for whole in objects(text) if isinstance(whole, dict) and "best" in whole]
    given = found[-1] if found else _MARKED.findall(text) or set(re.findall(r"(?<![\w.])\d+(?![\w]|\.\d)", text))
    if not found and isinstance(given, set) and len(given) > 1:
        raise ValueError("it names no response, but has several numbers")
    numbers = [_whole(one) for one in (given if isinstance(given, list | set) else [given])]
    if not numbers:
        raise ValueError("it names no response")
    if wrong := [number for number in numbers if not 1 <= number <= count]:
        raise ValueError(f"it names {wrong[0]}, and there are {count}")
    return sorted(set(numbers))


def _whole(given: Any) -> int:
    if isinstance(given, bool) or not re.fullmatch(r"\d{1,9}", str(given).strip()):
        raise ValueError("it names no response by its number")
    return int(given)
