"""Questions, and JSONL files of them."""

from pathlib import Path
from typing import Any

import pytest

from moa_graph import MoAConfigError
from moa_graph.eval.items import own
from moa_graph.questions import conversation, read_questions


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "q.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_line_has_a_question_a_prompt_or_messages(tmp_path: Path):
    """Each of the three keys will do; empty lines are none."""
    lines = ['{"question": "Why?", "id": 7}', "", '{"prompt": "How?"}']
    lines.append('{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "When?"}]}')
    found = read_questions(file(tmp_path, "\n".join(lines) + "\n"))
    assert [[message.text for message in one] for one in found] == [["Why?"], ["How?"], ["Be brief.", "When?"]]


def test_the_first_questions_alone(tmp_path: Path):
    """With a limit, what stands behind it is not even read."""
    assert len(read_questions(file(tmp_path, '{"prompt": "1"}\n{"prompt": "2"}\nrubbish'), 2)) == 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rubbish", "not JSON"),
        ('"Why?"', "an object with one of question, prompt, messages"),
        ('{"query": "Why?"}', "none of question, prompt, messages is in it, but query"),
        ('{"question": 5}', "question is no text"),
        ('{"question": "Why?", "prompt": "How?"}', "there are question and prompt in it: give one of them"),
        ('{"question": " "}', "no question"),
        ('{"messages": []}', "no question"),
        ('{"messages": [{"rule": "user"}]}', "no messages"),
        ('{"messages": [{"role": "assistant", "content": "Hello."}]}', "no question"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: str, why: str):
    """The file, the line's number as an editor counts it, and what is wrong in it."""
    with pytest.raises(MoAConfigError, match=rf"q.jsonl, line 3: .*{why}"):
        read_questions(file(tmp_path, f'{{"question": "Why?"}}\n\n{line}\n'))


def test_a_file_with_a_byte_order_mark(tmp_path: Path):
    """As some editors write it: for `moa compare` and for `moa eval` alike."""
    path = file(tmp_path, "\ufeff" + '{"question": "Why?"}\n')
    assert [message.text for message in read_questions(path)[0]] == own(path)[0].turns == ["Why?"]


@pytest.mark.parametrize(("text", "why"), [("\n \n", "no question in it"), (None, "cannot be read")])
def test_a_file_without_questions(tmp_path: Path, text: str | None, why: str):
    """An empty file and a missing one are named."""
    path = tmp_path / "none.jsonl" if text is None else file(tmp_path, text)
    with pytest.raises(MoAConfigError, match=f"{path.name}: .*{why}"):
        read_questions(path)


@pytest.mark.parametrize("given", ["Why?", {"messages": [("user", "Why?")]}, [("user", "Why?")]])
def test_what_a_question_may_be(given: Any):
    """A text, messages, or what a graph takes."""
    assert [message.text for message in conversation(given)] == ["Why?"]
