"""AlpacaEval's win rates: the leaderboard's, from the annotations that it was made from; and what is refused."""

import csv
import gzip
import json
import logging
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from moa_graph.errors import MoAConfigError
from moa_graph.eval.alpaca_eval import ITEMS, score
from tests.eval.published import DATA, leaderboard, needs_data, needs_extra

pytestmark = needs_extra

GAMED = DATA / "alpaca_eval" / "df_gamed_reconstructed.csv"
PUBLISHED = ["Mixtral-8x7B-Instruct-v0.1_concise", "claude-2.1", "gpt-3.5-turbo-1106"]


@pytest.fixture(autouse=True)
def nobodys_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have data of their own."""
    monkeypatch.delenv("MOA_GRAPH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def published(name: str) -> Path:
    return DATA / "alpaca_eval" / "annotations" / f"{name}.json.gz"


def records(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress(published(name).read_bytes()))
    return found


def difficulty(index: int) -> float:
    return (index % 40) / 10 - 2


@pytest.fixture(scope="module")
def gamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up file of the right form."""
    path = tmp_path_factory.mktemp("gamed") / "df_gamed.csv"
    chance = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"]
        )
        for model in ("verbose", "concise"):
            for index in range(ITEMS):
                writer.writerow([model, index, chance.random(), chance.gauss(), difficulty(index), False])
    return path


def made_up(*indices: int) -> list[dict[str, Any]]:
    """Annotations of these items: the more difficult, the better for the contender."""
    chance = random.Random(1)
    return [
        {
            "index": index,
            "output_1": "a" * 100,
            "output_2": "b" * chance.randrange(50, 150),
            "generator_1": "gpt4_1106_preview",
            "generator_2": "mine",
            "preference": 1.5 + difficulty(index) / 5,
        }
        for index in indices
    ]


# --- what it finds


@needs_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_leaderboards_win_rates_come_out(name: str) -> None:
    """The plain one to the sixth digit, the length-controlled one within 0.2 points by reconstructed data."""
    found, expected = score(published(name), gamed=GAMED), leaderboard()[name]
    assert found["win_rate"] == pytest.approx(expected["win_rate"], abs=1e-6)
    assert found["standard_error"] == pytest.approx(expected["standard_error"], abs=1e-6)
    assert found["discrete_win_rate"] == pytest.approx(expected["discrete_win_rate"], abs=1e-6)
    assert found["length_controlled_winrate"] == pytest.approx(expected["length_controlled_winrate"], abs=0.2)
    assert int(found["avg_length"]) == expected["avg_length"]
    assert (found["n"], found["unparsed"], found["generator"]) == (805, 0, name)
    assert (found["regularisation"], found["reason"]) == ("reconstructed", None)


@needs_data
def test_the_order_of_the_records_does_not_count() -> None:
    """All 805 and ten of them score the same however they are shuffled, recognised by their instructions alone."""
    rows = records("claude-2.1")
    for some in (rows, rows[700:710]):
        shuffled = random.Random(5).sample(some, len(some))
        assert score(shuffled, gamed=GAMED) == score(some, gamed=GAMED)


def test_an_item_has_its_own_difficulty(gamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten items in any order are looked up by their index from 0 to 804, not by their position."""
    score(made_up(0, 1), gamed=gamed)
    from alpaca_eval.metrics import glm_winrate

    looked_up: list[float] = []
    real = glm_winrate.make_dmatrix_for_model

    def noted(train: Any, test: Any, **named: Any) -> Any:
        looked_up.extend(test["instruction_difficulty"])
        return real(train, test, **named)

    monkeypatch.setattr(glm_winrate, "make_dmatrix_for_model", noted)
    indices = [804, 12, 333, 700, 3, 5, 790, 410, 61, 62]
    shuffled = score(made_up(*indices), gamed=gamed)
    assert looked_up == pytest.approx([difficulty(index) for index in sorted(indices)])
    assert shuffled["n"] == 10


def test_a_selection_scores_the_same_in_any_order(gamed: Path) -> None:
    """Records with an index may come in any order."""
    rows = made_up(700, 12, 333, 804, 3, 5, 790, 410, 61, 62)
    assert score(rows[::-1], gamed=gamed) == score(rows, gamed=gamed)


def test_a_file_and_a_frame_score_as_a_list_does(gamed: Path, tmp_path: Path) -> None:
    """Annotations may be a list, a JSON file, a compressed one, or a DataFrame with the items' numbers as its index."""
    import pandas as pd

    rows = made_up(*range(100, 120))
    plain, packed = tmp_path / "annotations.json", tmp_path / "annotations.json.gz"
    plain.write_text(json.dumps(rows))
    packed.write_bytes(gzip.compress(json.dumps(rows).encode()))
    frame = pd.DataFrame(rows)
    for given in (plain, str(plain), packed, frame):
        assert score(given) == score(rows)
    assert score(frame.set_index("index"), gamed=gamed) == score(rows, gamed=gamed)


def test_what_was_not_parsed_is_counted_and_never_scored(gamed: Path) -> None:
    """A preference of None is in no win rate, and the number of them is said."""
    rows = made_up(*range(20))
    without = score(rows[:18], gamed=gamed)
    rows[18]["preference"], rows[19]["preference"] = None, float("nan")
    found = score(rows, gamed=gamed)
    assert (found["n"], found["unparsed"]) == (18, 2)
    assert found["win_rate"] == without["win_rate"]
    assert found["length_controlled_winrate"] is not None


def test_a_draw_is_half_a_win() -> None:
    """Whether it is written as 1.5, or as 0 as alpaca_eval did before."""
    rows = made_up(1, 2, 3, 4)
    for row, preference in zip(rows, (0, 1.5, 2, 1), strict=True):
        row["preference"] = preference
    assert score(rows)["win_rate"] == 50


def test_where_nothing_was_parsed_there_is_no_win_rate(gamed: Path) -> None:
    """Rather than a number."""
    found = score([{**row, "preference": None} for row in made_up(1, 2)], gamed=gamed)
    assert (found["n"], found["unparsed"], found["win_rate"], found["standard_error"]) == (0, 2, None, None)
    assert (found["length_controlled_winrate"], found["reason"]) == (None, "no item has a preference")


# --- when there is no length control


def test_without_its_data_there_is_no_length_control() -> None:
    """The plain win rate is there, and the reason names what is missing."""
    found = score(made_up(*range(10)))
    assert found["win_rate"] is not None
    assert (found["length_controlled_winrate"], found["lc_standard_error"], found["regularisation"]) == (None,) * 3
    assert found["reason"] == "there is no df_gamed.csv: give its path, or fetch alpaca_eval/df_gamed.csv"


def test_the_users_cache_is_looked_in(gamed: Path, tmp_path: Path) -> None:
    """The leaderboard's data there is used without being named."""
    cached = tmp_path / "cache" / "moa_graph" / "data" / "alpaca_eval" / "df_gamed.csv"
    cached.parent.mkdir(parents=True)
    shutil.copy(gamed, cached)
    assert score(made_up(*range(10))) == score(made_up(*range(10)), gamed=gamed)


@needs_data
def test_reconstructed_data_is_said_to_be(tmp_path: Path, gamed: Path) -> None:
    """By its content under any name, and by its name with any content; another file is unknown, never the original."""
    renamed, named = tmp_path / "df_gamed.csv", tmp_path / "df_gamed_reconstructed_2.csv"
    shutil.copy(GAMED, renamed)
    shutil.copy(gamed, named)
    kinds = [score(made_up(*range(10)), gamed=path)["regularisation"] for path in (renamed, named, gamed)]
    assert kinds == ["reconstructed", "reconstructed", "unknown"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"generator_1": "another"}, "output_1 is not said to be by gpt4_1106_preview, the baseline that .* is about"),
        ({"generator_1": None}, "output_1 is not said to be by gpt4_1106_preview, the baseline that .* is about"),
        ({"index": None, "instruction": "Hello?"}, "10 of 10 instructions are none of AlpacaEval's 805"),
        ({"output_2": "b"}, "every answer is as much longer than the baseline's as every other"),
    ],
)
def test_what_cannot_be_controlled_is_not(change: dict[str, Any], reason: str, gamed: Path) -> None:
    """There is a plain win rate, and the reason why there is no other."""
    found = score([{**row, **change} for row in made_up(*range(10))], gamed=gamed)
    assert (found["n"], found["length_controlled_winrate"]) == (10, None)
    assert re.fullmatch(reason, found["reason"] or "")


def test_the_baseline_may_be_called_something_else(gamed: Path) -> None:
    """Who says so vouches that it is the leaderboard's."""
    rows = [{**row, "generator_1": "gpt-4-1106"} for row in made_up(*range(10))]
    assert score(rows, gamed=gamed, baseline="gpt-4-1106")["length_controlled_winrate"] is not None


# --- what is refused


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "annotations: there is no annotation in it"),
        (["a"], "annotations: there is no annotation in it"),
        ([{"preference": 1, "output_1": "a"}], "annotations: record 0: output_2 is None; it must be the answer's text"),
        ([*made_up(3), {**made_up(4)[0], "preference": 2.5}], "record 1: preference is 2.5; it must be from 1 .* to 2"),
        ([{**made_up(4)[0], "preference": 0.5}], "preference is 0.5"),
        ([{**made_up(4)[0], "preference": "m"}], "preference is 'm'"),
        ([{**made_up(4)[0], "preference": True}], "preference is True"),
        (made_up(3, 4, 3), "annotations: item 3 is there more than once"),
        (made_up(805), "annotations: index is 805; it must be from 0 to 804"),
        (
            [*made_up(3), {**made_up(4)[0], "generator_2": "his"}],
            "generator_2 is 'his' and 'mine'; score one at a time",
        ),
    ],
)
def test_wrong_annotations_are_refused(rows: list[Any], message: str) -> None:
    """One line that names the record, what it says, and what would be valid."""
    with pytest.raises(MoAConfigError, match=message) as caught:
        score(rows)
    assert "\n" not in str(caught.value)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    """A file that is not there, that is no JSON, or that is not what it should be: the message names it."""
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "gamed.csv").write_text("model,index\n")
    for path in ("none.json", "no.json"):
        with pytest.raises(MoAConfigError, match=path):
            score(tmp_path / path)
    with pytest.raises(MoAConfigError, match=r"gamed\.csv: is no df_gamed\.csv, which has a column "):
        score(made_up(1, 2), gamed=tmp_path / "gamed.csv")
    with pytest.raises(MoAConfigError, match=r"none\.csv: cannot be read"):
        score(made_up(1, 2), gamed=tmp_path / "none.csv")


# --- what it leaves behind


def test_nothing_is_left_behind(gamed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no logging, no environment variable of the package, no setting of scikit-learn, no changed function."""
    monkeypatch.chdir(tmp_path)
    score(made_up(*range(10)), gamed=gamed)
    import sklearn
    from alpaca_eval.metrics import glm_winrate
    from huggingface_hub import hf_hub_download

    root = logging.getLogger()
    before = (root.level, root.handlers[:], dict(os.environ))
    score(made_up(*range(10)), gamed=gamed)
    assert (root.level, root.handlers, dict(os.environ)) == before
    assert root.level == logging.WARNING
    assert not sklearn.get_config()["enable_metadata_routing"]
    assert glm_winrate.hf_hub_download is hf_hub_download
    assert list(tmp_path.iterdir()) == []
