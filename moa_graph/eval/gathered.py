"""Stored runs read together: every contender once, with its scores by item, for the paper's analyses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa_graph.errors import MoAConfigError
from moa_graph.eval.alpaca_scoring import length_controlled
from moa_graph.eval.score import Scored, Standing, scored
from moa_graph.eval.statistics import compare

__all__ = ["Gathered", "Member", "gathered"]

Panels = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Member:
    """A contender: its standing, and its shape. `panels`: who proposes, layer by layer."""

    name: str
    kind: str
    standing: Standing
    depth: int
    panels: Panels
    final: str | None
    aggregator: str
    otherwise: str
    controlled: Mapping[str, Any] | None = None
    """On AlpacaEval, what the leaderboard says of it."""

    @property
    def scores(self) -> Mapping[str, float]:
        return self.standing.scores

    @property
    def proposers(self) -> int:
        """How many propose in a layer."""
        return max(map(len, self.panels), default=0)

    @property
    def models(self) -> set[str]:
        """Who proposes."""
        return {model for panel in self.panels for model in panel}


@dataclass(frozen=True)
class Gathered:
    """Runs of the same items, judged in the same way."""

    benchmark: str
    judge: str
    unit: str
    items: int
    seed: int
    members: Sequence[Member]

    def value(self, member: Member) -> dict[str, Any]:
        """What a row says of a contender: its score and 95% interval, and of how many items they are.

        On AlpacaEval its length-controlled win rate too: `None` where there is none.
        """
        controlled = {} if member.controlled is None else {"lc": member.controlled["length_controlled_winrate"]}
        value = member.standing.value(self.seed)
        return {"score": value.pop("mean"), **value, **controlled, "contender": member.name}

    @property
    def length_control(self) -> str | None:
        """On AlpacaEval, where the length-controlled win rates are from, or why there are none."""
        told = next((member.controlled for member in self.members if member.controlled is not None), None)
        if told is None:
            return None
        if told["length_controlled_winrate"] is None:
            return f"no length-controlled win rate: {told['reason']}"
        return f"LC: the length-controlled win rate, with {told['regularisation']} regularisation data"

    def says(self, ours: Member, theirs: Member, names: tuple[str, str]) -> str:
        """How two of them differ, item by item, in words."""
        if len(ours.scores.keys() & theirs.scores.keys()) < 2:
            return f"{names[0]} and {names[1]}: too few items were scored for both to say anything."
        return compare(ours.scores, theirs.scores, seed=self.seed).sentence(*names, " points")


def gathered(paths: Sequence[Path], data_dir: Path | None = None) -> Gathered:
    """The contenders of these runs that have scores. Raises MoAConfigError where runs cannot be compared.

    data_dir: where AlpacaEval's `df_gamed.csv` lies, which length control is regularised with.
    """
    runs = [(path, scored(path)) for path in paths]
    for path, run in runs[1:]:
        _check(runs[0][0], runs[0][1], path, run)
    members: dict[str, Member] = {}
    marks: set[str] = set()
    for path, run in runs:
        controlled = _controlled(run, data_dir)
        for standing in run.standings.values():
            about = standing.about
            if not standing.scores or about["fingerprint"] in marks:
                continue
            if "shape" not in about:
                raise MoAConfigError(
                    f"{path}: an earlier version made it, which did not say what its mixtures look like; the same "
                    "`moa eval run` again writes it down, and asks nothing twice"
                )
            name = about["name"] if about["name"] not in members else f"{about['name']} ({path})"
            marks.add(about["fingerprint"])
            members[name] = _member(name, standing, controlled.get(about["name"]))
    if not members:
        raise MoAConfigError(f"{', '.join(map(str, paths))}: nothing is judged yet: moa eval run … --judge MODEL")
    first = runs[0][1]
    told = first.directory.run
    judge = (told.get("judge") or {}).get("name") or ""
    return Gathered(told["benchmark"], judge, first.rubric.unit, len(first.items), told["seed"], list(members.values()))


def _controlled(run: Scored, data_dir: Path | None) -> dict[str, dict[str, Any]]:
    if run.directory.run["benchmark"] != "alpaca-eval":
        return {}
    return length_controlled(run.directory, run.items, list(run.standings), data_dir)


def _member(name: str, standing: Standing, controlled: Mapping[str, Any] | None) -> Member:
    shape = standing.about["shape"]
    panels = tuple(tuple(panel) for panel in shape["proposers"])
    return Member(
        name, standing.about["kind"], standing, shape["depth"], panels, shape["final"], shape["aggregator"],
        shape["otherwise"], controlled,
    )  # fmt: skip


def _check(path: Path, run: Scored, other_path: Path, other: Scored) -> None:
    here, there = run.directory.run, other.directory.run
    judges = [(each.get("judge") or {}).get("fingerprint") for each in (here, there)]
    differ = [what for what in ("benchmark", "items_sha256", "baseline") if here.get(what) != there.get(what)]
    if judges[0] != judges[1]:
        differ.append("judge")
    if differ:
        what = differ[0].removesuffix("_sha256")
        raise MoAConfigError(f"{path} and {other_path} cannot be read together: they have not the same {what}")
