"""`Layer(critique=…)`: each answer of a layer is criticised by a model; who reads the answer reads that beside it.

As agents that critique their peers do (arXiv 2601.16596), here with one critic for all of a layer's answers.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from moa_graph.panel import ProposerLike
from moa_graph.steps import Judgement, Situation, UndecidedError
from moa_graph.verdicts import check_text, one_of, to_judge, why_not

__all__ = ["CRITIQUE", "Critique"]

CRITIQUE: Final = """\
You are given a response to what a user asked. Say what is wrong with it: errors of fact or reasoning first, then \
what is missing or misleading. Be specific. Where you find nothing wrong, say so. Do not answer the question \
yourself."""
"""What a critic is told."""


@dataclass(frozen=True)
class Critique:
    """`model` criticises each answer, in one call for each, all at once.

    prompt: what it is told. otherwise: where it gives no critique in three attempts, or fails: `"error"`, or the
    answer is read `"without"` one. Raises MoAConfigError for a value that makes no sense.
    """

    model: ProposerLike
    prompt: str = CRITIQUE
    otherwise: Literal["error", "without"] = "error"

    kind: ClassVar = "critique"
    name: ClassVar = "critique"

    def __post_init__(self) -> None:
        check_text("Critique: prompt", self.prompt)
        one_of("Critique: otherwise", self.otherwise, ("error", "without"))

    def check(self, panel: Sequence[str], where: str) -> None:
        """Any panel will do."""

    async def decide(self, situation: Situation) -> Judgement:
        made = await asyncio.gather(*(self._one(situation, a) for a in situation.answers), return_exceptions=True)
        texts, failed = dict[str, str](), list[str]()
        for name, critique in zip(situation.names, made, strict=True):
            if isinstance(critique, str):
                texts[name] = critique
            elif isinstance(critique, UndecidedError) and self.otherwise == "without":
                failed.append(f"{name}: {why_not(critique)}")
            else:
                raise critique
        said = f"criticised {len(texts)} of {len(made)}"
        return Judgement(
            [*texts], f"{said}; the others go without, as declared: {failed[0]}" if failed else said, texts=texts
        )

    async def _one(self, situation: Situation, answer: str) -> str:
        demand = "Give your critique of the response in at most 60 words, as plain text."
        assert situation.ask is not None, "it has a model"
        return await situation.ask(to_judge(self.prompt, [answer], situation.transcript, demand), _read)


def _read(text: str) -> str:
    if not text:
        raise ValueError("no text")
    return text
