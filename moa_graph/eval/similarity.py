"""Does the aggregator take up the better proposals? The paper's analysis (2406.04692, section 3.3).

table = correlations([Instance(aggregate="…", proposals=["…", "…", "…"], preferences=[7.0, 9.0, 4.0]), …])
print(table["BLEU-3"].estimate.mean)  # 0.2: the aggregate is more like the proposals that a judge prefers

Within each instance, Spearman's coefficient between how similar each proposal is to the aggregate, and how a judge
prefers it; then the mean over the instances.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from moa_graph.errors import MoAConfigError
from moa_graph.eval.extra import load
from moa_graph.eval.statistics import Estimate, mean

__all__ = ["MEASURES", "PAPER", "Correlation", "Instance", "coefficients", "correlations", "similarities"]

_ORDERS: Final = (3, 4, 5)
MEASURES: Final = (*(f"BLEU-{order}" for order in _ORDERS), "Levenshtein", "TF-IDF")
"""BLEU up to n-grams of that length, the aggregate against the proposal; 1 less the edits by characters over the longer
one's length; the cosine of TF-IDF vectors, of words weighted by the instance's own texts."""

PAPER: Final[Mapping[str, tuple[float, float]]] = MappingProxyType({
    **{f"BLEU-{order}": (0.18, 0.30) for order in _ORDERS}, "Levenshtein": (0.13, 0.25), "TF-IDF": (0.12, 0.19),
})  # fmt: skip
"""Between which values the paper's six aggregators are after the first layer, read off its figure."""


@dataclass(frozen=True)
class Instance:
    """An answer made from proposals, and how a judge prefers each of them. `None`: it has no preference."""

    aggregate: str
    proposals: Sequence[str]
    preferences: Sequence[float | None]


@dataclass(frozen=True)
class Correlation:
    """What a measure of similarity comes to."""

    estimate: Estimate | None
    """The coefficient's mean over the instances, with its 95% interval. `None`: every instance was dropped."""
    dropped: int
    """How many instances say nothing: fewer than two preferences, or all of them the same, or all equally similar."""


def correlations(instances: Iterable[Instance], *, seed: int = 0) -> dict[str, Correlation]:
    """How similarity and preference go together, by measure. The seed is that of the interval.

    Raises MoAConfigError where an instance has not as many preferences as proposals, or one that is not finite.
    """
    found = [coefficients(instance, n) for n, instance in enumerate(instances)]
    return {measure: _summed_up([each[measure] for each in found], seed) for measure in MEASURES}


def coefficients(instance: Instance, n: int = 0) -> dict[str, float | None]:
    """Spearman's coefficient of one instance, the `n`th, by measure; `None` where it is not defined.

    Raises MoAConfigError as `correlations` does.
    """
    if len(instance.proposals) != len(instance.preferences):
        counts = f"{len(instance.preferences)} preferences for {len(instance.proposals)} proposals"
        raise MoAConfigError(f"instance {n} has {counts}; give one for each, or None")
    judged = [
        (text, said) for text, said in zip(instance.proposals, instance.preferences, strict=True) if said is not None
    ]
    preferences = [said for _, said in judged]
    if wrong := [said for said in preferences if not math.isfinite(said)]:
        raise MoAConfigError(f"instance {n} has the preference {wrong[0]}; give None where there is none")
    if len(set(preferences)) < 2:
        return dict.fromkeys(MEASURES)
    spearman = load("scipy.stats").spearmanr
    return {
        measure: float(spearman(values, preferences).statistic) if len(set(values)) > 1 else None
        for measure, values in similarities(instance.aggregate, [text for text, _ in judged]).items()
    }


def similarities(aggregate: str, proposals: Sequence[str]) -> dict[str, list[float]]:
    """How similar each proposal is to the aggregate, by measure: from 0 to 1, the more the higher."""
    levenshtein = load("rapidfuzz.distance").Levenshtein.normalized_similarity
    return {
        **_bleu(aggregate, proposals),
        "Levenshtein": [float(levenshtein(aggregate, proposal)) for proposal in proposals],
        "TF-IDF": _tf_idf(aggregate, proposals),
    }


def _summed_up(coefficients: Sequence[float | None], seed: int) -> Correlation:
    defined = [coefficient for coefficient in coefficients if coefficient is not None]
    estimate = mean(defined, seed=seed) if defined else None
    return Correlation(estimate, dropped=len(coefficients) - len(defined))


def _bleu(aggregate: str, proposals: Sequence[str]) -> dict[str, list[float]]:
    """As sacrebleu computes it, of n-grams that are counted once for each text: it meets many others."""
    bleu, ours = load("sacrebleu.metrics").BLEU, _counted(aggregate)
    found: dict[str, list[float]] = {f"BLEU-{order}": [] for order in _ORDERS}
    for theirs in map(_counted, proposals):
        correct = [_in_common(a, b) for a, b in zip(ours, theirs, strict=True)]
        totals, lengths = [sum(counts.values()) for counts in ours], [sum(each[0].values()) for each in (ours, theirs)]
        for order in _ORDERS:
            how: dict[str, Any] = {"smooth_method": "exp", "effective_order": True, "max_ngram_order": order}
            found[f"BLEU-{order}"].append(bleu.compute_bleu(correct, totals, *lengths, **how).score / 100)
    return found


@lru_cache(maxsize=256)
def _counted(text: str) -> list[Counter[tuple[str, ...]]]:
    """How often each n-gram is there, for n from 1 to the longest."""
    words = load("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()(text.rstrip()).split()
    return [Counter(zip(*(words[k:] for k in range(n)), strict=False)) for n in range(1, max(_ORDERS) + 1)]


def _in_common(ours: Counter[tuple[str, ...]], theirs: Counter[tuple[str, ...]]) -> int:
    return sum(min(count, theirs[gram]) for gram, count in ours.items() if gram in theirs)


def _tf_idf(aggregate: str, proposals: Sequence[str]) -> list[float]:
    vectorizer = load("sklearn.feature_extraction.text").TfidfVectorizer()
    if not any(map(vectorizer.build_analyzer(), (aggregate, *proposals))):
        return [0.0] * len(proposals)  # no word in any of them
    vectors = vectorizer.fit_transform([aggregate, *proposals])
    return [float(value) for value in (vectors[1:] @ vectors[0].T).toarray().ravel()]
