"""What is asked: the benchmarks' items with their traps, and the user's own prompts."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from moa_graph import MoAConfigError
from moa_graph.eval.items import Item, load, own, sample
from tests.evaluation import DATA, with_data


@with_data
def test_mt_bench() -> None:
    """80 questions in two turns, sampled by category, 30 of them with a reference for each turn."""
    items = load("mt-bench", DATA)
    assert [len(item.turns) for item in items] == [2] * 80
    assert Counter(item.temperature for item in items) == {0.7: 20, 0.0: 40, 0.1: 20}
    assert {item.max_tokens for item in items} == {1024}
    referred = [item for item in items if item.reference]
    assert {item.category for item in referred} == {"math", "reasoning", "coding"}
    assert [len(item.reference) for item in referred] == [2] * 30


@with_data
def test_flask() -> None:
    """1,740 items; one has two skills, and a difficulty of -1 is none."""
    items = {item.id: item for item in load("flask", DATA)}
    assert len(items) == 1740
    assert [item.id for item in items.values() if len(item.extra["skills"]) != 3] == ["1417"]
    assert [item.id for item in items.values() if "difficulty" not in item.extra] == ["1706", "1716"]


@with_data
def test_sample_keeps_the_index() -> None:
    """Ten of AlpacaEval's items keep their places among the 805, whichever they are."""
    items = load("alpaca-eval", DATA)
    drawn = sample(items, 10, 7)
    assert len(items) == 805
    assert [items[item.index] for item in drawn] == drawn
    assert [item.index for item in drawn] == sorted(item.index for item in drawn)


def test_sample_is_drawn_with_the_seed() -> None:
    """The same seed draws the same items, another one others; without a limit, and with a high one, it is all."""
    items = [Item(str(k), k, ["?"]) for k in range(100)]
    assert sample(items, 10, 1) == sample(items, 10, 1) != sample(items, 10, 2)
    assert sample(items, None, 1) == items == sample(items, 1000, 1)


def test_own_prompts(tmp_path: Path) -> None:
    """A line is a question, a prompt, or a conversation that ends with the user."""
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    told: list[dict[str, Any]] = [
        {"question": "Why?", "id": 7, "reference": "So.", "category": "odd", "more": 1},
        {"prompt": "What?"},
        {"messages": talk},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n\n".join(map(json.dumps, told)) + "\n", encoding="utf-8")
    first, second, third = own(path)
    assert (first.id, first.turns, first.reference, first.category) == ("7", ["Why?"], ["So."], "odd")
    assert (second.turns, second.index) == (["What?"], 1)
    assert (third.history, third.turns) == ([talk[0]], ["Why?"])
    assert Item.of(json.loads(json.dumps(first.told()))) == first


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: this is not JSON"),
        ("[1]", "line 2: an object with one of question, prompt, messages is needed"),
        ("{}", "line 2: none of question, prompt, messages is in it, but nothing"),
        ('{"question": "a", "prompt": "b"}', "line 2: there are question and prompt in it: give one of them"),
        ('{"question": " "}', "line 2: question is a text, and not an empty one"),
        ('{"prompt": ["x"]}', "line 2: prompt is a text, and not an empty one"),
        ('{"messages": []}', "line 2: messages are a list of objects with role"),
        ('{"messages": [{"role": "user"}]}', "line 2: messages are a list of objects with role"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "line 2: the last message is the user's"),
        ('{"question": "a", "reference": 5}', "line 2: reference is a text, not 5"),
        ('{"question": "a", "id": [5]}', "line 2: id is a text or a number, not [5]"),
        ('{"question": "a", "id": "0"}', "line 2: the id '0' is that of line 1 already"),
    ],
)
def test_bad_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    """What is wrong in a file of prompts is told with its file and line."""
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"question": "?"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(MoAConfigError, match=re.escape(f"own.jsonl, {said}")):
        own(path)


@pytest.mark.parametrize(("content", "said"), [(b"", "there is no question in it"), (b"\xff", "not UTF-8 text")])
def test_file_without_prompts(content: bytes, said: str, tmp_path: Path) -> None:
    """An empty file, or one that is no text, is told as such."""
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(MoAConfigError, match=said):
        own(path)


def test_unknown_benchmark() -> None:
    """What is neither a benchmark nor a file of prompts is an error that names the benchmarks."""
    with pytest.raises(MoAConfigError, match="one of alpaca-eval, mt-bench, flask"):
        load("mtbench")
