"""How alike answers are: by their words, with no model; or by a model's embeddings.

By their words, two answers are as alike as the sets of their words are (the cosine between them; of a word its first
six letters). It sees what is talked about, and nothing else: "is" and "is not" are alike to it, and a true answer in
other words, or in another language, is not like the others.
"""

import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache
from math import sqrt
from operator import mul
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from moa_graph.errors import MoAConfigError, MoAError, clean
from moa_graph.loops import PerLoop

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

__all__ = ["Embed", "Matrix", "check_embed", "likeness", "mean", "prepare"]

Embed: TypeAlias = "str | Embeddings | None"
"""`"provider:model"`, any of LangChain's embeddings, or None: by the words."""
Matrix = list[list[float]]

_WORD: Final = re.compile(r"\w+")
_BETWEEN: Final = str.maketrans({c: " " for c in map(chr, range(128)) if not _WORD.match(c)})  # four times as fast
_UNSPACED: Final = re.compile(r"[\u3040-\u9fff]")  # Chinese, Japanese: each character is a word


async def likeness(texts: Sequence[str], embed: Embed = None, timeout: float | None = None) -> Matrix:
    """How alike each two of the texts are: 0 to 1 by their words, -1 to 1 by embeddings. 1 with themselves.

    Raises TimeoutError where embeddings take longer than `timeout` seconds; MoAError where they are unusable.
    """
    if embed is None:
        words = [_words(text) for text in texts]
        return _matrix(words, lambda a, b: len(a & b) / sqrt(len(a) * len(b)))
    async with asyncio.timeout(timeout):
        vectors = await (await _loops_own(embed)).aembed_documents(list(texts))
    if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) > 1:
        raise MoAError(f"the embeddings gave {len(vectors)} vectors for {len(texts)} answers, or of several lengths")
    units = [_unit(vector) for vector in vectors]
    return _matrix(units, lambda a, b: sum(map(mul, a, b)))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check_embed(embed: Embed) -> None:
    """Raises MoAConfigError for what embeds nothing."""
    if not (embed is None or hasattr(embed, "aembed_documents") or (isinstance(embed, str) and embed.strip())):
        raise MoAConfigError(f'embed is {embed!r}: give "provider:model", LangChain embeddings, or None')


def prepare(embed: Embed, where: str) -> None:
    """Raises MoAConfigError where a model given as a string cannot be made: an unknown provider, a missing key."""
    if isinstance(embed, str):
        try:
            _made(embed)
        except Exception as error:
            raise MoAConfigError(f"{where}, embed {embed!r}: {clean(str(error))}") from error


def _words(text: str) -> set[str]:
    """The words of a text: numbers whole, of others the first six letters ("scatter", "scattered")."""
    low, plain = text.lower(), text.isascii()
    found = low.translate(_BETWEEN).split() if plain else [*_WORD.findall(low), *_UNSPACED.findall(low)]
    return {word if word.isdigit() else word[:6] for word in set(found)} or {low}


def _matrix(things: Sequence[Any], alike: Any) -> Matrix:
    matrix = [[1.0] * len(things) for _ in things]
    for i, one in enumerate(things):
        for j in range(i):
            matrix[i][j] = matrix[j][i] = alike(one, things[j])
    return matrix


def _unit(vector: Sequence[float]) -> list[float]:
    length = sqrt(sum(map(mul, vector, vector))) or 1.0
    return [value / length for value in vector]


def _made(model: str) -> "Embeddings":
    from langchain.embeddings import init_embeddings

    return init_embeddings(model)


async def _loops_own(embed: Any) -> "Embeddings":
    """What was given; of a model given as a string each event loop has its own: a client's connections are a loop's."""
    return await _per_loop(embed).get() if isinstance(embed, str) else embed


@lru_cache
def _per_loop(model: str) -> "PerLoop[Embeddings]":
    return PerLoop(lambda: _made(model), _leave)


async def _leave(_: object) -> None:
    """LangChain's embeddings have nothing to close."""
