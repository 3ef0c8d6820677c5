"""A mixture with tools: the final model may call them and decides; the proposers advise in text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.utils.function_calling import convert_to_openai_tool

from moa_graph.aggregator import Sequential, Synthesize, aggregator_of, mapped, models_of
from moa_graph.asking import unheard
from moa_graph.cache import identity
from moa_graph.errors import MoAConfigError
from moa_graph.models import UNSET, Model, _id_of
from moa_graph.panel import Layer, Proposer

__all__ = ["fitted", "identities", "sampled"]

_APART: Final = ("model", "parameters", "usual_output")  # of a proposer: named by itself, or no part of an answer

_ADVISE: Final = """\
The model that answers in the end can call the tools below; you cannot. Say in plain text what you would answer, or \
which of them you would call, with which arguments, and why.

Tools:
{tools}"""


def fitted(arguments: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` of a mixture whose final model is given `given`, and whose proposers advise on its tools.

    Raises MoAConfigError where a final model cannot be given tools.
    """
    tools = [convert_to_openai_tool(tool) for tool in given.get("tools") or ()]
    told = _ADVISE.format(tools="\n".join(_description(tool) for tool in tools)) if tools else None
    keywords = {name: value for name, value in given.items() if name not in ("tools", "tool_choice")}
    if tools:
        choice = given.get("tool_choice")
        keywords |= {"tools": tools} | ({} if choice is None else {"tool_choice": choice})
    family = _deciding(arguments["aggregator"], keywords, told)
    return {**arguments, "proposers": _each(arguments["proposers"], told), "aggregator": family}


def _deciding(aggregator: Any, keywords: Mapping[str, Any], told: str | None) -> Any:
    """The aggregator, whose model is given these in the end; until then, or to choose, it reads tool calls as text."""
    family = aggregator_of(aggregator)
    if isinstance(family, Synthesize):
        return mapped(aggregator, lambda model: _as(_Decider, model, given=keywords))
    if isinstance(family, Sequential):
        last = [_as(_Decider, model, given=keywords) for model in models_of(family)]
        return replace(mapped(family, lambda model: _adviser(model, told)), _last=last)
    if keywords:
        raise MoAConfigError(
            f"aggregator: {family.name} gives a proposer's answer word for word and cannot be given "
            f"{', '.join(keywords)}: choose Synthesize(model)"
        )
    return mapped(family, lambda model: _adviser(model, None))


def sampled(arguments: Mapping[str, Any], sampling: Mapping[str, Any], **parameters: Any) -> dict[str, Any]:
    """`arguments` of a mixture whose models given as strings are asked with these, where they say nothing else."""

    def of(given: Any) -> Any:
        if isinstance(given, Layer):
            return replace(given, proposers=of(given.proposers))
        if isinstance(given, list | tuple):
            return [of(each) for each in given]
        plain = Proposer(given) if isinstance(given, str) else given
        if not (isinstance(plain, Proposer) and isinstance(plain.model, str)):
            return given
        unsaid = {name: value for name, value in sampling.items() if getattr(plain, name) is UNSET}
        return replace(plain, **unsaid, parameters={**parameters, **plain.parameters})

    if not (sampling or parameters):
        return dict(arguments)
    return {**arguments, "proposers": of(arguments["proposers"]), "aggregator": mapped(arguments["aggregator"], of)}


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
        return await super().ask(_without_calls(messages), config)


@dataclass(frozen=True)
class _Decider(_Wrapped):
    """A final model that is given tools, and whatever else a call says."""

    given: Mapping[str, Any] = field(kw_only=True)

    def resolve(self, where: str) -> Model:
        model = self.inner.resolve(where)
        if self.given:
            model = replace(model, runnable=_given(model.runnable, self.given, f"{where} ({model.id})"))
        return model if model.is_one_call else _WholeModel(**vars(model))


@dataclass(frozen=True)
class _WholeModel(Model):
    """An agent or a chain as the final model: what is said inside it on the way is not the answer."""

    async def ask(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> AIMessage:
        return await super().ask(messages, unheard(config))


def _given(model: Any, keywords: Mapping[str, Any], where: str) -> Runnable[Any, Any]:
    """`model` with these keywords, which go before those it has; tools as it takes them."""
    if isinstance(model, RunnableBindingBase):
        own = {name: value for name, value in model.kwargs.items() if name not in keywords}
        return model.model_copy(update={"bound": _given(model.bound, keywords, where), "kwargs": own})
    if "tools" not in keywords:
        return model.bind(**keywords)  # type: ignore[no-any-return]
    if not (isinstance(model, BaseChatModel) or hasattr(model, "bind_tools")):
        raise MoAConfigError(f"{where}: tools need a chat model as the aggregator, not {type(model).__name__}")
    try:
        return model.bind_tools(**keywords)  # type: ignore[no-any-return]
    except NotImplementedError as error:
        raise MoAConfigError(f"{where}: {type(model).__name__} cannot be given tools: choose another one") from error


def _description(tool: Mapping[str, Any]) -> str:
    function = tool.get("function")
    if not function:
        return f"- {json.dumps(tool, ensure_ascii=False)}"
    parameters = json.dumps(function.get("parameters") or {}, ensure_ascii=False)
    return f"- {function['name']}: {function.get('description') or ''}\n  arguments: {parameters}"


# Tool calls and results as text: without tools of its own, a provider refuses them as they are


def _without_calls(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    calls = [call for message in messages if isinstance(message, AIMessage) for call in _calls(message)]
    names = {call["id"]: call["name"] for call in calls}
    return [_as_text(message, names) for message in messages]


def _calls(message: AIMessage) -> list[Any]:
    return [*message.tool_calls, *message.invalid_tool_calls]


def _as_text(message: BaseMessage, names: Mapping[str | None, str | None]) -> BaseMessage:
    if isinstance(message, ToolMessage):
        kind = "error" if message.status == "error" else "result"
        label = f"[{kind} of {message.name or names.get(message.tool_call_id) or message.tool_call_id}]"
        if isinstance(message.content, str):
            return HumanMessage(f"{label}\n{message.content}")
        return HumanMessage([{"type": "text", "text": label}, *message.content])
    if isinstance(message, AIMessage) and (calls := _calls(message)):
        said = [f"[calls {call['name']} with {_arguments(call['args'])}]" for call in calls]
        return AIMessage("\n".join([*filter(None, [message.text]), *said]))
    return message


def _arguments(args: Any) -> str:
    return args if isinstance(args, str) else json.dumps(args, ensure_ascii=False)


# What tells one mixture from another


def identities(arguments: Mapping[str, Any], own: str) -> dict[str, Any]:
    """The models' names, and a digest of all that makes an answer: for LangChain's cache and tracers, no secrets.

    `own` tells the mixture itself: that counts where a chain, an agent or a function is in it, which have no name.
    """
    aggregator = arguments["aggregator"]
    models = [_proposer(model) for model in (*_members(arguments["proposers"]), *models_of(aggregator))]
    rest = [repr(arguments.get(name)) for name in ("layers", "policy", "prompt")]
    if not isinstance(family := aggregator_of(aggregator), Synthesize):
        rest += [repr(mapped(family, lambda _: "")), *([own] if callable(getattr(family, "extract", None)) else [])]
    made = json.dumps([[_identity(model, own) for model in models], _shape(arguments["proposers"]), rest], default=str)
    digest = hashlib.sha256(made.encode()).hexdigest()[:32]
    return {"models": [_named(model.model) for model in models], "mixture": digest}


def _proposer(model: Any) -> Proposer:
    return model if isinstance(model, Proposer) else Proposer(model)


def _named(model: Any) -> str:
    return model if isinstance(model, str) else _id_of(model)


def _members(panels: Any) -> list[Any]:
    if isinstance(panels, Layer):
        return list(panels.proposers)
    return [member for p in panels for member in (_members(p) if isinstance(p, Layer | list | tuple) else [p])]


def _shape(panels: Any) -> Any:
    """How many proposers sit in which layer, its own policy, and its steps."""
    if isinstance(panels, Layer):
        steps = (panels.route, panels.select, panels.critique, panels.stop)
        return [len(panels.proposers), repr(panels.policy), *map(repr, filter(None, steps))]
    return [_shape(p) for p in panels] if isinstance(panels, list | tuple) else 1


def _identity(proposer: Proposer, own: str) -> list[Any]:
    said = {f.name: getattr(proposer, f.name) for f in fields(Proposer) if f.name not in _APART}
    parameters = {name: value for name, value in proposer.parameters.items() if name != "rate_limiter"}
    if isinstance(proposer.model, str):
        return [proposer.model, repr(said), repr(parameters)]
    nameless = [] if Model("", proposer.model).is_one_call else [own]
    return [identity(proposer.model), repr(said), repr(parameters), *nameless]
