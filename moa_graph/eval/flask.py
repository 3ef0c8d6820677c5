"""FLASK (Ye et al. 2023, arXiv 2307.10928): each item is graded from 1 to 5 in the few skills that it needs."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from moa_graph.eval import data
from moa_graph.eval.items import Item
from moa_graph.eval.rubric import Answers, Ask, UnparsedError

__all__ = ["SKILLS", "Flask", "skill_scores"]

SKILLS: Final = (
    "Logical Robustness", "Logical Correctness", "Logical Efficiency", "Factuality", "Commonsense Understanding",
    "Comprehension", "Insightfulness", "Completeness", "Metacognition", "Readability", "Conciseness", "Harmlessness",
)  # fmt: skip

_LAST: Final = re.compile(r"\{[^{}]*\}")
_PAIR: Final = re.compile(r"""["']?([A-Za-z][A-Za-z _-]*?)["']?\s*:\s*["']?([^,"'}\n]+)""")
_NOT_APPLICABLE: Final = ("n/a", "na", "none", "null", "not applicable")


class Flask:
    """Its rubric."""

    unit = "of 5"

    def __init__(self, data_dir: Path | None = None) -> None:
        self._data_dir = data_dir

    @cached_property
    def _prompts(self) -> dict[int, dict[str, Any]]:
        return {row["prompt_id"]: row for row in data.rows("flask/prompt.jsonl", self._data_dir)}

    @cached_property
    def _described(self) -> dict[str, str]:
        skills = data.rows("flask/skillset_description.json", self._data_dir)
        return {skill["Skill"]: _description(skill) for skill in skills}

    def asks(self, item: Item, contender: str, answers: Answers) -> Sequence[Ask]:
        if (said := answers(contender)) is None:
            return []
        return [Ask(item.id, contender, 1, self._messages(item, said[0]), partial(skill_scores, item.extra["skills"]))]

    def _messages(self, item: Item, said: str) -> list[tuple[str, str]]:
        skills = item.extra["skills"]
        prompt = self._prompts[2 if item.reference else 1]
        text = prompt["prompt_template"].format(
            prompt1=prompt["defaults"]["prompt1"].replace("these 3 categories", f"these {len(skills)} categories"),
            prompt2=prompt["defaults"]["prompt2"],
            skills="\n".join(self._described[skill] for skill in skills),
            question=item.turns[0],
            response=said,
            sample_answer=item.reference[0] if item.reference else "",
        )
        return [("system", prompt["system_prompt"]), ("user", text)]

    def score(self, item: Item, contender: str, judgements: Sequence[Mapping[str, Any]]) -> float | None:
        """The mean of its skills, those apart that the judge finds not applicable."""
        scores = [
            score
            for judgement in judgements
            if judgement["status"] == "ok"
            for score in judgement["scores"].values()
            if score is not None
        ]
        return sum(scores) / len(scores) if scores else None

    def parts(self, item: Item, judgement: Mapping[str, Any]) -> Mapping[str, float]:
        return {skill: score for skill, score in judgement["scores"].items() if score is not None}


def _description(skill: Mapping[str, Any]) -> str:
    scoring = "\n".join(f"Score {score}: {text}" for score, text in skill["Scoring"].items())
    return f"{skill['Skill']}: {skill['Criteria']}\n{scoring}\n"


def skill_scores(skills: Sequence[str], reply: str) -> dict[str, dict[str, float | None]]:
    """The last `{…}` of a reply: skill -> 1 to 5, `None` for N/A. Raises UnparsedError where a skill has no score."""
    if not (found := _LAST.findall(reply)):
        raise UnparsedError("there is no {…} with the scores in it")
    given = {_plain(name): value for name, value in _pairs(found[-1])}
    scores: dict[str, float | None] = {}
    for skill in skills:
        name = _plain(skill)
        matching = [key for key in given if key == name] or [key for key in given if key in name or name in key]
        if len(matching) != 1 or not matching[0]:
            raise UnparsedError(f"there is no score for {skill} in it")
        scores[skill] = _score(skill, given[matching[0]])
    return {"scores": scores}


def _pairs(text: str) -> list[tuple[str, Any]]:
    """A dictionary as JSON or Python write it, or nearly so."""
    for read in (json.loads, ast.literal_eval):
        try:
            whole = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(whole, dict):
            return [(str(name), value) for name, value in whole.items()]
    return [(name, value.strip()) for name, value in _PAIR.findall(text)]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _score(skill: str, given: Any) -> float | None:
    text = str(given).strip()
    if text.lower() in _NOT_APPLICABLE:
        return None
    number = re.fullmatch(r"(\d+(?:\.\d+)?)(?:\s*/\s*5)?", text)
    if number is None or not 1 <= float(number[1]) <= 5:
        raise UnparsedError(f"the score for {skill} is {text[:40]!r}: from 1 to 5, or N/A, was asked for")
    return float(number[1])
