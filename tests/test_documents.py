"""YAML in which no key stands twice."""

import pytest

from moa_graph import MoAConfigError
from moa_graph.documents import read_yaml


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb: 2\na: 3\n", "p.yaml: a: this key stands there twice, in lines 1 and 3: keep one of them"),
        ("{a: 1, a: 1}", "a: this key stands there twice, in line 1"),
        ("x:\n  - {y: 1}\n  - y: 1\n    'y': 2\n", r"x\.2\.y: this key stands there twice, in lines 3 and 4"),
        ("prices:\n  openai:a: {input: 1, output: 2, input: 3}\n", r"prices\.openai:a\.input: this key"),
        ("a: [1\n", "p.yaml: not YAML at line 2: "),
        ("a: 1\n---\nb: 2\n", "p.yaml: not YAML at line 2: "),
        ("[a]: 1\n", "p.yaml: not YAML at line 1: found unhashable key"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(text: str, why: str) -> None:
    """The file, the key and its lines; what is no YAML at all as before."""
    with pytest.raises(MoAConfigError, match=why) as error:
        read_yaml(text, "p.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", None),
        ("a", "a"),
        ("x: {a: 1}\ny: {a: 1}\n", {"x": {"a": 1}, "y": {"a": 1}}),
        ("1: a\n'1': b\n", {1: "a", "1": "b"}),
        ("x: &x {a: 1}\ny: {<<: *x, a: 2}\nz: [*x, *x]\n", {"x": {"a": 1}, "y": {"a": 2}, "z": [{"a": 1}, {"a": 1}]}),
    ],
)
def test_everything_else_is_read_as_it_stands(text: str, holds: object) -> None:
    """The same key in two mappings, a number and a text, what is merged in."""
    assert read_yaml(text, "p.yaml") == holds


def test_what_contains_itself_is_read_once() -> None:
    """An alias to what is around it ends."""
    made = read_yaml("a: &a [*a]", "p.yaml")
    assert made["a"][0] is made["a"]
