"""Models as any event loop and thread may use them.

An OpenAI client keeps connections, and a connection belongs to the loop that opened it: used from several loops,
the client fails with "Event loop is closed". So every model on such a client gets one that we share: it keeps
one set of connections per event loop, on aiohttp, and closes them with the loop. `MOA_GRAPH_TRANSPORT=openai` in the
environment: the connections are the client's own kind (httpx).
"""

import asyncio
import functools
import os
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langgraph.pregel import Pregel

from moa_graph.errors import MoAConfigError
from moa_graph.loops import PerLoop, home

__all__ = ["Ear", "Listening", "ask", "clients", "ears", "shared"]

_VARIABLE: Final = "MOA_GRAPH_TRANSPORT"
_LIMIT: Final = 100_000  # connections: how many calls are in flight is LayerPolicy's to say
_PLAIN: Final = {("langchain_openai", "ChatOpenAI"), ("langchain_together", "ChatTogether")}
_EARS: Final[ContextVar[tuple["Ear", ...]]] = ContextVar("ears", default=())


class Ear:
    """Hears what clients do by themselves, and what they are told."""

    def repeated(self) -> None:
        """A request is sent again, as the clients inside an agent do."""

    def told(self, usage: Callable[[], Mapping[str, Any]]) -> None:
        """An answer has come in, with this usage (as LangChain has it)."""


def ears() -> tuple[Ear, ...]:
    """Whoever listens to the running task."""
    return _EARS.get()


class Listening:
    """Within it, `ear` listens to the running task; `None`: nobody more does."""

    __slots__ = ("_before", "_ear")

    def __init__(self, ear: Ear | None) -> None:
        self._ear = ear

    def __enter__(self) -> None:
        if self._ear is not None:
            self._before = _EARS.set((*_EARS.get(), self._ear))

    def __exit__(self, *_: object) -> None:
        if self._ear is not None:
            _EARS.reset(self._before)


async def ask(model: Runnable[Any, Any], given: Any, config: RunnableConfig) -> Any:
    """What `model` gives, asked on the running loop, or on the one behind the sync entry points.

    The clients of LangChain's other integrations (Anthropic, Ollama, …) cannot be shared between loops: they
    stay on that one.
    """
    if not _tied_to_a_loop(model) or asyncio.get_running_loop() is (ours := home()):
        return await model.ainvoke(given, config)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(model.ainvoke(given, config), ours))


def _tied_to_a_loop(model: Any) -> bool:
    if isinstance(model, RunnableBindingBase):
        return _tied_to_a_loop(model.bound)
    package = type(model).__module__.partition(".")[0]
    ours = package in ("langchain_core", "langchain_tests") or _has_client(model)
    return isinstance(model, BaseChatModel) and package.startswith("langchain_") and not ours


def clients() -> dict[str, Any]:
    """The HTTP clients for a model that we make ourselves: making its own would load the certificates each time."""
    return {"http_client": _sync_client(), "http_async_client": _client()}


def shared(model: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """`model`, or a copy of it, that any event loop and thread may use; a client the user made is left alone.

    The models inside a graph cannot be copied: they are given the shared client where they stand.
    """
    _on_aiohttp()
    if isinstance(model, Pregel):
        for inner in _models_in(model):
            inner.root_async_client._client = inner.async_client._client._client = _client(inner.openai_proxy)
        return model
    return _copy(model)  # type: ignore[no-any-return]


def _copy(runnable: Any) -> Any:
    """A copy in which every model on an OpenAI client has the shared one; the same object where there is none."""
    if isinstance(runnable, BaseChatModel):
        return _copy_of_model(runnable) if _has_client(runnable) else runnable
    if isinstance(runnable, Pregel):
        return shared(runnable)
    changed = {}
    for name, value in _parts(runnable):
        new = [_copy(v) for v in value] if isinstance(value, list) else _copy(value)
        if any(a is not b for a, b in zip(_listed(new), _listed(value), strict=True)):
            changed[name] = new
    return runnable.model_copy(update=changed) if changed else runnable


def _copy_of_model(model: Any) -> Any:
    # our retries are the only ones, and usage is always reported
    options = {"http_client": _client(model.openai_proxy)} if _has_default_client(model) else {}
    client = model.root_async_client.with_options(max_retries=0, **options)
    completions = client.chat.completions
    if _is_plain(model):
        from moa_graph.completions import Completions

        completions = Completions(client)
    update = {"root_async_client": client, "async_client": completions}
    if model.stream_usage is None:
        update["stream_usage"] = True
    return model.model_copy(update=update)


def _has_client(model: Any) -> bool:
    return getattr(model, "root_async_client", None) is not None and hasattr(model, "http_async_client")


def _has_default_client(model: Any) -> bool:
    """Whether LangChain made its HTTP client; with `openai_proxy` it must have."""
    return _has_client(model) and (model.http_async_client is None or bool(model.openai_proxy))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _parts(runnable: Any) -> list[tuple[str, Any]]:
    """The runnables that a runnable is made of: of a binding, a sequence, a model with fallbacks, ..."""
    fields = ((name, getattr(runnable, name)) for name in getattr(type(runnable), "model_fields", ()))
    return [(name, value) for name, value in fields if all(isinstance(v, Runnable) for v in _listed(value) or [0])]


def _models_in(graph: Pregel[Any, Any, Any, Any]) -> Iterator[Any]:
    """The chat models that the nodes of a graph hold, in whatever their functions close over."""
    seen: set[int] = set()
    todo: list[Any] = [node.bound for node in graph.nodes.values()]
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, BaseChatModel):
            if _has_default_client(thing):
                yield thing
        else:
            todo += _held_by(thing)


def _held_by(thing: Any) -> list[Any]:
    if isinstance(thing, MethodType):
        return [thing.__func__, *getattr(thing.__self__, "__dict__", {}).values()]
    if isinstance(thing, FunctionType):
        named = [thing.__globals__[name] for name in thing.__code__.co_names if name in thing.__globals__]
        return [*named, *(cell.cell_contents for cell in thing.__closure__ or () if _filled(cell))]
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, Pregel):
        return [node.bound for node in thing.nodes.values()]
    if isinstance(thing, list | tuple):
        return list(thing)
    if isinstance(thing, dict):
        return list(thing.values())
    return list(vars(thing).values()) if isinstance(thing, Runnable) else []


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False  # a name that its function has not bound yet


@functools.cache
def _sync_client() -> Any:
    from openai import DefaultHttpxClient

    return DefaultHttpxClient()


@functools.cache
def _client(proxy: str | None = None) -> Any:
    """The process's one HTTP client (for each `openai_proxy`): what it is to send, the running loop's own one sends."""
    from openai import DefaultAsyncHttpxClient

    clients: PerLoop[Any] = PerLoop(partial(_client_of_loop, proxy), lambda client: client.aclose())

    class PerLoopClient(DefaultAsyncHttpxClient):
        async def send(self, request: Any, **kwargs: Any) -> Any:
            if request.url.userinfo:  # aiohttp refuses an address with a user where there is a key as well
                kwargs["auth"] = request.url.username, request.url.password
                request.url = request.url.copy_with(userinfo=b"")
            if int(request.headers.get("x-stainless-retry-count", 0)):
                for ear in ears():
                    ear.repeated()
            return await (await clients.get()).send(request, **kwargs)

    return PerLoopClient()


def _client_of_loop(proxy: str | None) -> Any:
    import httpx2
    from openai import DefaultAioHttpClient, DefaultAsyncHttpxClient

    limits = httpx2.Limits(max_connections=_LIMIT, max_keepalive_connections=_LIMIT)
    aiohttp_does = _on_aiohttp() and not (proxy or _proxies())  # it knows no SOCKS proxy
    return (DefaultAioHttpClient if aiohttp_does else DefaultAsyncHttpxClient)(limits=limits, proxy=proxy)


def _proxies() -> set[str]:
    return urllib.request.getproxies().keys() - {"no"}


def _on_aiohttp() -> bool:
    said = os.environ.get(_VARIABLE, "aiohttp")
    if said not in ("aiohttp", "openai"):
        raise MoAConfigError(f"{_VARIABLE} is {said!r}: aiohttp (the default) or openai")
    return said == "aiohttp"


def _is_plain(model: Any) -> bool:
    """Whether a model's requests need nothing but what `Completions` does: no proxy, query, changing key, …"""
    kind, address = type(model), model.root_async_client.base_url
    return (
        _on_aiohttp()
        and (kind.__module__.partition(".")[0], kind.__name__) in _PLAIN
        and model.http_async_client in (None, _client())
        and not (_proxies() or model.openai_proxy or model.include_response_headers)
        and not (model.default_query or callable(model.openai_api_key) or getattr(model, "_uses_gateway", False))
        and not (address.userinfo or address.query)
    )
