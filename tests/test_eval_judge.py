"""What a judge is asked, and how its replies are read: what says no score is none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moa_graph import MoAConfigError
from moa_graph.eval.flask import SKILLS, Flask, skill_scores
from moa_graph.eval.items import Item, load
from moa_graph.eval.judge import judge_config
from moa_graph.eval.mt_bench import MTBench, rating
from moa_graph.eval.own import Own, preferred
from moa_graph.eval.rubric import UnparsedError
from tests.evaluation import DATA, with_data

TWO = ("Readability", "Logical Robustness")


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Good.\nRating: [[7]]", 7),
        ("[[ 7.5 ]]", 7.5),
        ("[[8/10]] it is", 8),
        ("[[Rating: 10]]", 10),
        ("I was told to write [[5]] for instance. Rating: [[9]]", 9),
        ("Rating: [6]", 6),
        ("**Rating:** 4/10", 4),
        ("Rating: 3.", 3),
    ],
)
def test_rating(reply: str, score: float) -> None:
    """The last rating counts, in two brackets, in one, or said as such at the end of a line."""
    assert rating(reply) == {"score": score}


@pytest.mark.parametrize(
    "reply", ["", "8", "[[rating]]", "[[11]]", "[[0]]", "[[eight]]", "a rating: 1 to 10", "8 out of 10"]
)
def test_no_rating(reply: str) -> None:
    """A reply without a rating, or with one that cannot be, gives no score."""
    with pytest.raises(UnparsedError):
        rating(reply)


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("So.\n{'Readability': 4, 'Logical Robustness': 5}", (4, 5)),
        ('{"Readability": "3", "Logical Robustness": "N/A"}', (3, None)),
        ("{'a': 1} then {'readability': 2.5, 'Robustness': 1}", (2.5, 1)),
        ("{Readability: 4/5, Logical_Robustness: not applicable}", (4, None)),
        ("```python\n{'Readability': 4,\n 'Logical Robustness': None,}\n```", (4, None)),
        ("{'Readability': 4, 'Logical Robustness': 5, 'Harmlessness': 9}", (4, 5)),
    ],
)
def test_skill_scores(reply: str, scores: Sequence[float | None]) -> None:
    """The last braces hold the scores, as Python or JSON or nearly so; N/A is no score, and no failure."""
    assert skill_scores(TWO, reply) == {"scores": dict(zip(TWO, scores, strict=True))}


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Readability: 4",
        "{}",
        "{'Readability': 4}",
        "{'Readability': 4, 'Logical Robustness': 6}",
        "{'Readability': 4, 'Logical Robustness': 'good'}",
        "{'Readability': 4, 'Logical Robustness': 3} and {thus}",
    ],
)
def test_no_skill_scores(reply: str) -> None:
    """Where one skill has no score from 1 to 5, none of them counts."""
    with pytest.raises(UnparsedError):
        skill_scores(TWO, reply)


@pytest.mark.parametrize(
    ("order", "reply", "score"),
    [
        ("first", '{"better": "A"}', 100),
        ("first", "[[B]]", 0),
        ("second", "A", 0),
        ("second", '{"better": "B"}', 100),
        ("first", "So: [[tie]]", 50),
    ],
)
def test_preferred(order: str, reply: str, score: float) -> None:
    """A verdict names a place, and who stood there is known; a tie is half."""
    assert preferred(order, reply) == {"score": score}


@pytest.mark.parametrize("reply", ["", "1", "[[D]]", "[[A]] or [[B]]"])
def test_no_verdict(reply: str) -> None:
    """A reply without a verdict, or with two, prefers nobody."""
    with pytest.raises(UnparsedError):
        preferred("first", reply)


@pytest.mark.parametrize(("verdicts", "score"), [((100, 100), 100), ((100, 0), 50), ((50, 0), 25)])
def test_both_orders(verdicts: Sequence[float], score: float) -> None:
    """A prompt counts by the mean of both orders; with one of them alone it does not count."""
    judgements = [{"status": "ok", "score": each} for each in verdicts]
    item = Item("1", 0, ["?"])
    assert Own("a").score(item, "b", judgements) == score
    assert Own("a").score(item, "b", [judgements[0], {"status": "unparsed"}]) is None


def test_pair_is_shown_in_both_orders() -> None:
    """The judge sees the conversation, the reference and both answers, once in each order; a baseline is not judged."""
    item = Item("1", 0, ["Why?"], reference=["So {it} is."], history=[{"role": "system", "content": "Be brief."}])
    said: Any = {"a": ["ours"], "b": ["theirs"], "c": None}.get
    first, second = (ask.messages[0][1] for ask in Own("b").asks(item, "a", said))
    assert first.index("ours") < first.index("theirs")
    assert second.index("theirs") < second.index("ours")
    assert all(part in first for part in ("Be brief.", "Why?", "So {it} is."))
    assert Own("b").asks(item, "b", said) == Own("b").asks(item, "c", said) == []


@with_data
def test_mt_bench_prompts() -> None:
    """Each turn is graded by itself: the second with the whole conversation, and with references where there are."""
    items = {item.category: item for item in load("mt-bench", DATA)}
    rubric = MTBench(DATA)
    for category, marks in (("math", ("Reference Answer",)), ("writing", ())):
        item = items[category]
        asks = rubric.asks(item, "two", lambda _: ["first answer {x}", "second answer"])
        one, two = ("\n".join(text for _, text in ask.messages) for ask in asks)
        assert all(mark in text for text in (one, two) for mark in marks)
        assert all(reference in two for reference in item.reference)
        assert item.turns[0] in one
        assert item.turns[1] not in one
        assert all(
            part in two for part in [*item.turns, "first answer {x}", "second answer", "second user question"][:4]
        )
        assert ("Reference Answer" in one) == bool(item.reference)


@with_data
def test_flask_prompts() -> None:
    """The judge sees the rubric of each of the item's skills, of two where there are two, and the right answer."""
    items = {item.id: item for item in load("flask", DATA)}
    for item in (items["1"], items["1417"]):
        [ask] = Flask(DATA).asks(item, "two", lambda _: ["said {this}"])
        text = ask.messages[1][1]
        assert [skill for skill in SKILLS if f"{skill}: " in text] == [s for s in SKILLS if s in item.extra["skills"]]
        assert f"in these {len(item.extra['skills'])} categories" in text
        assert all(part in text for part in (item.turns[0], item.reference[0], "said {this}", "Score 5: "))


@pytest.mark.parametrize("given", ["gpt-4", "judge"])
def test_judge_without_a_provider(given: str) -> None:
    """A judge is a model with its provider, or a file."""
    with pytest.raises(MoAConfigError, match="write it as provider:model"):
        judge_config(given)


def test_judge_is_asked_coldly() -> None:
    """A judge is one call at temperature 0, where it takes one."""
    assert judge_config("openai:gpt-4o").finals[0].temperature == 0
    assert "temperature" not in judge_config("openai:gpt-5").finals[0].model_fields_set
    assert judge_config("local:").depth == 1
    assert judge_config("local:smollm2").max_tokens < judge_config("local:m.gguf").max_tokens  # it does not stop


@pytest.mark.parametrize(
    ("said", "temperature"),
    [("", 0.0), ("temperature: 0.5\n", 0.5), ("aggregator: {model: 'openai:a', temperature: 0.3}\n", 0.3)],
)
def test_a_judge_in_a_file_is_asked_coldly(said: str, temperature: float, tmp_path: Path) -> None:
    """Unless the file says otherwise, of the judge or of all its models."""
    last = "" if "aggregator" in said else "aggregator: openai:a\n"
    (tmp_path / "judge.yaml").write_text(f"proposers: []\nlayers: 1\n{last}{said}", encoding="utf-8")
    assert judge_config(str(tmp_path / "judge.yaml")).arguments()["aggregator"][0].temperature == temperature
