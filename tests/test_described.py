"""Steps and roles as YAML."""

from pathlib import Path
from typing import Any

import pytest

from moa_graph import Agreement, Cluster, Critique, Diverse, Judge, MoAConfig, MoAConfigError, Route, Sentinel, TopK
from moa_graph.draw import draw
from moa_graph.form import Form
from tests.steps import ASK, decisions, says

PANEL = ["x:a", "x:b", "x:c"]


def written(tmp_path: Path, text: str) -> MoAConfig:
    (tmp_path / "m.yaml").write_text(f"proposers: [x:a, x:b, x:c]\naggregator: x:z\n{text}")
    return MoAConfig.from_yaml(tmp_path / "m.yaml")


def step(config: MoAConfig, kind: str, layer: int | None = None) -> Any:
    panels = config.arguments()["proposers"]
    return getattr(panels if layer is None else panels[layer - 1], kind)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("select: {diverse: {k: 2, embed: 'x:e'}}", Diverse(2, embed="x:e")),
        ("select: cluster", Cluster()),
        ("select: {cluster: {least: 0.1, otherwise: first}}", Cluster(least=0.1, otherwise="first")),
        ("stop: agreement", Agreement()),
        ("stop: {agreement: {threshold: 0.8, patience: 2}}", Agreement(0.8, 2)),
        ("stop: {sentinel: {text: FINAL, share: any}}", Sentinel("FINAL", "any")),
    ],
)
def test_steps_without_a_model(tmp_path: Path, text: str, made: Any) -> None:
    """A word is a step with its defaults, a mapping says `by` which step it is and with what."""
    assert step(written(tmp_path, text), text.partition(":")[0]) == made


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("select: {top_k: {k: 2, judge: x:j}}", TopK),
        ("select: {top_k: {k: 2, judge: {model: x:j, max_tokens: 9}}}", TopK),
        ("stop: {judge: {model: x:j, otherwise: go_on}}", Judge),
        ("route: x:j", Route),
        ("route: {model: x:j, most: 2, describe: {a: knows optics}}", Route),
        ("critique: x:j", Critique),
        ("critique: {model: x:j, otherwise: without}", Critique),
    ],
)
def test_steps_with_a_model(tmp_path: Path, text: str, kind: type[Any]) -> None:
    """Where a model is wanted stands what a proposer may be; for a route and a critique a word is the model."""
    made = step(written(tmp_path, text), text.partition(":")[0])
    assert isinstance(made, kind)
    assert made.model.model == "x:j"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("select: top", "select.top: there is no such step: did you mean top_k? one of cluster, diverse, top_k"),
        ("select: {k: 2}", "select.k: there is no such step: one of cluster, diverse, top_k"),
        ("select: {diverse: {k: 2}, cluster: {}}", "select: one step is needed, not diverse, cluster"),
        ("select: {diverse: 2}", "select.diverse: a mapping is needed, not 2"),
        ("select: 3", "select: a mapping such as {cluster: {…}}, with one of cluster, diverse, top_k is needed, not 3"),
        ("route: 3", "route: a mapping such as {route: {…}}, with one of route is needed, not 3"),
        ("select: {top_k: {k: 2}}", "select.judge: this key is missing"),
        ("route: {most: 2}", "route.model: this key is missing"),
        ("select: {top_k: {k: 2, juge: x:j}}", "select.juge: unknown key; did you mean judge?"),
        ("select: {diverse: {k: 0}}", "select: Diverse: k is 0"),
        ("stop: {judge: {model: {modle: x:j}}}", "stop.model: modle: unknown key; did you mean model?"),
        ("stop: {top_k: {k: 2, judge: x:j}}", "stop.top_k: there is no such step"),
        ("route: {choose: len, model: x:j}", "route.choose: unknown key; "),
        ("roles: [A., B.]", "roles: 2 roles for 3 models"),
        ("roles: A.", "roles: a list is needed"),
    ],
)
def test_mistakes_name_the_key(tmp_path: Path, text: str, said: str) -> None:
    """The file, the key, what is wrong and what would be valid, when the file is read."""
    with pytest.raises(MoAConfigError) as error:
        written(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'm.yaml'}: {said}")


def test_a_layers_own_go_before_the_mixtures() -> None:
    """What is said of the mixture holds for every layer that says nothing of its own; `null` switches it off."""
    own = {"diverse": {"k": 1}}
    config = MoAConfig(
        proposers=[PANEL, {"proposers": PANEL, "select": own}, {"proposers": PANEL, "select": None}],
        aggregator="x:z", select="cluster",
    )  # fmt: skip
    assert [step(config, "select", layer) for layer in (1, 2, 3)] == [Cluster(), Diverse(1), None]


def test_a_layers_mistake_names_the_layer() -> None:
    """The second of two layers is at fault."""
    config = MoAConfig(proposers=[PANEL, {"proposers": PANEL, "stop": "agre"}], aggregator="x:z")
    with pytest.raises(MoAConfigError, match=r"proposers\.2\.stop\.agre: there is no such step"):
        config.build()


def test_roles_in_yaml(tmp_path: Path) -> None:
    """Each proposer gets its role, in order."""
    made = written(tmp_path, "roles: [A., {name: b, system: B.}, C.]").arguments()["proposers"]
    assert [(p.model, p.name, p.system) for p in made] == [("x:a", None, "A."), ("x:b", "b", "B."), ("x:c", None, "C.")]


async def test_every_family_runs_from_a_description() -> None:
    """One mixture with all of them runs, and each has decided."""
    config = MoAConfig(
        proposers=PANEL, aggregator="x:z", route="x:route", select={"top_k": {"k": 1, "judge": "x:judge"}},
        critique="x:critic", stop={"sentinel": {"text": "FINAL"}}, roles=["A.", "B.", "C."],
    )  # fmt: skip
    answers = {"x:route": '["a", "b"]', "x:judge": "[2]", "x:b": "FINAL", "x:critic": "Fine."}
    out = await config.build(stand_in=lambda model: says(answers.get(model, "?"))).ainvoke(ASK)
    assert [(d[1], d[3]) for d in decisions(out)] == [
        ("route", ["a", "b"]), ("select", ["b"]), ("critique", ["b"]), ("stop", []),
    ]  # fmt: skip


def test_drawn_without_keys() -> None:
    """A mixture whose steps embed with a model is drawn without that model."""
    config = MoAConfig(proposers=PANEL, aggregator="x:z", select={"diverse": {"k": 2, "embed": "openai:x"}})
    assert "select" in draw(config).text


def test_a_form_keeps_them() -> None:
    """With the form's sampling or its panel, each layer has the steps and roles that it had."""
    layers = [{"proposers": PANEL, "select": "cluster", "roles": ["A.", "B.", "C."]}, {"proposers": PANEL}]
    config = MoAConfig(proposers=layers, aggregator="x:z", critique="x:critic")
    for context in ({"temperature": 0.1}, {"panel": ["x:a", "x:b", "x:d"]}):
        made = Form.of(context).applied(config).arguments()["proposers"]
        assert [layer.select for layer in made] == [Cluster(), None]
        assert [p.system for p in made[0].proposers] == ["A.", "B.", "C."]
        assert [layer.critique is not None for layer in made] == [True, True]
    assert [p.model for p in made[0].proposers] == ["x:a", "x:b", "x:d"]


def test_the_models_of_steps_are_known() -> None:
    """Whoever looks at a mixture's models sees those of its steps."""
    config = MoAConfig(proposers=PANEL, aggregator="x:z", route="x:r", stop={"judge": {"model": "x:j"}})
    assert [p.model for p in config.models()] == ["x:a", "x:b", "x:c", "x:r", "x:j", "x:z"]


def test_an_estimate_counts_them() -> None:
    """One call for a route, a TopK and a judge, one per answer for a critique; none for a stop behind the last."""
    steps = {
        "route": "x:r", "select": {"top_k": {"k": 2, "judge": "x:j"}}, "critique": "x:c",
        "stop": {"judge": {"model": "x:j"}},
    }  # fmt: skip
    bare = MoAConfig(proposers=PANEL, aggregator="x:z").estimate("Why?")
    made = MoAConfig(proposers=PANEL, aggregator="x:z", **steps).estimate("Why?")
    assert [layer["calls"] for layer in bare["layers"]] == [3, 3, 1]
    assert [layer["calls"] for layer in made["layers"]] == [3 + 1 + 1 + 3 + 1, 3 + 1 + 1 + 3, 1]
    assert made["layers"][0]["input_tokens"] > bare["layers"][0]["input_tokens"] + 3 * 1500
    assert made["layers"][2]["input_tokens"] == bare["layers"][2]["input_tokens"] + 3 * 90


def test_an_estimate_prices_them() -> None:
    """A step's model without a price makes the sum unknown, one with a price raises it."""
    prices = {model: {"input": 1, "output": 1} for model in [*PANEL, "x:z"]}
    config: Any = {"proposers": PANEL, "aggregator": "x:z", "critique": "x:k"}
    assert MoAConfig(**config, prices=prices).estimate("Why?")["cost_usd"] is None
    known = MoAConfig(**config, prices={**prices, "x:k": {"input": 1, "output": 1}}).estimate("Why?")
    assert known["cost_usd"] == pytest.approx((known["input_tokens"] + known["output_tokens"]) / 1e6)
