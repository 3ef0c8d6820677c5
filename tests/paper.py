"""How long the answers to AlpacaEval 2.0 were that the paper's figure is about (2406.04692, section 3.4)."""

from collections.abc import Mapping
from pathlib import Path

DATA = Path(__file__).parents[2] / "shared" / "data" / "alpaca_eval" / "outputs"
"""The published answers, where they lie beside the project."""

INSTRUCTION = 165
"""Characters, on average over the 805 instructions."""

PROPOSERS: Mapping[str, int] = {
    "together:microsoft/WizardLM-2-8x22B": 2402,  # not published: that of the leaderboard's nearest row, see below
    "together:Qwen/Qwen1.5-110B-Chat": 1632,
    "together:Qwen/Qwen1.5-72B-Chat": 1550,
    "together:meta-llama/Llama-3-70b-chat-hf": 1919,
    "together:mistralai/Mixtral-8x22B-Instruct-v0.1": 1446,
    "together:databricks/dbrx-instruct": 1450,
}
"""Characters of an answer in the first layer, on average (`avg_length` of alpaca_eval's leaderboard).

WizardLM's win rate is 62.3 and its length-controlled one 51.3; next to it is gpt4_1106_preview_verbose, 64.3 and 51.6.
"""

FINAL: Mapping[str, int] = {"moa": 1825, "lite": 1968, "gpt-4o-2024-05-13": 1873, "gpt-4-turbo-2024-04-09": 1802}
"""Characters of the final answer, from the same leaderboard."""

SYNTHESIS = FINAL["lite"]
"""Characters of an answer in the second layer of MoA: not published, so as MoA-Lite's, which is one."""

FILES: Mapping[str, str] = {
    "Qwen1.5-110B-Chat": "together:Qwen/Qwen1.5-110B-Chat",
    "Qwen1.5-72B-Chat": "together:Qwen/Qwen1.5-72B-Chat",
    "Meta-Llama-3-70B-Instruct": "together:meta-llama/Llama-3-70b-chat-hf",
    "Mixtral-8x22B-Instruct-v0.1": "together:mistralai/Mixtral-8x22B-Instruct-v0.1",
    "dbrx-instruct": "together:databricks/dbrx-instruct",
}


def tokens(model: str, characters: float) -> int:
    """How many tokens a text is for a model, which is billed by its own tokenizer.

    Counted over seven models' published answers: 4.53 to 4.75 characters a token, by model, with cl100k_base (GPT-4's
    and dbrx's; Qwen's and Llama 3's were made from it), 4.0 with Mistral's of 32,768 tokens (WizardLM-2's base has it
    too). One number for all of cl100k_base's, 4.5 to 4.58, brings each of the figure's eight points within 10%; at the
    mean of what was counted, 4.67, GPT-4o's $ would be .0062, 12% below the .007 that is read off to one digit.
    """
    return round(characters / (4.0 if "8x22B" in model else 4.55))
