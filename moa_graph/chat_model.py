"""`ChatMoA`: a mixture as a chat model, with tools, structured output and streaming."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import set_config_context, var_child_runnable_config
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.config import get_stream_writer
from pydantic import PrivateAttr, SkipValidation

from moa_graph.advice import fitted, identities
from moa_graph.asking import unheard
from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.events import Tell
from moa_graph.graph import create_moa
from moa_graph.policy import LayerPolicy
from moa_graph.prompts import Prompt
from moa_graph.receipt import Receipt

__all__ = ["ChatMoA"]


class ChatMoA(BaseChatModel):
    """A mixture as a chat model.

    `ChatMoA(config="moa-lite")`: a preset, a YAML file or a `MoAConfig`; or `proposers`, `aggregator` and the rest as
    `create_moa` takes them; given together, the latter go before.

    Tools go to the final model alone: it decides. The proposers advise in text; they are told of the tools, and
    read calls and results as text. `with_structured_output` and `stop` concern the final model too, and so do
    further keywords of a call.

    The answer's `usage_metadata` sums up all calls; its receipt is in `response_metadata["moa"]`. Raises
    MoAConfigError when built, or when the final model cannot be given tools; QuorumError, FinalError when run.
    """

    config: SkipValidation[str | Path | MoAConfig | None] = None
    proposers: SkipValidation[Any] = None
    aggregator: SkipValidation[Any] = None
    layers: SkipValidation[int | None] = None
    policy: SkipValidation[LayerPolicy | None] = None
    prompt: SkipValidation[str | Prompt | None] = None

    _arguments: dict[str, Any] = PrivateAttr(default_factory=dict)
    _graphs: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._arguments = self._described()
        self._graph({})

    def _described(self) -> dict[str, Any]:
        """The arguments of `create_moa`. Raises MoAConfigError."""
        own = {
            name: value
            for name in ("proposers", "aggregator", "layers", "policy", "prompt")
            if (value := getattr(self, name)) is not None
        }
        if self.config is not None:
            return {**_config(self.config).arguments(), "stream_proposers": False, **own}
        if missing := [name for name in ("proposers", "aggregator") if name not in own]:
            raise MoAConfigError(
                f"ChatMoA needs {' and '.join(missing)}, or config: a preset's name, a YAML file or a MoAConfig"
            )
        return own

    def _graph(self, given: Mapping[str, Any]) -> Any:
        """The mixture for a call with these tools and keywords; made when first needed."""
        key = json.dumps(given, sort_keys=True, default=repr)
        if key not in self._graphs:
            if len(self._graphs) >= _GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = create_moa(**fitted(self._arguments, given))
        return self._graphs[key]

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **keywords: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This mixture, whose final model may call `tools`. Raises MoAConfigError if it cannot be given any."""
        given = {"tools": [convert_to_openai_tool(tool) for tool in tools], "tool_choice": tool_choice, **keywords}
        self._graph({name: value for name, value in given.items() if name != _FORMAT})
        return self.bind(**given)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> ChatResult:
        graph, asked = self._graph(_all(given, stop)), {"messages": messages}
        with _apart(run_manager) as (config, context):
            out = context.run(graph.invoke, asked, config)
        return ChatResult(generations=[ChatGeneration(message=_whole(out["messages"][-1]))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> ChatResult:
        graph, asked = self._graph(_all(given, stop)), {"messages": messages}
        with _apart(run_manager) as (config, context):
            out = await asyncio.create_task(graph.ainvoke(asked, config), context=context)
        return ChatResult(generations=[ChatGeneration(message=_whole(out["messages"][-1]))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> Iterator[ChatGenerationChunk]:
        streamed = _Streamed()
        with _apart(run_manager) as (config, context):
            parts = self._graph(_all(given, stop)).stream({"messages": messages}, config, stream_mode=_MODES)
            try:
                while (part := context.run(next, parts, None)) is not None:
                    yield from streamed.take(*part)
            finally:
                context.run(parts.close)
        yield streamed.end()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        streamed = _Streamed()
        with _apart(run_manager) as (config, context):
            parts = self._graph(_all(given, stop)).astream({"messages": messages}, config, stream_mode=_MODES)
            try:
                while (part := await asyncio.create_task(_next(parts), context=context)) is not None:
                    for chunk in streamed.take(*part):
                        yield chunk
            finally:
                await parts.aclose()
        yield streamed.end()

    @property
    def _llm_type(self) -> str:
        return "moa"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return identities(self._arguments)


_MODES = ["messages", "custom", "values"]
_GRAPHS = 16  # for so many sets of tools and keywords a graph is kept
_FORMAT = "ls_structured_output_format"  # LangChain's own note to its tracer


def _config(given: str | Path | MoAConfig) -> MoAConfig:
    if isinstance(given, MoAConfig):
        return given
    from moa_graph.choose import choose

    return choose(str(given)).config


def _all(given: Mapping[str, Any], stop: list[str] | None) -> dict[str, Any]:
    return {**given, **({"stop": stop} if stop else {})}


# Apart from the graph that the model is part of


@contextmanager
def _apart(manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> Iterator[tuple[Any, Any]]:
    """A config and a context for a run of its own: its nodes are not the outer graph's, its tokens come once."""
    ambient = var_child_runnable_config.get() or {}
    callbacks = _beneath(manager) if manager else ambient.get("callbacks")
    kept: RunnableConfig = {"callbacks": callbacks, "metadata": dict(ambient.get("metadata") or {})}
    config = unheard(kept)
    config["tags"] = []
    with set_config_context(config) as context:
        yield config, context


def _beneath(manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun) -> BaseCallbackManager:
    """The callbacks of runs within a model's run: LangChain knows of none."""
    kind = AsyncCallbackManager if isinstance(manager, AsyncCallbackManagerForLLMRun) else CallbackManager
    handlers = list(manager.inheritable_handlers)
    return kind(handlers=handlers, inheritable_handlers=list(handlers), parent_run_id=manager.run_id)


async def _next(parts: AsyncIterator[Any]) -> Any:
    return await anext(parts, None)


def _writer() -> Tell | None:
    """The custom stream of the graph that the model is part of, if it is."""
    try:
        return get_stream_writer()
    except (RuntimeError, KeyError):
        return None


class _Streamed:
    """The parts of a mixture's stream as a chat model's chunks."""

    def __init__(self) -> None:
        self._tell = _writer()
        self._said = False
        self._answer: AIMessage | None = None

    def take(self, mode: str, data: Any) -> Iterator[ChatGenerationChunk]:
        if mode == "custom":
            if self._tell:
                self._tell(data)
        elif mode == "values":
            last = data["messages"][-1]
            self._answer = last if "moa" in last.response_metadata else None
        else:
            self._said = True
            message = _as_chunk(data[0])
            yield ChatGenerationChunk(message=message)

    def end(self) -> ChatGenerationChunk:
        """The last chunk: the sum of all calls, and the receipt."""
        assert self._answer is not None, "a mixture ends with an answer"
        told = _whole(self._answer)
        metadata = {"moa": told.response_metadata["moa"]} if self._said else told.response_metadata
        rest = AIMessageChunk(content="") if self._said else _as_chunk(told)
        update = {"response_metadata": metadata, "usage_metadata": told.usage_metadata, "chunk_position": "last"}
        return ChatGenerationChunk(message=rest.model_copy(update=update))


def _as_chunk(message: Any) -> AIMessageChunk:
    """A piece of the answer, without what the last chunk says of the whole."""
    update = {"id": None, "usage_metadata": None, "chunk_position": None}
    if isinstance(message, AIMessageChunk):
        return message.model_copy(update=update)
    calls = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=k)
        for k, call in enumerate(message.tool_calls)
    ]
    return AIMessageChunk(
        content=message.content,
        additional_kwargs=message.additional_kwargs,
        response_metadata={k: v for k, v in message.response_metadata.items() if k != "moa"},
        tool_call_chunks=calls,
    )


def _whole(answer: AIMessage) -> AIMessage:
    """The mixture's answer as a model's: its usage is that of all calls."""
    receipt: Receipt = answer.response_metadata["moa"]
    given, said, cached = (receipt[f"{kind}_tokens"] for kind in ("input", "output", "cached_input"))  # type: ignore[literal-required]
    usage = UsageMetadata(input_tokens=given, output_tokens=said, total_tokens=given + said)
    if cached:
        usage["input_token_details"] = {"cache_read": cached}
    return answer.model_copy(update={"usage_metadata": usage})
