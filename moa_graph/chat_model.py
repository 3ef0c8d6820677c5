"""`ChatMoA`: a mixture as a chat model, with tools, structured output and streaming."""

import copy
import difflib
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr, SecretStr, SkipValidation, ValidationError

from moa_graph.advice import fitted, identities, sampled
from moa_graph.budget import Budget
from moa_graph.chat_run import answer, awaited, chunks, iterated, speak
from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError, clean
from moa_graph.graph import create_moa
from moa_graph.policy import LayerPolicy, checked
from moa_graph.prompts import Prompt
from moa_graph.within import OuterChatModel

__all__ = ["ChatMoA"]

_OWN: Final = ("config", "proposers", "aggregator", "layers", "policy", "prompt", "budget")
_STANDARD: Final = ("temperature", "max_tokens", "api_key", "timeout", "max_retries", "stop")
_SAMPLING: Final = ("temperature", "max_tokens")
_GRAPHS: Final = 16  # for so many sets of tools and keywords a graph is kept
_FORMAT: Final = "ls_structured_output_format"  # LangChain's own note to its tracer


class ChatMoA(OuterChatModel):
    """A mixture as a chat model.

    `ChatMoA(config="moa-lite")`: a preset, a YAML file or a `MoAConfig`; or `proposers`, `aggregator` and the rest as
    `create_moa` takes them; given together, the latter go before. LangChain's standard keywords: `temperature`,
    `max_tokens` and `api_key` are those of the models given as strings; `timeout` (seconds) and `max_retries` go
    before the policy's; `stop` is the final model's.

    Tools go to the final model alone: it decides. The proposers advise in text; they are told of the tools, and
    read calls and results as text. `with_structured_output` and `stop` concern the final model too, and so do
    further keywords of a call.

    The answer's `usage_metadata` sums up all calls; its receipt is in `response_metadata["moa"]`. Raises
    MoAConfigError when built, or when the final model cannot be given tools; QuorumError, FinalError,
    BudgetExceededError when run.
    """

    config: SkipValidation[str | Path | MoAConfig | None] = Field(default=None, frozen=True)
    proposers: SkipValidation[Any] = Field(default=None, frozen=True)
    aggregator: SkipValidation[Any] = Field(default=None, frozen=True)
    layers: SkipValidation[int | None] = Field(default=None, frozen=True)
    policy: SkipValidation[LayerPolicy | None] = Field(default=None, frozen=True)
    prompt: SkipValidation[str | Prompt | None] = Field(default=None, frozen=True)
    budget: SkipValidation[Budget | None] = Field(default=None, frozen=True)
    temperature: float | None = Field(default=None, frozen=True)
    max_tokens: int | None = Field(default=None, frozen=True)
    timeout: float | None = Field(default=None, frozen=True)
    max_retries: int | None = Field(default=None, frozen=True)
    stop: list[str] | None = Field(default=None, frozen=True)
    api_key: SecretStr | None = Field(default=None, frozen=True)
    streaming: bool = False

    _arguments: dict[str, Any] = PrivateAttr(default_factory=dict)
    _graphs: dict[str, Any] = PrivateAttr(default_factory=dict)
    _identity: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **given: Any) -> None:
        known = type(self).model_fields
        if unknown := next((name for name in given if name not in known), None):
            near = difflib.get_close_matches(unknown, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise MoAConfigError(
                f"ChatMoA has no {unknown!r}: {hint}{', '.join([*_OWN, *_STANDARD])}, or what every chat model of "
                "LangChain has (cache, callbacks, tags, …)"
            )
        try:
            super().__init__(**given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise MoAConfigError(f"ChatMoA: {first['loc'][0]}: {clean(first['msg'])}") from error
        self._arguments = self._described()
        self._graph({})
        self._identity = identities(self._arguments, uuid.uuid4().hex)

    def _described(self) -> dict[str, Any]:
        """The arguments of `create_moa`. Raises MoAConfigError."""
        own = {name: value for name in _OWN[1:] if (value := getattr(self, name)) is not None}
        sampling = {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}
        keyed = {"api_key": self.api_key} if self.api_key else {}
        if self.config is not None:
            config = _config(self.config).model_copy(update=sampling)
            own = {**config.arguments(budget=own.get("budget")), "stream_proposers": False, **own}
        policy = checked(own.get("policy")) or LayerPolicy()
        own["policy"] = policy.but(timeout=self.timeout, retries=self.max_retries)
        if missing := [name for name in ("proposers", "aggregator") if name not in own]:
            raise MoAConfigError(
                f"ChatMoA needs {' and '.join(missing)}, or config: a preset's name, a YAML file or a MoAConfig"
            )
        return sampled(own, sampling, **keyed)

    def _graph(self, given: Mapping[str, Any]) -> Any:
        """The mixture for a call with these tools and keywords; made when first needed."""
        key, graphs = json.dumps(given, sort_keys=True, default=_place), self._graphs
        if (graph := graphs.get(key)) is None:
            graph = create_moa(**fitted(self._arguments, given))
            for oldest in list(graphs)[: max(0, len(graphs) - _GRAPHS + 1)]:
                graphs.pop(oldest, None)
            graphs[key] = graph
        return graph

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, strict: bool | None = None, **keywords: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This mixture, whose final model may call `tools`. Raises MoAConfigError if it cannot be given any."""
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        given = {"tools": [convert_to_openai_tool(tool, strict=strict) for tool in tools], **choice, **keywords}
        self._graph({name: value for name, value in given.items() if name != _FORMAT})
        return self.bind(**given)

    # A call

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> ChatResult:
        graph, within = self._graph(_all(given, stop or self.stop)), self._beneath(run_manager)
        return _result(awaited(partial(answer, graph, messages, within)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> ChatResult:
        return _result(await answer(self._graph(_all(given, stop or self.stop)), messages, self._beneath(run_manager)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> Iterator[ChatGenerationChunk]:
        graph, within = self._graph(_all(given, stop or self.stop)), self._beneath(run_manager)
        yield from iterated(partial(speak, graph, messages, within))

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **given: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        graph, within = self._graph(_all(given, stop or self.stop)), self._beneath(run_manager)
        return self._closed_later(chunks(partial(speak, graph, messages, within)))

    # What it is

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; one that differs is checked as a new one is. Models are shared, as graphs share them."""
        if not (update and update.keys() & {*_OWN, *_STANDARD}):
            return super().model_copy(update=update)
        fields = {name: value for name, value in vars(self).items() if name in type(self).model_fields}
        return type(self)(**{**fields, **update})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return copy.copy(self)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**state["__pydantic_private__"], "_graphs": {}}}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield from self._identifying_params.items()  # a model's own repr might show its key

    @property
    def _llm_type(self) -> str:
        return "moa"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self._identity

    def _get_ls_params(self, stop: list[str] | None = None, **given: Any) -> LangSmithParams:
        name = self.config if isinstance(self.config, str) else self.get_name()
        return {"ls_model_name": name, **super()._get_ls_params(stop=stop, **given)}


def _config(given: str | Path | MoAConfig) -> MoAConfig:
    if isinstance(given, MoAConfig):
        return given
    if not isinstance(given, str | Path):
        raise MoAConfigError(f"config is a {type(given).__name__}: give a preset's name, a YAML file or a MoAConfig")
    from moa_graph.choose import choose

    return choose(str(given)).config


def _place(value: Any) -> str:
    """What stands for a keyword's value that is no data: the graph made for it keeps it, so that it stays unique."""
    return f"{type(value).__qualname__} at {id(value)}"


def _all(given: Mapping[str, Any], stop: list[str] | None) -> dict[str, Any]:
    """The final model's keywords; `stream` says how the mixture is called, not the model."""
    return {**{k: v for k, v in given.items() if k != "stream"}, **({"stop": stop} if stop else {})}


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])
