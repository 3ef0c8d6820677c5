"""What a model call costs: $ by list prices, of the mixture's own, the user's file, or `genai-prices`.

prices = Prices({"openai:gpt-6-luna": Price(input=0.10, output=0.50)})
prices.cost(["openai:gpt-6-luna"], {"input_tokens": 1000, "output_tokens": 200})  # 0.0002

The user's file is what `MOA_GRAPH_PRICES` names, else `prices.yaml` in `~/.config/moa_graph` (or `XDG_CONFIG_HOME`):

openai:gpt-6-luna: {input: 0.10, output: 0.50, cached_input: 0.01}   # $ per million tokens

`genai-prices` brings its list along; nothing here, and nothing in it that is called from here, goes to the network.
An unknown price is `None`, never 0.
"""

import difflib
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from moa_graph.documents import read_yaml
from moa_graph.errors import MoAConfigError
from moa_graph.folders import config_folder

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

__all__ = ["PAPER", "TABLES", "Price", "Prices", "read_prices", "users_prices"]


def _dollars(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MoAConfigError(f"{name} is {value!r}: $ per million tokens as a number, such as 0.5")
    if value < 0:
        raise MoAConfigError(f"{name} is {value!r}: it must be $0 or more per million tokens")


@dataclass(frozen=True)
class Price:
    """$ per million tokens. `cached_input`: for input read from a prefix cache; `None`: what input costs.

    Raises MoAConfigError for what is not a number of 0 or more.
    """

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        _dollars("input", self.input)
        _dollars("output", self.output)
        if self.cached_input is not None:
            _dollars("cached_input", self.cached_input)

    def cost(self, usage: Mapping[str, int]) -> float | None:
        """$ of one call; `None` where its tokens are not known, unless it costs nothing anyway."""
        given, said = usage.get("input_tokens"), usage.get("output_tokens")
        if self.input == self.output == 0:
            return 0.0
        if given is None or said is None:
            return None
        cached = min(usage.get("cached_input_tokens") or 0, given)
        cached_input = self.input if self.cached_input is None else self.cached_input
        return ((given - cached) * self.input + cached * cached_input + said * self.output) / 1e6


_NOTHING: Final = Price(0.0, 0.0)

# The paper's list prices (arXiv 2406.04692, section 3.4; 2024-05-22). Together: dense models of 41 to 80 billion
# parameters 0.90, of 80 to 110 billion 1.80; mixtures of experts of 56 to 176 billion 1.20; tokens in and out alike.
# OpenAI: gpt-4o 5 in and 15 out, gpt-4-turbo 10 and 30.
PAPER: Final[Mapping[str, Price]] = MappingProxyType({
    "together:microsoft/WizardLM-2-8x22B": Price(1.20, 1.20),
    "together:Qwen/Qwen1.5-110B-Chat": Price(1.80, 1.80),
    "together:Qwen/Qwen1.5-72B-Chat": Price(0.90, 0.90),
    "together:meta-llama/Llama-3-70b-chat-hf": Price(0.90, 0.90),
    "together:mistralai/Mixtral-8x22B-Instruct-v0.1": Price(1.20, 1.20),
    "together:databricks/dbrx-instruct": Price(1.20, 1.20),
    **{f"{provider}{name}": Price(5, 15) for provider in ("", "openai:") for name in ("gpt-4o", "gpt-4o-2024-05-13")},
    **{
        f"{provider}{name}": Price(10, 30)
        for provider in ("", "openai:")
        for name in ("gpt-4-turbo", "gpt-4-turbo-2024-04-09")
    },
})  # fmt: skip
"""The prices of the paper's models by id, for the presets `moa-paper*`."""

TABLES: Final[Mapping[str, Mapping[str, Price]]] = MappingProxyType({"paper-2024-05-22": PAPER})
"""The tables that come with the package, by name."""

_KEYS: Final = ("input", "output", "cached_input")

# LangChain's provider -> that of `genai-prices`. Whoever is missing here has no list price: ollama, vLLM, ...
_PROVIDERS: Final = {
    **{
        name: name
        for name in (
            "anthropic", "azure", "baseten", "cohere", "deepseek", "fireworks", "groq", "litellm", "meta", "mistral",
            "openai", "openrouter", "perplexity", "together",
        )
    },
    **dict.fromkeys(("azure_ai", "azure_openai"), "azure"),
    **dict.fromkeys(("google_anthropic_vertex", "google_genai", "google_vertexai"), "google"),
    **dict.fromkeys(
        (
            "amazon_bedrock", "anthropic_bedrock", "bedrock", "bedrock_converse", "bedrock_mantle_anthropic",
            "bedrock_mantle_openai",
        ),
        "aws",
    ),
    "mistralai": "mistral",
    "xai": "x-ai",
}  # fmt: skip

_SOLD_BY_THEIR_MAKER: Final = {"anthropic", "google", "openai", "x-ai"}
"""A name without a provider is looked up with these alone: what others make is sold at many prices."""

_OPEN_WEIGHTS: Final = "gpt-oss"
"""`genai-prices` lists these with OpenAI, which does not sell them: "openai" is then somebody's own server."""


class Prices:
    """Where prices are looked up: those given here, then those of the user's file, then `genai-prices`.

    own: prices by model id, such as a mixture's.
    user: whether the user's file is read: when it is first asked for a price, and as it is then.
    """

    def __init__(self, own: Mapping[str, Price] | None = None, *, user: bool = True) -> None:
        self._own = dict(own or {})
        self._user = user
        self._tables: list[Mapping[str, Price]] | None = None
        self._found: dict[tuple[str, ...], Price | _Listed | None] = {}

    def load(self) -> "Prices":
        """Read now what is otherwise read when a price is first asked for: the user's file, and `genai-prices`.

        Raises MoAConfigError for a file that `MOA_GRAPH_PRICES` names and that is not there, or for a wrong one.
        """
        self._read()
        _listed(("gpt-4o",), "openai")
        return self

    def cost(self, models: Sequence[str], usage: Mapping[str, int]) -> float | None:
        """$ of one call. `None`: the price is unknown, or how many tokens went in and out.

        models: the names that the model goes by, the id that it was asked for by first ("together:Qwen/Qwen3.8-Flash"),
        then what its provider reported ("gpt-4o-2024-05-13").
        usage: `input_tokens`, `output_tokens`, and `cached_input_tokens`, which are some of the input's.
        Raises MoAConfigError as `load` does, when it is first asked.
        """
        found = self._find(tuple(models))
        return None if found is None else found.cost(usage)

    def price(self, models: Sequence[str]) -> Price | None:
        """The flat price of a model, of prompts of ordinary length where long ones cost more; `None`: unknown."""
        found = self._find(tuple(models))
        return found.price() if isinstance(found, _Listed) else found

    def _find(self, models: tuple[str, ...]) -> "Price | _Listed | None":
        if models not in self._found:
            self._found[models] = self._look_up(models)
        return self._found[models]

    def _look_up(self, models: tuple[str, ...]) -> "Price | _Listed | None":
        provider, _, name = models[0].partition(":") if models else ("", "", "")
        for table in self._read():
            for known_as in (*models, name):
                if known_as in table:
                    return table[known_as]
        if models and models[0].lower().startswith("local:"):
            return _NOTHING
        return _listed(models, provider if name else None)

    def _read(self) -> list[Mapping[str, Price]]:
        if self._tables is None:
            self._tables = [self._own, users_prices()] if self._user else [self._own]
        return self._tables


class _Listed:
    """A model that `genai-prices` lists; its price may depend on the day, the hour, the length of the prompt."""

    def __init__(self, model: "ModelInfo", provider: "Provider") -> None:
        self._model = model
        self._provider = provider
        self._last: tuple[ModelPrice | None, Price | None, float] = None, None, 0

    def cost(self, usage: Mapping[str, int]) -> float | None:
        now = datetime.now(UTC)
        price, longest = self._at(now)
        given, said = usage.get("input_tokens"), usage.get("output_tokens")
        if price is None:
            return None
        if given is None or said is None or given <= longest:
            return price.cost(usage)
        from genai_prices import Usage

        cached = min(usage.get("cached_input_tokens") or 0, given)
        used = Usage(input_tokens=given, output_tokens=said, cache_read_tokens=cached)
        return float(self._model.calc_price(used, self._provider, genai_request_timestamp=now).total_price)

    def price(self) -> Price | None:
        price, longest = self._at(datetime.now(UTC))
        return price if longest > 0 else None

    def _at(self, now: datetime) -> tuple[Price | None, float]:
        """The price now, and up to how many tokens of input it is the whole truth (-1: a call costs extra)."""
        prices = self._model.get_prices(now)
        if prices is not self._last[0]:
            self._last = prices, *_flat(vars(prices), free=self._model.id.endswith(":free"))
        return self._last[1:]


def _flat(prices: Mapping[str, Any], *, free: bool) -> tuple[Price | None, float]:
    given, said, cached = (prices.get(f"{kind}_mtok") for kind in ("input", "output", "cache_read"))
    if given is None or said is None:
        return (_NOTHING if free and not prices else None), math.inf
    tiers = [tier for value in (given, said, cached) for tier in getattr(value, "tiers", ())]
    longest = min((tier.start for tier in tiers), default=math.inf)
    price = Price(_base(given), _base(said), None if cached is None else _base(cached))
    return price, -1 if prices.get("requests_kcount") else longest


def _base(price: Any) -> float:
    """A price in `genai-prices`, which may rise with the length of the prompt: that of a short one."""
    return float(getattr(price, "base", price))


@functools.lru_cache(maxsize=1024)
def _listed(models: tuple[str, ...], provider: str | None) -> _Listed | None:
    """The model as `genai-prices` lists it, by the name that is the most exact: what was reported goes first."""
    from genai_prices import Usage, calc_price

    seller = None if provider is None else _PROVIDERS.get(provider.lower().replace("-", "_"))
    if provider is not None and seller is None:
        return None
    for name in dict.fromkeys(_bare(name) for name in reversed(models)):
        try:
            found = calc_price(Usage(), name, provider_id=seller)
        except LookupError:
            continue
        sold = found.provider.id != "openai" or not found.model.id.startswith(_OPEN_WEIGHTS)
        if sold and (seller or found.provider.id in _SOLD_BY_THEIR_MAKER):
            return _Listed(found.model, found.provider)
    return None


def _bare(name: str) -> str:
    provider, _, rest = name.partition(":")
    return rest if provider.lower().replace("-", "_") in _PROVIDERS else name


def users_prices() -> Mapping[str, Price]:
    """The prices in the user's file; none where there is no such file, unless `MOA_GRAPH_PRICES` names it.

    Raises MoAConfigError naming file, model and key.
    """
    named = os.environ.get("MOA_GRAPH_PRICES")
    path = Path(named).expanduser() if named else config_folder() / "prices.yaml"
    where = f"MOA_GRAPH_PRICES: {path}" if named else str(path)
    return _kept(path, where, optional=not named)


def _kept(path: Path, where: str, *, optional: bool = False, instead: str = "") -> Mapping[str, Price]:
    """The prices in a file, which is read once for each state of it; none where it is `optional` and not there."""
    try:
        state = path.stat()
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise _unreadable(where, error, instead) from error
    return _as_of(path, where, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _as_of(path: Path, where: str, changed: int, size: int) -> Mapping[str, Price]:
    return _from_file(path, where)


def read_prices(given: str | Mapping[str, Any], *, folder: Path, where: str) -> dict[str, Price]:
    """Prices by model id: as a mapping in YAML, of a table that comes with the package, or of a YAML file.

    The mapping is model -> `input`, `output` and perhaps `cached_input`, in $ per million tokens. A path is relative
    to `folder`; `where` names the culprit in errors. Raises MoAConfigError naming file, model and key.
    """
    if isinstance(given, str):
        if given in TABLES:
            return dict(TABLES[given])
        path = folder / Path(given).expanduser()
        return dict(_kept(path, f"{where}: {path}", instead=f", or one of {', '.join(sorted(TABLES))}"))
    if not isinstance(given, Mapping):
        raise MoAConfigError(f"{where}: {given!r} is no mapping: write model: {{input: 0.5, output: 1.5}}")
    return {_model(name, where): _price(price, f"{where}: {name}") for name, price in given.items()}


def _from_file(path: Path, where: str) -> dict[str, Price]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"), where)
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(where, error) from error
    if isinstance(data, str):
        raise MoAConfigError(f"{where}: {data[:40]!r} is no mapping: write model: {{input: 0.5, output: 1.5}}")
    return read_prices({} if data is None else data, folder=path.parent, where=where)


def _unreadable(where: str, error: Exception, instead: str = "") -> MoAConfigError:
    why = getattr(error, "strerror", None) or "not UTF-8 text"
    return MoAConfigError(f"{where}: cannot be read ({why}); give a YAML file with prices{instead}")


def _model(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise MoAConfigError(f'{where}: {name!r} is no model: write "provider:model"')
    return name


def _price(given: Any, where: str) -> Price:
    if not isinstance(given, Mapping):
        raise MoAConfigError(f"{where}: {given!r} is no price: write {{input: 0.5, output: 1.5}}, $ per million tokens")
    for key in _unknown(given):
        near = difflib.get_close_matches(str(key), _KEYS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise MoAConfigError(f"{where}: {key}: unknown key; {hint}one of {', '.join(_KEYS)}, $ per million tokens")
    for key in ("input", "output"):
        if key not in given:
            raise MoAConfigError(f"{where}: {key}: this key is missing; $ per million tokens")
    try:
        return Price(**given)
    except MoAConfigError as error:
        raise MoAConfigError(f"{where}: {error}") from error


def _unknown(given: Mapping[Any, Any]) -> Iterator[Any]:
    return (key for key in given if key not in _KEYS)
