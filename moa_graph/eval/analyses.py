"""The paper's analyses of stored runs: what number of proposers, roles, a ranker, layers and money do to the score.

    found = layers(gathered([Path("runs/lite")]))
    found["rows"]  # one for each point, with score, low, high
    found["says"]  # what differs by more than chance, in words

Mixtures are put together by their shape, whether `--vary` made them or somebody wrote them down.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from types import MappingProxyType
from typing import Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval.gathered import Gathered, Member

__all__ = ["ANALYSES", "PAPER", "budget", "front", "layers", "proposers", "ranker", "roles"]

PAPER: Final[Mapping[str, str]] = MappingProxyType({
    "proposers": (
        "AlpacaEval, LC win rate, 2 layers with Qwen1.5-110B at the end; 6, 3, 2, 1 different proposers: 61.3, 58.0, "
        "58.8, 47.8; as many samples of one model: 56.7, 56.1, 54.5, 47.8 (2406.04692, section 3.3)"
    ),
    "roles": (
        "AlpacaEval, LC win rate as aggregator and as proposer: Qwen1.5-110B 61.3 and 56.7, Qwen1.5-72B 59.3 and 53.3, "
        "Llama-3-70B 45.0 and 60.6, WizardLM 52.9 and 63.8, Mixtral-8x22B 48.4 and 54.8, dbrx 41.5 and 55.1 "
        "(2406.04692, section 3.3)"
    ),
    "ranker": (
        "AlpacaEval, LC win rate at 2, 3, 4 layers: Qwen1.5-110B at the end 61.3, 65.7, 65.1, an LLM that ranks 42.4, "
        "50.6, 54.5 (2406.04692, read off a figure)"
    ),
    "layers": (
        "AlpacaEval, LC win rate at 1, 2, 3, 4 layers: GPT-4o at the end 57.5, 63.1, 65.9, 64.9; Qwen1.5-110B 43.9, "
        "61.3, 65.7, 65.1; Qwen1.5-72B 36.6, 59.3, 62.0, 64.3 (2406.04692, read off a figure)"
    ),
    "budget": (
        "AlpacaEval, $ an item and TFLOPs: MoA .031 and 245, MoA-Lite .006 and 137, GPT-4o .007 and 340, GPT-4 Turbo "
        ".013 and 325 (2406.04692, section 3.4, read off a figure)"
    ),
})  # fmt: skip


def proposers(runs: Gathered) -> dict[str, Any]:
    """The score by the number of proposers: different ones, and as many samples of one model."""
    rows, says = list[dict[str, Any]](), list[str]()
    for group in _alike(runs.members, lambda m: (m.depth, m.final, m.aggregator, m.otherwise)):
        several = [
            m for m in group if len(m.models) > 1 and not any(_starts(m, other) for other in group if other != m)
        ]
        for whole in several:
            line = {m.proposers: m for m in group if m is whole or _starts(m, whole)}
            samples = {m.proposers: m for m in group if m.models == {whole.final}}
            if len(line) < 2:
                continue
            for what, members in (("different", line), (f"samples of {whole.final}", samples)):
                rows += [
                    {"mixture": whole.name, "proposers": n, "which": what, **runs.value(members[n])}
                    for n in sorted(members)
                ]
            says += _steps(runs, line, lambda n: f"{n} proposer{'s' * (n != 1)}")
            says += [
                runs.says(line[n], samples[n], (f"{n} different proposers", f"{n} samples of {whole.final}"))
                for n in sorted(line.keys() & samples.keys())
                if n > 1
            ]
    return _told("proposers", runs, rows, says, "no scored mixture is here with fewer of its proposers")


def roles(runs: Gathered) -> dict[str, Any]:
    """Each model as the final one of the whole panel, and in the place of all its proposers."""
    rows, says = list[dict[str, Any]](), list[str]()
    for whole in (m for m in runs.members if m.kind == "mixture" and len(m.models) > 1):
        like = [m for m in runs.members if (m.depth, m.aggregator, m.otherwise) == _like(whole)]
        ends = {m.final: m for m in like if m.panels == whole.panels and m.final}
        sizes = [len(panel) for panel in whole.panels]
        alike = [m for m in like if m.final == whole.final and [len(panel) for panel in m.panels] == sizes]
        fronts = {next(iter(m.models)): m for m in alike if len(m.models) == 1}
        if len(ends) < 2:
            continue
        for model in dict.fromkeys([*(model for panel in whole.panels for model in panel), *ends]):
            for role, members in (("aggregator", ends), ("proposer", fronts)):
                if model in members:
                    value = runs.value(members[model])
                    rows.append({"mixture": whole.name, "model": model, "role": role, **value})
            if model in ends and model in fronts:
                says.append(runs.says(ends[model], fronts[model], (f"{model} as aggregator", f"{model} as proposer")))
    return _told("roles", runs, rows, says, "no scored mixture is here with another of its models as the final one")


def ranker(runs: Gathered) -> dict[str, Any]:
    """A final model that writes an answer, and one that names the best."""
    rows, says = list[dict[str, Any]](), list[str]()
    for group in _alike(runs.members, lambda m: (m.final, m.otherwise)):
        for other in (m for m in group if m.aggregator == "rank"):
            whole = next((m for m in group if m.aggregator == "synthesize" and m.panels == other.panels), None)
            if whole is None:
                continue
            named = next((m.name for m in group if m.kind == "mixture" and _begins(whole, m)), whole.name)
            for what, member in (("synthesize", whole), ("rank", other)):
                rows.append({"mixture": named, "layers": whole.depth, "end": what, **runs.value(member)})
            says.append(runs.says(whole, other, (whole.name, "the same with a ranker at its end")))
    rows.sort(key=lambda row: (row["mixture"], row["end"] == "rank", row["layers"]))
    return _told("ranker", runs, rows, says, "no scored mixture is here beside itself with `rank` at its end")


def layers(runs: Gathered) -> dict[str, Any]:
    """The score by the number of layers, for each mixture and what is done at its end."""
    rows, says = list[dict[str, Any]](), list[str]()
    for group in _alike(runs.members, lambda m: (m.final, m.aggregator, m.otherwise)):
        deepest = [m for m in group if not any(_begins(m, other) for other in group)]
        for whole in (m for m in deepest if m.kind != "single-proposer"):
            line = {m.depth: m for m in group if m is whole or _begins(m, whole)}
            single = next((m for m in runs.members if m.depth == 1 and m.final == whole.final), None)
            if single and whole.aggregator == "synthesize" and (len(line) > 1 or whole.kind == "mixture"):
                line[1] = single
            if len(line) > 1:
                rows += [
                    {"mixture": whole.name, "end": whole.aggregator, "layers": depth, **runs.value(line[depth])}
                    for depth in sorted(line)
                ]
                says += _steps(runs, line, lambda n: f"{n} layer{'s' * (n != 1)}", f"{whole.name}: ")
    rows.sort(key=lambda row: (row["mixture"], row["layers"]))
    return _told("layers", runs, rows, says, "no scored mixture is here with fewer layers")


def budget(runs: Gathered) -> dict[str, Any]:
    """The score against $ and TFLOPs per item, and who is on the front of each: none is better for as little."""
    rows: list[dict[str, Any]] = []
    for member in runs.members:
        took = member.standing.per_item()
        rows.append({
            "kind": member.kind, **runs.value(member), "usd": took["cost_usd"],
            "tflops": took["tflops_critical"], "tflops_all": took["tflops_total"],
        })  # fmt: skip
    says = list[str]()
    for what, unit in (("usd", "$"), ("tflops", "TFLOPs")):
        best = front([(row["contender"], row[what], row["score"]) for row in rows])
        for row in rows:
            row[f"front_{what}"] = row["contender"] in best
        known = sum(row[what] is not None for row in rows)
        says += [f"{unit}: nobody does better for as little than {'; '.join(best)}."] if best else []
        if known < len(rows):
            why = "the price of a model" if what == "usd" else "how many parameters a model has"
            told = f"{unit} unknown of {len(rows) - known} of {len(rows)}: {why} is not known"
            says.append(f"{told}, or no item was answered in one start.")
    rows.sort(key=lambda row: -row["score"])
    return _told("budget", runs, rows, says, "")


ANALYSES: Final[Mapping[str, Callable[[Gathered], dict[str, Any]]]] = MappingProxyType({
    "proposers": proposers, "roles": roles, "ranker": ranker, "layers": layers, "budget": budget,
})  # fmt: skip


def front(points: Iterable[tuple[str, float | None, float]]) -> list[str]:
    """The names of those that none beats who takes as little, from the least on. `None`: unknown, left out."""
    known = [(took, -score, name) for name, took, score in points if took is not None]
    best: list[tuple[float, str]] = []
    for _, less, name in sorted(known):
        if not best or -less > best[-1][0]:
            best.append((-less, name))
    return [name for _, name in best]


def _told(name: str, runs: Gathered, rows: Sequence[Any], says: Sequence[str], missing: str) -> dict[str, Any]:
    """An analysis. Raises MoAConfigError where there is nothing to say, with how to get it."""
    if not rows:
        raise MoAConfigError(f"{name}: {missing}; the same `moa eval run` with --vary {name} asks it")
    return {
        "analysis": name, "benchmark": runs.benchmark, "judge": runs.judge, "items": runs.items, "unit": runs.unit,
        "rows": list(rows), "says": list(says), "length_control": runs.length_control, "paper": PAPER[name],
    }  # fmt: skip


def _like(member: Member) -> tuple[int, str, str]:
    return member.depth, member.aggregator, member.otherwise


def _alike(members: Sequence[Member], key: Callable[[Member], Any]) -> Iterator[list[Member]]:
    """Those that `key` says the same of; what proposes nothing is left out."""
    mixing = [member for member in members if member.depth > 1]
    for _, group in groupby(sorted(mixing, key=lambda m: repr(key(m))), key=lambda m: repr(key(m))):
        yield list(group)


def _starts(one: Member, whole: Member) -> bool:
    """Whether its panels are the first proposers of the other's."""
    n = one.proposers
    return n < whole.proposers and one.panels == tuple(panel[:n] for panel in whole.panels)


def _begins(one: Member, whole: Member) -> bool:
    """Whether its layers are the first layers of the other."""
    return one.depth < whole.depth and one.panels == whole.panels[: one.depth - 1]


def _steps(runs: Gathered, line: Mapping[int, Member], name: Callable[[int], str], of: str = "") -> Iterator[str]:
    """Each point of a line beside the one before it."""
    for fewer, more in pairwise(sorted(line)):
        yield of + runs.says(line[more], line[fewer], (name(more), name(fewer)))
