"""`MoAConfig`: a mixture as data - a preset, a YAML file, keywords - and the graph built from it."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from langchain_core.runnables import Runnable, RunnablePassthrough
from langgraph.graph.state import CompiledStateGraph
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from moa_graph.aggregator import (
    Aggregator,
    Consistent,
    Otherwise,
    Rank,
    Sequential,
    Synthesize,
    Vote,
    aggregator_of,
    models_of,
)
from moa_graph.budget import Budget, OnExceed
from moa_graph.deciding import KINDS
from moa_graph.described import described
from moa_graph.documents import read_yaml
from moa_graph.errors import MoAConfigError
from moa_graph.estimate import Asked, Beside, Estimate, estimate
from moa_graph.graph import check_moa, create_moa
from moa_graph.models import UNSET, Model, rate_limiter, resolve
from moa_graph.panel import Layer, Proposer
from moa_graph.policy import LayerPolicy
from moa_graph.prices import TABLES, Price, Prices, read_prices
from moa_graph.prompts import AGGREGATE_AND_SYNTHESIZE, Envelope, Fit, Prompt
from moa_graph.roles import cast_in
from moa_graph.stats import usual_output

__all__ = ["AggregatorConfig", "LayerConfig", "MoAConfig", "ProposerConfig", "preset_text", "presets"]

_SAMPLING = ("temperature", "max_tokens")

StandIn = Callable[[str], Runnable[Any, Any]]


@dataclass(frozen=True)
class _StandIn(Proposer):
    """A proposer that goes by its model's id, and is another runnable."""

    make: StandIn = field(kw_only=True)

    def resolve(self, where: str) -> Model:
        name = str(self.model)
        return replace(resolve(self.make(name), where=where), id=name)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class PolicyConfig(_Strict):
    """`policy:`, for the mixture or for one layer; see `LayerPolicy`."""

    quorum: int = 1
    timeout: float | None = 120.0
    grace: float | None = None
    retries: int = 2
    max_concurrency: int | None = None

    def policy(self) -> LayerPolicy:
        return LayerPolicy(**self.model_dump())


class BudgetConfig(_Strict):
    """`budget:`, of each run; see `Budget`."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    on_exceed: OnExceed = "stop"
    shared: bool = False

    def budget(self) -> Budget:
        return Budget(**self.model_dump())


class PromptConfig(_Strict):
    """`prompt:` as a mapping; `text` is the prompt itself, `file` names a text file, in a YAML one beside it."""

    text: str | None = None
    file: str | None = None
    envelope: Envelope = "paper"
    shuffle: bool = False
    fit: Fit = "trim"


class ProposerConfig(_Strict):
    """One model, as a mapping; a plain string is the same with `model` alone. See `Proposer`."""

    model: str
    name: str | None = None
    temperature: float | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    system: str | None = None
    samples: int = 1
    timeout: float | None = None
    retries: int | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    context_window: Annotated[int, Field(gt=0)] | None = None

    def proposer(self, mixture: "MoAConfig", stand_in: StandIn | None = None) -> Proposer:
        """The proposer described here, with what the mixture says of all its models."""
        if stand_in is not None:
            return _StandIn(
                self.model, name=self.name, system=self.system, samples=self.samples, timeout=self.timeout,
                retries=self.retries, make=stand_in, **mixture.own(self),
            )  # fmt: skip
        provider, parameters = self.model.partition(":")[0], dict(self.params)
        if per_second := mixture.rate_limits.get(provider):
            parameters["rate_limiter"] = rate_limiter(provider, per_second)
        return Proposer(
            self.model, name=self.name, system=self.system, samples=self.samples, timeout=self.timeout,
            retries=self.retries, base_url=self.base_url, api_key_env=self.api_key_env, parameters=parameters,
            **{**_sampling(mixture), **_sampling(self)}, **mixture.own(self),
        )  # fmt: skip


def _sampling(given: BaseModel) -> dict[str, Any]:
    return {name: getattr(given, name) for name in _SAMPLING if name in given.model_fields_set}


def _as_list(given: Any) -> Any:
    return given if isinstance(given, list) else [given]


def _as_model(given: Any) -> Any:
    return {"model": given} if isinstance(given, str | list) else given


def _as_mapping(given: Any) -> Any:
    return {"model": given} if isinstance(given, str) else given


_Member = Annotated[ProposerConfig, BeforeValidator(_as_mapping)]


class StepsConfig(_Strict):
    """What happens beside proposing (see `moa_graph.described`), and the proposers' roles.

    For the mixture: in every layer that says nothing of its own; a layer's `null` switches it off there.
    """

    route: Any = None
    select: Any = None
    critique: Any = None
    stop: Any = None
    roles: list[Any] | None = None


class LayerConfig(StepsConfig):
    """One layer's panel, with a policy of its own; a plain list is the same with `proposers` alone."""

    proposers: list[_Member]
    policy: PolicyConfig | None = None


class SynthesizeConfig(_Strict):
    """`aggregator: {synthesize: …}`; see `Synthesize`."""

    model: Annotated[list[_Member], BeforeValidator(_as_list)]


class RankConfig(SynthesizeConfig):
    """`aggregator: {rank: …}`, and `{consistent: …}`; see `Rank`, `Consistent`."""

    prompt: str | None = None
    otherwise: Otherwise = "error"


class SequentialConfig(SynthesizeConfig):
    """`aggregator: {sequential: …}`; see `Sequential`."""

    window: int = 6
    keep: int = 1


class VoteConfig(_Strict):
    """`aggregator: {vote: …}`; see `Vote`."""

    extract: str = "number"
    tie: "Literal['first', 'error'] | AggregatorConfig" = "first"
    otherwise: Otherwise = "error"


def _are_prices(given: Any) -> Any:
    if not isinstance(given, str | dict):
        raise PydanticCustomError("prices", "models with their prices, or a file of them, are needed")
    return given


def _as_vote(given: Any) -> Any:
    return {"extract": given} if isinstance(given, str) else given


class AggregatorConfig(_Strict):
    """`aggregator:` as a mapping with one of these; a model, or a list of them, is `synthesize`."""

    synthesize: Annotated[SynthesizeConfig | None, BeforeValidator(_as_model)] = None
    rank: Annotated[RankConfig | None, BeforeValidator(_as_model)] = None
    consistent: Annotated[RankConfig | None, BeforeValidator(_as_model)] = None
    sequential: Annotated[SequentialConfig | None, BeforeValidator(_as_model)] = None
    vote: Annotated[VoteConfig | None, BeforeValidator(_as_vote)] = None

    def family(self, make: Callable[[ProposerConfig], Any]) -> Aggregator:
        """The aggregator that is described here, with what `make` makes of its models."""
        if len(self.model_fields_set) != 1:
            raise MoAConfigError(f"aggregator: give just one of {', '.join(sorted(type(self).model_fields))}")
        name = next(iter(self.model_fields_set))
        given = getattr(self, name)
        if given is None:
            raise MoAConfigError(
                f"aggregator.{name}: {'give {} or what differs' if name == 'vote' else 'give a model'}"
            )
        own = {key: getattr(given, key) for key in given.model_fields_set}
        if "model" in own:
            own["model"] = [make(model) for model in own["model"]]
        if isinstance(own.get("tie"), AggregatorConfig):
            own["tie"] = own["tie"].family(make)
        return _FAMILIES[name](**own)

    def mapped(self, change: Callable[[ProposerConfig], ProposerConfig]) -> "AggregatorConfig":
        """The same with other models."""
        changed: dict[str, Any] = {}
        for name in self.model_fields_set:
            given = getattr(self, name)
            if isinstance(given, SynthesizeConfig):
                changed[name] = given.model_copy(update={"model": [change(model) for model in given.model]})
            elif isinstance(given, VoteConfig) and isinstance(given.tie, AggregatorConfig):
                changed[name] = given.model_copy(update={"tie": given.tie.mapped(change)})
        return self.model_copy(update=changed)


_FAMILIES: Final[dict[str, Callable[..., Aggregator]]] = {
    "synthesize": Synthesize, "rank": Rank, "consistent": Consistent, "sequential": Sequential, "vote": Vote,
}  # fmt: skip


def _listed_or_family(given: Any) -> Literal["listed", "family"]:
    if isinstance(given, AggregatorConfig):
        return "family"
    plain = isinstance(given, dict) and given and not given.keys() & ProposerConfig.model_fields.keys()
    return "family" if plain else "listed"


def _as_layer(given: Any) -> Any:
    return {"proposers": given} if isinstance(given, list) else given


def _one_or_many(given: Any) -> Literal["panel", "panels"]:
    layers = isinstance(given, list) and any(
        isinstance(p, list | LayerConfig) or (isinstance(p, dict) and "proposers" in p) for p in given
    )
    return "panels" if layers else "panel"


def _as_budget(given: Any) -> Any:
    return {name: getattr(given, name) for name in BudgetConfig.model_fields} if isinstance(given, Budget) else given


def _as_prompt(given: Any) -> Any:
    return {"text": given} if isinstance(given, str) else given


Panel = Annotated[list[_Member], Tag("panel")]
Panels = Annotated[list[Annotated[LayerConfig, BeforeValidator(_as_layer)]], Tag("panels")]
Models = Annotated[list[_Member], BeforeValidator(_as_list), Tag("listed")]
Family = Annotated[AggregatorConfig, Tag("family")]


class MoAConfig(StepsConfig):
    """A mixture, described. `MoAConfig.preset("moa-lite")`, `MoAConfig.from_yaml(path)`, or keywords.

    Raises MoAConfigError naming the file, the key and the valid choices.
    """

    proposers: Annotated[Panel | Panels, Discriminator(_one_or_many)]
    aggregator: Annotated[Models | Family, Discriminator(_listed_or_family)]
    layers: int | None = None
    temperature: float | None = 0.7
    max_tokens: Annotated[int, Field(gt=0)] | None = 2048
    policy: PolicyConfig = Field(default_factory=PolicyConfig)
    rate_limits: dict[str, Annotated[float, Field(gt=0, strict=False)]] = Field(default_factory=dict)
    """Provider -> requests per second, over all its models in this process."""
    prompt: Annotated[PromptConfig, BeforeValidator(_as_prompt)] = Field(default_factory=PromptConfig)
    budget: Annotated[BudgetConfig | None, BeforeValidator(_as_budget)] = None
    prices: Annotated[str | dict[str, Any], BeforeValidator(_are_prices)] = Field(default_factory=dict)
    """Model -> $ per million tokens (`input`, `output`, `cached_input`), or a table that ships, or a YAML file."""
    stream_proposers: bool = False
    description: str = ""
    retired: str = ""
    _usual: dict[str, float] = PrivateAttr(default_factory=dict)
    """Model -> tokens of its usual answer, where a budget wants to know."""

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise MoAConfigError(_said(error)) from error

    @classmethod
    def preset(cls, name: str) -> Self:
        """A mixture that ships with the package. Raises MoAConfigError for an unknown name."""
        return cls._parsed(preset_text(name), f"preset {name}", Path())

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """A mixture described in a YAML file. Raises MoAConfigError naming the file and what is wrong in it."""
        path = Path(path).expanduser()
        return cls._parsed(_read(path, "give a YAML file"), str(path), path.parent)

    @classmethod
    def _parsed(cls, text: str, source: str, folder: Path) -> Self:
        data = read_yaml(text, source)
        if not isinstance(data, dict):
            found = "an empty file" if data is None else _kind(data)
            raise MoAConfigError(f"{source}: a mapping with `proposers` and `aggregator` is needed, not {found}")
        try:
            config = cls(**{str(key): value for key, value in data.items()})
        except MoAConfigError as error:
            raise MoAConfigError(f"{source}: {error}") from error
        if isinstance(config.prices, str) and config.prices not in TABLES:
            config = config.model_copy(update={"prices": str(folder / Path(config.prices).expanduser())})
        if config.prompt.file is not None:
            beside = str(folder / Path(config.prompt.file).expanduser())
            config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"file": beside})})
        try:
            config._own_prices()
            config._budget()
            config._layers()
            config._aggregator(lambda model: model)
        except MoAConfigError as error:
            raise MoAConfigError(f"{source}: {error}") from error
        return config

    @property
    def depth(self) -> int:
        """The number of layers, counted as the paper counts: the last one is the final model."""
        if self.layers is not None:
            return self.layers
        return len(self.proposers) + 1 if _one_or_many(self.proposers) == "panels" else 3

    def build(self, *, stand_in: StandIn | None = None, **runtime: Any) -> CompiledStateGraph[Any, Any, Any, Any]:
        """The graph: `create_moa` with what is described here and `checkpointer`, `store`, `cache`, `name`, ...

        `stand_in` makes a runnable of each model's id in place of the model: to draw, or to test, without keys.
        Raises MoAConfigError as `create_moa` does.
        """
        return create_moa(**{**self.arguments(stand_in, runtime.get("budget")), **runtime})

    def arguments(self, stand_in: StandIn | None = None, budget: Budget | None = None) -> dict[str, Any]:
        """What is described here, as `create_moa` takes it.

        With a budget, its own or the one given, every model has the length of its answers that `estimate` expects.
        """
        known = self._measured() if budget or self.budget else self
        return {
            "proposers": known._proposers(stand_in),
            "aggregator": known._aggregator(lambda model: model.proposer(known, stand_in)),
            "layers": self.layers,
            "policy": self.policy.policy(),
            "prompt": self._prompt(),
            "budget": self._budget(),
            "stream_proposers": self.stream_proposers,
        }

    def estimate(self, messages: Any) -> Estimate:
        """What a run is going to take: calls, tokens, $ and TFLOPs per layer. Nothing is asked, no key is needed.

        `messages`: a question, or what a graph takes. How long answers are is known from the runs of the command
        line (`moa_graph.stats`), else assumed; a budget expects the same. Raises MoAConfigError as `build` does,
        models and keys apart.
        """
        check_moa(**self.arguments(lambda _: RunnablePassthrough()))
        panels = [[self._asked(model) for model in panel for _ in range(model.samples)] for panel in self.panels()]
        beside = [self._beside(layer) for layer in self._layers()]
        if _one_or_many(self.proposers) == "panel":
            panels, beside = panels * (self.depth - 1), beside * (self.depth - 1)
        beside[-1:] = [[one for one in last if one.kind != "stop"] for last in beside[-1:]]
        family = aggregator_of(self._aggregator(self._asked))
        finals = [] if isinstance(family, Vote) else models_of(family)[:1]
        windows = family.parts(len(panels[-1])) if isinstance(family, Sequential) and panels else []
        finals *= max(1, len(windows))
        usual, keep = self._usual_output(), getattr(family, "keep", 1)
        return estimate(panels, finals, messages, self._prompt(), usual, beside, windows, keep)

    def _usual_output(self) -> dict[str, float]:
        """Of the proposers and the final models, as far as it is known: the tokens of a usual answer."""
        return usual_output(sorted({one.model for panel in [*self.panels(), self.finals] for one in panel}))

    def _measured(self) -> Self:
        made = self.model_copy()
        made._usual = self._usual_output()
        return made

    def _beside(self, layer: Layer) -> list[Beside]:
        """Whom a layer's steps ask, in the order in which they do."""
        asked = []
        for kind in KINDS:
            if (step := getattr(layer, kind)) is not None and step.model is not None:
                model, most = step.model, step.model.max_tokens
                prices = Prices({str(model.model): model.price} if model.price else None)
                most = self.max_tokens if most is UNSET else most
                asked.append(Beside(kind, Asked(str(model.model), model.system, most, prices)))
        return asked

    def _asked(self, model: ProposerConfig) -> Asked:
        said = model.max_tokens if "max_tokens" in model.model_fields_set else self.max_tokens
        price = self.own(model)["price"]
        prices = Prices({model.model: price} if price else None)
        return Asked(model.model, model.system, said, prices, model.context_window)

    def panels(self) -> list[list[ProposerConfig]]:
        """The panel of every layer, or the one that they share, in their roles."""
        return [self._panel(given) for given in self._given()]

    def _given(self) -> list[LayerConfig | None]:
        """What is said of each layer; None: of all of them here."""
        if _one_or_many(self.proposers) == "panel":
            return [None]
        return [one for one in self.proposers if isinstance(one, LayerConfig)]

    def _panel(self, given: LayerConfig | None) -> list[ProposerConfig]:
        models = given.proposers if given else [one for one in self.proposers if isinstance(one, ProposerConfig)]
        if (roles := self._said(given, "roles")) is None:
            return models
        return cast_in(models, roles, lambda one, changes: one.model_copy(update=changes))

    def _said(self, given: LayerConfig | None, key: str) -> Any:
        """What a layer says, or else the mixture."""
        return getattr(given, key) if given and key in given.model_fields_set else getattr(self, key)

    def members(self) -> list[ProposerConfig]:
        """Every model of every panel, in order, and the final model, if there is one, without its fallbacks."""
        return [*(member for panel in self.panels() for member in panel), *self.finals[:1]]

    def models(self) -> list[Proposer]:
        """Every model described here, those of steps and the final ones too, in order."""
        panels = [model.proposer(self) for panel in self.panels() for model in panel]
        steps = [getattr(layer, kind) for layer in self._layers() for kind in KINDS]
        beside = [step.model for step in steps if step is not None and step.model is not None]
        return [*panels, *beside, *(model.proposer(self) for model in self.finals)]

    @property
    def finals(self) -> list[ProposerConfig]:
        """The final model and those asked in its place, or who decides a tie, in order."""
        return models_of(self._aggregator(lambda model: model))

    def _aggregator(self, make: Callable[[ProposerConfig], Any]) -> Any:
        """What `create_moa` is given, with what `make` makes of the models."""
        given = self.aggregator
        return given.family(make) if isinstance(given, AggregatorConfig) else [make(model) for model in given]

    def own(self, model: ProposerConfig) -> dict[str, Any]:
        """What is said of this model that its provider does not need: price, context window, length of an answer."""
        prices = self._own_prices()
        price = prices.get(model.model) or prices.get(model.model.partition(":")[2])
        window, usual = model.context_window, self._usual.get(model.model)
        return {"price": price, "context_window": window, "usual_output": usual}

    def _budget(self) -> Budget | None:
        return self.budget.budget() if self.budget else None

    def _own_prices(self) -> dict[str, Price]:
        return read_prices(self.prices, folder=Path(), where="prices") if self.prices else {}

    def _proposers(self, stand_in: StandIn | None) -> Any:
        """Layers; or one panel for all of them, a plain list where nothing happens in it beside proposing."""
        layers = self._layers(stand_in)
        if _one_or_many(self.proposers) == "panels":
            return layers
        return layers[0] if any(getattr(layers[0], kind) is not None for kind in KINDS) else layers[0].proposers

    def _layers(self, stand_in: StandIn | None = None) -> list[Layer]:
        """Each layer as it is described, or the one that they share. Raises MoAConfigError naming the key."""
        layers = []
        for k, given in enumerate(self._given(), 1):
            try:
                layers.append(self._layer(given, stand_in))
            except MoAConfigError as error:
                raise MoAConfigError(f"proposers.{k}.{error}" if given else str(error)) from error
        return layers

    def _layer(self, given: LayerConfig | None, stand_in: StandIn | None) -> Layer:
        panel = [model.proposer(self, stand_in) for model in self._panel(given)]
        steps = {
            kind: described(kind, said, self._model(stand_in)) for kind in KINDS if (said := self._said(given, kind))
        }
        for kind, step in steps.items():
            if stand_in is not None and getattr(step, "embed", None) is not None:
                steps[kind] = replace(step, embed=None)
        return Layer(panel, given.policy.policy() if given and given.policy else None, **steps)

    def _model(self, stand_in: StandIn | None) -> Callable[[Any], Proposer]:
        """How a model within a step is read."""

        def read(given: Any) -> Proposer:
            if not isinstance(given, str | dict):
                raise MoAConfigError(f'"provider:model" or a mapping with `model` is needed, not {_kind(given)}')
            try:
                return ProposerConfig.model_validate(_as_mapping(given)).proposer(self, stand_in)
            except ValidationError as error:
                raise MoAConfigError(_said(error, ProposerConfig)) from error

        return read

    def _prompt(self) -> Prompt:
        given = self.prompt
        if given.text is not None and given.file is not None:
            raise MoAConfigError("prompt: give `text` or `file`, not both")
        text = given.text
        if given.file is not None:
            text = _read(Path(given.file).expanduser(), "give the text file that holds the prompt", "prompt: ")
        # YAML's and an editor's last line break is no part of the prompt: "\n1. …" follows it directly
        said = AGGREGATE_AND_SYNTHESIZE if text is None else text.rstrip("\n")
        return Prompt(said, envelope=given.envelope, shuffle=given.shuffle, fit=given.fit)


def presets() -> list[str]:
    """The names of the presets that ship with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """A preset as the commented YAML it is. Raises MoAConfigError for an unknown name."""
    if name not in presets():
        near = difflib.get_close_matches(name, presets(), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise MoAConfigError(f"there is no preset {name!r}: {hint}one of {', '.join(presets())}")
    return _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return files("moa_graph") / "presets"


def _read(path: Path, instead: str, key: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8 text"
        raise MoAConfigError(f"{key}{path}: cannot be read ({why}); {instead}") from error


def _kind(value: Any) -> str:
    return {type(None): "nothing", dict: "a mapping", list: "a list", str: "a text"}.get(
        type(value), f"a {type(value).__name__}"
    )


_NEEDED = {
    "LayerConfig": "a list of models, as the other layers are,",
    "ProposerConfig": '"provider:model" or a mapping with `model`',
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "a text",
}
_WITHIN: dict[str, type[_Strict]] = {
    "panels": LayerConfig,
    "policy": PolicyConfig,
    "prompt": PromptConfig,
    "budget": BudgetConfig,
    "family": AggregatorConfig,
    "AggregatorConfig": AggregatorConfig,
    "synthesize": SynthesizeConfig,
    "rank": RankConfig,
    "consistent": RankConfig,
    "sequential": SequentialConfig,
    "vote": VoteConfig,
}


_TAGS: Final = ("panel", "panels", "listed", "family", "AggregatorConfig")


def _said(error: ValidationError, described: type[_Strict] = MoAConfig) -> str:
    """The first thing that is wrong, in one line: key, why, what would be valid. A misspelt key goes first."""
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = first["loc"]
    keys = [part for k, part in enumerate(place) if k == 0 or part not in _TAGS]
    where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in keys)
    if first["type"] == "extra_forbidden":
        valid = _keys_beside(first["loc"], described)
        near = difflib.get_close_matches(str(keys[-1]), valid, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where}: unknown key; {hint}one of {', '.join(valid)}"
    if first["type"] == "missing":
        return f"{where}: this key is missing"
    given, about = first["input"], first.get("ctx", {})
    shown = repr(given) if isinstance(given, str | int | float | bool) else _kind(given)
    if first["type"] == "model_type":
        return f"{where}: {_NEEDED.get(about['class_name'], 'a mapping')} is needed, not {shown}"
    if needed := _NEEDED.get(first["type"]) or about.get("expected"):
        return f"{where}: {needed} is needed, not {shown}"
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {shown}"


def _keys_beside(place: Sequence[Any], described: type[_Strict]) -> list[str]:
    names = [part for part in place[:-1] if isinstance(part, str)]
    kind = _WITHIN.get(names[-1], ProposerConfig) if names else described
    return sorted(kind.model_fields)
