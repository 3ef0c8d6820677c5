"""What an answer comes down to, so that answers can be counted."""

import pytest

from moa_graph.errors import MoAConfigError
from moa_graph.extract import extractor, objects


@pytest.mark.parametrize(
    "text", ["It is 42.", "42.0", "**42**", r"\boxed{42}", "so $42$", "x = 042", r"\boxed{\text{42 apples}} of 50"]
)
def test_a_number_is_the_same_however_it_is_written(text: str) -> None:
    """42, 42.0 and a boxed 42 are one answer."""
    assert extractor("number")(text) == "42"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("First 1,000, then 1,234.50 dollars.", "1234.5"),
        (r"\boxed{1{,}234}", "1234"),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        ("x = -5", "-5"),
        ("−3 degrees", "-3"),  # noqa: RUF001
        ("between 3-4", "4"),
        ("1.5e3 years", "1500"),
        ("0.10", "0.1"),
        ("1,234", "1234"),
        ("1,234,567", "1234567"),
        ("pi is 3,14.", "3.14"),
        (r"\boxed{-3{,}1416}", "-3.1416"),
        ("0,125", "0.125"),
        ("1.234,50 euros", "1234.5"),
        ("2,5e3", "2500"),
        ("one of 1,2,3", "3"),
        ("1,234,56", "56"),
        ("-0.0", "0"),
        ("12345678901234567890123456789012345", "12345678901234567890123456789012345"),
        ("none at all", None),
        ("", None),
    ],
)
def test_the_last_number_counts_with_all_its_digits(text: str, number: str | None) -> None:
    """Thousands separators, decimal commas, signs, exponents and LaTeX are read; nothing is rounded."""
    assert extractor("number")(text) == number


@pytest.mark.parametrize("separator", [",", "."])
def test_long_rows_of_digits_take_no_time(separator: str) -> None:
    """Fifty thousand groups of three are read in one pass: read anew from each group, it took minutes."""
    assert extractor("number")(f"123{separator}" * 50_000 + " 7") == "7"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"),
        ("(B)", "B"),
        ("I choose **B**.", "B"),
        ("The correct answer is (B) Paris.", "B"),
        ("b.", "B"),
        ("B) Paris", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("It is not A. Final answer: **B**", "B"),
        ("Either (A) or (B).", None),
        ("I have a cat.", None),
        ("The answer is a bit longer.", None),
    ],
)
def test_a_choice_is_found_in_its_usual_spellings(text: str, letter: str | None) -> None:
    """What is said to be the answer goes before what is marked; two marked letters are no choice."""
    assert extractor("choice")(text) == letter


def test_an_expression_gives_the_group_of_its_last_match() -> None:
    """The last match counts, and a match of nothing does not."""
    assert extractor(r"city: (\w*)")("city: Rome, city: Oslo, city: ") == "Oslo"
    assert extractor(r"city: (\w+)")("no town") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('So: ```json\n{"result": {"value": 42.0}}\n```', "42"),
        ('{"result": {"value": "42"}}', "42"),
        ('{"result": {"value": 1}} {"result": {"value": " x "}}', "x"),
        ('{"result": {"value": [2, 1]}}', "[2, 1]"),
        ('{"result": {"value": true}}', "true"),
        ('{"result": {"value": null}}', None),
        ('{"result": 3}', None),
        ("{not json", None),
    ],
)
def test_a_field_is_read_from_the_json_in_an_answer(text: str, value: str | None) -> None:
    """Text around the JSON does not matter; a number and a text of it are the same."""
    assert extractor("json:result.value")(text) == value


@pytest.mark.parametrize("bad", ["nubmer", "(", "", " ", 3, None])
def test_what_extracts_nothing_is_refused(bad: object) -> None:
    """A misspelt name is an expression without a group: the error tells what there is."""
    with pytest.raises(MoAConfigError, match=r'"number", "choice", "json:field.path"'):
        extractor(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["json:", "json:a..b"])
def test_a_path_with_a_hole_in_it_is_refused(bad: str) -> None:
    """A field has a name."""
    with pytest.raises(MoAConfigError, match="name a field"):
        extractor(bad)


def test_broken_json_takes_no_time() -> None:
    """A long text of opening brackets is looked through and has nothing in it."""
    assert list(objects("[" * 3000 + "{" * 3000 + '{"a": 1}')) == [{"a": 1}]
