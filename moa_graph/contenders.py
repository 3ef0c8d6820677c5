"""Who is compared: mixtures, each single model of one, and one model alone in as many calls as a mixture makes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from moa_graph.config import AggregatorConfig, LayerConfig, MoAConfig, ProposerConfig
from moa_graph.panel import slug

__all__ = ["Contender", "Kind", "mixtures", "single_proposer", "singles"]

Kind = Literal["mixture", "single", "single-proposer"]

_KEPT: Final = ("temperature", "max_tokens", "policy", "rate_limits", "prompt", "budget", "prices")
"""What a mixture says of all its models."""


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
    """Each distinct model of a mixture, its final model too, asked once, as the mixture describes it.

    Two are the same where they differ in nothing but the name. `taken`: names that others have.
    """
    found: dict[str, ProposerConfig] = {}
    for member in mixture.members():
        found.setdefault(_described(mixture, member), member)
    made: list[Contender] = []
    for member in found.values():
        name = _free(member.name or slug(member.model), {*taken, *(one.name for one in made)})
        made.append(Contender(name, "single", _alone(mixture, member), member))
    return [one for one in made if not _same(one.config, mixture)]


def single_proposer(mixture: MoAConfig, single: Contender, taken: Collection[str] = ()) -> Contender | None:
    """A mixture of the same shape, each place of which, the final one too, is taken by one model: so it makes as many
    calls. `None`: the mixture has no proposers, or is one of this model alone already.
    """
    member = single.member
    assert member is not None
    sizes = [sum(one.samples for one in panel) for panel in mixture.panels()][: mixture.depth - 1]
    if not sizes:
        return None
    layers = [layer for layer in mixture.proposers if isinstance(layer, LayerConfig)]
    panels: list[Any] = [
        layer.model_copy(update={"proposers": [_times(member, size)], "roles": None})
        for layer, size in zip(layers, sizes, strict=False)
    ]
    own = {"proposers": panels or [_times(member, sizes[0])], "aggregator": _last(mixture, member), "roles": None}
    made = mixture.model_copy(update=own)
    if _same(made, mixture):
        return None
    said = f"{'+'.join(map(str, sizes if layers else sizes[:1]))} x {single.name}"
    return Contender(_free(said, taken), "single-proposer", made, member)


def _last(mixture: MoAConfig, member: ProposerConfig) -> Any:
    """What a mixture does at the end, with this model in place of its own."""
    if isinstance(mixture.aggregator, AggregatorConfig):
        return mixture.aggregator.mapped(lambda _: _times(member, 1))
    return [_times(member, 1)]


def _alone(mixture: MoAConfig, member: ProposerConfig) -> MoAConfig:
    said = {name: getattr(mixture, name) for name in _KEPT if name in mixture.model_fields_set}
    return MoAConfig(proposers=[], aggregator=[_times(member, 1)], layers=1, **said)


def _times(member: ProposerConfig, samples: int) -> ProposerConfig:
    return member.model_copy(update={"samples": samples})


def _described(mixture: MoAConfig, member: ProposerConfig) -> str:
    """All that makes a difference to its answer."""
    said = member.model_dump(exclude={"name", "samples"})
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
