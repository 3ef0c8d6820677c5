"""Whether the layers behind one are asked."""

from typing import Any

import pytest

from moa_graph import Agreement, Diverse, Judge, Layer, MoAConfigError, Sentinel, create_moa
from moa_graph.state import Decision, Proposal
from moa_graph.steps import Situation, UndecidedError
from moa_graph.testing import unauthorized
from tests.deceived import TRUE
from tests.steps import ASK, decisions, mixture, panel, read_on, receipt, says

SAME, OTHER = "red green blue", "cat dog cow"


async def test_layers_behind_an_agreement_are_not_asked() -> None:
    """The final model reads the layer that agreed; the receipt says who stopped it and why, and counts no more."""
    final, proposers = says("So."), [says(SAME), says(SAME)]
    out = await mixture(proposers, layers=4, final=final, stop=Agreement()).ainvoke(ASK)
    assert [p.calls for p in proposers] == [1, 1]
    assert "1. red green blue\n2. red green blue" in read_on(final)
    assert decisions(out) == [(1, "stop", "agreement", [], "agreement 1.00, 0.90 is needed")]
    assert receipt(out)["decisions"][0]["score"] == 1.0
    assert receipt(out)["stopped"] == "stopped behind layer 1 by agreement: agreement 1.00, 0.90 is needed"
    assert receipt(out)["calls"] == 3


async def test_layers_behind_a_disagreement_are_asked() -> None:
    """Answers that differ go on, and are measured again behind the next layer, but for the last."""
    out = await mixture([SAME, OTHER], layers=4, stop=Agreement()).ainvoke(ASK)
    assert [(d[0], d[4]) for d in decisions(out)] == [(k, "agreement 0.00, 0.90 is needed") for k in (1, 2)]
    assert (receipt(out)["stopped"], receipt(out)["calls"]) == (None, 7)


async def test_patience() -> None:
    """So many layers in a row: a layer that disagrees begins the count anew."""
    proposers = [says(SAME), says(SAME, OTHER, SAME, SAME, SAME)]
    out = await mixture(proposers, layers=7, stop=Agreement(patience=2)).ainvoke(ASK)
    rows = [d[4].rpartition("is needed, ")[2] for d in decisions(out)]
    assert rows == [f"{k} of 2 layers in a row" for k in (1, 0, 1, 2)]
    assert str(receipt(out)["stopped"]).startswith("stopped behind layer 4 by agreement")


def test_patience_that_never_ends() -> None:
    """More layers in a row than can stop are refused; where none can stop, there is nothing to wait for."""
    assert mixture([SAME, OTHER], layers=4, stop=Agreement(patience=2))
    assert mixture([SAME, OTHER], layers=2, stop=Agreement(patience=2))
    why = "stop: patience is 3, and only 2 layers in a row can stop, .*: at most 2, or give more layers"
    with pytest.raises(MoAConfigError, match=why):
        mixture([SAME, OTHER], layers=4, stop=Agreement(patience=3))
    stops = Sentinel("x"), Agreement(patience=2), None
    apart = [Layer(panel(SAME, OTHER), stop=stop) for stop in stops]
    with pytest.raises(MoAConfigError, match="patience is 2, and only 1 layer in a row"):
        create_moa(apart, says("So."))


async def test_patience_counts_agreements_alone() -> None:
    """What another kind of step measured in the layer before is no agreement."""
    before = [Decision(layer=1, step="stop", by="other", chosen=[], said="", score=1.0, run="r")]
    made = [
        Proposal(layer=2, slot=k, proposer=f"p{k}", model="m", status="ok", content=SAME, seconds=0.0, attempts=1)
        for k in (1, 2)
    ]
    judgement = await Agreement(patience=2).decide(Situation(2, [], made, ["p1", "p2"], before=before))
    assert (judgement.stop, judgement.said.rpartition(", ")[2]) == (False, "1 of 2 layers in a row")


async def test_one_answer_agrees_with_nobody() -> None:
    """A single answer is no agreement."""
    out = await mixture([SAME], layers=3, stop=Agreement()).ainvoke(ASK)
    assert decisions(out)[0][4] == "one answer agrees with no other"
    assert receipt(out)["stopped"] is None


async def test_what_was_left_out_has_no_say() -> None:
    """Only the answers that are read on are measured."""
    out = await mixture([SAME, SAME, OTHER], layers=3, select=Diverse(1), stop=Agreement()).ainvoke(ASK)
    assert decisions(out)[1][4] == "one answer agrees with no other"


async def test_other_words_are_less_alike_than_the_same() -> None:
    """Five true answers in words of their own are far from 0.9 by their words, as the docs say."""
    out = await mixture(TRUE, layers=3, stop=Agreement()).ainvoke(ASK)
    assert 0.3 < receipt(out)["decisions"][0]["score"] < 0.7


@pytest.mark.parametrize(
    ("share", "needed", "stops"),
    [("all", 4, False), ("any", 1, True), (0.5, 2, True), (0.51, 3, False), (0.01, 1, True)],
)
async def test_a_sentinel(share: Any, needed: int, stops: bool) -> None:
    """All, any or a share of the answers must hold the text as it stands."""
    answers = ["FINAL: 4", "It is 4. FINAL", "final", "4"]
    out = await mixture(answers, layers=3, stop=Sentinel("FINAL", share)).ainvoke(ASK)
    assert decisions(out) == [(1, "stop", "sentinel", [], f"2 of 4 answers hold 'FINAL', {needed} must")]
    assert (receipt(out)["stopped"] is not None) == stops


@pytest.mark.parametrize(("stop", "said"), [("true", "enough: They agree."), ("false", "not enough: They agree.")])
async def test_a_judge(stop: str, said: str) -> None:
    """The model reads question and answers, and what it says is done; why, is in the receipt."""
    judge = says(f'Well: {{"stop": {stop}, "why": "They agree."}}')
    out = await mixture([SAME, OTHER], layers=3, stop=Judge(judge)).ainvoke(ASK)
    assert decisions(out) == [(1, "stop", "judge", [], said)]
    assert (receipt(out)["stopped"] is not None) == (stop == "true")
    system, human = judge.prompts[0]
    assert SAME in system.text
    assert OTHER in system.text
    assert "Why is the sky blue?" in human.text
    assert receipt(out)["decisions"][0]["call"]["calls"] == 1


@pytest.mark.parametrize("nonsense", ["yes", "{}", '{"stop": "yes"}', "[true]"])
async def test_a_judge_is_asked_again(nonsense: str) -> None:
    """Neither true nor false: it is asked again, three times in all, and then it is an error."""
    judge = says(nonsense, nonsense, '{"stop": true}')
    out = await mixture([SAME, OTHER], layers=3, stop=Judge(judge)).ainvoke(ASK)
    assert decisions(out)[0][4] == "enough"
    with pytest.raises(UndecidedError, match=r"layer 1, stop \(judge\): .* no usable answer in 3 attempts"):
        await mixture([SAME, OTHER], layers=3, stop=Judge(says(nonsense))).ainvoke(ASK)


@pytest.mark.parametrize(("otherwise", "said"), [("go_on", "goes on"), ("stop", "stops")])
async def test_a_judge_that_fails(otherwise: Any, said: str) -> None:
    """What was declared is done, and recorded with why."""
    stop = Judge(says(unauthorized()), otherwise=otherwise)
    out = await mixture([SAME, OTHER], layers=3, stop=stop).ainvoke(ASK)
    assert decisions(out)[0][4].startswith(f"{said}, as declared: stop, ")
    assert "AuthenticationError" in decisions(out)[0][4]
    assert (receipt(out)["stopped"] is not None) == (otherwise == "stop")


async def test_there_is_nothing_to_stop_behind_the_last_layer() -> None:
    """The judge of a mixture with one layer of proposers is not asked."""
    judge = says("nonsense")
    await mixture([SAME, OTHER], layers=2, stop=Judge(judge)).ainvoke(ASK)
    assert judge.calls == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Agreement(0), "threshold is 0"),
        (lambda: Agreement(1.1), "threshold is 1.1"),
        (lambda: Agreement(patience=0), "patience is 0"),
        (lambda: Agreement(embed=3), "embed is 3"),  # type: ignore[arg-type]
        (lambda: Sentinel(""), "text is ''"),
        (lambda: Sentinel("x", "most"), 'or "all" or "any"'),  # type: ignore[arg-type]
        (lambda: Judge("x:y", otherwise="all"), "one of error, go_on, stop"),  # type: ignore[arg-type]
    ],
)
def test_values_are_checked(make: Any, said: str) -> None:
    """A value that makes no sense is refused where it is given."""
    with pytest.raises(MoAConfigError, match=said):
        make()


def test_a_stop_elsewhere() -> None:
    """An Agreement in select= is refused, also where it would not be needed."""
    with pytest.raises(MoAConfigError, match="select: Agreement belongs in stop=; give TopK, Diverse or Cluster"):
        mixture(panel(SAME), select=Agreement())
    with pytest.raises(MoAConfigError, match=r"stop: 0\.9 is no step; give Agreement, Sentinel or Judge"):
        mixture(panel(SAME), layers=2, stop=0.9)
