"""Which answers of a layer are read on."""

import asyncio
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings

from moa_graph import Cluster, Diverse, Layer, LayerPolicy, MoAConfigError, Proposer, TopK, create_moa
from moa_graph.steps import UndecidedError
from moa_graph.testing import rate_limited, unauthorized
from tests.deceived import LIE, QUESTION, TRUE
from tests.steps import ASK, decisions, mixture, panel, read_on, receipt, says

FOUR = ["one", "two", "three", "four"]


class Placed(Embeddings):
    """Each text is where the table has it."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table, self.threads = table, set[str]()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        import threading

        self.threads.add(threading.current_thread().name)
        return [self.table[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.table[text]


# TopK


async def test_the_judge_picks() -> None:
    """The answers that the judge names are read on, in declared order, and the others are in the receipt as unread."""
    final, judge = says("So."), says("The best are, I think:\n```json\n[4, 2]\n```")
    out = await mixture(FOUR, final=final, select=TopK(2, judge)).ainvoke(ASK)
    assert "1. two\n2. four" in read_on(final)
    assert decisions(out) == [(1, "select", "top_k", ["d", "b"], "kept 2 of 4, the best")]
    unread = {c["proposer"]: c.get("unread") for c in receipt(out)["layers"][0]["proposals"]}
    assert unread == {"a": "top_k: kept 2 of 4, the best", "b": None, "c": "top_k: kept 2 of 4, the best", "d": None}


async def test_the_judge_reads_question_and_answers() -> None:
    """It is shown what was asked, every answer by its number between marks, and how many are wanted."""
    judge = says("[1, 2, 3]")
    await mixture(FOUR, select=TopK(3, judge)).ainvoke(ASK)
    system, human = judge.prompts[0]
    assert "which 3 of them" in system.text
    assert all(f"\n{text}\n</response {k} " in system.text for k, text in enumerate(FOUR, 1))
    assert "Why is the sky blue?" in human.text


async def test_the_judges_prompt_is_a_parameter() -> None:
    """Another prompt takes the place of ours, `{k}` in it too, and other braces are let be."""
    judge = says("[1, 2]")
    await mixture(FOUR, select=TopK(2, judge, prompt='Pick {k}. {"not": "ours"}')).ainvoke(ASK)
    assert judge.prompts[0][0].text.startswith('Pick 2. {"not": "ours"}\n')


@pytest.mark.parametrize(
    "nonsense", ["none", "[1]", "[1, 1]", "[0, 1]", "[1, 5]", '["a", "b"]', "[true, 2]", "[1, 2, 3]"]
)
async def test_nonsense_is_asked_again(nonsense: str) -> None:
    """A judge that names no two of the four is asked again; both calls count, and its tokens."""
    judge = says(nonsense, "[1, 2]")
    out = await mixture(FOUR, select=TopK(2, judge)).ainvoke(ASK)
    assert decisions(out)[0][3] == ["a", "b"]
    assert judge.calls == 2
    assert receipt(out)["calls"] == 4 + 2 + 1
    assert receipt(out)["decisions"][0]["call"]["usage"]["output_tokens"] == len(nonsense.split()) + 2


async def test_nonsense_three_times_is_an_error() -> None:
    """It says which layer's which step failed, what it said and why that is none; what was paid is in its receipt."""
    judge = says("none")
    with pytest.raises(
        UndecidedError, match=r"layer 1, select \(top_k\): .* in 3 attempts: no JSON list .*'none'"
    ) as e:
        await mixture(FOUR, select=TopK(2, judge)).ainvoke(ASK)
    assert judge.calls == 3
    assert e.value.receipt
    assert (e.value.receipt["calls"], len(e.value.proposals)) == (4 + 3, 4)


@pytest.mark.parametrize(
    ("otherwise", "kept", "said"), [("all", "abcd", "kept all"), ("first", "ab", "kept the first 2 of 4")]
)
async def test_a_declared_fallback_is_recorded(otherwise: Any, kept: str, said: str) -> None:
    """With `otherwise`, the run goes on, and the receipt says what was done and why."""
    out = await mixture(FOUR, select=TopK(2, says("none"), otherwise=otherwise)).ainvoke(ASK)
    [(*_, chosen, why)] = decisions(out)
    assert "".join(chosen) == kept
    assert why.startswith(f"{said}, as declared: ")
    assert "no usable answer in 3 attempts" in why


async def test_a_judge_that_fails() -> None:
    """It is asked again where that may help, and else falls under `otherwise` as well."""
    out = await mixture(FOUR, select=TopK(2, says(rate_limited(0.01), "[3, 1]"))).ainvoke(ASK)
    assert decisions(out)[0][3] == ["c", "a"]
    out = await mixture(FOUR, select=TopK(2, says(unauthorized()), otherwise="all")).ainvoke(ASK)
    assert "AuthenticationError" in decisions(out)[0][4]


async def test_a_judge_that_hangs_is_bounded() -> None:
    """The layer's timeout is the judge's too."""
    policy = LayerPolicy(timeout=0.2)
    with pytest.raises(UndecidedError, match=r"no answer within 0\.2 s"):
        await mixture(FOUR, policy=policy, select=TopK(2, says("[1, 2]", latency=60))).ainvoke(ASK)


async def test_fewer_answers_than_k() -> None:
    """Where no more than k answered, all are read on, nobody is asked, and the receipt says so."""
    judge = says("[1, 2]")
    out = await mixture(["one", "two", unauthorized()], select=TopK(2, judge)).ainvoke(ASK)
    assert decisions(out) == [(1, "select", "top_k", ["a", "b"], "kept all 2: no more than 2 answered")]
    assert judge.calls == 0


@pytest.mark.parametrize("step", [TopK(5, says("[1]")), Diverse(5)])
def test_k_above_the_panel(step: Any) -> None:
    """It is said when the mixture is built."""
    with pytest.raises(MoAConfigError, match="layer 1, select: k is 5, and the panel has 4 proposers: 1 to 4"):
        mixture(FOUR, select=step)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TopK(0, "x:y"), "k is 0"),
        (lambda: TopK(True, "x:y"), "k is True"),
        (lambda: TopK(1, "x:y", otherwise="none"), "one of error, all, first"),  # type: ignore[arg-type]
        (lambda: TopK(1, "x:y", prompt=" "), "prompt"),
        (lambda: Diverse(2, embed=3), "embed is 3"),  # type: ignore[arg-type]
        (lambda: Cluster(least=-1), "least is -1"),
        (lambda: Cluster(otherwise="last"), "one of all, first, error"),  # type: ignore[arg-type]
    ],
)
def test_values_are_checked(make: Any, said: str) -> None:
    """A value that makes no sense is refused where it is given."""
    with pytest.raises(MoAConfigError, match=said):
        make()


def test_a_step_in_the_wrong_place() -> None:
    """A select in stop=, or no step at all, is refused, and the valid ones are named."""
    with pytest.raises(MoAConfigError, match=r"stop: TopK belongs in select=; give Agreement, Sentinel or Judge"):
        mixture(FOUR, layers=3, stop=TopK(2, says("[1]")))
    for wrong in ("cluster", Cluster, 3):
        with pytest.raises(MoAConfigError, match=r"select: .* is no step; give TopK, Diverse or Cluster"):
            mixture(FOUR, select=wrong)


# Diverse


async def test_the_most_different_are_kept() -> None:
    """Of two kinds of answers and an odd one, one of each is kept; it begins with the most typical."""
    answers = ["red green blue", "red green blue grey", "red green", "cat dog", "cat dog cow"]
    out = await mixture(answers, select=Diverse(2)).ainvoke(ASK)
    assert decisions(out) == [(1, "select", "diverse", ["a", "d"], "kept 2 of 5, the least alike")]


async def test_diverse_by_embeddings() -> None:
    """Embeddings decide where they are given, and those that block run in a thread."""
    placed = Placed({"one": [1, 0], "two": [0.9, 0.1], "three": [0, 1], "four": [1, 0.1]})
    out = await mixture(FOUR, select=Diverse(2, embed=placed)).ainvoke(ASK)
    assert set(decisions(out)[0][3]) == {"b", "c"}
    assert "MainThread" not in placed.threads


async def test_embeddings_that_fail_are_an_error() -> None:
    """It names the layer, the step and the reason; vectors of several lengths are no answer either."""
    with pytest.raises(UndecidedError, match=r"layer 1, select \(diverse\): KeyError: 'one'"):
        await mixture(FOUR, select=Diverse(2, embed=Placed({}))).ainvoke(ASK)
    odd = Placed({"one": [1], "two": [1, 0], "three": [1], "four": [1]})
    with pytest.raises(UndecidedError, match="several lengths"):
        await mixture(FOUR, select=Diverse(2, embed=odd)).ainvoke(ASK)


async def test_embeddings_that_hang_are_bounded() -> None:
    """The layer's timeout bounds them."""

    class Hanging(Placed):
        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            await asyncio.sleep(60)
            return []

    with pytest.raises(UndecidedError, match="TimeoutError"):
        await mixture(FOUR, policy=LayerPolicy(timeout=0.2), select=Cluster(Hanging({}))).ainvoke(ASK)


def test_embeddings_of_an_unknown_provider() -> None:
    """It is said when the mixture is built."""
    with pytest.raises(MoAConfigError, match="layer 1, select, embed 'nope:x': Provider 'nope' is not supported"):
        mixture(FOUR, select=Diverse(2, embed="nope:x"))


# Cluster


@pytest.mark.parametrize("place", range(6))
async def test_a_deceptive_answer_is_left_out(place: int) -> None:
    """Of five answers that say the same in words of their own and one that deceives, the five are read on."""
    final = says("So.")
    answers = [*TRUE[:place], LIE, *TRUE[place:]]
    out = await mixture(answers, final=final, select=Cluster()).ainvoke({"messages": [("user", QUESTION)]})
    [(*_, chosen, said)] = decisions(out)
    assert chosen == [name for k, name in enumerate("abcdef") if k != place]
    assert said.startswith("kept 5 of 6, the larger group: groups of 5 and 1, 0.")
    assert all(text in read_on(final) for text in TRUE)
    assert "oceans" not in read_on(final)


async def test_two_that_deceive_together_are_left_out() -> None:
    """Also two that tell one lie, against four."""
    other = "It mirrors the blue of the oceans: the atmosphere throws the colour of the water back, paler over deserts."
    out = await mixture([*TRUE[:4], LIE, other], select=Cluster()).ainvoke(ASK)
    assert decisions(out)[0][3] == ["a", "b", "c", "d"]


async def test_answers_of_one_mind_are_all_kept() -> None:
    """Where nobody deceives, nobody is left out."""
    out = await mixture(TRUE, select=Cluster()).ainvoke(ASK)
    [(*_, chosen, said)] = decisions(out)
    assert chosen == ["a", "b", "c", "d", "e"]
    assert said.startswith("kept all 5: no two groups: they would be 0.")


@pytest.mark.parametrize(("otherwise", "kept"), [("all", "abcd"), ("first", "ad")])
async def test_two_groups_of_one_size(otherwise: Any, kept: str) -> None:
    """Neither is the larger one: what was declared is done, and recorded."""
    answers = ["red green blue", "cat dog cow", "cat dog cow ox", "red green blue grey"]
    out = await mixture(answers, select=Cluster(otherwise=otherwise)).ainvoke(ASK)
    [(*_, chosen, said)] = decisions(out)
    assert "".join(chosen) == kept
    assert "as declared" in said
    with pytest.raises(UndecidedError, match="neither of two groups is the larger one: groups of 2 and 2"):
        await mixture(answers, select=Cluster(otherwise="error")).ainvoke(ASK)


async def test_a_cluster_needs_three() -> None:
    """Of two answers neither is in a majority."""
    out = await mixture(["red", "cat"], select=Cluster()).ainvoke(ASK)
    assert decisions(out)[0][4] == "kept all 2: there is no larger group among fewer than three"


async def test_cluster_by_embeddings() -> None:
    """Embeddings see what words do not: the one that means something else."""
    placed = Placed({"one": [1, 0], "two": [1, 0.1], "three": [-1, 0], "four": [1, 0.2]})
    out = await mixture(FOUR, select=Cluster(placed)).ainvoke(ASK)
    assert decisions(out)[0][3] == ["a", "b", "d"]


# In a mixture


async def test_each_layer_selects_by_itself() -> None:
    """With the same panel in two layers, each layer's answers are judged, and each judgement is in the receipt."""
    judge = says("[1, 2]", "[3, 4]")
    out = await mixture(FOUR, layers=3, select=TopK(2, judge)).ainvoke(ASK)
    assert [(d[0], "".join(d[3])) for d in decisions(out)] == [(1, "ab"), (2, "cd")]


def test_a_select_in_one_layer_alone_and_without_async() -> None:
    """A layer of its own may have one where the others have none, and `.invoke()` does the same."""
    moa = create_moa([Layer(panel(*FOUR), select=Diverse(2)), panel("x", "y")], says("So."))
    assert [d[0] for d in decisions(moa.invoke(ASK))] == [1]


def test_the_judge_may_be_described() -> None:
    """A judge is whatever a proposer may be, with a name of its own that the receipt has."""
    out = mixture(FOUR, select=TopK(2, Proposer(says("[1, 2]"), name="referee"))).invoke(ASK)
    assert receipt(out)["decisions"][0]["call"]["proposer"] == "referee"
