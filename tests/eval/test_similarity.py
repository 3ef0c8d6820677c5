"""Whether the aggregate takes up the better proposals: what is computed, and what MoA-Lite's answers say."""

import gzip
import json
import math
import random

import pytest

from moa_graph.errors import MoAConfigError
from moa_graph.eval.similarity import MEASURES, PAPER, Instance, correlations, similarities
from tests.eval.published import DATA, leaderboard, needs_data, needs_extra

pytestmark = needs_extra

SKY = "The sky is blue because air scatters short waves of light more than long ones."
NEAR = "The sky is blue because air scatters short waves more than long ones, as Rayleigh found."
HALF = "The sky is blue since the sea is mirrored in it, and light waves are short."
FAR = "Ask a physicist about that."

PROPOSERS = [
    "Qwen1.5-110B-Chat",
    "Qwen1.5-72B-Chat",
    "Meta-Llama-3-70B-Instruct",
    "Mixtral-8x22B-Instruct-v0.1",
    "dbrx-instruct",
]


def test_every_measure_knows_what_is_similar() -> None:
    """The same text is 1, and the nearer of two texts has more; none is above 1 or below 0."""
    found = similarities(SKY, [SKY, NEAR, HALF, FAR])
    assert tuple(found) == MEASURES
    for measure, values in found.items():
        assert values[0] == pytest.approx(1), measure
        assert values == sorted(values, reverse=True), measure
        assert values[-1] >= 0


def test_bleu_is_sacrebleus() -> None:
    """Of n-grams up to 3, 4 and 5, each as if it were asked for alone."""
    from sacrebleu.metrics import BLEU

    found = similarities(SKY, [NEAR, HALF, "Sky."])
    for order in (3, 4, 5):
        alone = BLEU(max_ngram_order=order, effective_order=True)
        expected = [alone.sentence_score(SKY, [text]).score / 100 for text in (NEAR, HALF, "Sky.")]
        assert found[f"BLEU-{order}"] == pytest.approx(expected)


def test_levenshtein_is_by_characters() -> None:
    """One edit in four characters leaves three quarters."""
    assert similarities("abcd", ["abce", "abcd"])["Levenshtein"] == [0.75, 1.0]


@pytest.mark.parametrize(("preferences", "expected"), [([9, 6, 2], 1), ([2, 6, 9], -1), ([6, 9, 2], 0.5)])
def test_the_coefficient_is_spearmans(preferences: list[float], expected: float) -> None:
    """1 where the nearer is always the better, -1 where it is always the worse; by rank, not by distance."""
    table = correlations([Instance(SKY, [NEAR, HALF, FAR], preferences)] * 3)
    for measure, found in table.items():
        assert found.estimate is not None
        assert found.estimate.mean == pytest.approx(expected), measure
        assert (found.estimate.n, found.dropped) == (3, 0)


def test_the_mean_is_over_instances() -> None:
    """Each counts the same, however many proposals it has."""
    two = [NEAR, FAR]
    table = correlations(
        [Instance(SKY, [*two, HALF], [9, 2, 6]), Instance(SKY, two, [1, 2]), Instance(SKY, two, [2, 1])]
    )
    estimate = table["TF-IDF"].estimate
    assert estimate is not None
    assert estimate.mean == pytest.approx(1 / 3)


def test_what_says_nothing_is_dropped_and_counted() -> None:
    """All preferences the same, all proposals equally similar, or fewer than two preferences."""
    table = correlations([
        Instance(SKY, [NEAR, FAR], [5, 5]),
        Instance(SKY, [NEAR, NEAR], [5, 4]),
        Instance(SKY, [NEAR, HALF, FAR], [5, None, None]),
        Instance(SKY, [NEAR, HALF, FAR], [5, None, 4]),
        Instance("", ["", "?"], [1, 2]),
    ])  # fmt: skip
    found = table["TF-IDF"]
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx(1)
    assert (found.estimate.n, found.dropped) == (1, 4)


def test_where_all_is_dropped_there_is_no_number() -> None:
    """Also where there was no instance at all."""
    assert [found.estimate for found in correlations([]).values()] == [None] * 5
    assert correlations([Instance(SKY, [NEAR, FAR], [1, 1])])["BLEU-3"].dropped == 1


def test_wrong_instances_are_refused() -> None:
    """The message names the instance."""
    with pytest.raises(MoAConfigError, match="instance 0 has 1 preferences for 2 proposals"):
        correlations([Instance(SKY, [NEAR, FAR], [1])])
    with pytest.raises(MoAConfigError, match="instance 1 has the preference nan"):
        correlations([Instance(SKY, [NEAR, FAR], [1, 2]), Instance(SKY, [NEAR, FAR], [1, math.nan])])


# --- MoA-Lite


def outputs(name: str) -> list[str]:
    path = DATA / "alpaca_eval" / "outputs" / f"{name}.json.gz"
    return [row["output"] for row in json.loads(gzip.decompress(path.read_bytes()))]


def moa_lite(limit: int) -> list[Instance]:
    """MoA-Lite's answers and those of five of its six proposers; WizardLM's were not published.

    No judge's preference for each of their answers is published either. Instead, a proposer's is its length-controlled
    win rate on the leaderboard, which is the same in every instance: whether the aggregate is more like the answers of
    the better models, not like the better answers.
    """
    preferences = [leaderboard()[name]["length_controlled_winrate"] for name in PROPOSERS]
    aggregates, proposals = outputs("Together-MoA-Lite"), list(zip(*map(outputs, PROPOSERS), strict=True))
    chosen = random.Random(0).sample(range(805), limit)
    return [Instance(aggregates[k], proposals[k], preferences) for k in chosen]


@needs_data
def test_moa_lite_takes_up_the_better_models() -> None:
    """By every measure its answers are more like those of the models that win more, beyond chance."""
    for measure, found in correlations(moa_lite(80)).items():
        assert found.estimate is not None
        print(f"{measure}: {found.estimate}, dropped {found.dropped}; the paper's: {PAPER[measure]}")
        assert found.estimate.low > 0, measure
        assert found.dropped <= 2
