"""What a model reads: references that fit its context window, and what the receipt says of the others."""

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from moa_graph import FinalError, MoAConfig, MoAConfigError, Prompt, Proposer, create_moa
from moa_graph.fit import MARK, about, about_messages
from moa_graph.review import edit
from moa_graph.testing import ScriptedChatModel

LONG = " ".join(f"Sentence number {k} says a little more about the sky." for k in range(200))
ASK = {"messages": [("user", "Why is the sky blue?")]}
WINDOW = 1200


def mixture(final: ScriptedChatModel, prompt: Prompt, window: int | None = WINDOW, layers: int = 2, **more: Any) -> Any:
    panel = [Proposer(ScriptedChatModel(answers=[text]), name=name) for name, text in PANEL.items()]
    narrow = Proposer(final, max_tokens=200, context_window=window)
    return create_moa(panel, narrow, layers, prompt=prompt, **more)


PANEL = {"short": "Rayleigh.", "long": LONG, "longer": LONG + LONG, "brief": "Scattering."}


def run(fit: Any, **more: Any) -> tuple[Any, Any]:
    """What the final model read, and its part in the receipt."""
    final = ScriptedChatModel()
    out = mixture(final, Prompt("Merge:", fit=fit), **more).invoke(ASK)
    return final.prompts[0], out["messages"][-1].response_metadata["moa"]["final"]


def test_long_references_are_shortened() -> None:
    """`"trim"`: the short ones stand whole, the long ones end in a mark, all fits, and the receipt names them."""
    read, call = run("trim")
    system = read[0].text
    assert system.startswith("Merge:\n1. Rayleigh.\n2. Sentence number 0")
    assert (system.count(MARK), system.endswith("\n4. Scattering.")) == (2, True)
    assert about_messages(read) <= WINDOW - 200
    assert call["fit"] == {"trimmed": [2, 3], "dropped": []}


def test_the_longest_are_left_out() -> None:
    """`"drop"`: what is left is numbered anew, and the receipt tells which are missing."""
    read, call = run("drop")
    assert read[0].text == "Merge:\n1. Rayleigh.\n2. Scattering."
    assert call["fit"] == {"trimmed": [], "dropped": [2, 3]}


def test_or_it_is_an_error() -> None:
    """`"error"`: that model is not asked, and the error says how much did not fit."""
    final = ScriptedChatModel()
    with pytest.raises(FinalError, match=r"the references need \d+ tokens and the model has room for \d+") as raised:
        mixture(final, Prompt("Merge:", fit="error")).invoke(ASK)
    assert final.calls == 0
    assert len(raised.value.proposals) == 4


@pytest.mark.parametrize("window", [None, 100_000])
def test_what_fits_is_read_whole(window: int | None) -> None:
    """With a window that is large, or that nobody knows, nothing is changed and nothing said."""
    read, call = run("trim", window=window)
    assert LONG + LONG in read[0].text
    assert "fit" not in call


def test_each_model_by_its_own_window() -> None:
    """In one layer the model with a small window reads less than its neighbour, and its proposal says so."""
    wide, narrow = ScriptedChatModel(), ScriptedChatModel(profile={"max_input_tokens": WINDOW})
    first = [Proposer(ScriptedChatModel(answers=[text]), name=name) for name, text in PANEL.items()]
    second = [Proposer(wide, name="wide"), Proposer(narrow, name="narrow", max_tokens=200)]
    out = create_moa([first, second], ScriptedChatModel(), prompt="Merge:").invoke(ASK)
    told = {p["proposer"]: p.get("fit") for p in out["proposals"] if p["layer"] == 2}
    assert told == {"wide": None, "narrow": {"trimmed": [2, 3], "dropped": []}}
    assert len(narrow.prompts[0][0].text) < len(wide.prompts[0][0].text)


def test_in_the_sealed_envelope() -> None:
    """Shortened references stand between marks of their own, too."""
    final = ScriptedChatModel()
    mixture(final, Prompt("Merge:", envelope="sealed", fit="trim")).invoke(ASK)
    system = final.prompts[0][0].text
    assert system.count("<response ") == system.count("</response ") == 4
    assert system.count(MARK) == 2


def test_references_that_a_person_has_edited() -> None:
    """What is shortened is what stands there after a review."""
    final, config = ScriptedChatModel(), {"configurable": {"thread_id": "t"}}
    moa = mixture(final, Prompt("Merge:"), checkpointer=InMemorySaver())
    moa.invoke(ASK, config, interrupt_after=["layer_1"])
    proposals = moa.get_state(config).values["proposals"]
    edit(moa, config, [{**proposals[0], "content": LONG}, proposals[3]])
    receipt = moa.invoke(None, config)["messages"][-1].response_metadata["moa"]
    assert receipt["final"]["fit"] == {"trimmed": [1], "dropped": []}
    assert final.prompts[0][0].text.endswith(f"{MARK}\n2. Scattering.")


def test_a_synthesis_that_somebody_else_wrote_is_left_alone() -> None:
    """Where the references stand in it is not known then."""
    final, config = ScriptedChatModel(), {"configurable": {"thread_id": "t"}}
    moa = mixture(final, Prompt("Merge:"), checkpointer=InMemorySaver())
    moa.invoke(ASK, config, interrupt_after=["layer_1"])
    moa.update_state(config, {"synthesis": "My own words. " + LONG + LONG}, as_node="layer_1")
    moa.invoke(None, config)
    assert final.prompts[0][0].text == "My own words. " + LONG + LONG


def test_in_yaml(tmp_path: Any) -> None:
    """`prompt: {fit: …}` and a model's `context_window` are keys of a mixture's file."""
    path = tmp_path / "moa.yaml"
    path.write_text(
        "proposers: ['local:smollm2']\naggregator: {model: 'local:smollm2', context_window: 4096}\n"
        "prompt: {fit: drop}\n"
    )
    made = MoAConfig.from_yaml(path).arguments()
    assert (made["prompt"].fit, made["aggregator"][0].context_window) == ("drop", 4096)


def test_an_unknown_fit_is_refused() -> None:
    """The choices are named when the prompt is made."""
    with pytest.raises(MoAConfigError, match="unknown fit 'cut': one of trim, drop, error"):
        Prompt("Merge:", fit="cut")  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [0, -1, 1.5, True, "4k"])
def test_a_window_that_is_none_is_refused(window: Any) -> None:
    """The model is named when the mixture is built."""
    with pytest.raises(MoAConfigError, match=r"aggregator: context_window is .*: a whole number of tokens, at least 1"):
        create_moa([ScriptedChatModel()], Proposer(ScriptedChatModel(), context_window=window))


@pytest.mark.parametrize("text", ["𓀀" * 50, "ኢትዮጵያ" * 20, "a" * 100, "\x80" * 40, "漢" * 60])
def test_no_character_is_more_than_five_tokens(text: str) -> None:
    """So a prompt whose length is a fifth of the room fits without being counted."""
    assert about(text) <= 5 * len(text)
