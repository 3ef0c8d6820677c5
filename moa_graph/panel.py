"""Who is asked: proposers, and the layers they sit in."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final

from moa_graph import fit, local
from moa_graph.errors import MoAConfigError
from moa_graph.models import KEYS, PLACEHOLDER_KEY, UNSET, Model, ModelLike, _Unset, resolve
from moa_graph.policy import LayerPolicy, checked
from moa_graph.prices import Price, Prices

__all__ = ["Layer", "Proposer", "Seat", "foreseen_room", "seated", "seats"]

RESERVED: Final = {
    "__start__", "__end__", "aggregate", "carry", "critique", "decisions", "final", "messages", "proposals", "route",
    "routed", "select", "stop", "synthesis",
}  # fmt: skip
_NAME: Final = re.compile(r"[^:|\s][^:|\n]*")


@dataclass(frozen=True)
class Proposer:
    """A named model that answers within a layer.

    model: `"provider:model"`, a chat model, or any runnable from messages to a message or from a messages
    state to a messages state. `temperature` (default 0.7) and `max_tokens` (default 2048) apply to a model
    given as a string, and to an object only where given; `None`: do not send. `samples=n` asks it n times
    (n > 1 of one model: the paper's single-proposer setting). `system` is its own system prompt. `timeout`
    (seconds) and `retries` go before the layer's policy. `base_url`: any OpenAI-compatible endpoint;
    `api_key_env`: the variable its key stands in. `parameters`: further keywords of the model. `price` goes before
    the known one ($ per million tokens). `context_window` (tokens, prompt and answer together) goes before what
    LangChain's profile of the model says. `usual_output`: the tokens that a budget expects of an answer, where
    `max_tokens` allows them; `None`: `moa_graph.budget.USUAL_OUTPUT`.
    """

    model: ModelLike
    name: str | None = None
    temperature: float | _Unset | None = UNSET
    max_tokens: int | _Unset | None = UNSET
    system: str | None = None
    samples: int = 1
    timeout: float | None = None
    retries: int | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    context_window: int | None = None
    usual_output: float | None = None

    def resolve(self, where: str) -> Model:
        """The model behind this proposer. Raises MoAConfigError, naming `where`."""
        return resolve(
            self.model,
            where=where,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            parameters=self.parameters,
        )


ProposerLike = ModelLike | Proposer


@dataclass(frozen=True)
class Layer:
    """One layer's panel, with a policy of its own where it differs from the mixture's.

    Steps that are off unless given (docs/aggregation.md): `route` chooses who is asked (`moa_graph.route`), `select`
    which answers are read on (`moa_graph.select`), `critique` has them criticised (`moa_graph.critique`), `stop`
    decides whether further layers are asked (`moa_graph.stop`).
    """

    proposers: Sequence[ProposerLike]
    policy: LayerPolicy | None = None
    select: Any = None
    stop: Any = None
    route: Any = None
    critique: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.proposers, str) or not isinstance(self.proposers, Sequence):
            raise MoAConfigError("a layer's proposers are a list of models, also where there is just one")
        checked(self.policy)


@dataclass(frozen=True)
class Seat:
    """One place in a layer: who answers there, and how long it may take."""

    layer: int
    slot: int
    name: str
    model: Model
    system: str | None
    policy: LayerPolicy
    """Its own: the layer's, with the proposer's own timeout and retries."""
    layer_policy: LayerPolicy
    prices: Prices
    room: int | None
    """Tokens that a prompt may take; `None`: unknown."""
    usual_output: float | None
    """Tokens of its usual answer; `None`: unknown."""

    @cached_property
    def known_as(self) -> list[str]:
        """The names that its model goes by in a list of prices, the most telling one first."""
        name, provider = self.model.id, self.model.provider
        return [f"{provider}:{name}", name] if provider and ":" not in name else [name]


def seated(layer: int, slot: int, name: str, model: Model, proposer: Proposer, policy: LayerPolicy, where: str) -> Seat:
    """Seat one proposer, or a final model. Raises MoAConfigError for a price, a window or a length that is none."""
    window = proposer.context_window
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise MoAConfigError(f"{where}: context_window is {window!r}: a whole number of tokens, at least 1, is needed")
    if (usual := proposer.usual_output) is not None and not _is_length(usual):
        raise MoAConfigError(f"{where}: usual_output is {usual!r}: a number of tokens is needed, or None")
    if proposer.price is not None and not isinstance(proposer.price, Price):
        raise MoAConfigError(f"{where}: price is {proposer.price!r}: give moa_graph.prices.Price(input=…, output=…)")
    own = policy.but(timeout=proposer.timeout, retries=proposer.retries)
    prices = Prices({model.id: proposer.price} if proposer.price else None).load()
    return Seat(layer, slot, name, model, proposer.system, own, policy, prices, _room(model, window), usual)


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _room(model: Model, window: int | None) -> int | None:
    said = model.parameters.get("max_tokens")
    return fit.window(model.runnable, said) if window is None else fit.room(window, said)


@lru_cache(maxsize=256)
def foreseen_room(model: str, max_tokens: int | None, window: int | None = None) -> int | None:
    """Tokens that a prompt to a model may take, told without a key and without starting it; `None`: unknown."""
    provider = model.partition(":")[0].strip().replace("-", "_").lower()
    if window is None and provider == "local":
        window = local.SLOT_TOKENS
    if window is not None:
        return fit.room(window, max_tokens)
    if provider not in KEYS:  # to be made it may want more than a key
        return None
    try:
        made = resolve(model, where=model, max_tokens=max_tokens, parameters={"api_key": PLACEHOLDER_KEY})
    except MoAConfigError:  # a package is missing, or the model is none: whoever asks it is told
        return None
    return fit.window(made.runnable, max_tokens)


def seats(layer: int, panel: Layer, policy: LayerPolicy, made: dict[int, Model] | None = None) -> list[Seat]:
    """Seat a panel in declared order. Raises MoAConfigError: nobody in it, a name twice, a bad name or model.

    `made` holds the models made so far, by what they were given as: a panel that serves every layer is made once.
    """
    made = {} if made is None else made
    where = f"layer {layer}"
    proposers = [_proposer(given, where) for given in panel.proposers]
    if not proposers:
        raise MoAConfigError(f"{where}: the panel is empty; give at least one proposer")
    repeated = [p for p in proposers for _ in range(_samples(p, where))]
    policy = (panel.policy or policy).check_panel(len(repeated), where)
    resolved: dict[int, Model] = {}
    for k, (given, proposer) in enumerate(zip(panel.proposers, proposers, strict=True), 1):
        if id(given) not in made:
            made[id(given)] = proposer.resolve(f"{where}, proposer {k} ({proposer.name or _said(proposer.model)})")
        resolved[id(proposer)] = made[id(given)]
    names = _names(repeated, resolved, where)
    return [
        seated(layer, slot, name, resolved[id(p)], p, policy, where)
        for slot, (name, p) in enumerate(zip(names, repeated, strict=True), 1)
    ]


def _proposer(given: Any, where: str) -> Proposer:
    if isinstance(given, Proposer):
        return given
    if isinstance(given, Layer | list | tuple):
        raise MoAConfigError(f"{where}: a panel within a panel; give one list of models per layer")
    return Proposer(given)


def _samples(proposer: Proposer, where: str) -> int:
    if isinstance(proposer.samples, bool) or not isinstance(proposer.samples, int) or proposer.samples < 1:
        raise MoAConfigError(f"{where}: samples is {proposer.samples!r}: a whole number of at least 1 is needed")
    return proposer.samples


def _said(model: ModelLike) -> str:
    return model if isinstance(model, str) else type(model).__name__


def slug(model: str) -> str:
    """A readable name from a model id: `together:Qwen/Qwen2.5-7B` -> `qwen2.5-7b`."""
    last = model.rstrip("/").rpartition("/")[2].partition(":")[2] if "/" not in model else model.rpartition("/")[2]
    return re.sub(r"[^a-z0-9._-]+", "-", (last or model).lower()).strip("-") or "model"


def _names(proposers: Sequence[Proposer], models: Mapping[int, Model], where: str) -> list[str]:
    given = [
        p.name or slug(models[id(p)].id if isinstance(p.model, str) else f":{models[id(p)].id}") for p in proposers
    ]
    distinct = {id(p): p for p in proposers}.values()
    _check(Counter(p.name for p in distinct if p.name), where)
    many, seen = Counter(given), Counter[str]()
    names = []
    for name in given:
        seen[name] += 1
        names.append(f"{name}-{seen[name]}" if many[name] > 1 else name)
    _check(Counter(names), where)
    return names


def _check(names: Mapping[str, int], where: str) -> None:
    _unique((name for name, count in names.items() if count > 1), where)
    for name in names:
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise MoAConfigError(
                f"{where}: {name!r} cannot be a proposer's name: no ':', '|' or line break in it, and none of "
                f"{', '.join(sorted(RESERVED))}"
            )


def _unique(twice: Iterable[str], where: str) -> None:
    if names := ", ".join(repr(name) for name in twice):
        raise MoAConfigError(f"{where}: two proposers are named {names}; give each a name of its own")
