"""Who is compared: mixtures, each single model of one, and one model in the place of all proposers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from moa_graph.config import LayerConfig, MoAConfig, ProposerConfig
from moa_graph.panel import slug

__all__ = [
    "ALIKE", "Contender", "Kind", "alone", "distinct", "members", "mixtures", "proposers", "repeated",
    "single_proposer", "singles", "times",
]  # fmt: skip

Kind = Literal["mixture", "single", "single-proposer"]

_KEPT: Final = ("temperature", "max_tokens", "policy", "rate_limits", "budget", "prices")
"""What a mixture says of all its models."""

ALIKE: Final = {"route": None, "roles": None}
"""What is left out where all proposers are one model."""


@dataclass(frozen=True)
class Contender:
    """Somebody who answers every question: a name, and the mixture that it is."""

    name: str
    kind: Kind
    config: MoAConfig
    member: ProposerConfig | None = None
    """The one model, where there is one."""

    @property
    def models(self) -> set[str]:
        """The ids of its models, those of fallbacks and steps too."""
        return {str(proposer.model) for proposer in self.config.models()}


def mixtures(given: Mapping[str, MoAConfig]) -> list[Contender]:
    """The mixtures by name."""
    return [Contender(name, "mixture", config) for name, config in given.items()]


def singles(mixture: MoAConfig, taken: Collection[str] = ()) -> list[Contender]:
    """Each distinct model of a mixture, its final model too, asked once. `taken`: names that others have."""
    made: list[Contender] = []
    for member in members(mixture):
        name = _free(member.name or slug(member.model), {*taken, *(one.name for one in made)})
        made.append(Contender(name, "single", alone(mixture, member), member))
    return [one for one in made if not _same(one.config, mixture)]


def single_proposer(mixture: MoAConfig, single: Contender, taken: Collection[str] = ()) -> Contender | None:
    """A mixture with one model in the place of each proposer, as `repeated` makes it. `None`: there is no such."""
    assert single.member is not None
    if (made := repeated(mixture, single.member)) is None:
        return None
    sizes = [str(sum(one.samples for one in panel)) for panel in mixture.panels()]
    return Contender(_free(f"{'+'.join(sizes)} x {single.name}", taken), "single-proposer", made, single.member)


def members(mixture: MoAConfig) -> list[ProposerConfig]:
    """Each distinct model of a mixture as it describes it, whatever its role there; the final one, if any, too.

    Two are the same where they differ in nothing that makes a difference to an answer.
    """
    return distinct(mixture, [*proposers(mixture), *mixture.finals[:1]])


def proposers(mixture: MoAConfig) -> list[ProposerConfig]:
    """Each distinct model of its panels, whatever its role there."""
    panels = [one.proposers if isinstance(one, LayerConfig) else [one] for one in mixture.proposers]
    return distinct(mixture, [model for panel in panels for model in panel])


def alone(mixture: MoAConfig, model: ProposerConfig) -> MoAConfig:
    """One model of a mixture, asked once."""
    said = {name: getattr(mixture, name) for name in _KEPT if name in mixture.model_fields_set}
    return MoAConfig(proposers=[], aggregator=[times(model, 1)], layers=1, **said)


def repeated(mixture: MoAConfig, model: ProposerConfig) -> MoAConfig | None:
    """A mixture with one model in the place of each proposer, and its own final model: the paper's single-proposer
    setting. It makes as many calls. Nobody is to be chosen among copies, and none has a role.

    `None`: the mixture has no proposers, or is one of this model alone already.
    """
    if mixture.depth == 1:
        return None
    layers = [layer for layer in mixture.proposers if isinstance(layer, LayerConfig)]
    places = [layer.model_copy(update={**ALIKE, "proposers": [_many(model, layer.proposers)]}) for layer in layers]
    panels: Sequence[Any] = places or [_many(model, mixture.proposers)]
    made = mixture.model_copy(update={**ALIKE, "proposers": panels})
    return None if _same(made, mixture) else made


def _many(model: ProposerConfig, instead_of: Sequence[Any]) -> ProposerConfig:
    return times(model, sum(one.samples for one in instead_of))


def times(member: ProposerConfig, samples: int) -> ProposerConfig:
    """A model that answers so often."""
    return member.model_copy(update={"samples": samples, "name": None})


def distinct(mixture: MoAConfig, models: Sequence[ProposerConfig]) -> list[ProposerConfig]:
    """Those of them that differ in what makes a difference to an answer, each once."""
    found: dict[str, ProposerConfig] = {}
    for model in models:
        found.setdefault(_described(mixture, model), model)
    return list(found.values())


def _described(mixture: MoAConfig, member: ProposerConfig) -> str:
    """All that makes a difference to its answer."""
    said = member.model_dump(exclude={"name", "samples", "timeout", "retries"})
    general = {name: getattr(mixture, name) for name in ("temperature", "max_tokens")}
    return repr(said | {name: said[name] if name in member.model_fields_set else general[name] for name in general})


def _same(one: MoAConfig, other: MoAConfig) -> bool:
    """Whether the same models are asked, as often, in the same places."""
    return one.depth == other.depth and _places(one) == _places(other)


def _places(mixture: MoAConfig) -> list[list[str]]:
    panels = [[_described(mixture, one) for one in panel for _ in range(one.samples)] for panel in mixture.panels()]
    return [*panels[: mixture.depth - 1], [_described(mixture, one) for one in mixture.finals[:1]]]


def _free(name: str, taken: Collection[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
