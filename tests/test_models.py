""" "provider:model" -> a chat model, and one way to ask whatever was given."""

from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langchain_together import ChatTogether

from moa_graph import MoAConfigError
from moa_graph.models import missing_key, providers, resolve
from moa_graph.testing import ScriptedChatModel


@pytest.mark.parametrize(
    ("name", "kind"), [("openai:gpt", ChatOpenAI), ("together:Qwen/Q", ChatTogether), (" OpenAI:gpt ", ChatOpenAI)]
)
def test_a_string_becomes_a_chat_model(monkeypatch: pytest.MonkeyPatch, name: str, kind: type) -> None:
    """The provider's chat model is made, with the paper's sampling; the SDK's own retries are off."""
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    monkeypatch.setenv("TOGETHER_API_KEY", "a-key")
    made = resolve(name, where="here")
    assert isinstance(made.runnable, kind)
    assert (made.runnable.temperature, made.runnable.max_tokens, made.runnable.max_retries) == (0.7, 2048, 0)
    assert made.id == name.strip()
    assert not made.takes_state


@pytest.mark.parametrize(
    ("name", "parameters", "temperature"),
    [
        ("openai:gpt-5-mini", {}, None),
        ("openai:o3", {}, None),
        ("openai:gpt-4o", {}, 0.7),
        ("openai:gpt-5.1", {"reasoning_effort": "none"}, 0.7),
        ("openai:gpt-5-mini", {"temperature": 1.0}, 1.0),
        (" openai:gpt-5-mini", {}, None),
        ("OpenAI:gpt-5-mini", {}, None),
    ],
)
def test_a_reasoning_model_gets_no_default_temperature(
    monkeypatch: pytest.MonkeyPatch, name: str, parameters: dict[str, Any], temperature: float | None
) -> None:
    """OpenAI's reasoning models refuse the default; what was asked for is sent."""
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    given = {"temperature": parameters.pop("temperature")} if "temperature" in parameters else {}
    assert resolve(name, where="here", parameters=parameters, **given).runnable.temperature == temperature


@pytest.mark.parametrize("variable", ["GOOGLE_API_KEY", "GEMINI_API_KEY"])
def test_any_of_a_providers_variables_will_do(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Only where none is set is a key missing; a provider without keys misses none."""
    assert missing_key("google_genai") == ("GOOGLE_API_KEY", "GEMINI_API_KEY")
    monkeypatch.setenv(variable, "a-key")
    assert missing_key("google_genai") == ()
    assert missing_key("ollama") == ()


def test_the_providers_are_sorted_and_ours_is_among_them() -> None:
    """What an error lists is what may be written."""
    assert providers() == sorted(providers())
    assert {"openai", "together", "anthropic", "local"} <= set(providers())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("gpt-4o", {}, "here: 'gpt-4o' .*provider:model with one of .*local.*openai"),
        ("nobody:x", {}, "here: 'nobody:x' .*openai.*together"),
        ("openai:", {}, "here: 'openai:'"),
        ("", {}, "here: ''"),
        ("openai:x", {}, "here: openai needs a key: set OPENAI_API_KEY"),
        ("google_genai:x", {}, "set GOOGLE_API_KEY or GEMINI_API_KEY"),
        ("openai:x", {"api_key_env": "MY_KEY"}, "here: the variable MY_KEY .* is not set"),
        (
            "cohere:x",
            {"base_url": "http://127.0.0.1:9"},
            'here: cohere needs a package: pip install "langchain-cohere"',
        ),
        ("openai:x", {"base_url": "http://127.0.0.1:9", "temperature": "hot"}, "here: openai:x cannot be made: .*temp"),
        (3, {}, "here: int is no model"),
        (None, {}, "here: NoneType is no model"),
        (ScriptedChatModel(), {"base_url": "http://127.0.0.1:9"}, "here: base_url .* an object already"),
        (ScriptedChatModel(), {"api_key_env": "MY_KEY"}, "here: base_url and api_key_env"),
        (ScriptedChatModel(), {"max_tokens": 0}, "here: max_tokens is 0: a whole number of at least 1 is needed"),
        ("openai:gpt-4o", {"max_tokens": "9"}, "here: max_tokens is '9'"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, options: dict[str, Any], message: str) -> None:
    """The message names the culprit and what would be valid: a provider, a key, a package."""
    with pytest.raises(MoAConfigError, match=message):
        resolve(model, where="here", **options)


def test_an_object_is_used_as_it_is() -> None:
    """Nothing is bound to an object unless asked for, and then to a copy."""
    model = ScriptedChatModel(model_name="mine")
    assert resolve(model, where="here").runnable is model
    assert resolve(model, where="here", temperature=None).runnable is model
    bound = resolve(model, where="here", temperature=1.0, parameters={"seed": 7})
    assert bound.runnable.kwargs == {"temperature": 1.0, "seed": 7}
    assert bound.id == "mine"
