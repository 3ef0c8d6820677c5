"""What is asked: an item of a benchmark, or a line of the user's own file."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval import data

__all__ = ["BENCHMARKS", "Item", "digest", "load", "own", "sample"]

TEMPERATURES: Final[Mapping[str, float]] = {
    "writing": 0.7, "roleplay": 0.7, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "extraction": 0.0,
    "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
"""MT-Bench's, by category; the paper (arXiv 2406.04692) and its reference code use them too."""

MT_BENCH_TOKENS: Final = 1024
_ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True)
class Item:
    """Something that is asked, in one turn or more.

    `index`: its place in the whole benchmark, also where only some are asked. `history`: what was said before the
    first turn. `reference`: a right answer for each turn, where there is one. `temperature`, `max_tokens`: in place
    of what the mixtures say.
    """

    id: str
    index: int
    turns: Sequence[str]
    category: str = ""
    reference: Sequence[str] = ()
    history: Sequence[Mapping[str, str]] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As a line of a file has it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "", (), [], {})}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Item":
        """From what `told` gave."""
        return cls(**told)


def load(benchmark: str, data_dir: Path | None = None) -> list[Item]:
    """All items of a benchmark, or of the user's own file. Raises MoAConfigError naming what cannot be read."""
    if benchmark in BENCHMARKS:
        return BENCHMARKS[benchmark](data_dir)
    if Path(benchmark).suffix != ".jsonl":
        raise MoAConfigError(f"there is no benchmark {benchmark!r}: one of {', '.join(BENCHMARKS)}, or a .jsonl file")
    return own(Path(benchmark))


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """`limit` of them, drawn with `seed`, in their order; each keeps its index. A larger draw has the smaller one."""
    drawn = random.Random(seed).sample(range(len(items)), len(items))[:limit]  # noqa: S311 - a lot, not a secret
    return [items[k] for k in sorted(drawn)]


def digest(items: Sequence[Item]) -> str:
    """Tells whether two lists of items are the same."""
    text = json.dumps([item.told() for item in items], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _mt_bench(data_dir: Path | None) -> list[Item]:
    known = {
        row["question_id"]: row["choices"][0]["turns"]
        for row in data.rows("mt_bench/reference_answer_gpt-4.jsonl", data_dir)
    }
    return [
        Item(
            id=str(row["question_id"]), index=k, turns=row["turns"], category=row["category"],
            reference=known.get(row["question_id"], ()), temperature=TEMPERATURES[row["category"]],
            max_tokens=MT_BENCH_TOKENS,
        )
        for k, row in enumerate(data.rows("mt_bench/question.jsonl", data_dir))
    ]  # fmt: skip


def _flask(data_dir: Path | None) -> list[Item]:
    """One has two skills, and two have the difficulty -1, which is none."""
    return [
        Item(
            id=str(row["idx"]), index=k, turns=[row["instruction"]], category=row["task"],
            reference=[row["answer"]] if row["answer"] else (),
            extra={
                "skills": row["skill"], "domain": row["domain"],
                **({} if str(row["difficulty"]) == "-1" else {"difficulty": row["difficulty"]}),
            },
        )
        for k, row in enumerate(data.rows("flask/flask_evaluation.jsonl", data_dir))
    ]  # fmt: skip


def _alpaca_eval(data_dir: Path | None) -> list[Item]:
    """The reference is the baseline's answer, which the judge compares with."""
    return [
        Item(str(k), k, [row["instruction"]], category=row["dataset"], reference=[row["output"]])
        for k, row in enumerate(data.rows("alpaca_eval/outputs/gpt4_1106_preview.json", data_dir))
    ]


BENCHMARKS: Final[Mapping[str, Callable[[Path | None], list[Item]]]] = {
    "alpaca-eval": _alpaca_eval,
    "mt-bench": _mt_bench,
    "flask": _flask,
}


def own(path: Path) -> list[Item]:
    """The user's own prompts, one JSON object a line. Raises MoAConfigError naming file and line.

    `question` or `prompt`, a text; or `messages`, a conversation that ends with the user. Beside it, if you like:
    `id`, `reference`, `category`.
    """
    from moa_graph.questions import rows

    items: list[Item] = []
    seen: dict[str, str] = {}
    for where, key, row in rows(path):
        item = _own(row, key, len(items), where)
        if item.id in seen:
            raise MoAConfigError(f"{where}: the id {item.id!r} is that of {seen[item.id]} already")
        seen[item.id] = where.rpartition(", ")[2]
        items.append(item)
    return items


def _own(row: Mapping[str, Any], key: str, index: int, where: str) -> Item:
    history, question = _asked(row[key], key, where)
    for name in ("reference", "category"):
        if not isinstance(row.get(name, ""), str):
            raise MoAConfigError(f"{where}: {name} is a text, not {row[name]!r}")
    if not isinstance(row.get("id", ""), str | int):
        raise MoAConfigError(f"{where}: id is a text or a number, not {row['id']!r}")
    reference = [row["reference"]] if row.get("reference") else ()
    return Item(str(row.get("id", index)), index, [question], row.get("category", ""), reference, history)


def _asked(given: Any, name: str, where: str) -> tuple[Sequence[dict[str, str]], str]:
    if name != "messages":
        if not isinstance(given, str) or not given.strip():
            raise MoAConfigError(f"{where}: {name} is a text, and not an empty one")
        return (), given
    if not isinstance(given, list) or not given or not all(_is_message(message) for message in given):
        raise MoAConfigError(
            f"{where}: messages are a list of objects with role ({', '.join(_ROLES)}) and content, a text"
        )
    if given[-1]["role"] != "user":
        raise MoAConfigError(f"{where}: the last message is the user's; here it is the {given[-1]['role']}'s")
    return [{"role": m["role"], "content": m["content"]} for m in given[:-1]], given[-1]["content"]


def _is_message(given: Any) -> bool:
    return (
        isinstance(given, dict)
        and given.get("role") in _ROLES
        and isinstance(given.get("content"), str)
        and bool(given["content"].strip())
    )
