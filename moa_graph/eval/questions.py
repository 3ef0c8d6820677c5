"""What a report's page shows of each question: what was asked, and all that came of it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from moa_graph.eval.items import Item
from moa_graph.eval.rubric import Rubric
from moa_graph.eval.store import RunDirectory

__all__ = ["line", "whole"]

_ORDERS: Final = ("", "first", "second")
_SHORT: Final = 240


def whole(item: Item, contenders: Sequence[str], directory: RunDirectory, seed: int) -> dict[str, Any]:
    """A question with each contender's turns, in the order of `contenders`: answer, proposals, judgements."""
    return {
        "history": list(item.history),
        "turns": list(item.turns),
        "reference": list(item.reference),
        "about": {name: value for name, value in item.extra.items() if value not in (None, "", [])},
        "answers": [
            [_turn(directory, (item.id, name, seed, turn)) for turn in range(1, len(item.turns) + 1)]
            for name in contenders
        ],
    }


def line(item: Item, contenders: Sequence[str], rubric: Rubric, told: Mapping[str, Any]) -> dict[str, Any]:
    """A question in one line, from what `whole` gave: its beginning, each contender's score, what went wrong."""
    question = " ".join(item.turns[0].split())
    return {
        "id": item.id,
        "category": item.category,
        "question": question if len(question) <= _SHORT else question[: _SHORT - 1] + "…",
        "scores": [_score(item, *pair, rubric) for pair in zip(contenders, told["answers"], strict=True)],
        "failed": [sum(turn["status"] == "failed" for turn in turns) for turns in told["answers"]],
        "unjudged": [
            sum(judgement["status"] != "ok" for turn in turns for judgement in turn["judgements"])
            for turns in told["answers"]
        ],
        "lost": [
            sum(proposal["status"] != "ok" for turn in turns for proposal in turn["proposals"])
            for turns in told["answers"]
        ],
    }


def _score(item: Item, contender: str, turns: Sequence[Mapping[str, Any]], rubric: Rubric) -> float | None:
    if not any(turn["status"] == "ok" for turn in turns):
        return None
    numbered = enumerate(turns, 1)
    return rubric.score(item, contender, [{**said, "turn": k} for k, turn in numbered for said in turn["judgements"]])


def _turn(directory: RunDirectory, key: tuple[Any, ...]) -> dict[str, Any]:
    record = directory.answers.get(key) or {"status": "missing"}
    receipt = record.get("receipt") or {}
    final = receipt.get("final") or {}
    told = {
        "status": record["status"],
        "answer": record.get("answer"),
        "error": record.get("error") or final.get("error"),
        "model": final.get("model"),
        "ends": final.get("finish_reason"),
        "stopped": receipt.get("stopped"),
        "seconds": record.get("seconds"),
        "first_token": record.get("first_token"),
        "calls": receipt.get("calls"),
        "tokens": receipt.get("output_tokens"),
        "usd": receipt.get("cost_usd"),
        "decisions": [decision["said"] for decision in receipt.get("decisions") or () if decision.get("said")],
    }
    return {
        **{name: value for name, value in told.items() if value not in (None, "", [])},
        "proposals": [_proposal(proposal) for proposal in record.get("proposals") or ()],
        "judgements": list(_judgements(directory, key)),
    }


def _proposal(proposal: Mapping[str, Any]) -> dict[str, Any]:
    names = ("layer", "proposer", "model", "status", "content", "error", "seconds", "unread", "critique", "edited")
    told = {name: proposal.get(name) for name in names}
    told |= {"tokens": proposal.get("usage", {}).get("output_tokens"), "ends": proposal.get("finish_reason")}
    return {name: value for name, value in told.items() if value not in (None, "", False)}


def _judgements(directory: RunDirectory, key: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    for order in _ORDERS:
        if (record := directory.judgements.get((*key, order))) is not None:
            names = ("order", "status", "score", "scores", "preference", "reply", "error")
            yield {name: record[name] for name in names if record.get(name) not in (None, "")}
