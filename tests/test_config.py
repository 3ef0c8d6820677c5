"""A mixture as data: presets, YAML files, keywords, and the graph built from them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.runnables import Runnable

from moa_graph import AGGREGATE_AND_SYNTHESIZE, MoAConfig, MoAConfigError, QuorumError, local
from moa_graph.config import preset_text, presets
from moa_graph.testing import ScriptedChatModel, bad_request
from tests.server import Behaviour, RecordingServer

SIX = [
    "together:microsoft/WizardLM-2-8x22B",
    "together:Qwen/Qwen1.5-110B-Chat",
    "together:Qwen/Qwen1.5-72B-Chat",
    "together:meta-llama/Llama-3-70b-chat-hf",
    "together:mistralai/Mixtral-8x22B-Instruct-v0.1",
    "together:databricks/dbrx-instruct",
]
"""The paper's proposers (section 3.1), in the reference script's order."""

CALLS = {
    "local": 4,
    "moa": 13,
    "moa-lite": 7,
    "moa-paper": 13,
    "moa-paper-gpt4o": 13,
    "moa-paper-lite": 7,
    "openai": 4,
    "self-moa": 7,
}
"""What each preset's comments promise: n·(l-1)+1."""

ASKED = {"messages": [("user", "Why?")]}


def layers(graph: Any) -> dict[str, list[str]]:
    """Layer -> its proposers."""
    return {
        name: sorted(node for node in layer.nodes if node not in ("__start__", "aggregate"))
        for name, layer in graph.get_subgraphs()
    }


def stand_in(model: str) -> Runnable[Any, Any]:
    return ScriptedChatModel(answers=[f"I am {model}."])


class Cast(dict[str, ScriptedChatModel]):
    """A scripted model for each model's id, made where there is none yet."""

    def __call__(self, model: str) -> ScriptedChatModel:
        return self.setdefault(model, ScriptedChatModel(answers=[f"I am {model}."]))


# Presets


@pytest.mark.parametrize("name", presets())
def test_preset_runs(name: str):
    """Every preset parses, and runs with stand-ins for its models, with as many calls as its comments promise."""
    config = MoAConfig.preset(name)
    out = config.build(stand_in=stand_in).invoke(ASKED)
    [final] = config.aggregator
    assert out["messages"][-1].text == f"I am {final.model}."
    assert out["messages"][-1].response_metadata["moa"]["calls"] == CALLS[name]
    assert f"{CALLS[name]} calls per question" in preset_text(name)


@pytest.mark.parametrize("name", presets())
def test_preset_builds_its_real_models(name: str, monkeypatch: pytest.MonkeyPatch):
    """With keys, every preset builds its real models without any network, in the promised shape."""
    if name == "local" and not local.available():
        pytest.skip('needs pip install "moa-graph[local]"')
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    monkeypatch.setenv("TOGETHER_API_KEY", "made-up")
    config = MoAConfig.preset(name)
    shape = layers(config.build())
    assert list(shape) == [f"layer_{i}" for i in range(1, config.depth)]
    assert sum(map(len, shape.values())) + 1 == CALLS[name]


def test_presets_are_known():
    """The table of calls above knows every preset there is."""
    assert presets() == sorted(CALLS)


@pytest.mark.parametrize(
    ("name", "depth", "final"),
    [
        ("moa-paper", 3, "together:Qwen/Qwen1.5-110B-Chat"),
        ("moa-paper-gpt4o", 3, "openai:gpt-4o-2024-05-13"),
        ("moa-paper-lite", 2, "together:Qwen/Qwen1.5-72B-Chat"),
    ],
)
def test_paper(name: str, depth: int, final: str):
    """The paper's presets are the paper's: its six in order, layers, final model, sampling, and no other setting."""
    config = MoAConfig.preset(name)
    assert [proposer.model for proposer in config.proposers] == SIX
    assert [model.model for model in config.aggregator] == [final]
    assert (config.depth, config.temperature, config.max_tokens) == (depth, 0.7, 2048)
    assert {model.model_fields_set == {"model"} for model in [*config.proposers, *config.aggregator]} == {True}
    assert config.prompt == MoAConfig(proposers=[], aggregator=final).prompt
    assert config.retired


def test_retired_presets_say_what_to_use():
    """A preset whose models are gone names a preset that is not, and no other preset claims to be retired."""
    for name in presets():
        retired = MoAConfig.preset(name).retired
        assert bool(retired) == name.startswith("moa-paper")
        assert not retired or '"moa' in retired


def test_copy_in_a_file(tmp_path: Path):
    """A preset copied to a file is the same mixture."""
    for name in presets():
        (tmp_path / "copy.yaml").write_text(preset_text(name), encoding="utf-8")
        assert MoAConfig.from_yaml(tmp_path / "copy.yaml") == MoAConfig.preset(name)


def test_unknown_preset():
    """An unknown preset is told with what was probably meant and every name there is."""
    with pytest.raises(MoAConfigError, match=r"no preset 'moalite': did you mean moa-lite\? one of local, moa, .*self"):
        MoAConfig.preset("moalite")


# What is described is what is built


def test_keywords_and_yaml_are_one(tmp_path: Path):
    """Keywords, a YAML file and a dump of either describe the same mixture."""
    described = {"proposers": ["openai:a", {"model": "openai:b", "samples": 2}], "aggregator": "openai:c", "layers": 2}
    config = MoAConfig(**described)
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config.model_dump()), encoding="utf-8")
    assert MoAConfig.from_yaml(tmp_path / "one.yaml") == config
    assert MoAConfig.from_yaml(tmp_path / "two.yaml").model_dump() == config.model_dump()


def test_sampling_reaches_the_wire(server: RecordingServer):
    """A model's own sampling goes before the mixture's, and `null` sends nothing."""
    at = {"base_url": server.base_url}
    config = MoAConfig(
        proposers=[
            {"model": "openai:plain", **at},
            {"model": "openai:own", "temperature": 0.1, "max_tokens": 5, "params": {"seed": 7}, **at},
            {"model": "openai:none", "temperature": None, "max_tokens": None, **at},
        ],
        aggregator={"model": "openai:last", **at},
        layers=2,
        temperature=0.4,
        max_tokens=99,
    )
    config.build().invoke(ASKED)
    sent = {request.model: request.body for request in server.requests}
    plain = sent["plain"]
    assert (plain["temperature"], plain.get("max_tokens", plain.get("max_completion_tokens"))) == (0.4, 99)
    assert (sent["own"]["temperature"], sent["own"]["seed"]) == (0.1, 7)
    assert not {"temperature", "max_tokens", "max_completion_tokens"} & set(sent["none"])


def test_system_prompt_and_name():
    """A proposer's name and system prompt are its own."""
    models = Cast()
    ann = {"model": "x:a", "name": "ann", "system": "Be terse."}
    out = MoAConfig(proposers=[ann], aggregator="x:b", layers=2).build(stand_in=models).invoke(ASKED)
    assert [proposal["proposer"] for proposal in out["proposals"]] == ["ann"]
    assert models["x:a"].prompts[0][0].content == "Be terse."


@pytest.mark.parametrize(("described", "depth"), [({}, 3), ({"layers": 1}, 1), ({"layers": 5}, 5)])
def test_depth_of_one_panel(described: dict[str, Any], depth: int):
    """One panel makes three layers unless said otherwise, the final model counted as the last."""
    config = MoAConfig(proposers=["x:a", "x:b"], aggregator="x:c", **described)
    assert config.depth == depth
    assert layers(config.build(stand_in=stand_in)) == {f"layer_{i}": ["a", "b"] for i in range(1, depth)}


def test_panel_per_layer():
    """A list of lists is one panel per layer, with one layer more for the final model."""
    config = MoAConfig(proposers=[["x:a", "x:b"], {"proposers": ["x:c"]}], aggregator="x:d")
    assert config.depth == 3
    assert layers(config.build(stand_in=stand_in)) == {"layer_1": ["a", "b"], "layer_2": ["c"]}


def test_policy_of_one_layer():
    """A layer's own policy holds in that layer, the mixture's in the others."""
    models = Cast(**{"x:b": ScriptedChatModel(answers=[bad_request()])})
    described = {"aggregator": "x:c", "policy": {"quorum": 1, "retries": 0}}
    MoAConfig(proposers=[["x:a", "x:b"], ["x:a", "x:b"]], **described).build(stand_in=models).invoke(ASKED)
    strict = {"proposers": ["x:a", "x:b"], "policy": {"quorum": 2, "retries": 0}}
    with pytest.raises(QuorumError, match=r"layer 2: \d of 2 proposers answered and 2 must"):
        MoAConfig(proposers=[["x:a", "x:b"], strict], **described).build(stand_in=models).invoke(ASKED)


def test_fallback():
    """In a list of aggregators the next one is asked when one fails."""
    models = Cast(**{"x:b": ScriptedChatModel(answers=[bad_request()])})
    config = MoAConfig(proposers=["x:a"], aggregator=["x:b", "x:c"], policy={"retries": 0})
    assert config.build(stand_in=models).invoke(ASKED)["messages"][-1].text == "I am x:c."


def test_policy_reaches_the_layer(server: RecordingServer):
    """What the policy says of retries is what happens."""
    server.script("a", Behaviour(status=500))
    at = {"base_url": server.base_url}
    config = MoAConfig(
        proposers=[{"model": "openai:a", **at}, {"model": "openai:b", **at}],
        aggregator={"model": "openai:c", **at},
        layers=2,
        policy={"retries": 0},
    )
    assert [p["attempts"] for p in config.build().invoke(ASKED)["proposals"]] == [1, 1]


def test_runtime_arguments():
    """What belongs to a run and not to the description goes to `build`."""
    assert MoAConfig(proposers=["x:a"], aggregator="x:b").build(stand_in=stand_in, name="mine").name == "mine"


def test_models():
    """`models` lists every model of the description, the final ones too, in order."""
    config = MoAConfig(proposers=[["x:a"], ["x:b", "x:a"]], aggregator=["x:c", "x:d"])
    assert [proposer.model for proposer in config.models()] == ["x:a", "x:b", "x:a", "x:c", "x:d"]


# The prompt


def synthesis(config: MoAConfig) -> str:
    """The system message the final model gets."""
    models = Cast()
    config.build(stand_in=models).invoke(ASKED)
    return str(models["x:b"].prompts[-1][0].content)


MODELS: dict[str, Any] = {"proposers": ["x:a"], "aggregator": "x:b", "layers": 2}


def test_default_prompt():
    """Without a prompt the default one is used."""
    assert synthesis(MoAConfig(**MODELS)) == f"{AGGREGATE_AND_SYNTHESIZE}\n1. I am x:a."


def test_prompt_as_text():
    """A prompt may be given as it is."""
    assert synthesis(MoAConfig(**MODELS, prompt="Merge:")) == "Merge:\n1. I am x:a."


def test_prompt_beside_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A prompt's file is looked for beside the YAML, wherever one stands; its last line break is no part of it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prompt.txt").write_text("Merge these.\nThey are:\n", encoding="utf-8")
    (tmp_path / "mine" / "moa.yaml").write_text(
        yaml.safe_dump({**MODELS, "prompt": {"file": "prompt.txt"}}), encoding="utf-8"
    )
    monkeypatch.chdir("/")
    said = synthesis(MoAConfig.from_yaml(tmp_path / "mine" / "moa.yaml"))
    assert said == "Merge these.\nThey are:\n1. I am x:a."


def test_prompt_file_by_its_full_path(tmp_path: Path):
    """A prompt's file may be given by its full path, also in keywords."""
    (tmp_path / "prompt.txt").write_text("Merge:", encoding="utf-8")
    config = MoAConfig(**MODELS, prompt={"file": str(tmp_path / "prompt.txt")})
    assert synthesis(config) == "Merge:\n1. I am x:a."


def test_prompt_file_that_is_not_there(tmp_path: Path):
    """A prompt's file that cannot be read is named with its path."""
    (tmp_path / "moa.yaml").write_text(yaml.safe_dump({**MODELS, "prompt": {"file": "no.txt"}}), encoding="utf-8")
    with pytest.raises(MoAConfigError, match=r"prompt: .*no\.txt: cannot be read \(No such file or directory\)"):
        MoAConfig.from_yaml(tmp_path / "moa.yaml").build(stand_in=stand_in)


def test_prompt_twice():
    """A prompt is a text or a file, not both."""
    with pytest.raises(MoAConfigError, match="prompt: give `text` or `file`, not both"):
        MoAConfig(**MODELS, prompt={"text": "a", "file": "b"}).build(stand_in=stand_in)


# Described wrongly


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"agregator": "x:b"},
            r"agregator: unknown key; did you mean aggregator\? one of aggregator, budget, critique, desc",
        ),
        ({"colour": "red"}, r"colour: unknown key; one of aggregator"),
        ({"policy": {"retrys": 1}}, r"policy\.retrys: unknown key; did you mean retries\? one of grace, max_conc"),
        ({"prompt": {"txt": "a"}}, r"prompt\.txt: unknown key; did you mean text\? one of envelope, file, "),
        (
            {"proposers": ["x:a", {"model": "x:b", "sample": 2}]},
            r"proposers\.2\.sample: unknown key; did you mean samples\? one of api_key_env, base_url",
        ),
        (
            {"proposers": [{"proposers": ["x:a"], "polcy": {}}]},
            r"proposers\.1\.polcy: .*policy\? one of critique, policy, pro",
        ),
        (
            {"proposers": [["x:a"], {"proposers": ["x:a"], "policy": {"gracee": 1}}]},
            r"proposers\.2\.policy\.gracee: unknown key; did you mean grace\?",
        ),
        ({"proposers": "x:a"}, r"proposers: a list is needed, not 'x:a'"),
        ({"proposers": [1]}, r'proposers\.1: "provider:model" or a mapping with `model` is needed, not 1'),
        ({"proposers": [["x:a"], "x:b"]}, r"proposers\.2: a list of models, .* is needed, not 'x:b'"),
        ({"proposers": [{"name": "a"}]}, r"proposers\.1\.model: this key is missing"),
        ({"aggregator": None}, r"aggregator\.1: .* is needed, not nothing"),
        ({"layers": "2"}, r"layers: a whole number is needed, not '2'"),
        ({"layers": True}, r"layers: a whole number is needed, not True"),
        ({"temperature": "hot"}, r"temperature: a number is needed, not 'hot'"),
        ({"stream_proposers": "yes"}, r"stream_proposers: true or false is needed, not 'yes'"),
        ({"description": ["a"]}, r"description: a text is needed, not a list"),
        ({"policy": 3}, r"policy: a mapping is needed, not 3"),
        ({"prompt": {"envelope": "blue"}}, r"prompt\.envelope: 'paper' or 'sealed' is needed, not 'blue'"),
    ],
)
def test_wrong_key_or_type(changes: dict[str, Any], told: str, tmp_path: Path):
    """A wrong key or type is told by its place, what is valid there, and, from a file, the file's name."""
    described = {**MODELS, **changes}
    with pytest.raises(MoAConfigError, match=rf"^{told}"):
        MoAConfig(**described)
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    with pytest.raises(MoAConfigError, match=rf"^\S*bad\.yaml: {told}"):
        MoAConfig.from_yaml(path)


@pytest.mark.parametrize("key", ["proposers", "aggregator"])
def test_missing_key(key: str):
    """A key that has to be there is named."""
    with pytest.raises(MoAConfigError, match=rf"^{key}: this key is missing$"):
        MoAConfig(**{name: value for name, value in MODELS.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers": 0}, "layers is 0: a whole number of at least 1"),
        ({"proposers": []}, "the panel is empty"),
        ({"proposers": [["x:a"], []], "layers": None}, "layer 2: the panel is empty"),
        ({"proposers": [["x:a"], ["x:a"]], "layers": 5}, "layers is 5, but 2 panels were given"),
        ({"aggregator": []}, "there is no aggregator"),
        ({"policy": {"quorum": 2}}, "layer 1: a quorum of 2 needs more than its 1 proposers"),
        ({"policy": {"timeout": 0}}, "timeout is 0.0: it must be more than 0 seconds"),
        ({"proposers": [{"model": "x:a", "name": "n"}, {"model": "x:b", "name": "n"}]}, "two proposers are named 'n'"),
        ({"proposers": [{"model": "x:a", "samples": 0}]}, "samples is 0"),
    ],
)
def test_wrong_mixture(changes: dict[str, Any], told: str):
    """What is well written and makes no mixture is told when it is built, before any model is asked."""
    with pytest.raises(MoAConfigError, match=told):
        MoAConfig(**{**MODELS, **changes}).build(stand_in=stand_in)


def test_missing_key_of_a_provider(monkeypatch: pytest.MonkeyPatch):
    """A key that is not set is named by its variable, the one of `api_key_env` too."""
    with pytest.raises(MoAConfigError, match="openai needs a key: set OPENAI_API_KEY"):
        MoAConfig(proposers=["openai:a"], aggregator="openai:b").build()
    with pytest.raises(MoAConfigError, match="the variable MY_KEY named by api_key_env is not set"):
        MoAConfig(proposers=[{"model": "openai:a", "api_key_env": "MY_KEY"}], aggregator="openai:b").build()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "a mapping with `proposers` and `aggregator` is needed, not an empty file"),
        (b"- a\n- b\n", "is needed, not a list"),
        (b"just words", "is needed, not a text"),
        (b"proposers: [a\n", "not YAML at line 2"),
        (b"\xff\xfe\x00", "cannot be read .not UTF-8 text."),
    ],
)
def test_file_that_is_no_description(content: bytes, told: str, tmp_path: Path):
    """A file that is no mapping, no YAML or no text is told as that, with its name."""
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(MoAConfigError, match=rf"bad\.yaml: .*{told}"):
        MoAConfig.from_yaml(tmp_path / "bad.yaml")


def test_file_that_is_not_there(tmp_path: Path):
    """A file that is not there, or is a folder, is told with the system's own reason."""
    with pytest.raises(MoAConfigError, match=r"no\.yaml: cannot be read \(No such file or directory\)"):
        MoAConfig.from_yaml(tmp_path / "no.yaml")
    with pytest.raises(MoAConfigError, match=r"cannot be read \(Is a directory\)"):
        MoAConfig.from_yaml(tmp_path)


@pytest.mark.parametrize("given", [5, True, ["openai:a"]])
def test_prices_are_models_or_a_file(given: Any) -> None:
    """Prices of another kind are told as what they are, with both that they can be."""
    with pytest.raises(MoAConfigError, match=r"^prices: models with their prices, or a file of them, are needed, not "):
        MoAConfig(proposers=["openai:a"], aggregator="openai:b", prices=given)


@pytest.mark.parametrize("given", [3, None, "0.5"])
def test_a_price_that_is_none(given: Any) -> None:
    """The model is named, and what a price looks like."""
    config = MoAConfig(proposers=["openai:a"], aggregator="openai:b", prices={"openai:a": given})
    with pytest.raises(MoAConfigError, match=r"^prices: openai:a: .* is no price: write \{input: 0\.5, output: 1\.5\}"):
        config.estimate("Why?")


@pytest.mark.parametrize("usd", [True, "0.5"])
def test_a_budget_in_dollars_is_a_number(usd: Any) -> None:
    """What is no number in Python is none in a mixture's file."""
    with pytest.raises(MoAConfigError, match=r"^budget\.usd: a number is needed, not "):
        MoAConfig(proposers=["openai:a"], aggregator="openai:b", budget={"usd": usd})


def test_a_price_may_be_of_a_model_that_is_reported(tmp_path: Path):
    """A mixture's own prices may have names that it does not ask for: providers report others."""
    path = tmp_path / "priced.yaml"
    path.write_text("proposers: [openai:a]\naggregator: openai:b\nprices: {a-2026-11-01: {input: 1, output: 2}}\n")
    assert MoAConfig.from_yaml(path).prices["a-2026-11-01"]


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path):
    """The last one does not win in silence: the file, the key and the lines are told."""
    path = tmp_path / "twice.yaml"
    path.write_text("proposers: [openai:a]\nlayers: 2\naggregator: openai:b\nlayers: 3\n")
    with pytest.raises(MoAConfigError, match=r"twice\.yaml: layers: this key stands there twice, in lines 2 and 4"):
        MoAConfig.from_yaml(path)
