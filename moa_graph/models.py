"""`"provider:model"` -> a chat model, and one way to ask whatever the user gave us."""

import asyncio
import copy
import difflib
import functools
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, messages_from_dict
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase, RunnableSequence
from langchain_core.runnables.config import get_async_callback_manager_for_config, set_config_context
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langgraph.errors import GraphInterrupt
from langgraph.pregel.protocol import PregelProtocol, StreamProtocol

from moa_graph.errors import MoAConfigError, MoAError, clean
from moa_graph.loops import run_sync
from moa_graph.transport import ask, clients, shared

if TYPE_CHECKING:
    from langgraph.pregel.remote import RemoteGraph

__all__ = ["UNSET", "Model", "ModelLike", "missing_key", "providers", "rate_limiter", "resolve", "text_of"]

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
_PLACEHOLDER_KEY = "not-needed"  # OpenAI's client wants some key; a server of one's own seldom does
_THINKING = re.compile(r"\A\s*(?:<think(?:ing)?>.*?</think(?:ing)?>\s*)+", re.DOTALL)
_TEMPLATE_THINKING = re.compile(r"\A(?:(?!<think).)*?</think(?:ing)?>", re.DOTALL)  # its start stood in the prompt
_STREAM: Final = "__pregel_stream"  # where a graph finds the stream of the graph around it
_OF_A_THREAD: Final = ("thread_id", "checkpoint_id", "checkpoint_map")
_REASONING = re.compile(r"openai:(gpt-[5-9]|o[1-9])")
_OPEN_THINKING = re.compile(r"\A\s*<think(?:ing)?>.*\Z", re.DOTALL)


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
        inner: Any = self.runnable
        while isinstance(inner, RunnableBindingBase):
            inner = inner.bound
        return isinstance(inner, BaseChatModel)

    async def ask(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> AIMessage:
        """Its answer to `messages`. Raises what the model raises, MoAError for an answer that is none."""
        given = {"messages": list(messages)} if self.takes_state else list(messages)
        if self.is_one_call:
            return _answer(await ask(self.runnable, given, config), self.id)
        with set_config_context(config) as context:  # a graph takes in what stands there, too
            output = await asyncio.create_task(ask(self.runnable, given, config), context=context)
        return _answer(output, self.id)


def _answer(output: Any, model: str) -> AIMessage:
    if isinstance(output, Mapping) and output.get("messages"):
        output = output["messages"][-1]
    if isinstance(output, str):
        return AIMessage(output)
    if isinstance(output, AIMessage):
        return output
    if isinstance(output, BaseMessage):
        return AIMessage(output.content, id=output.id, name=output.name)
    keys = f": no `messages` in it, but {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    raise MoAError(f"{model} gave {type(output).__name__} where a message was expected{keys}")


def text_of(message: BaseMessage) -> str:
    """The text of an answer, stripped of surrounding white space and of thinking."""
    text = str(message.text)
    if "</think" in text:
        text = _THINKING.sub("", _TEMPLATE_THINKING.sub("", text))
    return _OPEN_THINKING.sub("", text).strip()


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
    usable = shared(_asked_from_afar(model))
    runnable = usable.bind(**bound) if bound else usable
    return Model(_id_of(model), runnable, takes_state=_takes_state(model), parameters=bound)


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
        connection["api_key"] = _PLACEHOLDER_KEY
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


# A graph on another server


class _Remote(Runnable[Any, AIMessage]):
    """A `RemoteGraph`, asked as a model is: each time in a run of its own, that ends when nobody waits for it.

    Left to itself, it would take the thread of the graph around it for its own, and all of its askers' for one.
    """

    def __init__(self, graph: "RemoteGraph") -> None:
        self.graph, self.name = graph, graph.name

    def invoke(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> AIMessage:  # noqa: A002
        return run_sync(self.ainvoke, input, config, **options)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> AIMessage:  # noqa: A002
        """The answer; meanwhile callbacks hear what they hear of a chat model: its tokens, and what it used in all."""
        config, messages = config or {}, input["messages"]
        callbacks = get_async_callback_manager_for_config(config)
        [run] = await callbacks.on_chat_model_start({"name": self.name}, [messages], name=self.name)
        heard = any(isinstance(handler, _StreamingCallbackHandler) for handler in run.handlers)
        state: dict[str, Any] = {}
        try:
            async for mode, data in self._parts(messages, config, options, heard=heard):
                if mode == "values":
                    state = data
                elif isinstance(chunk := _message(data[0]), AIMessageChunk):
                    await run.on_llm_new_token(chunk.text, chunk=ChatGenerationChunk(message=chunk))
            said = [_message(one) for one in state.get("messages") or ()]
            answer = _answer({**state, "messages": said} if said else state, self.name or "")
        except BaseException as error:
            await run.on_llm_error(error)
            raise
        told = answer.model_copy(update={"usage_metadata": _used(said[len(messages) :])})
        await run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=told)]]))
        return answer

    async def _parts(
        self, messages: list[BaseMessage], config: RunnableConfig, options: dict[str, Any], *, heard: bool
    ) -> AsyncIterator[tuple[str, Any]]:
        """The run's stream. Raises MoAError for what went wrong there, and where it cannot be reached."""
        from langgraph.pregel.remote import RemoteException

        given = {"stream_mode": ["values", *(["messages"] if heard else [])], "on_disconnect": "cancel", **options}
        own = _config_sent(config)
        if options.get("context") is not None:
            own["configurable"] = {}  # the server takes one or the other
        client: Any = self.graph.client
        try:
            async with _on_a_connection_of_its_own(self.graph) as graph:
                async for part in graph.astream({"messages": messages}, own, **given):
                    yield part.event.partition("|")[0], part.data
        except RemoteException as error:
            what = error.args[0] if error.args and isinstance(error.args[0], Mapping) else {}
            raise MoAError(f"{what.get('error', 'Error')}: {what.get('message', error)}") from error
        except GraphInterrupt as error:
            raise MoAError("it asks a person something, and is asked without a thread to answer on") from error
        except Exception as error:
            if type(error).__name__ not in ("ConnectError", "ConnectTimeout"):
                raise
            raise ConnectionError(f"no server at {client.http.client.base_url}: {error}") from error


@asynccontextmanager
async def _on_a_connection_of_its_own(graph: Any) -> AsyncIterator[Any]:
    """`graph` for one run: connections kept for the next one would belong to this event loop, and nobody closes them.

    A client that is no plain HTTP (LangGraph's own for the server one is on) stays what it is.
    """
    transport = graph.client and graph.client.http.client._transport
    if type(transport).__name__ != "AsyncHTTPTransport":
        yield graph
        return
    http = copy.copy(graph.client.http.client)
    # without retries: they are ours to make
    async with type(transport)(verify=transport._pool._ssl_context) as http._transport:
        yield graph.copy({"client": type(graph.client)(http)})


def _asked_from_afar(model: Any) -> Any:
    """`model`, or a copy of it in which every `RemoteGraph` is asked as a model is."""
    remote = sys.modules.get("langgraph.pregel.remote")  # whoever has one has imported it
    if remote is None:
        return model
    if isinstance(model, remote.RemoteGraph):
        return _Remote(model)
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": _asked_from_afar(model.bound)})
    if isinstance(model, RunnableSequence):
        return RunnableSequence(*(_asked_from_afar(step) for step in model.steps), name=model.name)
    return model


def _config_sent(config: RunnableConfig) -> RunnableConfig:
    """What a graph on another server is told: not the thread asked on, nor LangGraph's and our own notes.

    Its typed events come with the others' to whoever wants those of graphs within.
    """
    given = config.get("configurable", {})
    own = {k: v for k, v in given.items() if not (k.startswith("__") or k in _OF_A_THREAD)}
    if (stream := given.get(_STREAM)) and "custom" in stream.modes:
        own[_STREAM] = StreamProtocol(stream, {"custom"})
    return {**config, "configurable": own}


def _message(given: Any) -> BaseMessage:
    """A message as a server writes it."""
    return given if isinstance(given, BaseMessage) else messages_from_dict([{"type": given["type"], "data": given}])[0]


def _used(answers: Sequence[BaseMessage]) -> UsageMetadata | None:
    """The tokens of all these answers together; of a mixture's, those of all its calls."""
    used = None
    for answer in answers:
        usage, moa = getattr(answer, "usage_metadata", None), answer.response_metadata.get("moa")
        if moa:
            given, said, cached = (moa[f"{kind}_tokens"] for kind in ("input", "output", "cached_input"))
            usage = UsageMetadata(input_tokens=given, output_tokens=said, total_tokens=given + said)
            usage["input_token_details"] = {"cache_read": cached}
        used = add_usage(used, usage) if used or usage else None
    return used


def _takes_state(model: Runnable[Any, Any]) -> bool:
    if isinstance(model, PregelProtocol):
        return True
    bound = getattr(model, "bound", None) or getattr(model, "first", None)
    return _takes_state(bound) if isinstance(bound, Runnable) else False
