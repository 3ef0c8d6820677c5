"""The form of an assistant: what a person may set of a mixture, and the mixture that a preset becomes by it.

LangGraph's server keeps what was filled in as the assistant's `context`. Its schema makes the form in Studio.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, create_model

from moa_graph.config import AggregatorConfig, LayerConfig, MoAConfig, ProposerConfig, StepsConfig, _said, presets
from moa_graph.errors import MoAConfigError
from moa_graph.prompts import AGGREGATE_AND_SYNTHESIZE

__all__ = ["Form", "PresetForm", "linked"]

_LAYERS: Final = "layer_*"  # in a field's links: every layer's node
_POLICY: Final[Sequence[str]] = ("quorum", "timeout", "grace", "retries")
_SAMPLING: Final[Sequence[str]] = ("temperature", "max_tokens")
_ELSEWHERE: Final = {"preset", *MoAConfig.model_fields} - {"description", "retired"}
"""Words for a mixture that are no field of every form; the server has words of its own in a context."""
Changes = Mapping[str, Any]


def _schema(schema: dict[str, Any], form: type["Form"]) -> None:
    """Say of each field what it takes, not that it may be null, and link it to the nodes that there are."""
    fields = schema["properties"]
    schema["properties"] = dict(sorted(fields.items(), key=lambda field: field[0] != "preset"))
    for field in fields.values():
        given: dict[str, Any] = next((kind for kind in field.pop("anyOf", ()) if kind.get("type") != "null"), {})
        field.update(given)
        del field["default"]
        field["langgraph_nodes"] = form.links or [
            node for link in field["langgraph_nodes"] for node in (form.layer_nodes if link == _LAYERS else [link])
        ]


def _on(*nodes: str, **more: Any) -> dict[str, Any]:
    return {"langgraph_nodes": list(nodes), **more}


def _as_models(given: Any) -> Any:
    """Models in a text field: one per line, or separated by commas."""
    parts = re.split(r"[,\n]", given) if isinstance(given, str) else given
    return [part for part in parts if part != ""] if isinstance(parts, list) else parts


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Form(BaseModel):
    """Settings of a mixture. What is left empty stays as the preset has it."""

    model_config = ConfigDict(extra="ignore", frozen=True, json_schema_extra=_schema)

    layer_nodes: ClassVar[Sequence[str]] = ()
    """The layers of the graph that the form belongs to."""
    links: ClassVar[Sequence[str]] = ()
    """The nodes that every field is linked to, where it is the same for all."""

    layers: int | None = Field(
        None,
        ge=1,
        le=10,
        description="Number of layers, the final model counted as the last: 1 is the final model alone, 2 is one "
        "layer of proposers before it.",
        json_schema_extra=_on(_LAYERS, "final"),
    )
    panel: Annotated[list[_Text] | None, BeforeValidator(_as_models)] = Field(
        None,
        max_length=32,
        description='The proposers of every layer, as "provider:model", such as "openai:gpt-6-luna", or by the name '
        "that one has in the preset. The same model twice is asked twice.",
        json_schema_extra=_on(_LAYERS),
    )
    aggregator: _Text | None = Field(
        None,
        description='The final model, as "provider:model": it writes the answer.',
        json_schema_extra=_on("final"),
    )
    prompt: str | None = Field(
        None,
        description="The aggregate-and-synthesize prompt: what a model is told before it reads the responses of the "
        "layer below.",
        json_schema_extra=_on(_LAYERS, "final", langgraph_type="prompt", examples=[AGGREGATE_AND_SYNTHESIZE]),
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="Temperature of every model.", json_schema_extra=_on(_LAYERS, "final")
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest answer of every model, in tokens.",
        json_schema_extra=_on(_LAYERS, "final"),
    )
    quorum: int | None = Field(
        None,
        ge=1,
        description="How many proposers of a layer must answer; with fewer, the run fails.",
        json_schema_extra=_on(_LAYERS),
    )
    timeout: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for one model, all its attempts together.",
        json_schema_extra=_on(_LAYERS, "final"),
    )
    grace: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Once the quorum has answered, how many seconds the others get before they are cut.",
        json_schema_extra=_on(_LAYERS),
    )
    retries: int | None = Field(
        None,
        ge=0,
        le=10,
        description="Further attempts after a rate limit, a lost connection, a timeout or a server's own failure.",
        json_schema_extra=_on(_LAYERS, "final"),
    )
    stream_proposers: bool | None = Field(
        None, description="Let the proposers' tokens stream too.", json_schema_extra=_on(_LAYERS)
    )

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**{name: value for name, value in given.items() if not _empty(value)})
        except ValidationError as error:
            raise MoAConfigError(_said(error)) from error

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> Self:
        """The form as it was filled in. Raises MoAConfigError naming the field; what is the server's own is let be."""
        for key in context.keys() - cls.model_fields:
            near = difflib.get_close_matches(key, cls.model_fields, 1, 0.8)
            if near or key in _ELSEWHERE:
                hint = f"did you mean {near[0]}? " if near else ""
                raise MoAConfigError(f"{key}: unknown key; {hint}one of {', '.join(cls.model_fields)}")
        return cls(**context)

    @property
    def filled(self) -> dict[str, Any]:
        """What was filled in."""
        return self.model_dump(exclude_none=True)

    def applied(self, preset: MoAConfig) -> MoAConfig:
        """`preset` with what was filled in. Nothing is asked and no model is made: building it says what is wrong."""
        filled = self.filled
        changes: dict[str, Any] = {name: filled[name] for name in ("layers", "stream_proposers") if name in filled}
        sampling = {name: filled[name] for name in _SAMPLING if name in filled}
        policy = {name: filled[name] for name in _POLICY if name in filled}
        panels: Sequence[ProposerConfig | LayerConfig] = preset.proposers
        if self.panel:
            panels = _in_its_steps(preset, _panel(self.panel, preset))
            changes.setdefault("layers", preset.depth)
            policy.setdefault("quorum", min(preset.policy.quorum, len(self.panel)))
        finals = [_model(self.aggregator, preset)] if self.aggregator else preset.aggregator
        if self.prompt is not None:
            changes["prompt"] = preset.prompt.model_copy(update={"text": self.prompt, "file": None})
        return preset.model_copy(
            update={
                **changes,
                **sampling,
                "policy": preset.policy.model_copy(update=policy),
                "proposers": [_member(one, sampling, policy) for one in panels],
                "aggregator": _final(finals, sampling),
            }
        )


class PresetForm(Form):
    """Settings of a mixture. What is left empty stays as the preset has it."""

    preset: str | None = Field(
        None,
        description="Where to start from. Empty: moa.yaml in the server's folder, else by the keys that are set, else "
        "the embedded model.",
        json_schema_extra=_on(_LAYERS, "final", enum=presets()),
    )


@lru_cache
def linked(form: type[Form], layers: int, links: Sequence[str] = ()) -> type[Form]:
    """`form`, its fields linked to the nodes of a mixture with so many layers, or to `links`."""
    made = create_model(form.__name__, __base__=form, __doc__=form.__doc__)
    made.layer_nodes, made.links = [f"layer_{i}" for i in range(1, layers)], list(links)
    return made


def _final(given: Sequence[ProposerConfig] | AggregatorConfig, sampling: Changes) -> Any:
    if isinstance(given, AggregatorConfig):
        return given.mapped(lambda one: one.model_copy(update=sampling))
    return [one.model_copy(update=sampling) for one in given]


def _empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _known(preset: MoAConfig) -> list[ProposerConfig]:
    panels = [one.proposers if isinstance(one, LayerConfig) else [one] for one in preset.proposers]
    return [one for panel in [*panels, preset.finals] for one in panel]


def _panel(given: Sequence[str], preset: MoAConfig) -> list[ProposerConfig]:
    """Each as the preset has it under that name, or a model of that id."""
    named = {one.name: one for one in _known(preset) if one.name}
    return [named.get(name) or _model(name, preset) for name in given]


def _in_its_steps(preset: MoAConfig, panel: list[ProposerConfig]) -> Sequence[ProposerConfig | LayerConfig]:
    """The panel of every layer; in layers with steps or roles of their own, which are kept."""
    layers = [one for one in preset.proposers if isinstance(one, LayerConfig)]
    if not any(one.model_fields_set & StepsConfig.model_fields.keys() for one in layers):
        return panel
    return [one.model_copy(update={"proposers": panel, "policy": None}) for one in layers]


def _model(name: str, preset: MoAConfig) -> ProposerConfig:
    """A model, with what the preset says that it needs."""
    like = next((one for one in _known(preset) if one.model == name), None)
    needs = like.model_dump(include={"base_url", "api_key_env", "params"}) if like else {}
    return ProposerConfig(model=name, **needs)


def _member(given: ProposerConfig | LayerConfig, sampling: Changes, policy: Changes) -> ProposerConfig | LayerConfig:
    if isinstance(given, ProposerConfig):
        return given.model_copy(update=sampling)
    own = given.policy and given.policy.model_copy(update=policy)
    panel = [one.model_copy(update=sampling) for one in given.proposers]
    return given.model_copy(update={"proposers": panel, "policy": own})
