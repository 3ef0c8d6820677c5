"""`Layer(select=…)`: which answers of a layer are read on. The others stay in the receipt, as `unread`.

- `TopK(k, judge)`: a model picks the best ones (as in SMoA, arXiv 2411.03284).
- `Diverse(k)`: those least like one another (as in RMoA, arXiv 2505.24442). It asks no model.
- `Cluster()`: the larger of two groups of answers, where there are two: against a proposer that deceives the others
  (arXiv 2503.05856). It asks no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Final, Literal

from moa_graph.errors import MoAConfigError
from moa_graph.panel import ProposerLike
from moa_graph.similarity import Embed, Matrix, check_embed, likeness, mean, prepare
from moa_graph.steps import Judgement, Situation, UndecidedError
from moa_graph.verdicts import check_text, one_of, read_list, to_judge, whole, why_not

__all__ = ["TOP_K", "Cluster", "Diverse", "TopK"]

TOP_K: Final = """\
You are given several responses to what a user asked. Decide which {k} of them are the best: accurate first of all, \
then complete, then clear. A response may be wrong however sure it sounds; its length is no merit."""
"""What a judge is told that picks the best answers. `{k}`: how many."""


@dataclass(frozen=True)
class TopK:
    """The `k` best answers, as the model `judge` sees them; it is asked again where its answer makes no sense.

    prompt: what it is told (`{k}`: how many). otherwise: where it gives no usable answer in three attempts, or fails:
    `"error"`, `"all"` answers are read on, or the `"first"` k. Where no more than k answered, nobody is asked.

    Raises MoAConfigError for a value that makes no sense, and when built, for a k above the panel's size.
    """

    k: int
    judge: ProposerLike
    prompt: str = TOP_K
    otherwise: Literal["error", "all", "first"] = "error"

    kind: ClassVar = "select"
    name: ClassVar = "top_k"

    def __post_init__(self) -> None:
        whole("TopK: k", self.k)
        check_text("TopK: prompt", self.prompt)
        one_of("TopK: otherwise", self.otherwise, ("error", "all", "first"))

    @property
    def model(self) -> ProposerLike:
        return self.judge

    def check(self, panel: Sequence[str], where: str) -> None:
        _fits(self.k, panel, where)

    async def decide(self, situation: Situation) -> Judgement:
        names = situation.names
        if len(names) <= self.k:
            return _all(names, f"no more than {self.k} answered")
        demand = (
            f"Give the numbers of the {self.k} best of the {len(names)} responses as a JSON list, the best first, "
            f"such as {[*range(len(names), len(names) - self.k, -1)]}. Give nothing else."
        )
        messages = to_judge(self.prompt.replace("{k}", str(self.k)), situation.answers, situation.transcript, demand)
        assert situation.ask is not None, "it has a model"
        try:
            best = await situation.ask(messages, lambda text: self._read(text, len(names)))
        except UndecidedError as error:
            if self.otherwise == "error":
                raise
            kept = names if self.otherwise == "all" else names[: self.k]
            which = "all" if self.otherwise == "all" else f"the first {self.k} of {len(names)}"
            return Judgement(kept, f"kept {which}, as declared: {why_not(error)}")
        return Judgement([names[number - 1] for number in best], f"kept {self.k} of {len(names)}, the best")

    def _read(self, text: str, many: int) -> list[int]:
        numbers = read_list(text)
        if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
            raise ValueError("not a list of whole numbers")
        if len(numbers) != self.k or len(set(numbers)) != self.k or not set(numbers) <= {*range(1, many + 1)}:
            raise ValueError(f"not {self.k} different numbers from 1 to {many}")
        return numbers


@dataclass(frozen=True)
class Diverse:
    """The `k` answers least like one another. It begins with the one most like all others, then adds again and again
    the one whose nearest neighbour among those kept is the farthest. Declared order decides between equals.

    embed: `"provider:model"` or LangChain embeddings; None: by their words (see `moa_graph.similarity`).

    Raises MoAConfigError for a value that makes no sense, and when built, for a k above the panel's size.
    """

    k: int
    embed: Embed = None

    kind: ClassVar = "select"
    name: ClassVar = "diverse"
    model: ClassVar = None

    def __post_init__(self) -> None:
        whole("Diverse: k", self.k)
        check_embed(self.embed)

    def check(self, panel: Sequence[str], where: str) -> None:
        _fits(self.k, panel, where)
        prepare(self.embed, where)

    async def decide(self, situation: Situation) -> Judgement:
        names = situation.names
        if len(names) <= self.k:
            return _all(names, f"no more than {self.k} answered")
        kept = _apart(await likeness(situation.answers, self.embed, situation.timeout), self.k)
        return Judgement([names[i] for i in kept], f"kept {self.k} of {len(names)}, the least alike")


@dataclass(frozen=True)
class Cluster:
    """The larger of two groups of answers, where there are two (average linkage, down to two groups).

    There are two where the answers of the larger one are more like one another than like the rest, by at least
    `least`, on average; else all are read on, as are those of fewer than three. otherwise: where both groups are of
    one size, `"all"` are read on, the group with the `"first"` answer, or it is an `"error"`.
    embed: `"provider:model"` or LangChain embeddings; None: by their words (see `moa_graph.similarity`).

    What most proposers say is kept, be it true or not. Raises MoAConfigError for a value that makes no sense.
    """

    embed: Embed = None
    least: float = 0.2
    otherwise: Literal["all", "first", "error"] = "all"

    kind: ClassVar = "select"
    name: ClassVar = "cluster"
    model: ClassVar = None

    def __post_init__(self) -> None:
        check_embed(self.embed)
        if isinstance(self.least, bool) or not isinstance(self.least, int | float) or not 0 <= self.least <= 2:
            raise MoAConfigError(f"Cluster: least is {self.least!r}: a difference from 0 to 2 is needed")
        one_of("Cluster: otherwise", self.otherwise, ("all", "first", "error"))

    def check(self, panel: Sequence[str], where: str) -> None:
        prepare(self.embed, where)

    async def decide(self, situation: Situation) -> Judgement:
        names = situation.names
        if len(names) < 3:
            return _all(names, "there is no larger group among fewer than three")
        alike = await likeness(situation.answers, self.embed, situation.timeout)
        larger, rest = sorted(_two(alike), key=lambda group: (-len(group), group))
        if (apart := _gap(alike, larger, rest)) < self.least:
            return _all(names, f"no two groups: they would be {apart:.2f} apart, {self.least:.2f} are needed")
        sizes = f"groups of {len(larger)} and {len(rest)}, {apart:.2f} apart"
        if len(larger) > len(rest):
            return Judgement(
                [names[i] for i in larger], f"kept {len(larger)} of {len(names)}, the larger group: {sizes}"
            )
        if self.otherwise == "error":
            raise UndecidedError(f"neither of two groups is the larger one: {sizes}")
        if self.otherwise == "all":
            return _all(names, f"as declared, neither group is the larger one: {sizes}")
        return Judgement([names[i] for i in larger], f"kept the group of the first, as declared: {sizes}")


def _all(names: Sequence[str], why: str) -> Judgement:
    return Judgement(list(names), f"kept all {len(names)}: {why}")


def _fits(k: int, panel: Sequence[str], where: str) -> None:
    if k > len(panel):
        raise MoAConfigError(f"{where}: k is {k}, and the panel has {len(panel)} proposers: 1 to {len(panel)}")


def _apart(alike: Matrix, k: int) -> list[int]:
    """The numbers of the k texts that are least like one another, in the order in which they are picked."""
    kept = [max(range(len(alike)), key=lambda i: (sum(alike[i]), -i))]
    while len(kept) < k:
        rest = [i for i in range(len(alike)) if i not in kept]
        kept.append(min(rest, key=lambda i: (max(alike[i][j] for j in kept), i)))
    return kept


def _two(alike: Matrix) -> list[list[int]]:
    """Two groups: whatever is most alike on average is joined, until two are left."""
    groups = [[i] for i in range(len(alike))]
    while len(groups) > 2:
        a, b = max(combinations(groups, 2), key=lambda pair: _between(alike, *pair))
        groups = [group for group in groups if group not in (a, b)] + [sorted(a + b)]
    return groups


def _between(alike: Matrix, one: Sequence[int], other: Sequence[int]) -> float:
    return mean([alike[i][j] for i in one for j in other])


def _gap(alike: Matrix, larger: Sequence[int], rest: Sequence[int]) -> float:
    """How much more alike those of the larger group are than the two groups are."""
    return mean([alike[i][j] for i, j in combinations(larger, 2)]) - _between(alike, larger, rest)
