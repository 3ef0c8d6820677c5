"""`"provider:model"` -> a chat model, and one way to ask whatever the user gave us."""

import asyncio
import difflib
import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import set_config_context
from langgraph.pregel.protocol import PregelProtocol

from moa_graph.answers import answer_of
from moa_graph.errors import MoAConfigError, clean
from moa_graph.remote import asked_from_afar
from moa_graph.transport import ask, clients, shared
from moa_graph.within import OuterChatModel

__all__ = [
    "KEYS",
    "PLACEHOLDER_KEY",
    "UNSET",
    "Model",
    "ModelLike",
    "missing_key",
    "providers",
    "rate_limiter",
    "resolve",
]

ModelLike = str | Runnable[Any, Any]


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()
"""Not given: the default applies. (`None` means: do not send it.)"""

DEFAULTS: Final = {"temperature": 0.7, "max_tokens": 2048}
"""What a model given as a string is asked with, as the paper's reference code does."""

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks": ("FIREWORKS_API_KEY",),
    "google_genai": ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistralai": ("MISTRAL_API_KEY",),
    "nvidia": ("NVIDIA_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "perplexity": ("PERPLEXITY_API_KEY", "PPLX_API_KEY"),
    "together": ("TOGETHER_API_KEY",),
    "xai": ("XAI_API_KEY",),
}
"""Provider -> the environment variables its key may stand in."""

_UNTOLD = ("rate_limiter", "api_key")  # no part of what a model is known by
PLACEHOLDER_KEY = "not-needed"  # OpenAI's client wants some key; a server of one's own seldom does
_REASONING = re.compile(r"openai:(gpt-[5-9]|o[1-9])")


@dataclass(frozen=True)
class Model:
    """Something that answers messages, and the name it was asked for by."""

    id: str
    runnable: Runnable[Any, Any]
    takes_state: bool = False
    """It goes from a messages state to a messages state (an agent graph, a nested mixture)."""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_one_call(self) -> bool:
        """Whether asking it once is one request: a chat model, and not a chain, a graph or a function."""
        return isinstance(self._unbound, BaseChatModel)

    @property
    def asks_others(self) -> bool:
        """Whether what it asks is to be counted: of a chain, a graph, a function, and of a mixture as a chat model."""
        return not self.is_one_call or isinstance(self._unbound, OuterChatModel)

    @property
    def tells_usage(self) -> bool:
        """Whether its requests tell what they use, where they do not stream."""
        return bool(getattr(getattr(self._unbound, "async_client", None), "tells_usage", False))

    @property
    def streams(self) -> bool:
        """Whether it streams by itself, also where nobody hears it."""
        return bool(getattr(self._unbound, "streaming", False))

    @property
    def provider(self) -> str | None:
        """Whose model it is, as LangChain says; `None` for what is no chat model."""
        inner = self._unbound
        return inner._get_ls_params().get("ls_provider") if isinstance(inner, BaseChatModel) else None

    @property
    def _unbound(self) -> Any:
        inner: Any = self.runnable
        while isinstance(inner, RunnableBindingBase):
            inner = inner.bound
        return inner

    async def ask(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> AIMessage:
        """Its answer to `messages`. Raises what the model raises, MoAError for an answer that is none."""
        given = {"messages": list(messages)} if self.takes_state else list(messages)
        if self.is_one_call:
            return answer_of(await ask(self.runnable, given, config), self.id)
        with set_config_context(config) as context:  # a graph takes in what stands there, too
            output = await asyncio.create_task(ask(self.runnable, given, config), context=context)
        return answer_of(output, self.id)


def providers() -> list[str]:
    """Every provider that a model string may begin with."""
    from langchain.chat_models import base

    # LangChain keeps this list to itself; without it an unknown provider would be told only by a traceback
    return sorted([*base._BUILTIN_PROVIDERS, "local"])


def missing_key(provider: str) -> tuple[str, ...]:
    """The variables, any of which would do, where a provider needs a key and none is set; else ()."""
    names = KEYS.get(provider, ())
    return () if any(os.environ.get(name) for name in names) else names


def resolve(
    model: ModelLike,
    *,
    where: str,
    temperature: float | _Unset | None = UNSET,
    max_tokens: int | _Unset | None = UNSET,
    base_url: str | None = None,
    api_key_env: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Model:
    """Make a `Model` of a `"provider:model"` string or of any runnable.

    `where` names the culprit in errors. Raises MoAConfigError: an unknown provider, a missing key or package,
    an object that is no model.
    """
    if max_tokens is not UNSET and max_tokens is not None and not _is_count(max_tokens):
        raise MoAConfigError(f"{where}: max_tokens is {max_tokens!r}: a whole number of at least 1 is needed, or None")
    sampling = {"temperature": temperature, "max_tokens": max_tokens}
    if isinstance(model, str):
        chosen = {**DEFAULTS, **(parameters or {}), **{k: v for k, v in sampling.items() if v is not UNSET}}
        wanted = {name: value for name, value in chosen.items() if value is not None}
        if temperature is UNSET and "temperature" not in (parameters or {}) and _thinks(model, wanted):
            wanted.pop("temperature", None)
        return _from_string(model.strip(), where, base_url, api_key_env, wanted)
    if not isinstance(model, Runnable):
        hint = "wrap it in langchain_core's RunnableLambda" if callable(model) else "give a runnable"
        raise MoAConfigError(
            f'{where}: {type(model).__name__} is no model: give "provider:model" or a chat model, or {hint}'
        )
    if base_url or api_key_env:
        raise MoAConfigError(f"{where}: base_url and api_key_env go with a model string; this is an object already")
    bound = {**(parameters or {}), **{k: v for k, v in sampling.items() if v is not UNSET and v is not None}}
    usable = shared(asked_from_afar(model))
    runnable = usable.bind(**bound) if bound else usable
    return Model(_id_of(model), runnable, takes_state=_takes_state(model), parameters=bound)


def _is_count(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given > 0


def _thinks(model: str, parameters: Mapping[str, Any]) -> bool:
    """OpenAI's reasoning models refuse a temperature, so the default one is not sent, unless they do not reason."""
    return bool(_REASONING.match(model)) and parameters.get("reasoning_effort") != "none"


def _from_string(
    model: str, where: str, base_url: str | None, api_key_env: str | None, parameters: dict[str, Any]
) -> Model:
    provider, _, name = model.partition(":")
    provider = provider.replace("-", "_").lower()
    if provider == "local":
        from moa_graph import local

        return Model(model, shared(local.chat_model(name or local.DEFAULT_MODEL, **parameters)), parameters=parameters)
    if not name or provider not in providers():
        hint = _meant(model, provider, name)
        raise MoAConfigError(
            f"{where}: {model!r} does not begin with a known provider; {hint}write it as provider:model with one of "
            f"{', '.join(providers())}"
        )
    connection = _connection(provider, where, base_url, api_key_env, keyed="api_key" in parameters)
    known = {k: v for k, v in parameters.items() if k not in _UNTOLD} | ({"base_url": base_url} if base_url else {})
    return Model(model, _init(provider, name, where, {**parameters, **connection}), parameters=known)


def _meant(model: str, provider: str, name: str) -> str:
    """What an unknown model string may have meant, as a question; "" where nobody knows."""
    from langchain.chat_models import base

    if not name and (known := base._attempt_infer_model_provider(model)):
        return f"did you mean {known}:{model}? "
    near = difflib.get_close_matches(provider, providers(), 1)
    return f"did you mean {near[0]}:{name}? " if near and name else ""


@functools.cache
def rate_limiter(provider: str, per_second: float) -> BaseRateLimiter:
    """The one limiter that all models of `provider` in this process share: `per_second` requests, evenly spaced."""
    from langchain_core.rate_limiters import InMemoryRateLimiter

    return InMemoryRateLimiter(requests_per_second=per_second, check_every_n_seconds=0.02, max_bucket_size=1)


def _connection(
    provider: str, where: str, base_url: str | None, api_key_env: str | None, *, keyed: bool = False
) -> dict[str, Any]:
    connection: dict[str, Any] = {"base_url": base_url} if base_url else {}
    if api_key_env:
        if not (key := os.environ.get(api_key_env)):
            raise MoAConfigError(f"{where}: the variable {api_key_env} named by api_key_env is not set")
        connection["api_key"] = key
    elif (missing := missing_key(provider)) and not keyed:
        if not base_url:
            raise MoAConfigError(f"{where}: {provider} needs a key: set {' or '.join(missing)}")
        connection["api_key"] = PLACEHOLDER_KEY
    if provider in ("anthropic", "groq"):
        connection["max_retries"] = 0
    if provider in ("openai", "together"):
        connection |= {"stream_usage": True, "max_retries": 0}
        if not os.environ.get("OPENAI_PROXY"):  # with it, ChatOpenAI makes a client of its own
            connection |= {**clients(), "http_socket_options": ()}
    return connection


def _init(provider: str, name: str, where: str, keywords: dict[str, Any]) -> Runnable[Any, Any]:
    from langchain.chat_models import init_chat_model

    try:
        return shared(cast("Runnable[Any, Any]", init_chat_model(name, model_provider=provider, **keywords)))
    except ImportError as error:
        package = clean(str(error)).partition("pip install ")[2].strip("`. ") or f"langchain-{provider}"
        raise MoAConfigError(f'{where}: {provider} needs a package: pip install "{package}"') from error
    except Exception as error:
        raise MoAConfigError(f"{where}: {provider}:{name} cannot be made: {clean(str(error))}") from error


def _id_of(model: Any) -> str:
    for name in ("model_name", "model", "name"):
        if isinstance(value := getattr(model, name, None), str) and value:
            return value
    bound = getattr(model, "bound", None)
    return _id_of(bound) if bound is not None else type(model).__name__


def _takes_state(model: Runnable[Any, Any]) -> bool:
    if isinstance(model, PregelProtocol):
        return True
    bound = getattr(model, "bound", None) or getattr(model, "first", None)
    return _takes_state(bound) if isinstance(bound, Runnable) else False
