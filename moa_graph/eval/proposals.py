"""How a judge prefers each proposal of a run: it is asked of them as of answers, with the benchmark's own rubric.

The proposals are in answers.jsonl; what the judge says of them is kept in proposals.jsonl. The same text to the same
item is judged once, whoever proposed it. Of MT-Bench, the first turn counts alone.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.eval.alpaca_cost import expected
from moa_graph.eval.alpaca_judging import Answered, annotate_each, judge_of
from moa_graph.eval.calls import booked
from moa_graph.eval.contenders import fingerprint
from moa_graph.eval.generate import AT_ONCE, OnProgress, Progress, left_of, limit
from moa_graph.eval.items import BENCHMARKS, Item, sample
from moa_graph.eval.judge import ask_each
from moa_graph.eval.rubric import JUDGED, Ask
from moa_graph.eval.run import Plan, sampled
from moa_graph.eval.score import rubric_of
from moa_graph.eval.store import RunDirectory

__all__ = ["Aggregation", "ProposalJudge", "aggregations", "calls", "digest", "distinct", "items_of", "preferences"]

AT_HAND: Final = ""  # the proposal, in the place of a contender: none has this name

Fields = dict[str, Any]


@dataclass(frozen=True)
class Aggregation:
    """A text that was made from a layer's proposals: an answer of the next layer, or the final one."""

    item: Item
    mixture: str
    layer: int
    """Whose proposals they are."""
    into: str
    """The number of the next layer, or `final`."""
    aggregator: str
    """The model, as its provider reports it; `final` where the answer was found without one, by a vote."""
    text: str
    proposals: Sequence[str]


def items_of(directory: RunDirectory) -> list[Item]:
    """A run's items, of each the first turn."""
    items = [Item.of(told) for told in directory.items()]
    return [replace(item, turns=item.turns[:1], reference=item.reference[:1]) for item in items]


def aggregations(directory: RunDirectory, items: Sequence[Item]) -> Iterator[Aggregation]:
    """All of them, of the mixtures alone. What failed, or was not handed on, is in none."""
    mixtures = [told["name"] for told in directory.run["contenders"] if told["kind"] == "mixture"]
    for item in items:
        for name in mixtures:
            record = directory.answers.get((item.id, name, directory.run["seed"], 1))
            if record is not None and record["status"] == "ok":
                yield from _aggregations(item, name, record)


def _aggregations(item: Item, mixture: str, record: Mapping[str, Any]) -> Iterator[Aggregation]:
    layers = defaultdict(list)
    for proposal in record["proposals"]:
        if proposal["status"] == "ok":
            layers[proposal["layer"]].append(proposal)
    made = [
        (layer, str(above), each["model"], each["content"])
        for layer, above in pairwise(sorted(layers))
        for each in layers[above]
    ]
    if layers:
        made.append((max(layers), "final", record["receipt"]["final"]["model"] or "final", record["answer"]))
    for layer, into, model, text in made:
        read = [proposal["content"] for proposal in layers[layer] if "unread" not in proposal]
        yield Aggregation(item, mixture, layer, into, model, text, read)


def digest(text: str) -> str:
    """What a proposal is found by."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def distinct(directory: RunDirectory, items: Sequence[Item]) -> list[tuple[Fields, Item, str]]:
    """Every text that was proposed and read, once for each item, and what its line in the file begins with.

    Raises MoAConfigError where there is none, or none that could be judged.
    """
    if directory.run["benchmark"].startswith("inspect "):
        raise MoAConfigError(f"{directory.path}: the scorer of a task of inspect_ai is not asked of proposals")
    found: dict[tuple[str, str], tuple[Fields, Item, str]] = {}
    for made in aggregations(directory, items):
        for text in made.proposals:
            key = made.item.id, digest(text)
            fields = {"item": key[0], "seed": directory.run["seed"], "proposal": key[1]}
            found.setdefault(key, ({**fields, "mixture": made.mixture, "layer": made.layer}, made.item, text))
    if not found:
        raise MoAConfigError(f"{directory.path}: no mixture of more than one layer has answered in it yet")
    return list(found.values())


def calls(run: Mapping[str, Any]) -> int:
    """How often a judge is asked of one proposal."""
    return 1 if run["benchmark"] in BENCHMARKS else 2


def preferences(directory: RunDirectory, items: Sequence[Item]) -> dict[tuple[str, str], float | None]:
    """(item, digest of a proposal) -> its score. `None`: a judgement of it is missing, or says no score."""
    rubric = rubric_of(directory.run["benchmark"], None, directory.run["baseline"] or "none")
    found: dict[tuple[str, str], list[Fields]] = defaultdict(list)
    for record in directory.proposals.all():
        found[record["item"], record["proposal"]].append(record)
    by_id = {item.id: item for item in items}
    return {key: rubric.score(by_id[key[0]], AT_HAND, records) for key, records in found.items()}


@dataclass(frozen=True)
class ProposalJudge:
    """A judge of a run's proposals; with `limit`, of so many items drawn by lot: a larger draw has the smaller one.

    done: the states of a judgement that is not asked for again.

    Raises MoAConfigError: it cannot be asked, another one has judged before, there are no proposals, or they cannot be
    judged.
    """

    directory: RunDirectory
    name: str
    config: MoAConfig
    limit: int | None = None
    data_dir: Path | None = None
    done: Sequence[str] = JUDGED
    asked: list[tuple[Fields, Item, str]] = field(init=False)

    def __post_init__(self) -> None:
        run, path = self.directory.run, self.directory.path
        items = sample(items_of(self.directory), self.limit, run["seed"])
        object.__setattr__(self, "asked", distinct(self.directory, items))
        if self._alpaca:
            judge_of(self.config, self.name)
        elif run["benchmark"] not in BENCHMARKS and run["baseline"] is None:
            raise MoAConfigError(f"{path}: it has no baseline to judge proposals beside: evaluate it with --baseline")
        before = next(self.directory.proposals.all(), None)
        if before and before["judge_fingerprint"] != self._fingerprint:
            raise MoAConfigError(
                f"{path}: its proposals are judged by {before['judge']}, and preferences of two judges do not go "
                f"together: give that one, or move {self.directory.proposals.path.name} away"
            )

    @property
    def _alpaca(self) -> bool:
        return bool(self.directory.run["benchmark"] == "alpaca-eval")

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.config)

    def plan(self) -> Plan:
        """What is still to be asked, from a few of the proposals. Nobody is asked."""
        lines = self.directory.proposals
        left = [text for fields, text in self._texts() if lines.status(lines.key(fields)) not in self.done]
        estimate = partial(expected, self.config) if self._alpaca else self.config.estimate
        asked, cost, least = sampled(left, lambda text: [estimate(text)])
        return Plan("judge", len(left), round(asked), cost, least)

    def _texts(self) -> Iterator[tuple[Fields, str]]:
        """What the judge reads each time, or about that."""
        if self._alpaca:
            for one in self._answered():
                yield dict(one.fields), "\n".join([one.item.turns[0], one.item.reference[0], one.text()])
        else:
            for fields, ask in self._asks():
                yield fields, "\n".join(text for _, text in ask.messages)

    def _asks(self) -> Iterator[tuple[Fields, Ask]]:
        run, beside = self.directory.run, self.directory.answers
        rubric = rubric_of(run["benchmark"], self.data_dir, run["baseline"])
        for fields, item, proposal in self.asked:

            def said(contender: str, item: Item = item, proposal: str = proposal) -> Sequence[str] | None:
                if contender == AT_HAND:
                    return [proposal]
                record = beside.get((item.id, contender, run["seed"], 1))
                return [record["answer"]] if record and record["status"] == "ok" else None

            for ask in rubric.asks(item, AT_HAND, said):
                yield self._begun(fields, ask.order), ask

    def _answered(self) -> Iterator[Answered]:
        for fields, item, proposal in self.asked:
            yield Answered(self._begun(fields, ""), item, lambda proposal=proposal: proposal)  # type: ignore[misc]

    def _begun(self, fields: Mapping[str, Any], order: str) -> Fields:
        return {**fields, "order": order, "judge": self.name, "judge_fingerprint": self._fingerprint}

    async def run(
        self, *, at_once: int = AT_ONCE, usd: float | None = None, on_progress: OnProgress = lambda _: None
    ) -> Progress:
        """Ask what is not asked yet. What fails is asked again at the next start. The directory is this process's.

        usd: what the whole evaluation may spend, all that it has spent so far included.
        Raises MoAConfigError where nothing is left to spend, MoARunError where AlpacaEval's judge cannot be asked.
        """
        booked(self.directory)
        lines = self.directory.proposals
        how: dict[str, Any] = {"at_once": at_once, "done": self.done, "on_progress": on_progress}
        if self._alpaca:
            left, judge = left_of(usd, self.directory.spent), (self.name, self.config)
            return await annotate_each(lines, _by_turns(self._answered()), judge, left=left, **how)
        budget, seed = limit(usd, self.directory.spent), self.directory.run["seed"]
        return await ask_each(lines, list(self._asks()), lambda: self.config.build(**budget), seed=seed, **how)


def _by_turns(answered: Iterable[Answered]) -> dict[str, list[Answered]]:
    """The first proposals of all items, the second ones, ...: none has an item twice."""
    seen, found = Counter[str](), defaultdict[str, list[Answered]](list)
    for one in answered:
        seen[one.item.id] += 1
        found[f"proposals {seen[one.item.id]}"].append(one)
    return found
