"""What a run is going to take, before anybody is asked."""

import re
from pathlib import Path
from typing import Any

import pytest

from moa_graph import MoAConfig, MoAConfigError, local
from moa_graph.budget import USUAL_OUTPUT
from moa_graph.stats import record

QUESTION = "Why is the sky blue?"
PRICES = {"openai:a": {"input": 1, "output": 10}, "openai:b": {"input": 2, "output": 20}}


@pytest.fixture(autouse=True)
def no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def config(**changes: Any) -> MoAConfig:
    return MoAConfig(**{"proposers": ["openai:a", "openai:a"], "aggregator": "openai:b", "prices": PRICES, **changes})


def test_calls_and_tokens_layer_by_layer() -> None:
    """Two layers of two and the final model; behind the first everyone reads two answers as well."""
    made = config().estimate(QUESTION)
    assert [(layer["layer"], layer["calls"]) for layer in made["layers"]] == [(1, 2), (2, 2), (3, 1)]
    assert [layer["output_tokens"] for layer in made["layers"]] == [2 * USUAL_OUTPUT, 2 * USUAL_OUTPUT, USUAL_OUTPUT]
    first, second, last = (layer["input_tokens"] for layer in made["layers"])
    assert second > first + 4 * USUAL_OUTPUT
    assert last == second / 2
    assert made["calls"] == 5


def test_dollars_are_tokens_at_their_price() -> None:
    """The sum is that of the layers, each at its models' prices."""
    made = config(layers=2).estimate(QUESTION)
    first, last = made["layers"]
    assert first["cost_usd"] == pytest.approx(first["input_tokens"] / 1e6 + first["output_tokens"] / 1e5)
    assert last["cost_usd"] == pytest.approx(last["input_tokens"] * 2 / 1e6 + last["output_tokens"] * 2 / 1e5)
    assert made["cost_usd"] == pytest.approx(first["cost_usd"] + last["cost_usd"])


def test_unknown_is_unknown() -> None:
    """A model without a price makes the sum unknown, above what is known; one without a size the operations."""
    made = config(prices={"openai:a": PRICES["openai:a"]}, layers=2).estimate(QUESTION)
    assert (made["cost_usd"], made["layers"][1]["cost_usd"]) == (None, None)
    assert made["cost_usd_at_least"] == made["layers"][0]["cost_usd"]
    assert (made["tflops_critical"], made["tflops_total"]) == (None, None)
    assert (made["unpriced"], config().estimate(QUESTION)["unpriced"]) == (["openai:b"], [])


def test_max_tokens_bounds_an_answer() -> None:
    """Nobody is expected to write more than they may."""
    assert config(max_tokens=100, layers=2).estimate(QUESTION)["output_tokens"] == 300


def test_references_count_for_what_a_window_leaves_them() -> None:
    """As they are going to be made to fit: for the one whose window is small; the question is never shortened."""
    final = {"model": "openai:b", "context_window": 1500, "max_tokens": 500}
    whole, made = config(layers=2).estimate(QUESTION), config(layers=2, aggregator=final).estimate(QUESTION)
    assert made["layers"][0] == whole["layers"][0]
    assert made["layers"][1]["input_tokens"] == 1000 < whole["layers"][1]["input_tokens"]
    long = config(layers=2, aggregator={**final, "context_window": 501}).estimate(QUESTION)
    assert long["layers"][1]["input_tokens"] == config(layers=1).estimate(QUESTION)["input_tokens"]


@pytest.mark.parametrize(("model", "window"), [("openai:gpt-4", 8192), ("local:smollm2", 8192)])
def test_a_window_is_known_without_a_key(model: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the mixture does not say it, what LangChain knows of a model counts, and nothing is started for it."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(local, "_running", {})
    many = {"model": "openai:a", "samples": 30}
    made = config(proposers=[many], aggregator=model, layers=2, max_tokens=1000).estimate(QUESTION)
    assert made["layers"][1]["input_tokens"] == window - 1000
    assert not local._running


def test_samples_and_panels_of_their_own() -> None:
    """A proposer with samples is asked as often, and each layer has its own panel."""
    panels = [[{"model": "openai:a", "samples": 4}], ["openai:a", "openai:b"]]
    made = config(proposers=panels).estimate(QUESTION)
    assert [layer["calls"] for layer in made["layers"]] == [4, 2, 1]


def test_lengths_are_known_from_earlier_runs() -> None:
    """What the local store knows of a model goes before the assumption, and it is said of whom."""
    call = {"proposer": "final", "model": "b", "status": "ok", "seconds": 1.0, "attempts": 1, "usage": {
        "input_tokens": 10, "output_tokens": 70}, "cost_usd": None, "tflops": None, "error": None, "cached": False,
        "resumed": False}  # fmt: skip
    made = config(layers=1).build(stand_in=_scripted)
    receipt: Any = made.invoke({"messages": [("user", QUESTION)]})["messages"][-1].response_metadata["moa"]
    record({**receipt, "final": {**receipt["final"], **call}}, config="mine", graph=made)
    estimate = config(layers=1).estimate(QUESTION)
    assert (estimate["output_tokens"], estimate["measured"]) == (70, ["openai:b"])


def _scripted(name: str) -> Any:
    from moa_graph.testing import ScriptedChatModel

    return ScriptedChatModel(model_name=name)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"proposers": []}, "the panel is empty"),
        ({"proposers": [{"model": "openai:a", "samples": 0}]}, "samples is 0"),
        ({"proposers": [{"model": "openai:a", "name": "x"}, {"model": "openai:b", "name": "x"}]}, "are named 'x'"),
        ({"policy": {"quorum": 3}}, "quorum"),
        ({"select": {"top_k": {"k": 3, "judge": "openai:b"}}}, "k is 3, and the panel has 2"),
        ({"layers": 1, "aggregator": {"vote": "number"}}, "vote needs answers to read"),
    ],
)
def test_what_cannot_be_built_is_not_estimated(changes: dict[str, Any], why: str) -> None:
    """What is wrong with a mixture is told as it is when it is built."""
    with pytest.raises(MoAConfigError, match=why) as error:
        config(**changes).estimate(QUESTION)
    with pytest.raises(MoAConfigError, match=re.escape(str(error.value))):
        config(**changes).build(stand_in=_scripted)


@pytest.mark.parametrize("given", [QUESTION, [("user", QUESTION)], {"messages": [("user", QUESTION)]}])
def test_whatever_is_asked(given: Any) -> None:
    """A question, messages, or a graph's input."""
    assert config().estimate(given)["input_tokens"] == config().estimate(QUESTION)["input_tokens"]


@pytest.mark.parametrize("given", ["", [], {}, None, {"messages": []}, [("user", " ")]])
def test_nothing_is_no_question(given: Any) -> None:
    """Where nothing is asked, nothing is estimated."""
    with pytest.raises(MoAConfigError, match="there is no question in it"):
        config().estimate(given)


def test_every_preset_can_be_estimated() -> None:
    """Without a key, and with the paper's prices for the paper's mixtures."""
    from moa_graph.config import presets

    for name in presets():
        assert MoAConfig.preset(name).estimate(QUESTION)["calls"] > 0
    assert MoAConfig.preset("moa-paper").estimate(QUESTION)["cost_usd"] == pytest.approx(0.031, rel=0.3)
