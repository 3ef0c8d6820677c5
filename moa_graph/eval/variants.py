"""`--vary`: contenders made from each mixture for the paper's analyses, beside those that are there anyway.

    proposers  the mixture with the first 1, 2, 3, … of its proposers, and with as many samples of its final model
    roles      each of its models as the final one, and in the place of all proposers
    ranker     its final model names the best answer in place of writing one; with `layers`, at each depth
    layers     its final model alone, and the mixture with fewer layers

A variation changes nothing of what is there: who is a contender already is not asked again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableLambda

from moa_graph.config import AggregatorConfig, LayerConfig, MoAConfig, ProposerConfig, RankConfig, SynthesizeConfig
from moa_graph.contenders import ALIKE, alone, distinct, members, proposers, repeated, times
from moa_graph.errors import MoAConfigError
from moa_graph.eval.contenders import Contender, fingerprint, label

__all__ = ["VARIATIONS", "Varied", "varied"]

VARIATIONS: Final = ("proposers", "roles", "ranker", "layers")

_FEW: Final = (1, 2, 3, 6)
"""How many proposers the paper has; all of them come on top."""


class Varied(NamedTuple):
    """`contenders`: those that were there, and behind them what the variations add. `left_out`: variant -> why not."""

    contenders: list[Contender]
    left_out: dict[str, str]


def varied(there: Sequence[Contender], mixtures: Mapping[str, MoAConfig], variations: Sequence[str]) -> Varied:
    """With what the variations add. Left out is what cannot be made: one proposer, where two are picked."""
    found, left_out = list(there), dict[str, str]()
    known = {fingerprint(one.config) for one in there}
    names = {one.name for one in there}
    for name, config in mixtures.items() if variations else ():
        for said, made in _variants(name, config, variations):
            if (mark := fingerprint(made)) in known:
                continue
            known.add(mark)
            if (why := _unmade(made)) and not _unmade(config):
                left_out[said] = why
                continue
            free = next(n for k in count(1) if (n := said if k == 1 else f"{said} #{k}") not in names)
            names.add(free)
            found.append(Contender(free, "variant", made, (name,)))
    return Varied(found, left_out)


def _unmade(config: MoAConfig) -> str:
    """Why a mixture cannot be made, its models and keys apart; "" where it can."""
    try:
        config.build(stand_in=lambda model: RunnableLambda(str, name=model))
    except MoAConfigError as error:
        return str(error)
    return ""


def _variants(name: str, config: MoAConfig, variations: Sequence[str]) -> Iterator[tuple[str, MoAConfig]]:
    if config.depth == 1:
        return
    if "proposers" in variations:
        yield from _fewer_proposers(name, config)
    if "roles" in variations:
        yield from _in_roles(name, config)
    depths = range(2, config.depth) if "layers" in variations else ()
    if "layers" in variations:
        for final in config.finals[:1]:
            yield f"{name}, 1 layer", alone(config, final)
        yield from ((f"{name}, {depth} layers", _cut(config, depth)) for depth in depths)
    if "ranker" in variations and (ranked := _ranked(config)) is not None:
        yield f"{name}, ranked", ranked
        yield from ((f"{name}, ranked, {depth} layers", _cut(ranked, depth)) for depth in depths)


def _fewer_proposers(name: str, config: MoAConfig) -> Iterator[tuple[str, MoAConfig]]:
    most = max(_size(panel) for panel in config.panels())
    for few in sorted({*(n for n in _FEW if n < most), most}):
        if few < most:
            yield f"{name}, {few} proposer{'s' * (few != 1)}", _each_layer(config, partial(_first, few))
        for final in config.finals[:1]:
            samples = _each_layer(config, partial(_samples, few, final))
            yield f"{name}, {few} x {label(final)}", samples.model_copy(update=ALIKE)


def _in_roles(name: str, config: MoAConfig) -> Iterator[tuple[str, MoAConfig]]:
    for model in members(config) if config.finals else ():
        if len(distinct(config, [model, config.finals[0]])) == 2:
            yield f"{name}, final {label(model)}", _with_final(config, model)
    for model in proposers(config):
        if (made := repeated(config, model)) is not None:
            yield f"{name}, proposer {label(model)}", made


def _with_final(config: MoAConfig, model: ProposerConfig) -> MoAConfig:
    given, last = config.aggregator, [times(model, 1)]
    if not isinstance(given, AggregatorConfig):
        return config.model_copy(update={"aggregator": last})
    families = {family: getattr(given, family) for family in given.model_fields_set}
    changed = {
        family: said.model_copy(update={"model": last})
        for family, said in families.items()
        if isinstance(said, SynthesizeConfig)
    }
    return config.model_copy(update={"aggregator": given.model_copy(update=changed)})


def _ranked(config: MoAConfig) -> MoAConfig | None:
    """With the paper's LLM ranker at its end; `None` where no synthesis is there to be replaced."""
    given = config.aggregator
    if isinstance(given, AggregatorConfig) and given.synthesize is None:
        return None
    ranker = AggregatorConfig(rank=RankConfig(model=config.finals))
    return config.model_copy(update={"aggregator": ranker})


def _cut(config: MoAConfig, depth: int) -> MoAConfig:
    """Its first layers, and its end."""
    if any(isinstance(one, LayerConfig) for one in config.proposers):
        return config.model_copy(update={"proposers": config.proposers[: depth - 1], "layers": None})
    return config.model_copy(update={"layers": depth})


def _each_layer(config: MoAConfig, change: Callable[[Any], list[ProposerConfig]]) -> MoAConfig:
    """With what `change` makes of each panel; no quorum is larger than its panel."""
    layers = [one for one in config.proposers if isinstance(one, LayerConfig)]
    if not layers:
        panel = change(config.proposers)
        return config.model_copy(update={"proposers": panel, "policy": _reachable(config.policy, panel)})
    changed = []
    for layer in layers:
        panel = change(layer.proposers)
        own = None if layer.policy is None else _reachable(layer.policy, panel)
        changed.append(layer.model_copy(update={"proposers": panel, "policy": own}))
    smallest = min((layer.proposers for layer in changed), key=_size)
    return config.model_copy(update={"proposers": changed, "policy": _reachable(config.policy, smallest)})


def _reachable(policy: Any, panel: Sequence[ProposerConfig]) -> Any:
    return policy if policy.quorum <= _size(panel) else policy.model_copy(update={"quorum": _size(panel)})


def _size(panel: Sequence[ProposerConfig]) -> int:
    return sum(one.samples for one in panel)


def _first(few: int, panel: Sequence[ProposerConfig]) -> list[ProposerConfig]:
    """The first ones, each sample counted."""
    kept = []
    for one in panel:
        samples = min(one.samples, few)
        few -= samples
        kept += [one.model_copy(update={"samples": samples})] if samples else []
    return kept


def _samples(few: int, model: ProposerConfig, panel: Sequence[ProposerConfig]) -> list[ProposerConfig]:
    return [model.model_copy(update={"samples": min(few, _size(panel)), "name": None})]
