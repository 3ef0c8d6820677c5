"""A mixture with tools: the final model may call them and decides; the proposers advise in text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase

from moa_graph.cache import identity
from moa_graph.errors import MoAConfigError
from moa_graph.models import Model
from moa_graph.panel import Layer, Proposer

__all__ = ["fitted", "identities"]

_ADVISE: Final = """\
The model that answers in the end can call the tools below; you cannot. Say in plain text what you would answer, or \
which of them you would call, with which arguments, and why.

Tools:
{tools}"""


def fitted(arguments: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` of a mixture whose final model is given `given`, and whose proposers advise on its tools."""
    tools = given.get("tools") or []
    told = _ADVISE.format(tools="\n".join(_description(tool) for tool in tools)) if tools else None
    finals = [_as(_Decider, model, given=given) for model in _listed(arguments["aggregator"])]
    return {**arguments, "proposers": _each(arguments["proposers"], told), "aggregator": finals}


def _each(panels: Any, told: str | None) -> Any:
    if isinstance(panels, Layer):
        return replace(panels, proposers=[_adviser(p, told) for p in panels.proposers])
    if not isinstance(panels, list | tuple):
        return panels  # create_moa says what is wrong with it
    return [_each(p, told) if isinstance(p, Layer | list | tuple) else _adviser(p, told) for p in panels]


def _adviser(proposer: Any, told: str | None) -> Proposer:
    adviser = _as(_Adviser, proposer)
    system = "\n\n".join(filter(None, (adviser.system, told))) or None
    return cast("Proposer", replace(adviser, system=system))


def _as(kind: type[Any], model: Any, **more: Any) -> Any:
    """A proposer of another kind, with the same fields."""
    plain = model if isinstance(model, Proposer) else Proposer(model)
    return kind(inner=plain, **{f.name: getattr(plain, f.name) for f in fields(Proposer)}, **more)


@dataclass(frozen=True)
class _Wrapped(Proposer):
    inner: Proposer = field(kw_only=True)


@dataclass(frozen=True)
class _Adviser(_Wrapped):
    """A proposer that reads tool calls and their results as text: it has no tools itself."""

    def resolve(self, where: str) -> Model:
        return _AdvisingModel(**vars(self.inner.resolve(where)))


@dataclass(frozen=True)
class _AdvisingModel(Model):
    async def ask(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> AIMessage:
        return await super().ask([_as_text(message) for message in messages], config)


@dataclass(frozen=True)
class _Decider(_Wrapped):
    """A final model that is given tools, and whatever else a call says."""

    given: Mapping[str, Any] = field(kw_only=True)

    def resolve(self, where: str) -> Model:
        model = self.inner.resolve(where)
        keywords = {name: value for name, value in self.given.items() if name not in ("tools", "tool_choice")}
        runnable = model.runnable
        if tools := self.given.get("tools"):
            runnable = _with_tools(runnable, tools, self.given.get("tool_choice"), f"{where} ({model.id})")
        return replace(model, runnable=runnable.bind(**keywords) if keywords else runnable)


def _with_tools(model: Any, tools: Sequence[Any], choice: Any, where: str) -> Runnable[Any, Any]:
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": _with_tools(model.bound, tools, choice, where)})
    if not isinstance(model, BaseChatModel):
        raise MoAConfigError(f"{where}: tools need a chat model as the aggregator, not {type(model).__name__}")
    try:
        return model.bind_tools(tools, **({} if choice is None else {"tool_choice": choice}))
    except NotImplementedError as error:
        raise MoAConfigError(f"{where}: {type(model).__name__} cannot be given tools: choose another one") from error


def _description(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    if not function:
        return f"- {json.dumps(tool, ensure_ascii=False)}"
    parameters = json.dumps(function.get("parameters") or {}, ensure_ascii=False)
    return f"- {function['name']}: {function.get('description') or ''}\n  arguments: {parameters}"


def _as_text(message: BaseMessage) -> BaseMessage:
    if isinstance(message, ToolMessage):
        return HumanMessage(f"[result of {message.name or message.tool_call_id}]\n{message.text}")
    if isinstance(message, AIMessage) and message.tool_calls:
        calls = [
            f"[calls {call['name']} with {json.dumps(call['args'], ensure_ascii=False)}]" for call in message.tool_calls
        ]
        return AIMessage("\n".join([*filter(None, [message.text]), *calls]))
    return message


def identities(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one mixture from another, for LangChain's cache: its models, as they are asked, and the rest."""
    models = [*_members(arguments["proposers"]), *_listed(arguments["aggregator"])]
    rest = {name: repr(arguments.get(name)) for name in ("layers", "policy", "prompt")}
    return {"models": [_identity(model) for model in models], **rest}


def _members(panels: Any) -> list[Any]:
    if isinstance(panels, Layer):
        return list(panels.proposers)
    return [member for p in panels for member in (_members(p) if isinstance(p, Layer | list | tuple) else [p])]


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _identity(model: Any) -> Any:
    plain = model if isinstance(model, Proposer) else Proposer(model)
    said = {f.name: getattr(plain, f.name) for f in fields(Proposer) if f.name != "model"}
    return [plain.model if isinstance(plain.model, str) else identity(plain.model), repr(said)]
