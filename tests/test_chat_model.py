"""`ChatMoA` is a chat model like any other: LangChain's standard suites hold, and so does what users do with one."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from langgraph.cache.memory import InMemoryCache as GraphCache
from pydantic import ValidationError

from moa_graph import ChatMoA, FinalError, Layer, LayerPolicy, MoAConfig, MoAConfigError, Prompt, Proposer
from moa_graph.testing import ScriptedChatModel, bad_request
from tests.chat_models import Obliging
from tests.server import RecordingServer

KEY = "sk-abcdefghijklmnop"
STANDARD: dict[str, dict[str, Any]] = {"a": {}, "b": {"temperature": 0.9}}


class Suite:
    """A mixture of models that call tools when asked to."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMoA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        panel = [Obliging(answers=["It is a."], model_name="a"), Obliging(answers=["It is b."], model_name="b")]
        return {"proposers": panel, "aggregator": Obliging(answers=["It is c."], model_name="c"), "layers": 2}


class TestUnit(Suite, ChatModelUnitTests):
    """LangChain's unit suite holds; `test_serdes` is for models that LangChain can write down as JSON."""

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"TOGETHER_API_KEY": KEY}, {"config": "moa-lite"}, {"config": "moa-lite"}


class TestIntegration(Suite, ChatModelIntegrationTests):
    """LangChain's integration suite holds, but for what it downloads: pictures, sounds, documents."""

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class TestOverTheWire(ChatModelIntegrationTests):
    """The suite's text, usage, stop and override parts hold over real clients and connections."""

    @pytest.fixture(autouse=True)
    def _served(self, server: RecordingServer) -> Iterator[None]:
        models = [ChatOpenAI(model=name, base_url=server.base_url, api_key="key") for name in "abc"]  # type: ignore[arg-type]
        self.params = {"proposers": models[:2], "aggregator": models[2], "layers": 2}
        yield
        assert all(request.outcome == "ok" for request in server.requests)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMoA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.params

    @property
    def has_tool_calling(self) -> bool:
        return False  # the server speaks text

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "another"


def scripted(name: str, *answers: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=answers or [f"It is {name}."], model_name=name)


def mixture(**given: Any) -> ChatMoA:
    return ChatMoA(**{"proposers": [scripted("a"), scripted("b")], "aggregator": scripted("c"), "layers": 2, **given})


# How it is made


YAML = "proposers: ['openai:a', {model: 'openai:b', samples: 2}]\naggregator: openai:c\nlayers: 2\n"


def test_made_of_a_preset_a_file_or_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset's name, a YAML file's path, as a text or a `Path`, and a `MoAConfig` are mixtures; nothing is sent."""
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.setenv(name, KEY)
    (file := tmp_path / "moa.yaml").write_text(YAML)
    assert len(ChatMoA(config="moa-lite")._identifying_params["models"]) == 7
    for given in (file, str(file), MoAConfig.from_yaml(file)):
        assert ChatMoA(config=given)._identifying_params["models"] == ["openai:a", "openai:b", "openai:c"]


def test_what_is_given_goes_before_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given together, a keyword replaces what the config says."""
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    moa = ChatMoA(config="moa-lite", proposers=[scripted("a"), scripted("b"), scripted("d")], aggregator=scripted("c"))
    answer = moa.invoke("Hi.")
    assert (answer.text, answer.response_metadata["moa"]["calls"]) == ("It is c.", 4)


def test_a_prompt_and_panels_of_its_own() -> None:
    """Panels, a policy and a prompt are those of `create_moa`."""
    final = scripted("c")
    panels = [[scripted("a")], Layer([Proposer(scripted("b"), samples=2)])]
    moa = ChatMoA(proposers=panels, aggregator=final, prompt=Prompt("Combine:"), policy=LayerPolicy(quorum=1))
    assert moa.invoke("Hi.").response_metadata["moa"]["calls"] == 4
    assert final.prompts[0][0].text == "Combine:\n1. It is b.\n2. It is b."


ONE = [ScriptedChatModel()]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "ChatMoA needs proposers and aggregator, or config"),
    "no aggregator": ({"proposers": ONE}, "ChatMoA needs aggregator, or config"),
    "no proposers": ({"aggregator": ONE[0]}, "ChatMoA needs proposers, or config"),
    "unknown preset": ({"config": "moa-lit"}, "did you mean moa-lite"),
    "no file": ({"config": Path("nowhere.yaml")}, "nowhere.yaml: cannot be read"),
    "config of a wrong type": ({"config": {"layers": 2}}, "config is a dict: give a preset's name"),
    "no key": ({"config": "moa-lite"}, "TOGETHER_API_KEY"),
    "layers": ({"proposers": ONE, "aggregator": ONE[0], "layers": 0}, "layers is 0: a whole number"),
    "layers of a wrong type": ({"proposers": ONE, "aggregator": ONE[0], "layers": "2"}, "layers is '2'"),
    "a text as proposers": ({"proposers": "openai:x", "aggregator": ONE[0]}, "proposers are a list"),
    "no model": ({"proposers": [3], "aggregator": ONE[0]}, "proposer 1 .*: int is no model"),
    "no model as aggregator": ({"proposers": ONE, "aggregator": 3}, "aggregator: int is no model"),
    "no aggregators": ({"proposers": ONE, "aggregator": []}, "there is no aggregator"),
    "an empty panel": ({"proposers": [], "aggregator": ONE[0]}, "the panel is empty"),
    "a policy of a wrong type": ({"proposers": ONE, "aggregator": ONE[0], "policy": 2}, "policy is 2: give a"),
    "a quorum too high": ({"proposers": ONE, "aggregator": ONE[0], "policy": LayerPolicy(quorum=2)}, "quorum of 2"),
    "a prompt of a wrong type": ({"proposers": ONE, "aggregator": ONE[0], "prompt": 2}, "the prompt is 2"),
    "a misspelt keyword": ({"proposer": ONE, "aggregator": ONE[0]}, "no 'proposer': did you mean proposers"),
    "a model's keyword": ({"config": "local", "top_p": 0}, "no 'top_p': .*config, proposers, aggregator"),
    "a chat model's own": ({"proposers": ONE, "aggregator": ONE[0], "tags": 3}, "ChatMoA: tags: .*list"),
    "a graph's cache": ({"proposers": ONE, "aggregator": ONE[0], "cache": GraphCache()}, "ChatMoA: cache: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_made_wrongly(what: str) -> None:
    """Whatever is wrong is said when it is made, in one line, with what would be right."""
    given, match = WRONG[what]
    with pytest.raises(MoAConfigError, match=match) as caught:
        ChatMoA(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config", "proposers", "aggregator", "layers", "policy", "prompt"])
def test_it_cannot_be_changed(name: str) -> None:
    """Its description stays: a change would not reach the graphs made of it."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(mixture(), name, None)


# Copies


def test_copies_answer_as_it_does() -> None:
    """Copies of every kind answer, on the same models."""
    moa = mixture()
    moa.invoke("Hi.")
    for same in (moa.model_copy(), copy.copy(moa), copy.deepcopy(moa), moa.model_copy(deep=True)):
        assert same.invoke("Hi.").text == "It is c."
        assert same._identifying_params == moa._identifying_params
    assert moa.aggregator.calls == 5


def test_a_changed_copy_is_another_mixture() -> None:
    """`model_copy(update=...)` gives the mixture it says, checked, and leaves the first as it was."""
    moa = mixture(tags=["mine"])
    other = moa.model_copy(update={"aggregator": scripted("d"), "layers": 3})
    assert [(each.invoke("Hi.").text, each.tags) for each in (moa, other)] == [
        ("It is c.", ["mine"]),
        ("It is d.", ["mine"]),
    ]
    assert other.invoke("Hi.").response_metadata["moa"]["calls"] == 5
    with pytest.raises(MoAConfigError, match="layers is 0"):
        moa.model_copy(update={"layers": 0})


def test_it_can_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture that is described by data goes to another process and is the same there."""
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    moa = ChatMoA(config="moa-lite", tags=["mine"])
    again: ChatMoA = pickle.loads(pickle.dumps(moa))
    assert (again._identifying_params, again.tags) == (moa._identifying_params, ["mine"])
    assert again._graph({}).name == "moa"


def test_it_takes_what_runnables_take() -> None:
    """`bind`, `with_config`, `with_retry`, `with_fallbacks` and configurable fields behave as on any chat model."""
    moa, broken = mixture(), mixture(aggregator=scripted("x", bad_request(), bad_request(), "At last."))
    assert moa.bind(seed=7).invoke("Hi.").text == "It is c."
    assert moa.with_config(tags=["t"], run_name="n").invoke("Hi.").text == "It is c."
    assert broken.with_fallbacks([moa]).invoke("Hi.").text == "It is c."
    retried = broken.with_retry(retry_if_exception_type=(FinalError,), wait_exponential_jitter=False)
    assert retried.invoke("Hi.").text == "At last."
    chosen = moa.configurable_fields(layers=ConfigurableField("layers"))
    answer: Any = chosen.invoke("Hi.", {"configurable": {"layers": 3}})
    assert answer.response_metadata["moa"]["calls"] == 5


def test_the_latest_graphs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made once for the same keywords, and only so many are kept."""
    import moa_graph.chat_model as module

    made: list[Any] = []
    create = module.create_moa
    monkeypatch.setattr(module, "create_moa", lambda **given: made.append(1) or create(**given))
    moa = mixture()
    for seed in (1, 1, 2, 1, 2):
        moa.invoke("Hi.", seed=seed)
    assert len(made) == 3
    for seed in range(40):
        moa.invoke("Hi.", seed=seed)
    assert len(moa._graphs) == 16


def test_keywords_that_are_no_data_are_told_apart(server: RecordingServer) -> None:
    """Two objects that look alike are two keywords: each call has its own."""
    sent: list[Any] = []

    class Noting(ScriptedChatModel):
        async def _agenerate(self, *args: Any, **keywords: Any) -> Any:
            sent.append(keywords["thing"])
            return await super()._agenerate(*args, **keywords)

    class Alike:
        def __repr__(self) -> str:
            return "alike"

    moa, things = mixture(aggregator=Noting()), [Alike(), Alike()]
    for thing in things:
        moa.invoke("Hi.", thing=thing)
    assert sent == things


# What it shows of itself


def test_no_key_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its repr, nor what tracers and caches are given, has a key in it."""
    for name in ("OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.setenv(name, KEY)
    keyed = Proposer("openai:a", parameters={"default_headers": {"Authorization": f"Bearer {KEY}"}})
    moa = ChatMoA(proposers=[keyed, ChatOpenAI(model="b", api_key=KEY)], aggregator="together:c", layers=2)  # type: ignore[arg-type]
    shown = [repr(moa), str(moa), moa._serialized, moa._get_invocation_params(), moa._get_llm_string(), moa.asdict()]
    assert KEY not in str(shown)
    assert repr(moa).startswith("ChatMoA(models=['openai:a', 'b', 'together:c'], mixture='")


# LangChain's own cache


@pytest.fixture
def llm_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("llm_cache")
async def test_the_llm_cache_keeps_an_answer() -> None:
    """With LangChain's cache the same question is asked once; its answer has the receipt of that run."""
    moa = mixture()
    first, second = moa.invoke("Hi."), await moa.ainvoke("Hi.")
    assert moa.aggregator.calls == 1
    assert (second.text, second.response_metadata["moa"]) == (first.text, first.response_metadata["moa"])
    assert mixture(cache=False).invoke("Hi.").text == "It is c."


def different() -> dict[str, ChatMoA]:
    final = scripted("c")
    return {
        "this": mixture(),
        "another aggregator": mixture(aggregator=scripted("d")),
        "a fallback": mixture(aggregator=[final, scripted("d")]),
        "another proposer": mixture(proposers=[scripted("a"), scripted("d")]),
        "fewer proposers": mixture(proposers=[scripted("a")]),
        "another order": mixture(proposers=[scripted("b"), scripted("a")]),
        "samples": mixture(proposers=[scripted("a"), Proposer(scripted("b"), samples=2)]),
        "a system prompt": mixture(proposers=[scripted("a"), Proposer(scripted("b"), system="Be terse.")]),
        "a bound keyword": mixture(aggregator=final.bind(seed=7)),
        "panels": mixture(proposers=[[scripted("a")], [scripted("b")]], layers=None),
        "more layers": mixture(layers=3),
        "a policy": mixture(policy=LayerPolicy(quorum=2)),
        "a prompt": mixture(prompt="Combine:"),
        "a function": mixture(aggregator=RunnableLambda(lambda messages: AIMessage("x"))),
        "another function": mixture(aggregator=RunnableLambda(lambda messages: AIMessage("y"))),
    }


def test_mixtures_are_told_apart() -> None:
    """Whatever makes another mixture makes another entry in LangChain's cache; the same again is the same."""
    keys = {what: moa._get_llm_string() for what, moa in different().items()}
    assert len(set(keys.values())) == len(keys)
    assert keys["this"] == mixture()._get_llm_string()
    expecting = mixture(proposers=[scripted("a"), Proposer(scripted("b"))])
    longer = mixture(proposers=[scripted("a"), Proposer(scripted("b"), usual_output=900)])
    assert longer._get_llm_string() == expecting._get_llm_string()  # it makes no other answer


@pytest.mark.usefixtures("llm_cache")
def test_tools_and_keywords_are_told_apart() -> None:
    """A call with tools, or with another keyword, is another question."""
    moa = mixture()
    for model in (moa, moa.bind(seed=7), moa.bind_tools([{"type": "web_search"}])):
        for _ in range(2):
            model.invoke("Hi.")
    assert moa.aggregator.calls == 3


def test_a_rate_limit_is_no_part_of_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limiter, which is another object in each process, does not change what a kept answer is found by."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    one, two = (
        mixture(aggregator=Proposer("openai:c", parameters={"rate_limiter": InMemoryRateLimiter()})) for _ in range(2)
    )
    assert one._identifying_params == two._identifying_params


def test_standard_keywords_reach_the_models(server: RecordingServer) -> None:
    """temperature, max_tokens and api_key are the string models', where they say nothing else; stop the final one's."""
    a, b = (Proposer(f"openai:{name}", base_url=server.base_url, **own) for name, own in STANDARD.items())
    moa = ChatMoA(proposers=[a], aggregator=b, layers=2, temperature=0.1, max_tokens=9, api_key="sk-x" * 9, stop=["!"])
    moa.invoke("Why?")
    first, last = (request.body for request in server.requests)
    assert (first["temperature"], first["max_completion_tokens"], first.get("stop")) == (0.1, 9, None)
    assert (last["temperature"], last["max_completion_tokens"], last["stop"]) == (0.9, 9, ["!"])
    assert "sk-x" not in repr(moa)


def test_timeout_and_retries_go_before_the_policy() -> None:
    """`timeout` and `max_retries` replace the policy's, and leave the rest of it."""
    moa = ChatMoA(proposers=ONE, aggregator=ONE[0], policy=LayerPolicy(grace=3.0), timeout=7.0, max_retries=0)
    assert moa._arguments["policy"] == LayerPolicy(grace=3.0, timeout=7.0, retries=0)
