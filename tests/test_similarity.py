"""How alike answers are."""

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from moa_graph.similarity import likeness


async def alike(one: str, other: str) -> float:
    return (await likeness([one, other]))[0][1]


async def test_the_same_text_is_alike_and_no_word_in_common_is_not() -> None:
    """From 0 to 1, also where there are no words at all."""
    assert await alike("red green", "red green") == 1.0
    assert await alike("red green", "cat dog") == 0.0
    assert await alike("!?", "…") == 0.0
    assert await likeness(["", ""]) == [[1.0, 1.0], [1.0, 1.0]]


async def test_endings_capitals_and_marks_do_not_count() -> None:
    """A word is its first six letters."""
    assert await alike("Scattered light!", "light, scattering") == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [("The answer is A.", "The answer is B."), ("It is 12345678.", "It is 12345679."), ("it is", "it is not")],
)
async def test_what_differs_in_a_little_is_less_alike(one: str, other: str) -> None:
    """A letter to choose, a long number, a "not": it is below the threshold of an agreement."""
    assert 0 < await alike(one, other) < 0.9


async def test_texts_with_other_letters_are_read_alike() -> None:
    """One sign beyond ASCII does not make the words of a text others."""
    assert await alike("red-green 1234567 x", "red-green 1234567 x…") == 1.0


async def test_texts_without_spaces() -> None:
    """Of Chinese and Japanese each character is a word."""
    assert 0.3 < await alike("天空是蓝色的", "天空为何是蓝的") < 1.0
    assert await alike("天空", "海洋") == 0.0


async def test_by_embeddings() -> None:
    """The cosine between the vectors, whatever their lengths; 1 with itself."""
    matrix = await likeness(["a", "b", "a"], DeterministicFakeEmbedding(size=8))
    assert matrix[0][2] == pytest.approx(1.0)
    assert matrix[0][1] == matrix[1][0] == pytest.approx(matrix[1][2])
    assert -1 <= matrix[0][1] < 1
