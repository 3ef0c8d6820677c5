"""Mixtures beside single models: who is asked how often, who judges what, and what is counted."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from moa_graph import Budget, MoAConfig, MoAConfigError, Proposer
from moa_graph.compare import Match, Progress, compare
from moa_graph.judging import PairJudge
from moa_graph.outlook import outlook
from moa_graph.prices import Price
from moa_graph.standing import Comparison, Standing
from moa_graph.testing import ScriptedChatModel, server_error
from tests.server import Behaviour, RecordingServer

NAMES = ("luna", "sol", "terra")
PRICES = {f"openai:{name}": {"input": 1000, "output": 1000} for name in NAMES}


def described(server: RecordingServer, **changes: Any) -> MoAConfig:
    """Luna and sol, and terra last."""
    luna, sol, terra = ({"model": f"openai:{name}", "base_url": server.base_url} for name in NAMES)
    return MoAConfig(
        **{
            "proposers": [luna, sol], "aggregator": terra, "layers": 2, "policy": {"retries": 0, "quorum": 2},
            "prices": PRICES, "max_tokens": 10, **changes,
        }
    )  # fmt: skip


def preferring(rank: Callable[[str], Any]) -> ScriptedChatModel:
    """A judge that prefers the answer of the highest rank, wherever it stands."""

    def answer(prompt: list[BaseMessage]) -> str:
        shown = re.findall(r"<answer (A|B) \w+>\n(.*?)\n</answer", prompt[-1].text, re.DOTALL)
        (_, one), (_, other) = shown
        best = max(shown, key=lambda pair: rank(pair[1]))[0]
        return f'{{"better": "{"tie" if rank(one) == rank(other) else best}"}}'

    return ScriptedChatModel(answers=answer)


def sol_is_best(text: str) -> int:
    return ("luna" in text) * 1 + ("terra" in text) * 2 + ("sol" in text) * 3


@pytest.fixture(autouse=True)
def who_answered(server: RecordingServer) -> None:
    for name in NAMES:
        server.script(name, Behaviour(text=f"this is from {name}"))


def by_name(comparison: Comparison) -> dict[str, Standing]:
    return {standing.name: standing for standing in comparison.standings}


async def test_everybody_answers_every_question(server: RecordingServer):
    """The mixtures, each single model, and at the end the best one in the place of all proposers."""
    given = {"ours": described(server), "other": described(server, layers=3)}
    found = await compare(given, ["Why?", "How?"], preferring(sol_is_best))
    asked = {standing.name: (standing.kind, standing.count("ok")) for standing in found.standings}
    assert asked == {
        "ours": ("mixture", 2),
        "other": ("mixture", 2),
        "luna": ("single", 2),
        "sol": ("single", 2),
        "terra": ("single", 2),
        "2 x sol": ("single-proposer", 2),
    }


async def test_the_single_proposer_mixture_makes_as_many_calls(server: RecordingServer):
    """By its receipts, and as the server has counted them: the best single model proposes, the final one stays."""
    found = by_name(await compare({"ours": described(server, layers=3)}, ["Why?"], preferring(sol_is_best)))
    assert found["2 x sol"].mean("calls") == found["ours"].mean("calls") == 5
    assert len(server.requests_for("sol")) == 2 + 1 + 4  # in the mixture, alone, and in the place of all proposers
    assert len(server.requests_for("terra")) == 1 + 1 + 1


async def test_the_judge_is_blind(server: RecordingServer):
    """Nothing that it is sent tells who answered: no contender's name, no model's."""
    for name in NAMES:
        server.script(name, Behaviour(text="Because."))
    judge = preferring(len)
    await compare({"ours": described(server), "other": described(server)}, ["Why?"], judge)
    sent = "\n".join(message.text for prompt in judge.prompts for message in prompt)
    assert [name for name in ("ours", "other", "openai", "mixture", "proposer", *NAMES) if name in sent] == []


async def test_everybody_is_judged_against_the_first_mixture(server: RecordingServer):
    """Each other contender's answer beside its answer, twice."""
    judge = preferring(sol_is_best)
    found = by_name(await compare({"ours": described(server)}, ["Why?", "How?"], judge))
    assert judge.calls == 4 * 2 * 2
    assert found["ours"].preferences == []
    scores = {name: standing.scores for name, standing in found.items()}
    assert scores == {"ours": [], "luna": [0, 0], "sol": [1, 1], "terra": [0.5, 0.5], "2 x sol": [0.5, 0.5]}


async def test_a_judge_that_always_says_a_finds_ties(server: RecordingServer):
    """Asked in both orders it contradicts itself: nobody has won."""
    found = await compare({"ours": described(server)}, ["Why?", "How?"], ScriptedChatModel(answers=["[[A]]"]))
    assert {score for standing in found.standings for score in standing.scores} == {0.5}
    assert all(standing.score == 0.5 for standing in found.standings[1:])


async def test_a_judge_that_makes_no_sense_makes_no_scores(server: RecordingServer):
    """Its pairs are unjudged, there is no best model, and the final one is taken in its place, which is told."""
    found = await compare({"ours": described(server)}, ["Why?"], ScriptedChatModel(answers=["Hm."]))
    assert [standing.score for standing in found.standings] == [None] * 5
    assert [standing.unjudged for standing in found.standings] == [0, 1, 1, 1, 1]
    assert (found.best, found.standings[-1].name) == (None, "2 x terra")
    assert "no single model could be judged" in found.notes[0]
    assert found.standings[-1].finding() == "none"


async def test_a_contender_that_fails_does_not_stop_the_others(server: RecordingServer):
    """It is counted on that question, with the reason; its other answers count."""
    server.script("rogue", Behaviour(text="1"), Behaviour(status=400), Behaviour(text="3"))
    rogue = described(server, aggregator={"model": "openai:rogue", "base_url": server.base_url})
    given = {"ours": described(server), "rogue": rogue}
    found = await compare(given, ["1", "2", "3"], preferring(sol_is_best), concurrency=1, alone=False)
    ours, other = found.standings
    assert [outcome and outcome.status for outcome in other.outcomes] == ["ok", "failed", "ok"]
    assert "400" in str(other.outcomes[1])
    assert (ours.count("ok"), len(other.scores)) == (3, 2)


async def test_no_pair_where_an_answer_is_missing(server: RecordingServer):
    """What the baseline did not answer is not judged for anybody."""
    server.script("terra", Behaviour(status=400))
    judge = preferring(sol_is_best)
    found = await compare({"ours": described(server)}, ["Why?"], judge)
    assert (judge.calls, by_name(found)["sol"].count("ok")) == (0, 1)


async def test_a_model_that_seldom_answers_is_not_the_best(server: RecordingServer):
    """A question without an answer counts as lost when the best single model is chosen."""
    well, gone = Behaviour(text="sol"), Behaviour(status=400)
    server.script("sol", well, well, well, gone, well, gone, well)  # in the mixture and alone, in turns
    found = await compare({"ours": described(server)}, ["1", "2", "3"], preferring(sol_is_best), concurrency=1)
    assert (by_name(found)["sol"].scores, by_name(found)["sol"].count("failed")) == ([1.0], 2)
    assert found.best == "terra"


async def test_one_budget_for_all(server: RecordingServer):
    """What it does not reach is stopped, not failed; the judge's calls count; it is not exceeded."""
    budget = Budget(calls=20, shared=True)
    judge = preferring(sol_is_best)
    found = await compare({"ours": described(server)}, ["1", "2", "3", "4"], judge, budget=budget)
    stopped = sum(standing.count("stopped") for standing in found.standings)
    assert stopped > 0
    assert sum(standing.count("failed") for standing in found.standings) == 0
    assert len(server.requests) + judge.calls <= 20


async def test_the_single_proposer_mixture_has_its_share_of_the_budget(server: RecordingServer):
    """It is asked at the end, and what it takes is set aside until then."""
    found = await compare(
        {"ours": described(server)}, ["1", "2"], preferring(sol_is_best), budget=Budget(calls=16, shared=True)
    )
    assert by_name(found)[found.standings[-1].name].count("ok") == 2
    assert sum(standing.count("stopped") for standing in found.standings[:-1]) > 0


async def test_costs_come_from_the_receipts(server: RecordingServer):
    """Of each contender's runs, and the judge's apart; what is unknown is None, with what is known of it."""
    judge = Proposer(preferring(sol_is_best), price=Price(input=0, output=10))
    found = await compare({"ours": described(server)}, ["Why?"], judge)
    tokens = by_name(found)["luna"].mean("input_tokens", "output_tokens")
    assert tokens == 1 + 4
    assert by_name(found)["luna"].cost_usd == pytest.approx(tokens / 1000)
    assert found.judge_cost_usd == pytest.approx(found.judge_requests * 2 * 1e-5)
    some = {name: PRICES[name] for name in ("openai:luna",)}
    unknown = (await compare({"ours": described(server, prices=some)}, ["Why?"], preferring(sol_is_best))).baseline
    assert unknown.cost_usd is None
    assert unknown.cost_usd_at_least > 0


@pytest.mark.parametrize(("concurrency", "most"), [(1, 2), (3, 6)])
async def test_at_most_so_many_at_once(server: RecordingServer, concurrency: int, most: int):
    """So many runs, each with the two calls of its layer."""
    for name in NAMES:
        server.script(name, Behaviour(text=name, latency=0.1))
    given = {"ours": described(server), "other": described(server), "third": described(server)}
    await compare(given, ["1", "2", "3"], preferring(len), concurrency=concurrency, alone=False)
    assert server.max_in_flight == most


async def test_progress_is_told(server: RecordingServer):
    """After every run and every pair; in the end all are done, and what it cost is what the receipts say."""
    told: list[Progress] = []
    found = await compare({"ours": described(server)}, ["1", "2"], preferring(sol_is_best), tell=told.append)
    assert (told[-1].answered, told[-1].runs, told[-1].judged, told[-1].pairs) == (10, 10, 8, 8)
    assert told[-1].usd == pytest.approx(sum(standing.cost_usd or 0 for standing in found.standings))


async def test_mixtures_alone(server: RecordingServer):
    """Without single models nobody else is asked."""
    given = {"ours": described(server), "other": described(server)}
    found = await compare(given, ["Why?"], preferring(sol_is_best), alone=False)
    assert [standing.name for standing in found.standings] == ["ours", "other"]
    assert (found.best, found.notes) == (None, [])


async def test_a_single_proposer_mixture_has_no_other(server: RecordingServer):
    """It is not compared with itself, and that is told."""
    sol = {"model": "openai:sol", "base_url": server.base_url}
    ours = described(server, proposers=[{**sol, "samples": 2}], aggregator=sol)
    found = await compare({"ours": ours}, ["Why?"], preferring(sol_is_best))
    assert [standing.name for standing in found.standings] == ["ours", "sol"]
    assert "ours is one" in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"questions": []}, "nothing to compare"),
        ({"questions": ["Why?", " "]}, "no question"),
        ({"alone": False}, "nothing to compare it with"),
        ({"budget": Budget(calls=5)}, "one for all of it is needed"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"judge": "nobody:x"}, "the judge: 'nobody:x' does not begin with a known provider"),
    ],
)
def test_what_is_wrong_is_told_before_anybody_is_asked(server: RecordingServer, changes: dict[str, Any], why: str):
    """The culprit and what would be valid."""
    given = {"questions": ["Why?"], "judge": ScriptedChatModel(), **changes}
    with pytest.raises(MoAConfigError, match=why):
        Match({"ours": described(server)}, given.pop("questions"), given.pop("judge"), **given)
    assert server.requests == []


def test_a_mixture_that_cannot_be_built_is_named(server: RecordingServer):
    """By the name it was given."""
    with pytest.raises(MoAConfigError, match="ours: layer 1: a quorum of 3"):
        Match({"ours": described(server, policy={"quorum": 3})}, ["Why?"], ScriptedChatModel())


async def test_a_judge_that_fails_leaves_the_answers(server: RecordingServer):
    """What was answered is kept, and the reason is with each pair."""
    found = await compare({"ours": described(server)}, ["Why?"], ScriptedChatModel(answers=[server_error()]))
    assert all(standing.count("ok") == 1 for standing in found.standings)
    assert all("server" in one.why.lower() for standing in found.standings for one in standing.preferences)


async def test_the_outlook_is_what_is_asked(server: RecordingServer):
    """Told beforehand: as many calls, of the contenders and of the judge, as are made then."""
    given, questions = {"ours": described(server), "other": described(server, layers=3)}, ["Why?", "How?"]
    expected = outlook(given, questions, "openai:luna")
    judge = preferring(sol_is_best)
    await compare(given, questions, judge)
    assert (expected.calls, expected.judge_calls) == (len(server.requests), judge.calls)
    assert (expected.mixtures, expected.singles, expected.single_proposer) == (2, 3, True)
    assert expected.own == ["ours", "other", "luna"]
    assert expected.cost_usd_at_least > 0


def test_a_judge_by_name_is_made_at_once(server: RecordingServer, monkeypatch: pytest.MonkeyPatch):
    """A key that is missing is told when the judge is made."""
    with pytest.raises(MoAConfigError, match="the judge: openai needs a key"):
        PairJudge("openai:judge")
