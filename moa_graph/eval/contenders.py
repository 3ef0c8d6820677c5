"""Who is compared: each mixture, each single model of it, and one model in the whole panel's place."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final, Literal

from moa_graph.aggregator import aggregator_of
from moa_graph.config import AggregatorConfig, LayerConfig, MoAConfig, ProposerConfig
from moa_graph.contenders import Kind, alone, distinct, members, proposers, repeated
from moa_graph.errors import MoAConfigError
from moa_graph.models import _thinks

__all__ = ["Contender", "adjusted", "contenders", "fingerprint", "label", "plain", "shape"]

_NO_ANSWER_IN: Final = ("description", "retired", "prices", "rate_limits", "budget", "stream_proposers")
_SHAPE: Final = ("proposers", "aggregator", "layers", "route", "roles", "policy")
_SECRET: Final = re.compile(r"(?i)key|token$|secret|password|headers")
_IN_ADDRESS: Final = re.compile(r"(?i)(?<=//)[^/@]*@|(?<=[?&])([^=&#]*(?:key|token|secret|password|sig)[^=&#]*=)[^&#]*")


@dataclass(frozen=True)
class Contender:
    """Something that answers. `of`: the mixtures that it is compared to; `model`: the one that it stands for."""

    name: str
    kind: Kind | Literal["variant"]
    config: MoAConfig
    of: tuple[str, ...] = ()
    model: str = ""

    def told(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "of": list(self.of), "model": self.model,
            "calls": calls(self.config), "fingerprint": fingerprint(self.config), "shape": shape(self.config),
        }  # fmt: skip


def contenders(mixtures: Mapping[str, MoAConfig], *, singles: bool = True) -> list[Contender]:
    """The mixtures; with `singles` beside each of them:

    - each of its models alone, the final one's too: one call;
    - single-proposer mixtures: one model in the place of each proposer, the final model as it is: as many
      calls. A mixture of one model is one already.

    What two mixtures have in common is asked once.
    """
    found = [Contender(name, "mixture", config) for name, config in mixtures.items()]
    for name, config in mixtures.items() if singles else ():
        if config.depth == 1:
            continue
        found += [Contender(label(m), "single", alone(config, m), (name,), label(m)) for m in members(config)]
        found += [
            Contender(f"single-proposer {label(m)}", "single-proposer", made, (name,), label(m))
            for m in proposers(config)
            if (made := repeated(config, m))
        ]
    return _named(_merged(found))


def calls(config: MoAConfig) -> int:
    """How many calls a run makes, if every model is asked once."""
    return config.estimate("?")["calls"]


def adjusted(
    config: MoAConfig, temperature: float | None, max_tokens: int | None, *, unsaid: bool = False
) -> MoAConfig:
    """With what an item says of sampling. A model that is to be sent no temperature is sent none.

    unsaid: only where a model says no temperature of its own.
    """
    if temperature is None and max_tokens is None:
        return config

    def one(model: ProposerConfig) -> ProposerConfig:
        changed: dict[str, Any] = {}
        own = config.temperature if "temperature" not in model.model_fields_set else model.temperature
        free = not (unsaid and "temperature" in model.model_fields_set)
        if temperature is not None and own is not None and free and not _thinks(model.model, model.params):
            changed["temperature"] = temperature
        said = config.max_tokens if "max_tokens" not in model.model_fields_set else model.max_tokens
        if max_tokens is not None and said is not None:
            changed["max_tokens"] = min(said, max_tokens)
        return model.model_copy(update=changed)

    members = [
        one(member)
        if isinstance(member, ProposerConfig)
        else member.model_copy(update={"proposers": [one(model) for model in member.proposers]})
        for member in config.proposers
    ]
    given = config.aggregator
    last = given.mapped(one) if isinstance(given, AggregatorConfig) else [one(model) for model in given]
    return config.model_copy(update={"proposers": members, "aggregator": last})


def plain(config: MoAConfig) -> dict[str, Any]:
    """What of a mixture has a part in its answers; no secrets."""
    told = config.model_dump(mode="json", exclude_defaults=True)
    kept = {name: value for name, value in told.items() if name not in _NO_ANSWER_IN}
    kept["prompt"] = config._prompt().text
    return {name: _clean(name, value) for name, value in kept.items()}


def _clean(name: str, value: Any) -> Any:
    if _SECRET.search(name) and name != "max_tokens":
        return "***"
    if isinstance(value, dict):
        return {inner: _clean(inner, each) for inner, each in value.items()}
    if isinstance(value, list):
        return [_clean(name, each) for each in value]
    if name == "base_url" and isinstance(value, str):
        return _IN_ADDRESS.sub(lambda found: f"{found[1]}***" if found[1] else "", value)
    return value


def fingerprint(config: MoAConfig) -> str:
    """Two mixtures with the same one give answers of the same kind."""
    return _mark(plain(config))


def _mark(told: Mapping[str, Any]) -> str:
    text = json.dumps(told, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def label(model: ProposerConfig) -> str:
    """What a model is called in an evaluation."""
    return f"{model.model} ({model.name})" if model.name else model.model


def shape(config: MoAConfig) -> dict[str, Any]:
    """What analyses compare mixtures by: the layers' proposers in order, the final model, what is done at the end.

    `otherwise`: a mark of all else that has a part in the answers, but what differs by itself between such mixtures.
    """
    everyone = [*(one for panel in config.panels() for one in panel), *config.finals[:1]]
    voices = Counter(one.model for one in distinct(config, everyone))  # a name alone makes no other model

    def called(one: ProposerConfig) -> str:
        return label(one) if voices[one.model] > 1 else one.model

    panels = [[called(one) for one in panel for _ in range(one.samples)] for panel in config.panels()]
    shared = config.depth > 1 and not any(isinstance(one, LayerConfig) for one in config.proposers)
    rest = {name: value for name, value in plain(config).items() if name not in _SHAPE}
    return {
        "depth": config.depth,
        "proposers": panels * (config.depth - 1) if shared else panels[: config.depth - 1],
        "final": called(config.finals[0]) if config.finals else None,
        "aggregator": aggregator_of(config._aggregator(lambda model: model)).name,
        "otherwise": _mark(rest),
    }


def _merged(found: Sequence[Contender]) -> Iterator[Contender]:
    """Each once: what is asked for two mixtures belongs to both."""
    known: dict[str, Contender] = {}
    for one in found:
        key = f"{one.kind} {fingerprint(one.config)}" if one.kind != "mixture" else f"mixture {one.name}"
        before = known.get(key, one)
        of = tuple(dict.fromkeys([*before.of, *one.of]))
        known[key] = Contender(before.name, before.kind, before.config, of, before.model)
    yield from known.values()


def _named(found: Iterator[Contender]) -> list[Contender]:
    """Each with a name of its own: where two mixtures have contenders of one name, with the mixture's."""
    everyone = [*found]
    often, taken = Counter(one.name for one in everyone), set[str]()
    made = []
    for one in everyone:
        mixture = one.kind == "mixture"
        whole = one.name if mixture or often[one.name] == 1 else f"{one.name} in {one.of[0]}"
        name = next(name for k in count(1) if (name := whole if k == 1 else f"{whole} #{k}") not in taken)
        if name != one.name and mixture:
            raise MoAConfigError(f"the mixture {one.name!r} is given twice")
        taken.add(name)
        made.append(replace(one, name=name))
    return made
