"""The third stage: what the judgements come to, and what the answers took. Reads files alone, asks nobody."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from moa_graph.errors import MoAConfigError
from moa_graph.eval.alpaca_scoring import AlpacaEval, length_controlled
from moa_graph.eval.flask import SKILLS, Flask
from moa_graph.eval.items import Item
from moa_graph.eval.mt_bench import CATEGORIES, MTBench
from moa_graph.eval.own import Own
from moa_graph.eval.rubric import Rubric
from moa_graph.eval.statistics import compare, mean
from moa_graph.eval.store import RunDirectory

__all__ = ["Scored", "Standing", "interval", "kinds", "rubric_of", "score", "scored", "summed_up"]

_DETAIL: Final = re.compile(rf"""(?<!\w)'[^']*'|"[^"]*"|https?://\S+|[\w.-]*\d[\w.-]*|{"|".join(SKILLS)}""")
_SUMS: Final = ("calls", "input_tokens", "output_tokens", "cost_usd", "tflops_critical", "tflops_total")


def rubric_of(benchmark: str, data_dir: Path | None, baseline: str | None) -> Rubric:
    """How a benchmark judges; the user's own prompts against `baseline`."""
    if benchmark == "alpaca-eval":
        return AlpacaEval()
    if benchmark in ("flask", "mt-bench"):
        return Flask(data_dir) if benchmark == "flask" else MTBench(data_dir)
    if benchmark.startswith("inspect "):
        from moa_graph.eval.inspect_logs import Inspect

        return Inspect()
    if baseline is None:
        raise MoAConfigError("your own prompts are judged beside a baseline: give --baseline NAME")
    return Own(baseline)


def score(path: Path, data_dir: Path | None = None) -> dict[str, Any]:
    """The report of a run: each contender, the comparisons, and what was left out. Raises MoAConfigError.

    `contenders`: mean and 95% interval of each, finer columns, and what an item took. `comparisons`: each mixture with
    the best of its single models, and with the best single-proposer mixture, item by item. `uncompared`: who has no
    score, in a sentence.

    data_dir: where AlpacaEval's `df_gamed.csv` lies, which length control is regularised with.
    """
    return summed_up(scored(path), data_dir)


def summed_up(found: "Scored", data_dir: Path | None = None) -> dict[str, Any]:
    """The report of a run that was read already; see `score`."""
    directory, items, rubric, standings = found
    run = directory.run
    told = [standing.told(len(items), run["seed"]) for standing in standings.values()]
    if run["benchmark"] == "alpaca-eval":
        controlled = length_controlled(directory, items, list(standings), data_dir)
        told = [{**one, "alpaca_eval": controlled.get(one["name"])} for one in told]
    return {
        **{name: run.get(name) for name in ("benchmark", "seed", "limit", "baseline", "version")},
        "judge": (run.get("judge") or {}).get("name"),
        "judge_models": (run.get("judge") or {}).get("models", []),
        "unit": rubric.unit,
        "items": len(items),
        "spent_usd_at_least": round(directory.spent, 9),
        "contenders": told,
        "comparisons": list(_comparisons(standings, run["seed"])),
        "uncompared": _uncompared(standings) if run.get("judge") else "",
        "radar": radar(run["benchmark"], told),
    }


class Scored(NamedTuple):
    """A run as it was scored: its directory, its items by id, how it was judged, and each contender's standing."""

    directory: RunDirectory
    items: Mapping[str, Item]
    rubric: Rubric
    standings: Mapping[str, "Standing"]


def scored(path: Path) -> Scored:
    """What the files say of each contender, item by item. Raises MoAConfigError."""
    directory = RunDirectory(path)
    items = {item.id: item for item in map(Item.of, directory.items())}
    rubric = rubric_of(directory.run["benchmark"], None, directory.run.get("baseline") or "")
    standings = {told["name"]: Standing(told) for told in directory.run["contenders"]}
    _took(directory, standings)
    _judged(directory, items, rubric, standings)
    return Scored(directory, items, rubric, standings)


@dataclass
class Standing:
    """One contender: its scores by item, what was finer in them, and what its answers took."""

    about: Mapping[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    took: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_tokens: list[float] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float | None:
        return sum(self.scores.values()) / len(self.scores) if self.scores else None

    def told(self, items: int, seed: int) -> dict[str, Any]:
        return {
            **self.about, **self.value(seed), "items": items,
            "answered": self.counted["ok"], "failed": self.counted["failed"],
            "unparsed": self.counted["unparsed"], "judge_failed": self.counted["judge_failed"],
            "reasons": dict(kinds(self.errors).most_common(3)),
            "parts": {name: sum(each) / len(each) for name, each in sorted(self.parts.items())},
            "per_item": self.per_item(),
        }  # fmt: skip

    def value(self, seed: int) -> dict[str, Any]:
        """Its score and the 95% interval, and of how many items they are."""
        low, high = interval(list(self.scores.values()), seed)
        return {"mean": self.mean, "low": low, "high": high, "scored": len(self.scores)}

    def per_item(self) -> dict[str, float | None]:
        """Means over the items that were answered in one go; `None`: unknown of one of them."""
        whole = [took for took in self.took.values() if not took["resumed"]]
        means = {name: _mean([took[name] for took in whole]) for name in (*_SUMS, "seconds")}
        return {**means, "first_token": _mean(self.first_tokens), "of": len(whole)}


def kinds(errors: Mapping[str, int]) -> Counter[str]:
    """How often each kind of error is there, by the most frequent text of it.

    Numbers, names with a digit, addresses, what is quoted and FLASK's skills tell no kind.
    """
    alike: dict[str, Counter[str]] = defaultdict(Counter)
    for text, count in errors.items():
        alike[_DETAIL.sub("…", text)][text] += count
    found = ((each.most_common(1)[0][0], each) for each in alike.values())
    return Counter({f"{text} (and alike)" if len(each) > 1 else text: each.total() for text, each in found})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _took(directory: RunDirectory, standings: Mapping[str, Standing]) -> None:
    for record in directory.answers.all():
        if (standing := standings.get(record["contender"])) is None:
            continue
        standing.counted[record["status"]] += 1
        if record["status"] != "ok":
            standing.errors[record.get("error", "")] += 1
            continue
        receipt = record["receipt"]
        took = standing.took.setdefault(record["item"], {**dict.fromkeys((*_SUMS, "seconds"), 0), "resumed": False})
        for name in _SUMS:
            took[name] = None if took[name] is None or receipt[name] is None else took[name] + receipt[name]
        took["seconds"] += record["seconds"]
        cached = any(call["cached"] for call in _calls(receipt))
        took["resumed"] = took["resumed"] or cached
        if record["first_token"] is not None and not cached:
            standing.first_tokens.append(record["first_token"])


def _calls(receipt: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield receipt["final"]
    for layer in receipt["layers"]:
        yield from layer["proposals"]


def _judged(
    directory: RunDirectory, items: Mapping[str, Item], rubric: Rubric, standings: Mapping[str, Standing]
) -> None:
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in directory.judgements.all():
        standing = standings[record["contender"]]
        kept = {name: value for name, value in record.items() if name not in ("reply", "receipt")}
        found[record["item"], record["contender"]].append(kept)
        if record["status"] != "ok":
            standing.counted["unparsed" if record["status"] == "unparsed" else "judge_failed"] += 1
            standing.errors[record.get("error", "")] += 1
    for contender, standing in standings.items():
        for item in items.values():
            worth = rubric.score(item, contender, found.get((item.id, contender), ()))
            if worth is None or item.id not in standing.took:
                continue
            standing.scores[item.id] = worth
            for judgement in found.get((item.id, contender), ()):
                for name, value in rubric.parts(item, judgement).items():
                    standing.parts[name].append(value)


def _comparisons(standings: Mapping[str, Standing], seed: int) -> Iterator[dict[str, Any]]:
    kinds = {"single": "the best single model", "single-proposer": "the best single-proposer mixture"}
    for name, mixture in standings.items():
        for kind, what in kinds.items() if mixture.about["kind"] == "mixture" else ():
            others = [s for s in standings.values() if s.about["kind"] == kind and name in s.about["of"] and s.scores]
            if others and mixture.scores:
                best = max(others, key=lambda standing: standing.mean or 0.0)
                yield _compared(mixture, best, what, seed)


def _uncompared(standings: Mapping[str, Standing]) -> str:
    """Who has no score, in a sentence; "" where everybody has one."""
    named = [name for name, standing in standings.items() if not standing.scores]
    if not named:
        return ""
    if len(named) == len(standings):
        return "Nobody has a score, so nobody is compared."
    return f"Without a score, and so compared with nobody: {'; '.join(named)}."


def _compared(mixture: Standing, other: Standing, what: str, seed: int) -> dict[str, Any]:
    names = mixture.about["name"], other.about["name"]
    told = {"mixture": names[0], "other": names[1], "what": what}
    if len(mixture.scores.keys() & other.scores.keys()) < 2:
        said = f"{names[0]} and {what} ({names[1]}): too few items were scored for both to say anything."
        return {**told, "items": 0, "difference": None, "low": None, "high": None, "says": said}
    found = compare(mixture.scores, other.scores, seed=seed)
    return {
        **told, "items": found.n, "difference": found.mean, "low": found.low, "high": found.high,
        "says": found.sentence(names[0], f"{what} ({names[1]})", " points"),
    }  # fmt: skip


def interval(values: Sequence[float], seed: int) -> tuple[float | None, float | None]:
    """The 95% bootstrap interval of a mean; nothing is said of fewer than two values."""
    if len(values) < 2:
        return None, None
    found = mean(values, seed=seed)
    return found.low, found.high


def radar(benchmark: str, scored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a radar plot shows: axes, and for each contender a value on each of them (`None`: nothing was judged)."""
    known = {"mt-bench": CATEGORIES, "flask": SKILLS}.get(benchmark)
    axes = known or sorted({name for one in scored for name in one["parts"] if not name.startswith("shown ")})
    return {
        "axes": list(axes),
        "contenders": {one["name"]: [one["parts"].get(axis) for axis in axes] for one in scored},
    }
