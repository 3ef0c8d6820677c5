"""How many operations an answer took, from the model's active parameters: a measure that needs no price.

The paper (arXiv 2406.04692, section 3.4) shows TFLOPs and states no formula. What reproduces its figure within about
6% is 2 x active parameters x output tokens, of each layer the largest proposer's, summed over the layers; so that is
what is counted here. What reading the prompt takes is left out.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

__all__ = ["active_parameters", "tflops"]


def active_parameters(models: Sequence[str]) -> float | None:
    """How many parameters work on each token, such as 39e9. `None`: unknown.

    models: the names that the model goes by, the id that it was asked for by first, then what was reported. The last
    one that is known decides. Providers, organisations and what does not change the size ("-Instruct") are skipped.
    """
    return _active(tuple(models))


def tflops(models: Sequence[str], output_tokens: int) -> float | None:
    """2 x active parameters x output tokens, in 10^12 operations. `None`: the active parameters are unknown.

    The paper states no formula; this one reproduces its figure (section 3.4) within about 6%.
    """
    active = active_parameters(models)
    return None if active is None else 2 * active * output_tokens / 1e12


_BILLIONS: Final[Mapping[str, float]] = {
    # the paper's models: their cards, as the paper counts them; of mixtures of experts what is active
    # (39 of 141 billion, 36 of 132 billion)
    "qwen1.5-110b": 111, "qwen1.5-72b": 72, "llama-3-70b": 70.6,
    "mixtral-8x22b": 39, "wizardlm-2-8x22b": 39, "dbrx": 36,
    # no fact but the paper's assumption: GPT-4 is 8 experts of 220 billion, two of them active
    **dict.fromkeys(
        (
            "gpt-4", "gpt-4-0125-preview", "gpt-4-turbo", "gpt-4-turbo-preview", "gpt-4-turbo-2024-04-09",
            "gpt-4o", "gpt-4o-2024-05-13", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20",
        ),
        440,
    ),
    # Meta: "The Llama 3 Herd of Models" (2407.21783), the cards of 2, 3.2, 3.3 and 4
    "llama-2-7b": 6.74, "llama-2-13b": 13.0, "llama-2-70b": 69.0,
    "llama-3-8b": 8.03, "llama-3.1-8b": 8.03, "llama-3.1-70b": 70.6, "llama-3.1-405b": 405,
    "llama-3.2-1b": 1.23, "llama-3.2-3b": 3.21, "llama-3.3-70b": 70.6,
    "llama-4-scout-17b-16e": 17, "llama-4-maverick-17b-128e": 17,
    # Qwen: the cards of 2.5 and of 3 ("Qwen3 Technical Report", 2505.09388)
    "qwen2.5-0.5b": 0.49, "qwen2.5-1.5b": 1.54, "qwen2.5-3b": 3.09, "qwen2.5-7b": 7.61, "qwen2.5-14b": 14.7,
    "qwen2.5-32b": 32.5, "qwen2.5-72b": 72.7,
    "qwen2.5-coder-7b": 7.61, "qwen2.5-coder-32b": 32.5, "qwen2.5-math-7b": 7.61, "qwen2.5-math-72b": 72.7,
    "qwen3-8b": 8.2, "qwen3-14b": 14.8, "qwen3-32b": 32.8, "qwen3-30b-a3b": 3.3, "qwen3-235b-a22b": 22,
    # Mistral: "Mistral 7B" (2310.06825), "Mixtral of Experts" (2401.04088): 13 of 47 billion
    "mistral-7b": 7.24, "mixtral-8x7b": 12.9,
    # DeepSeek: V2 (2405.04434), V3 (2412.19437) and R1 (2501.12948), and the cards of what was distilled from R1
    "deepseek-v2": 21, "deepseek-v2-lite": 2.4, "deepseek-v2.5": 21,
    "deepseek-v3": 37, "deepseek-v3-0324": 37, "deepseek-v3.1": 37, "deepseek-r1": 37, "deepseek-r1-0528": 37,
    "deepseek-r1-distill-llama-70b": 70.6, "deepseek-r1-distill-llama-8b": 8.03,
    # OpenAI's open weights: "gpt-oss-120b & gpt-oss-20b Model Card" (2508.10925)
    "gpt-oss-120b": 5.1, "gpt-oss-20b": 3.6,
    # Google: "Gemma 2" (2408.00118), embeddings included
    "gemma-2-2b": 2.6, "gemma-2-9b": 9.24, "gemma-2-27b": 27.2,
    # Moonshot's and Zhipu's cards
    "kimi-k2": 32, "kimi-k2-instruct-0905": 32, "kimi-k2-thinking": 32,
    "glm-4.5": 32, "glm-4.5-air": 12,
    # Hugging Face: "SmolLM2" (2502.02737); `local:smollm2` is the smallest of them
    "local-": 0.1345, "local-smollm2": 0.1345, "local-smollm2-135m": 0.1345,
    "smollm2-135m": 0.1345, "smollm2-360m": 0.362, "smollm2-1.7b": 1.71,
}  # fmt: skip
"""Active parameters in billions, by name as `_spellings` has it. What is not known for sure is not in here."""

_SAYS_ITSELF: Final = re.compile(r"\d+b-a(\d+(?:\.\d+)?)b(?![a-z0-9])")
"""Names such as `Qwen3-Coder-480B-A35B` give the active parameters."""

# endings that say how a model was trained on, packed or served, and not which one it is
_ENDING: Final = re.compile(
    r"[-.](?:instruct|chat|hf|it|base|free|v0\.[123]|fp8|fp16|bf16|int[48]|awq|gptq|gguf|i?q\d(?:[-_][a-z0-9]+)*)$"
)
# these may tell another model (DeepSeek-V2-Lite, gpt-4-0613), but not after a size
_SERVED: Final = re.compile(r"-(?:turbo|lite|versatile|instant|\d{4})$")
_SIZE: Final = re.compile(r"\d[bm](?![a-z0-9])")


@functools.lru_cache(maxsize=1024)
def _active(models: tuple[str, ...]) -> float | None:
    return next((known for name in reversed(models) if (known := _of(name)) is not None), None)


@functools.lru_cache(maxsize=1024)
def _of(name: str) -> float | None:
    for spelling in _spellings(name):
        if spelling in _BILLIONS:
            return float(round(_BILLIONS[spelling] * 1e9))
    stated = _SAYS_ITSELF.search(name.rpartition("/")[2].lower())
    return float(stated[1]) * 1e9 if stated else None


def _spellings(name: str) -> Iterator[str]:
    """The names to look for, the most exact first: with and without provider, ending by ending left out."""
    for whole in (name, name.partition(":")[2]):
        key = whole.rpartition("/")[2].lower().replace(":", "-")
        key = re.sub(r"^llama(?=\d)", "llama-", key.removeprefix("meta-"))
        while key:
            yield key
            key = _shorter(key)


def _shorter(key: str) -> str:
    if ending := _ENDING.search(key):
        return key[: ending.start()]
    served = _SERVED.search(key)
    return key[: served.start()] if served and _SIZE.search(key) else ""
