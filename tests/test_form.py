"""The form of an assistant: its schema, what it makes of a preset, and what it says of a bad value."""

from collections.abc import Mapping
from typing import Any

import pytest

from moa_graph import MoAConfig, MoAConfigError
from moa_graph.config import presets
from moa_graph.form import Form, PresetForm, linked

BASE = MoAConfig(
    proposers=[
        {"model": "openai:one", "name": "first", "system": "Be terse.", "temperature": 0.1, "params": {"seed": 7}},
        "openai:two",
        "openai:three",
    ],
    aggregator={"model": "openai:last", "base_url": "http://127.0.0.1/v1"},
    layers=2,
    policy={"quorum": 3, "timeout": 9.0},
    prompt={"text": "Weigh them.", "envelope": "sealed"},
)


def applied(**context: Any) -> MoAConfig:
    return Form.of(context).applied(BASE)


def test_schema_says_what_each_field_takes() -> None:
    """Every field has a plain type, a description and no default; numbers have their bounds."""
    fields = PresetForm.model_json_schema()["properties"]
    assert next(iter(fields)) == "preset"
    assert fields["preset"]["enum"] == presets()
    assert {name: field["type"] for name, field in fields.items()} == {
        "preset": "string", "layers": "integer", "panel": "array", "aggregator": "string", "prompt": "string",
        "temperature": "number", "max_tokens": "integer", "quorum": "integer", "timeout": "number", "grace": "number",
        "retries": "integer", "stream_proposers": "boolean",
    }  # fmt: skip
    assert all(len(field["description"]) > 20 for field in fields.values())
    assert not any("default" in field for field in fields.values())
    bounds = ("minimum", "maximum", "exclusiveMinimum", "maxItems")
    assert {name: tuple(field.get(bound) for bound in bounds) for name, field in fields.items()} == {
        **dict.fromkeys(fields, (None,) * 4),
        "layers": (1, 10, None, None), "panel": (None, None, None, 32), "temperature": (0, 2, None, None),
        "max_tokens": (1, None, None, None), "quorum": (1, None, None, None), "timeout": (None, None, 0, None),
        "grace": (0, None, None, None), "retries": (0, 10, None, None),
    }  # fmt: skip
    assert fields["prompt"]["langgraph_type"] == "prompt"


def test_fields_are_linked_to_the_nodes_that_there_are() -> None:
    """A field's links name the layers and the final model of the graph that it belongs to."""
    fields = linked(Form, 3).model_json_schema()["properties"]
    links = {name: field["langgraph_nodes"] for name, field in fields.items()}
    assert links["panel"] == ["layer_1", "layer_2"]
    assert links["aggregator"] == ["final"]
    assert links["prompt"] == ["layer_1", "layer_2", "final"]
    fields = linked(Form, 1, ("model",)).model_json_schema()["properties"]
    assert [field["langgraph_nodes"] for field in fields.values()] == [["model"]] * len(fields)


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(Form.model_fields), {"panel": [], "prompt": " "}])
def test_empty_is_the_preset(empty: Mapping[str, Any]) -> None:
    """Fields that are left empty change nothing."""
    assert applied(**empty) == BASE


def test_words_of_the_server_are_let_be() -> None:
    """What the server puts beside the form's own fields is no error."""
    assert applied(user_id="u", run_id="r", graph_id="moa", langgraph_auth_user=None, __after_seconds__=0) == BASE


def test_panel_is_by_model_or_by_name() -> None:
    """A panel has models by id, with what the preset knows of them, and the preset's own proposers by name."""
    one, first, other = applied(panel=["openai:one", "first", "groq:new"]).proposers
    assert (one.model, one.name, one.system, one.params) == ("openai:one", None, None, {"seed": 7})
    assert first == BASE.proposers[0]
    assert (other.model, other.params) == ("groq:new", {})


def test_panel_may_be_a_text() -> None:
    """A panel in a text field is one model per line, or between commas."""
    assert [one.model for one in applied(panel="openai:a, openai:b\nopenai:a\n").proposers] == [
        "openai:a",
        "openai:b",
        "openai:a",
    ]


def test_smaller_panel_lowers_the_presets_quorum() -> None:
    """A panel too small for the preset's quorum brings it down, unless a quorum was filled in."""
    assert applied(panel=["openai:a", "openai:b"]).policy.quorum == 2
    assert applied(panel=["openai:a", "openai:b"], quorum=1).policy.quorum == 1


def test_panel_for_every_layer() -> None:
    """One panel in place of several keeps the number of layers."""
    base = MoAConfig(proposers=[["openai:a"], ["openai:b"], ["openai:c"]], aggregator="openai:d")
    assert Form(panel=["openai:x"]).applied(base).depth == 4


def test_final_model_keeps_what_it_needs() -> None:
    """The final model of the preset, filled in again, is asked at the same place."""
    [last] = applied(aggregator="openai:last").aggregator
    assert (last.model, last.base_url) == ("openai:last", "http://127.0.0.1/v1")


def test_sampling_is_every_models() -> None:
    """Temperature and longest answer go before what a proposer has of its own."""
    config = applied(temperature=0.9, max_tokens="50")
    assert {(one.temperature, one.max_tokens) for one in [*config.proposers, *config.aggregator]} == {(0.9, 50)}


def test_policy_is_every_layers() -> None:
    """The policy's fields go before a layer's own, which keeps its others."""
    policy = {"quorum": 1, "timeout": 5.0}
    base = MoAConfig(proposers=[{"proposers": ["openai:a"], "policy": policy}], aggregator="openai:d")
    config = Form(grace=1, retries=0).applied(base)
    assert config.policy.model_dump(include={"timeout", "grace", "retries"}) == {
        "timeout": 120.0, "grace": 1.0, "retries": 0,
    }  # fmt: skip
    assert config.proposers[0].policy.timeout == 5.0
    assert config.proposers[0].policy.grace == 1.0


def test_prompt_keeps_the_envelope() -> None:
    """Another text is shown to the models the way the preset shows its own."""
    prompt = applied(prompt="Choose one.").arguments()["prompt"]
    assert (prompt.text, prompt.envelope) == ("Choose one.", "sealed")


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"layers": 0}, "layers: input should be greater than or equal to 1, not 0"),
        ({"layers": "many"}, "layers: input should be a valid integer, .*'many'"),
        ({"temperature": 2.5}, "temperature: input should be less than or equal to 2, not 2.5"),
        ({"panel": ["openai:a", 7]}, "panel.2: a text is needed, not 7"),
        ({"timeout": float("inf")}, "timeout: input should be a finite number"),
        ({"layer": 3}, r"layer: unknown key; did you mean layers\? one of layers, panel"),
        ({"proposers": ["openai:a"]}, "proposers: unknown key; one of layers, panel"),
        ({"preset": "openai"}, "preset: unknown key; one of layers, panel"),
    ],
)
def test_bad_value_is_named(context: dict[str, Any], message: str) -> None:
    """A value that will not do is told with its field, and so is a misspelt field."""
    with pytest.raises(MoAConfigError, match=f"^{message}"):
        Form.of(context)
