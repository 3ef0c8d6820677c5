"""Active parameters by name, and the operations of the paper's mixtures."""

from collections.abc import Callable

import pytest

from moa_graph import MoAConfig
from moa_graph.config import presets
from moa_graph.flops import active_parameters, tflops
from tests.paper import FINAL, PROPOSERS, SYNTHESIS, tokens

BIG, SMALL = "together:Qwen/Qwen1.5-110B-Chat", "together:Qwen/Qwen1.5-72B-Chat"


def answered(model: str, characters: int) -> float:
    """The operations of one answer, from its characters."""
    found = tflops([model], tokens(model, characters))
    assert found is not None
    return found


def first_layer() -> float:
    return max(answered(model, length) for model, length in PROPOSERS.items())


def second_layer() -> float:
    return max(answered(model, SYNTHESIS) for model in PROPOSERS)


@pytest.mark.parametrize(
    ("ours", "figure"),
    [
        (lambda: first_layer() + second_layer() + answered(BIG, FINAL["moa"]), 245),
        (lambda: first_layer() + answered(SMALL, FINAL["lite"]), 137),
        (lambda: answered("openai:gpt-4o-2024-05-13", FINAL["gpt-4o-2024-05-13"]), 340),
        (lambda: answered("openai:gpt-4-turbo-2024-04-09", FINAL["gpt-4-turbo-2024-04-09"]), 325),
    ],
    ids=["MoA", "MoA-Lite", "GPT-4o", "GPT-4 Turbo"],
)
def test_the_papers_figure_comes_out(ours: Callable[[], float], figure: float) -> None:
    """Each layer's largest proposer, summed over the layers, is within 10% of the TFLOPs that the paper shows."""
    assert ours() == pytest.approx(figure, rel=0.10)


def test_the_largest_proposer_is_the_largest_dense_model() -> None:
    """Qwen1.5-110B, not WizardLM, takes the most operations in both layers: 141 billion parameters are 39 active."""
    assert answered(BIG, PROPOSERS[BIG]) == first_layer()
    assert answered(BIG, SYNTHESIS) == second_layer()


def test_operations_are_twice_the_active_parameters_for_each_token() -> None:
    """2 x 39e9 x 500 tokens are 39 x 10^12 operations."""
    assert tflops(["together:mistralai/Mixtral-8x22B-Instruct-v0.1"], 500) == pytest.approx(39)


def test_an_answer_of_no_tokens_takes_no_operations() -> None:
    """Zero is a known number."""
    assert tflops(["gpt-4o"], 0) == 0


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("together:microsoft/WizardLM-2-8x22B", 39),
        ("together:meta-llama/Llama-3-70b-chat-hf", 70.6),
        ("together:databricks/dbrx-instruct", 36),
        ("together:meta-llama/Llama-3.3-70B-Instruct-Turbo", 70.6),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", 8.03),
        ("groq:llama-3.3-70b-versatile", 70.6),
        ("ollama:llama3.3:70b", 70.6),
        ("together:openai/gpt-oss-120b", 5.1),
        ("Qwen/Qwen2.5-7B-Instruct-Turbo", 7.61),
        ("qwen2.5:7b", 7.61),
        ("local:/models/Qwen2.5-7B-Instruct-Q4_K_M.gguf", 7.61),
        ("openrouter:deepseek/deepseek-r1:free", 37),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", 2.4),
        ("local:smollm2", 0.1345),
        ("smollm2-135m-instruct", 0.1345),
        ("azure_openai:gpt-4o", 440),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 3.3),
        ("groq:llama3-70b-8192", 70.6),
        ("together:reflection/Beam-1.0-501B-A23B", 23),
    ],
)
def test_a_model_is_known_by_any_of_its_names(name: str, billions: float) -> None:
    """Case, provider, organisation, packing and serving make no difference."""
    assert active_parameters([name]) == pytest.approx(billions * 1e9)


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o-mini",
        "openai:gpt-4o-mini-2024-07-18",
        "gpt-4-1106-preview",
        "gpt-4-0613",
        "gpt-4.1",
        "gpt-3.5-turbo",
        "qwen1.5-11b",
        "qwen1.5-11",
        "qwen1.5-1100b",
        "together:Qwen/Qwen3.7-Max",
        "deepseek-v3-lite",
        "deepseek:deepseek-chat",
        "deepseek-r1-distill-qwen-1.5b",
        "mixtral-8x22",
        "smollm2",
        "local:/qwen2.5-7b/other.gguf",
        "local:/qwen3-30b-a3b/other.gguf",
        "qwen2.5-7b-mini",
        "other-30b-a3bit",
        "72b",
        "openai:",
        "",
    ],
)
def test_another_model_is_never_taken_for_one_that_is_known(name: str) -> None:
    """What is alike in name only, or has no published number, is unknown."""
    assert active_parameters([name]) is None
    assert tflops([name], 100) is None


def test_without_a_name_nothing_is_known() -> None:
    """A model that goes by no name is unknown."""
    assert active_parameters([]) is None


def test_what_was_reported_goes_before_what_was_asked_for() -> None:
    """A deployment may be called anything; the provider says what it runs."""
    assert active_parameters(["azure_openai:mixtral-8x7b", "gpt-4o"]) == 440e9


def test_what_was_asked_for_decides_where_the_report_tells_nothing() -> None:
    """A server that answers by a name of its own hides nothing that the id tells."""
    assert active_parameters(["openai:Qwen/Qwen2.5-7B-Instruct", "default"]) == 7.61e9


@pytest.mark.parametrize("preset", [name for name in presets() if name.startswith("moa-paper")])
def test_every_model_of_the_papers_presets_is_known(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's figure can be computed for each preset that is the paper's."""
    monkeypatch.setenv("TOGETHER_API_KEY", "made-up-key")
    monkeypatch.setenv("OPENAI_API_KEY", "made-up-key")
    ids = [str(proposer.model) for proposer in MoAConfig.preset(preset).models()]
    assert [name for name in ids if active_parameters([name]) is None] == []
