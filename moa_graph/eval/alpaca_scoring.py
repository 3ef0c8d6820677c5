"""AlpacaEval 2.0 within `moa eval`: scored as the leaderboard scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_graph.errors import MoAConfigError
from moa_graph.eval import alpaca_eval, data
from moa_graph.eval.items import Item
from moa_graph.eval.rubric import Answers, Ask
from moa_graph.eval.store import RunDirectory

__all__ = ["AlpacaEval", "length_controlled", "pair", "said"]

_GAMED = ("alpaca_eval/df_gamed.csv", "alpaca_eval/df_gamed_reconstructed.csv")


class AlpacaEval:
    """Its rubric: how far each answer is preferred to the baseline's, in percent."""

    unit = "% win rate"

    def asks(self, item: Item, contender: str, answers: Answers) -> Sequence[Ask]:
        """Nothing: alpaca_eval asks by itself."""
        return []

    def score(self, item: Item, contender: str, judgements: Sequence[Mapping[str, Any]]) -> float | None:
        return next((judgement["score"] for judgement in judgements if judgement["status"] == "ok"), None)

    def parts(self, item: Item, judgement: Mapping[str, Any]) -> Mapping[str, float]:
        return {item.category: judgement["score"]}


def said(directory: RunDirectory, fields: Mapping[str, Any]) -> str:
    """The answer that a line of this directory is about."""
    record = directory.answers.get(directory.answers.key(fields))
    assert record is not None, "only what is answered is judged"
    return str(record["answer"])


def pair(item: Item, contender: str, answer: str) -> dict[str, Any]:
    """An answer beside the baseline's, as alpaca_eval has them."""
    return {
        "index": item.index, "instruction": item.turns[0], "output_1": item.reference[0],
        "generator_1": alpaca_eval.BASELINE, "output_2": answer, "generator_2": contender,
    }  # fmt: skip


def length_controlled(
    directory: RunDirectory, items: Mapping[str, Item], contenders: Sequence[str], data_dir: Path | None
) -> dict[str, dict[str, Any]]:
    """What the leaderboard says of each contender, its length-controlled win rate included.

    Where the packages for it are not installed, `reason` says so.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for judgement in directory.judgements.all():
        name = judgement["contender"]
        both = pair(items[judgement["item"]], name, said(directory, judgement))
        rows[name].append({**both, "preference": judgement.get("preference")})
    gamed = next((path for name in _GAMED if (path := data.find(name, data_dir)) is not None), None)
    return {name: _scored(found, gamed) for name, found in rows.items() if found}


def _scored(rows: Sequence[Mapping[str, Any]], gamed: Path | None) -> dict[str, Any]:
    try:
        return dict(alpaca_eval.score(rows, gamed=gamed))
    except MoAConfigError as error:
        return {"length_controlled_winrate": None, "reason": str(error)}
