"""`moa estimate`, and what `moa ask` does about money: `--confirm`, `--budget`, the receipt's column."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server import RecordingServer
from tests.test_cli import Ran, moa, write  # noqa: F401 - a fixture

Moa = Callable[..., Ran]
PRICES = {f"openai:{name}": {"input": 1000, "output": 1000} for name in ("a", "b", "c")}


@pytest.fixture
def priced(server: RecordingServer, tmp_path: Path) -> Path:
    return write(tmp_path / "priced.yaml", server.base_url, prices=PRICES, max_tokens=10, layers=3)


def test_an_estimate_is_a_table(moa: Moa, priced: Path, server: RecordingServer):  # noqa: F811
    """A row for each layer, one for the sum; nobody is asked."""
    ran = moa("estimate", "Why?", "-c", "priced.yaml")
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()]
    assert [row[:2] for row in rows[1:3]] == [["1", "2"], ["2", "2"]]
    assert [row[:3] for row in rows[3:]] == [["final", "model", "1"], ["in", "all", "5"]]
    assert "if every model is asked once and answers" in ran.err
    assert server.requests == []


def test_an_estimate_as_json(moa: Moa, priced: Path):  # noqa: F811
    """`--json` prints what `config.estimate` gives."""
    made = json.loads(moa("estimate", "Why?", "-c", "priced.yaml", "--json").out)
    assert made["calls"] == 5
    assert made["cost_usd"] == pytest.approx((made["input_tokens"] + made["output_tokens"]) / 1000)


def test_an_unknown_price_is_told_as_unknown(moa: Moa, server: RecordingServer, tmp_path: Path):  # noqa: F811
    """Never as 0, and with what is known."""
    some = {name: PRICES[name] for name in ("openai:a",)}
    write(tmp_path / "some.yaml", server.base_url, prices=some, max_tokens=10)
    told = moa("estimate", "Why?", "-c", "some.yaml").err
    assert "$ unknown (at least $" in told
    assert "the price of openai:b, openai:c is unknown: give it under `prices:`" in told
    ran = moa("ask", "Why?", "-c", "some.yaml", "--receipt")
    rows = {row[1]: row[-1] for line in ran.err.splitlines() if len(row := line.split()) > 4 and row[3] == "ok"}
    assert rows["b"] == rows["final"] == "?"
    assert float(rows["a"]) > 0
    assert "$ unknown (at least $" in ran.err.splitlines()[-1]


def test_a_budget_leaves_layers_out(moa: Moa, priced: Path, server: RecordingServer):  # noqa: F811
    """`--budget`: the answer comes from what there is, the line below it says why, and the spent sum is small."""
    ran = moa("ask", "Why?", "-c", "priced.yaml", "--budget", "0.3")
    assert ran.out == "answer of c #1\n"
    assert "from layer 2 on the budget is too small" in ran.err.splitlines()[-1]
    assert len(server.requests) == 3


def test_a_budget_for_nothing_at_all(moa: Moa, priced: Path, server: RecordingServer):  # noqa: F811
    """Where not even the final model fits, one line, exit code 1, and nobody was asked."""
    ran = moa("ask", "Why?", "-c", "priced.yaml", "--budget", "0.001")
    assert ran.code == 1
    assert "the budget is too small" in ran.failed()
    assert server.requests == []


def test_what_was_spent_before_it_stopped(moa: Moa, server: RecordingServer, tmp_path: Path):  # noqa: F811
    """`--receipt` shows it of a run without an answer too."""
    write(tmp_path / "stop.yaml", server.base_url, prices=PRICES, max_tokens=10, budget={"calls": 2})
    ran = moa("ask", "Why?", "-c", "stop.yaml", "--receipt")
    assert ran.code == 1
    rows = {row[1]: row[3] for line in ran.err.splitlines() if len(row := line.split()) > 4}
    assert (rows["a"], rows["b"]) == ("ok", "ok")


@pytest.mark.parametrize(
    ("own", "why"),
    [({"usd": 100}, "from layer 2 on the budget is too small: about $"), ({"calls": 3, "usd": 1}, "of 3 calls")],
)
def test_a_budget_beside_the_mixtures_own(
    moa: Moa, server: RecordingServer, tmp_path: Path, own: dict[str, Any], why: str  # noqa: F811
):  # fmt: skip
    """`--budget` goes in place of the mixture's $; that it stops, and its other limits, stay."""
    write(tmp_path / "own.yaml", server.base_url, prices=PRICES, max_tokens=10, layers=3, budget=own)
    ran = moa("ask", "Why?", "-c", "own.yaml", "--budget", "0.3" if "calls" not in own else "100")
    assert (ran.code, why in ran.failed()) == (1, True)


@pytest.mark.parametrize("given", ["-1", "0", "five", "nan", "inf"])
def test_a_budget_that_is_none(moa: Moa, priced: Path, given: str):  # noqa: F811
    """What is no sum is told, and what would be one."""
    ran = moa("ask", "Why?", "-c", "priced.yaml", "--budget", given)
    assert (ran.code, "a number of $ above 0 is needed" in ran.err) == (2, True)


def test_a_budget_wants_prices(moa: Moa, server: RecordingServer, tmp_path: Path):  # noqa: F811
    """The model whose price is unknown is named, and nobody is asked."""
    write(tmp_path / "two.yaml", server.base_url)
    ran = moa("ask", "Why?", "-c", "two.yaml", "--budget", "1")
    assert (ran.code, "that of openai:a is unknown" in ran.err) == (2, True)


def test_confirming_wants_an_answer(moa: Moa, priced: Path, server: RecordingServer):  # noqa: F811
    """Where standard input has none: the estimate, one line, exit code 2, and nobody was asked."""
    for question, said in (("Why?", ""), ("-", "Why?"), ("Why?", "perhaps\n")):
        ran = moa("ask", question, "-c", "priced.yaml", "--confirm", stdin=said)
        assert (ran.code, "--confirm wants y or n" in ran.err, "in all" in ran.err) == (2, True, True)
    assert server.requests == []


def test_confirming_in_a_pipe(moa: Moa, priced: Path, server: RecordingServer):  # noqa: F811
    """No, or an empty line: exit code 1 and nobody was asked. Yes: the answer's own bytes, and nothing more."""
    for said in ("n\n", "No\n", "\n"):
        ran = moa("ask", "Why?", "-c", "priced.yaml", "--confirm", stdin=said)
        assert (ran.code, ran.out, ran.err.splitlines()[-1]) == (1, "", "nobody was asked")
    assert server.requests == []
    ran = moa("ask", "Why?", "-c", "priced.yaml", "--confirm", stdin="perhaps\nYes\n")
    assert (ran.code, ran.out, ran.err.count("Ask? [y/N]\n")) == (0, "answer of c #1\n", 2)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ({"usd": 0.3}, "the budget of $0.3 is smaller: the run will stop"),
        ({"usd": 0.3, "calls": 3, "on_exceed": "answer"}, "the budget of $0.3 and 3 calls is smaller: layers will be"),
        ({"tokens": 40}, "the budget of 40 tokens is smaller: the run will stop"),
        ({"usd": 1000, "tokens": 100_000, "calls": 5}, ""),
    ],
)
def test_an_estimate_says_that_the_budget_is_smaller(
    moa: Moa, server: RecordingServer, tmp_path: Path, budget: dict[str, Any], told: str  # noqa: F811
):  # fmt: skip
    """What the mixture's own budget would do to the run that is estimated, in a table and beside JSON."""
    write(tmp_path / "bound.yaml", server.base_url, prices=PRICES, max_tokens=10, layers=3, budget=budget)
    for options in ((), ("--json",)):
        ran = moa("estimate", "Why?", "-c", "bound.yaml", *options)
        assert (told in ran.err.splitlines()[-1], "smaller" in ran.err) == (True, bool(told))


def test_confirming_says_that_the_budget_is_smaller(moa: Moa, priced: Path):  # noqa: F811
    """`--budget` is what counts there, and it leaves layers out; unless the final model is all there is."""
    ask = ("ask", "Why?", "-c", "priced.yaml", "--confirm")
    assert "the budget of $0.3 is smaller: layers will be left out" in moa(*ask, "--budget", "0.3").err
    assert "the budget of $0.001 is smaller: the run will stop" in moa(*ask, "--budget", "0.001", "-l", "1").err
    assert "smaller" not in moa(*ask, "--budget", "100").err


def test_a_budget_of_what_is_shown_is_enough(moa: Moa, server: RecordingServer, tmp_path: Path):  # noqa: F811
    """A sum is rounded up, so whoever types it as the budget is not told that it is smaller."""
    odd = {name: {"input": 0.0123, "output": 0.0697} for name in PRICES}
    write(tmp_path / "odd.yaml", server.base_url, prices=odd, layers=3)
    ran = moa("estimate", "Why?", "-c", "odd.yaml")
    shown = ran.out.splitlines()[-1].split()[-2]
    assert f"${shown}, if every model is asked once" in ran.err
    exact = json.loads(moa("estimate", "Why?", "-c", "odd.yaml", "--json").out)["cost_usd"]
    assert f"{exact:.2g}" != shown
    assert "smaller" not in moa("ask", "Why?", "-c", "odd.yaml", "--confirm", "--budget", shown).err


def test_a_wrong_file_of_prices_is_not_the_mixtures(
    moa: Moa, priced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
):  # fmt: skip
    """What is wrong in the user's own file is told of that file, whatever is asked."""
    monkeypatch.setenv("MOA_GRAPH_PRICES", str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("openai:a: {input: 1, output: 2}\nopenai:b: {input: 1}\n")
    for command in (["ask", "Why?"], ["estimate", "Why?"], ["chat"], ["compare", "Why?", "-j", "openai:a"], ["draw"]):
        ran = moa(*command, "-c", "priced.yaml")
        told = f"moa: MOA_GRAPH_PRICES: {tmp_path / 'mine.yaml'}: openai:b: output: this key is missing"
        assert (ran.code, ran.err.splitlines()[-1][: len(told)]) == (2, told)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prices": {"openai:a": {"input": -1, "output": 1}}}, "openai:a: input"),
        ({"prices": {"openai:a": {"input": 1, "outputs": 1}}}, "outputs: unknown key; did you mean output"),
        ({"prices": {"openai:a": 5}}, "prices"),
        ({"prices": "nowhere.yaml"}, "nowhere.yaml"),
        ({"budget": {"usd": -5}}, "usd is -5"),
        ({"max_tokens": -5}, "max_tokens: input should be greater than 0, not -5"),
        ({"proposers": [{"model": "openai:a", "context_window": 0}]}, "proposers.1.context_window: input should be"),
        ({"budget": {"euro": 5}}, "euro: unknown key"),
        ({"budget": {"calls": 5, "on_exceed": "pray"}}, "on_exceed"),
    ],
)
def test_a_file_with_something_wrong(
    moa: Moa, server: RecordingServer, tmp_path: Path, changes: dict[str, Any], why: str  # noqa: F811
):  # fmt: skip
    """The file and the key are named, before anybody is asked, and never with a traceback."""
    write(tmp_path / "wrong.yaml", server.base_url, **changes)
    for command in ("ask", "estimate"):
        ran = moa(command, "Why?", "-c", "wrong.yaml")
        assert (ran.code, why in ran.err, "Traceback" in ran.err) == (2, True, False), ran.err
    assert server.requests == []
