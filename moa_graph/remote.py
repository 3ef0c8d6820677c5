"""A graph on another server, asked as a model is."""

import copy
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, messages_from_dict
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase, RunnableSequence
from langchain_core.runnables.config import get_async_callback_manager_for_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langgraph.errors import GraphInterrupt
from langgraph.pregel.protocol import StreamProtocol

from moa_graph.answers import answer_of
from moa_graph.errors import MoAError
from moa_graph.loops import run_sync

if TYPE_CHECKING:
    from langgraph.pregel.remote import RemoteGraph

__all__ = ["asked_from_afar"]

_STREAM: Final = "__pregel_stream"  # where a graph finds the stream of the graph around it
_OF_A_THREAD: Final = ("thread_id", "checkpoint_id", "checkpoint_map")


def asked_from_afar(model: Any) -> Any:
    """`model`, or a copy of it in which every `RemoteGraph` is asked as a model is."""
    remote = sys.modules.get("langgraph.pregel.remote")  # whoever has one has imported it
    if remote is None:
        return model
    if isinstance(model, remote.RemoteGraph):
        return _Remote(model)
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": asked_from_afar(model.bound)})
    if isinstance(model, RunnableSequence):
        return RunnableSequence(*(asked_from_afar(step) for step in model.steps), name=model.name)
    return model


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
            answer = answer_of({**state, "messages": said} if said else state, self.name or "")
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
