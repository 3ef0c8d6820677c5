"""AlpacaEval's judge: asked as the leaderboard's is, at any OpenAI-compatible address, and never misread."""

import json
import logging
import math
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa_graph.errors import MoAConfigError
from moa_graph.eval.alpaca_eval import Annotation, Judge, JudgeError, annotate, items, score, write_judge
from tests.eval.published import DATA, needs_data, needs_extra

pytestmark = needs_extra

SURE = 1 / (1 + math.exp(-2.2))


class JudgeHandler(BaseHTTPRequestHandler):
    """Prefers the answer that says GOOD, by logprobs of -0.1 and -2.3, and does worse where an instruction asks it."""

    asked: list[dict[str, Any]]
    keys: list[str | None]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        self.keys.append(self.headers["Authorization"])
        text = body["messages"][-1]["content"]
        if "refuse" in text:
            return self.reply(400, {"error": {"message": "no such model", "type": "invalid_request_error"}})
        return self.reply(200, self.completion(text))

    def completion(self, text: str) -> dict[str, Any]:
        first = text.index("GOOD") < text.index('"model_identifier": "M"')
        word = "Both" if "mumble" in text else "m" if first else "M"
        others = {"Both": -0.1, "The": -2.3} if word == "Both" else {word: -0.1, "mM".replace(word, ""): -2.3}
        token = {
            "token": word,
            "logprob": -0.1,
            "top_logprobs": [{"token": t, "logprob": p} for t, p in others.items()],
        }
        logprobs = None if "silent" in text else {"content": [token]}
        message = {"role": "assistant", "content": word}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "length"}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        return {"id": "1", "object": "chat.completion", "created": 1, "model": "j", "choices": [choice], "usage": usage}

    def reply(self, status: int, body: dict[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def judge() -> Iterator[Judge]:
    JudgeHandler.asked, JudgeHandler.keys = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), JudgeHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        # A name with "instruct" is a completion model to alpaca_eval, unless it is told.
        yield Judge(model="some-instruct", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="made-up-key")
        server.shutdown()
        thread.join()


def pair(instruction: str, ours: str, theirs: str) -> tuple[dict[str, str], dict[str, str]]:
    base = {"instruction": instruction}
    return {**base, "output": ours, "generator": "mine"}, {**base, "output": theirs, "generator": "gpt4_1106_preview"}


def some(n: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The contender's answer is good where the instruction's number is even, the baseline's where it is odd."""
    pairs = [pair(f"Question {k}?", *("GOOD", "poor")[:: 1 if k % 2 == 0 else -1]) for k in range(n)]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def first_of(asked: dict[str, Any]) -> bool:
    """Whether the contender's answer was shown first."""
    text = asked["messages"][1]["content"]
    even = any(f"Question {k}?" in text for k in (0, 2, 4))
    return (text.index("GOOD") < text.index("poor")) == even


def test_a_preference_is_read_from_logprobs(judge: Judge) -> None:
    """Whichever answer is shown first, 2 is the contender's and 1 the baseline's, as sure as the judge is."""
    outputs, baseline = some(5)
    found = annotate(outputs, baseline[::-1], judge=judge)
    assert [row["instruction"] for row in found] == [output["instruction"] for output in outputs]
    expected = [1 + SURE if k % 2 == 0 else 2 - SURE for k in range(5)]
    assert [row["preference"] for row in found] == pytest.approx(expected)
    # The contender's answer is shown first to some, and second to others.
    assert {first_of(asked) for asked in JudgeHandler.asked} == {True, False}
    assert {(row["generator_1"], row["generator_2"], row["annotator"]) for row in found} == {
        ("gpt4_1106_preview", "mine", "some-instruct")
    }
    assert score(found)["win_rate"] == pytest.approx(100 * sum(expected) / 5 - 100)


def test_it_is_asked_as_the_leaderboards_judge_is(judge: Judge) -> None:
    """One token with five logprobs, in a chat with the leaderboard's prompt, and with the judge's own key."""
    annotate(*some(1), judge=judge)
    (asked,) = JudgeHandler.asked
    assert {key: asked[key] for key in ("model", "max_tokens", "temperature", "logprobs", "top_logprobs")} == {
        "model": "some-instruct",
        "max_tokens": 1,
        "temperature": 1,
        "logprobs": True,
        "top_logprobs": 5,
    }
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert "highly efficient assistant" in asked["messages"][0]["content"]
    assert '"instruction": """Question 0?"""' in asked["messages"][1]["content"]
    assert JudgeHandler.keys == ["Bearer made-up-key"]


def test_a_reply_that_cannot_be_read_is_no_preference(judge: Judge) -> None:
    """Another word than m or M, or no logprobs: the preference is None, and the score counts it."""
    outputs, baseline = some(2)
    for instruction in ("mumble", "silent"):
        ours, theirs = pair(f"{instruction}?", "GOOD", "poor")
        outputs.append(ours)
        baseline.append(theirs)
    found = annotate(outputs, baseline, judge=judge)
    assert [row["preference"] is None for row in found] == [False, False, True, True]
    assert [row["usage"] for row in found] == [{"input_tokens": 9, "output_tokens": 1}] * 4
    json.dumps(found, allow_nan=False)
    counted = score(found)
    assert (counted["n"], counted["unparsed"]) == (2, 2)
    assert counted["win_rate"] == pytest.approx(50)


def test_the_same_answer_is_a_draw(judge: Judge) -> None:
    """Nobody is asked."""
    ours, theirs = pair("Question?", "GOOD", "GOOD")
    (found,) = annotate([ours], [theirs], judge=judge)
    assert (found["preference"], JudgeHandler.asked) == (1.5, [])
    assert found["usage"] == {"input_tokens": 0, "output_tokens": 0}


def test_what_was_judged_is_handed_over_batch_by_batch(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a failure later on does not undo it; the failure names the judge, and not its key."""
    monkeypatch.setattr("moa_graph.eval.alpaca_eval._BATCH", 2)
    outputs, baseline = some(2)
    ours, theirs = pair("refuse", "GOOD", "poor")
    kept: list[Annotation] = []
    with pytest.raises(JudgeError, match=r"the judge some-instruct at http://127.* failed: .*no such model") as caught:
        annotate([*outputs, ours], [*baseline, theirs], judge=judge, on_judged=kept.extend)
    assert [row["instruction"] for row in kept] == ["Question 0?", "Question 1?"]
    assert "made-up-key" not in str(caught.value)
    assert caught.value.used == []


def test_a_judge_leaves_nothing_behind(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No file, no logging, no progress bar, no environment variable."""
    monkeypatch.chdir(tmp_path)
    annotate(*some(1), judge=judge)
    capfd.readouterr()
    root = logging.getLogger()
    before = (root.level, root.handlers[:], dict(os.environ))
    annotate(*some(3), judge=judge)
    assert (root.level, root.handlers, dict(os.environ)) == before
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_judges_configuration_can_be_written(tmp_path: Path) -> None:
    """For alpaca_eval's own commands too: the leaderboard's, but for the model; only its owner reads the key."""
    home = write_judge(
        Judge(model="j", base_url="http://127.0.0.1:1/v1", api_key="made-up-key", name="ours", options={"seed": 3}),
        tmp_path / "ours",
    )
    config = yaml.safe_load((home / "configs.yaml").read_text())["ours"]
    assert Path(config["prompt_template"]).read_text().startswith("<|im_start|>system")
    assert config["fn_completion_parser"] == "logprob_parser"
    assert (config["completions_kwargs"]["model_name"], config["completions_kwargs"]["seed"]) == ("j", 3)
    client = home / "client.yaml"
    assert yaml.safe_load(client.read_text())["default"][0]["api_key"] == "made-up-key"
    assert stat.S_IMODE(client.stat().st_mode) == 0o600
    assert "made-up-key" not in repr(Judge(model="j", base_url="", api_key="made-up-key"))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"instruction": "a"}], "outputs: record 0: output is None"),
        ([{"instruction": "b", "output": "x"}], "baseline: there is no answer to 'b'"),
        ([{"instruction": "a", "output": "x"}] * 2, "outputs: the instruction 'a' is there more than once"),
    ],
)
def test_what_cannot_be_compared_is_refused(outputs: list[dict[str, str]], message: str) -> None:
    """Before anybody is asked."""
    nobody = Judge(model="j", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(MoAConfigError, match=message):
        annotate(outputs, [{"instruction": "a", "output": "y"}], judge=nobody)


# --- the items


@needs_data
def test_there_are_805_items() -> None:
    """Each with the baseline's answer, and recognised again by its instruction."""
    found = items(DATA)
    assert [item["index"] for item in found] == list(range(805))
    assert {item["generator"] for item in found} == {"gpt4_1106_preview"}
    rows = [
        {
            "instruction": item["instruction"],
            "output_1": "a",
            "output_2": "b" * k,
            "generator_1": item["generator"],
            "preference": 1,
        }
        for k, item in enumerate(found)
    ]
    assert score(rows[::-1])["reason"] == "there is no df_gamed.csv: give its path, or fetch alpaca_eval/df_gamed.csv"


@needs_data
def test_a_draw_of_items_is_the_same_every_time() -> None:
    """Ten of a seed are among its twenty; another seed draws others."""
    ten, twenty = ([item["index"] for item in items(DATA, n)] for n in (10, 20))
    assert len(ten) == 10
    assert ten == sorted(ten)
    assert set(ten) < set(twenty)
    assert ten != [item["index"] for item in items(DATA, 10, seed=1)]
    with pytest.raises(MoAConfigError, match="limit is 0"):
        items(DATA, 0)
