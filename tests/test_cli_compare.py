"""`moa compare`, as a person and as a pipe see it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server import Behaviour, RecordingServer
from tests.terminal import Screen, on_terminal
from tests.test_cli import Ran, moa, write  # noqa: F401 - a fixture
from tests.test_stats import rows

Moa = Callable[..., Ran]
COMPARE = ("compare", "-c", "ours.yaml", "--judge", "openai:judge")


@pytest.fixture(autouse=True)
def ours(server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture of two models and a third one last, with prices for all; a judge at the same server."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    prices = {f"openai:{name}": {"input": 10, "output": 10} for name in ("a", "b", "c", "judge")}
    (tmp_path / "prices.yaml").write_text(yaml.safe_dump(prices), encoding="utf-8")
    monkeypatch.setenv("MOA_GRAPH_PRICES", str(tmp_path / "prices.yaml"))
    write(tmp_path / "ours.yaml", server.base_url, max_tokens=20)
    write(tmp_path / "other.yaml", server.base_url, max_tokens=20, layers=3)
    server.script("judge", Behaviour(text='{"better": "tie"}'))


def questions(tmp_path: Path, *lines: Any) -> None:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (tmp_path / "q.jsonl").write_text(text, encoding="utf-8")


def table(ran: Ran) -> dict[str, dict[str, str]]:
    """The lines of the table by the contender's name."""
    head, *lines = ran.out.partition("\n\n")[0].splitlines()
    names = head.split()
    rows = [dict(zip(names, line.split(maxsplit=len(names) - 1), strict=True)) for line in lines]
    return {row["contender"]: row for row in rows}


def test_a_question_to_everybody(moa: Moa, server: RecordingServer):  # noqa: F811
    """A line for each contender; below it in words what it tells; on standard error what it takes and took."""
    ran = moa(*COMPARE, "Why?")
    assert ran.code == 0
    assert list(table(ran)) == ["ours.yaml", "a", "b", "c", "2 x a"]
    assert [row["calls"] for row in table(ran).values()] == ["3", "1", "1", "1", "3"]
    assert "Judged against ours.yaml by openai:judge, blind and in both orders; a tie counts half." in ran.out
    assert (
        "2 x a, one model in the place of all proposers: score 50%; one question does not tell which is better."
        in ran.out
    )
    assert "a was chosen as the best single model on these same questions, which favours it." in ran.out
    first, expected, took = ran.err.splitlines()
    assert first == "ours.yaml (as asked); judge: openai:judge"
    assert "1 mixture, 3 single models and the single-proposer mixture, 1 question: about 9 calls and 8 of" in expected
    assert re.fullmatch(r"9 calls, \$0\.\d+; the judge: 8 calls, \$0\.\d+", took)


def test_the_table_has_the_same_columns_whatever_is_in_them(moa: Moa, server: RecordingServer):  # noqa: F811
    """A failure, a price that is unknown and a contender without a score change nothing in a pipe."""
    good = moa(*COMPARE, "Why?").out.splitlines()[0].split()
    server.script("a", Behaviour(status=400))
    assert moa(*COMPARE, "Why?").out.splitlines()[0].split() == good
    assert good[0] == "kind"
    assert good[-1] == "contender"


def test_questions_from_a_file(moa: Moa, server: RecordingServer, tmp_path: Path):  # noqa: F811
    """Each is asked of each; with a limit the first ones alone."""
    questions(tmp_path, {"question": "One?"}, {"prompt": "Two?"}, {"messages": [{"role": "user", "content": "Three?"}]})
    ran = moa(*COMPARE, "--file", "q.jsonl", "-c", "other.yaml", "--no-singles", "--limit", "2")
    assert {name: row["answered"] for name, row in table(ran).items()} == {"ours.yaml": "2", "other.yaml": "2"}
    assert {request.messages[-1]["content"] for request in server.requests_for("a")} == {"One?", "Two?"}
    assert "these 2 questions do not tell which is better" in ran.out


def test_what_the_questions_tell(moa: Moa, server: RecordingServer, tmp_path: Path):  # noqa: F811
    """Where one contender wins every pair of many, it is said to be better."""
    questions(tmp_path, *({"question": f"Question {k}?"} for k in range(8)))
    server.script("judge", *[Behaviour(text='{"better": "A"}'), Behaviour(text='{"better": "B"}')] * 8)
    arguments = ("-f", "q.jsonl", "-c", "other.yaml", "--no-singles", "--concurrency", "1")
    ran = moa(*COMPARE, *arguments)
    row = table(ran)["other.yaml"]
    assert sorted((row["won"], row["lost"])) == ["0", "8"]
    assert "is better on questions like these" in ran.out or "better than ours.yaml" in ran.out
    assert "95% interval" in ran.out


def test_everything_as_json(moa: Moa):  # noqa: F811
    """Summaries, answers, receipts, and what the judge said in each order."""
    made = json.loads(moa(*COMPARE, "Why?", "--json").out)
    assert [one["name"] for one in made["contenders"]] == ["ours.yaml", "a", "b", "c", "2 x a"]
    answer = made["questions"][0]["answers"]["a"]
    assert answer["answer"].startswith("answer of a")
    assert (answer["score"], answer["orders"]) == (0.5, ["tie", "tie"])
    assert answer["receipt"]["calls"] == 1
    assert (made["judge"]["calls"], made["best_single"], made["baseline"]) == (8, "a", "ours.yaml")


def test_answers_are_shown(moa: Moa, server: RecordingServer):  # noqa: F811
    """In a pipe one below the other, each with its name and how it did."""
    server.script("b", Behaviour(text="two\nlines"))
    out = moa(*COMPARE, "Why?", "--show-answers").out
    assert re.match(r"1\. Why\?\n\n\[ours.yaml\]\nanswer of c #\d\n\n", out)
    assert "[b: tied]\ntwo\nlines\n\n" in out


def test_a_failure_is_shown_and_stops_nobody(moa: Moa, server: RecordingServer):  # noqa: F811
    """It is counted in its row, with the reason on standard error; the exit code is that of the comparison."""
    server.script("b", Behaviour(status=400, error="not today"))
    ran = moa(*COMPARE, "Why?")
    assert ran.code == 0
    assert (table(ran)["b"]["failed"], table(ran)["b"]["calls"], table(ran)["a"]["answered"]) == ("1", "-", "1")
    assert [line for line in ran.err.splitlines() if line.startswith("b: ") and "not today" in line]


def test_a_judge_that_says_nothing(moa: Moa, server: RecordingServer):  # noqa: F811
    """Its pairs are unjudged, in no score, and where that is all, the exit code is 1."""
    server.script("judge", Behaviour(text="Both are fine."))
    ran = moa(*COMPARE, "Why?")
    assert ran.code == 1
    assert (table(ran)["a"]["unjudged"], table(ran)["a"]["score"]) == ("1", "-")
    assert "no verdict in 3 replies, the last being 'Both are fine.'" in ran.err


def test_a_judge_among_the_contenders_is_told(moa: Moa, server: RecordingServer):  # noqa: F811
    """In one line: models prefer their own answers."""
    server.script("a", Behaviour(text="[[tie]]"))
    ran = moa("compare", "-c", "ours.yaml", "--judge", "openai:a", "Why?")
    told = "openai:a is the judge and in ours.yaml, a: models tend to prefer their own answers"
    assert ran.err.splitlines()[1] == told
    assert "prefer their own" not in moa(*COMPARE, "Why?").err


def test_a_budget_bounds_it(moa: Moa, tmp_path: Path):  # noqa: F811
    """It says beforehand that it will not do, and what was stopped is shown as such."""
    questions(tmp_path, *({"question": f"Question {k}?"} for k in range(4)))
    ran = moa(*COMPARE, "-f", "q.jsonl", "--budget", "0.02")
    assert "that is more than the budget of $0.02" in ran.err
    assert sum(int(row["stopped"]) for row in table(ran).values()) > 0
    spent = [float(found) for found in re.findall(r"\$(\d+\.\d+)", ran.err.splitlines()[-1])]
    assert 0 < sum(spent) <= 0.02


def test_its_runs_are_kept(
    moa: Moa, server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
):  # fmt: skip
    """Each run of each contender is in the statistics under its name, a failed one too; its text only where wanted."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    server.script("b", Behaviour(status=400, error="Why is this asked?"))
    ran = moa(*COMPARE, "Why is the sky blue?", "--no-singles", "-c", "other.yaml")
    assert ran.code == 0
    kept = rows("SELECT config, status, calls, question, answer FROM runs ORDER BY id")
    assert kept == [("ours.yaml", "ok", 3, None, None), ("other.yaml", "ok", 5, None, None)]
    assert sum(calls for *_, calls, _, _ in kept) + len(server.requests_for("judge")) == len(server.requests)
    assert rows("SELECT DISTINCT asked FROM calls WHERE run = 1 ORDER BY 1") == [(f"openai:{name}",) for name in "abc"]
    monkeypatch.setenv("MOA_GRAPH_STATS", "text")
    moa(*COMPARE, "Why is the sky blue?")
    failed = rows("SELECT status, error, question, answer FROM runs WHERE config = 'b'")
    assert [(status, question, answer) for status, _, question, answer in failed] == [
        ("failed", "Why is the sky blue?", None)
    ]
    assert "Why is this" not in failed[0][1]


def test_runs_in_which_nobody_was_asked_are_not_kept(
    moa: Moa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
):  # fmt: skip
    """What a budget did not reach is none; and a wrong setting is told before anybody is asked."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    moa(*COMPARE, "Why?", "--budget", "0.002")
    assert rows("SELECT count(*) FROM runs WHERE calls = 0") == [(0,)]
    monkeypatch.setenv("MOA_GRAPH_STATS", "no")
    assert "MOA_GRAPH_STATS is 'no'" in moa(*COMPARE, "Why?").refused()


async def test_runs_that_had_ended_are_kept_where_it_is_interrupted(
    server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have been paid for; what was still being asked is not kept."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    server.script("judge", Behaviour(hang=True))
    with on_terminal(*COMPARE, "Why?", folder=tmp_path) as running:
        await server.until(lambda: server.requests_for("judge"), 20)
        running.type("\x03")
        assert await running.ended() == 130
    assert rows("SELECT DISTINCT status FROM runs") == [("ok",)]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("compare", "Why?", "-c", "ours.yaml"), "who judges?"),
        ((*COMPARE,), "the question is empty"),
        ((*COMPARE, "Why?", "--file", "q.jsonl"), "a question and --file were given"),
        ((*COMPARE, "--file", "none.jsonl"), "none.jsonl: cannot be read"),
        ((*COMPARE, "--file", "bad.jsonl"), "bad.jsonl, line 2: this is not JSON"),
        ((*COMPARE, "Why?", "-c", "ours.yaml"), "--config ours.yaml is given twice"),
        ((*COMPARE, "Why?", "-c", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        ((*COMPARE, "Why?", "--no-singles"), "nothing to compare it with"),
        ((*COMPARE, "Why?", "--limit", "0"), "a whole number of at least 1"),
        ((*COMPARE, "Why?", "--concurrency", "x"), "a whole number of at least 1"),
        ((*COMPARE, "Why?", "--budget", "-1"), "a number of $ above 0"),
        (("compare", "Why?", "-c", "ours.yaml", "--judge", "opnai:x"), "the judge: 'opnai:x'"),
        (("compare", "Why?", "-c", "ours.yaml", "--judge", "groq:x"), "the judge: groq needs a key"),
        (("compare", "Why?", "-c", "ours.yaml", "--judge", "openai:x", "--budget", "1"), "the price of the judge"),
    ],
)
def test_asked_wrongly(moa: Moa, server: RecordingServer, tmp_path: Path, arguments: Any, why: str):  # noqa: F811
    """One line that names the culprit, exit code 2, and nobody was asked."""
    (tmp_path / "bad.jsonl").write_text('{"question": "Why?"}\nWhy?\n', encoding="utf-8")
    assert why in moa(*arguments).refused()
    assert server.requests == []


@pytest.mark.parametrize("columns", [80, 120])
async def test_on_a_terminal(server: RecordingServer, tmp_path: Path, columns: int):
    """While it runs one line tells how far it is, which is gone in the end; no line is wider than the terminal."""
    server.script("a", Behaviour(text="**Blue**.", latency=0.3))
    arguments = (*COMPARE, "Why is the sky blue?", "-c", "other.yaml", "--show-answers")
    with on_terminal(*arguments, folder=tmp_path, columns=columns, rows=60) as running:
        await running.until("judged")
        assert await running.ended() == 0
        lines = Screen(running.text, columns, 200).lines
    assert re.search(r"\d+ of 5 runs; \d+ of 4 pairs judged", running.text)
    shown = "\n".join(lines)
    assert "pairs judged" not in shown
    assert "ours.yaml (baseline)" in shown
    beside = [line for line in lines if "[ours.yaml]" in line]
    assert beside[0].count("[") == (2 if columns == 80 else 3)
    assert max(map(len, lines)) <= columns
