"""What `langgraph.json` points at: graphs for LangGraph's server and Studio, which bring their own checkpointer.

Each is a function that the server calls for every run, drawing and reading of a thread, with the assistant's
context: what its form says (see `moa_graph.form`). So every assistant has its own topology.
"""

import ast
import asyncio
import datetime
import json
import operator
import re
import zoneinfo
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from moa_graph.choose import Choice, choose
from moa_graph.config import MoAConfig
from moa_graph.errors import MoAConfigError
from moa_graph.form import Form, PresetForm, linked
from moa_graph.state import MoAOutput, MoAState

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph_sdk.runtime import ServerRuntime

__all__ = ["chat_moa_agent", "moa", "moa_local"]

Graph = CompiledStateGraph[Any, Any, Any, Any]

_FORM: Final = "moa_form"  # in every checkpoint's metadata: the form that its graph was made by
_PLACE: Final = ("thread_id", "checkpoint_ns", "checkpoint_id")


async def moa(config: RunnableConfig, runtime: "ServerRuntime[Any]") -> Graph:
    """The mixture that the form says; left empty, the one that the keys in the environment allow."""
    return await _graph("moa", config, runtime)


async def moa_local(config: RunnableConfig, runtime: "ServerRuntime[Any]") -> Graph:
    """A mixture on the embedded model: no key, no network."""
    return await _graph("moa_local", config, runtime)


async def chat_moa_agent(config: RunnableConfig, runtime: "ServerRuntime[Any]") -> Graph:
    """An agent with two tools, whose model is the mixture that `moa` would be."""
    return await _graph("chat_moa_agent", config, runtime)


async def _graph(name: str, config: RunnableConfig, runtime: "ServerRuntime[Any]") -> Graph:
    """The graph of that name for this assistant: made once, and not on the server's event loop.

    Raises MoAConfigError naming the field, for a run. Otherwise what is wrong is drawn, so that its form still opens.
    """
    context = await _context(config, runtime)
    try:
        return await asyncio.to_thread(_built, name, context)
    except MoAConfigError as error:
        if runtime.execution_runtime:
            raise
        return _refused(name, str(error))


async def _context(config: RunnableConfig, runtime: "ServerRuntime[Any]") -> Mapping[str, Any]:
    """What was filled in for the run, the assistant or the checkpoint that the server asks about."""
    if running := runtime.execution_runtime:
        return running.context or {}  # not `config`, which also has what other assistants have left on the thread
    configurable = config.get("configurable", {})
    checkpointer = configurable.get("__pregel_checkpointer")
    if checkpointer and runtime.access_context.startswith("threads."):
        # a thread's config is its first run's: a changed form, and a run's own context, stand in the checkpoint alone
        place = {"checkpoint_ns": "", **{key: configurable[key] for key in _PLACE if key in configurable}}
        kept = await checkpointer.aget_tuple({"configurable": place})
        if kept and _FORM in kept.metadata:
            return dict(json.loads(kept.metadata[_FORM]))
    return configurable


def _built(name: str, context: Mapping[str, Any]) -> Graph:
    form = _FORMS[name].of(context)
    file = Path("moa.yaml")
    stamp = file.stat().st_mtime_ns if file.is_file() else 0
    return _made(name, json.dumps(form.filled, sort_keys=True), stamp)


@lru_cache(maxsize=64)
def _made(name: str, filled: str, _stamp: int) -> Graph:
    """Kept by what was filled in, and by the age of `moa.yaml`."""
    form = _FORMS[name](**json.loads(filled))
    choice = Choice(MoAConfig.preset("local"), "local", "") if name == "moa_local" else _chosen(form)
    config = form.applied(choice.config)
    try:
        if name == "chat_moa_agent":
            from moa_graph.chat_model import ChatMoA

            graph = agent(ChatMoA(config=config))
        else:
            graph = Choice(config, choice.name, choice.why).build(name=name)
            graph.context_schema = linked(_FORMS[name], config.depth)
    except MoAConfigError as error:
        raise MoAConfigError(f"panel: {error}" if form.panel and ", proposer " in str(error) else str(error)) from error
    return graph.with_config(configurable={_FORM: filled})


def _chosen(form: Form) -> Choice:
    name: str | None = getattr(form, "preset", None)
    if name is None:
        return choose(None)
    try:
        return Choice(MoAConfig.preset(name), name, "as asked")
    except MoAConfigError as error:
        raise MoAConfigError(f"preset: {error}") from error


def _refused(name: str, why: str) -> Graph:
    """In place of a mixture that cannot be built: its one node says why."""

    node = shorten(re.sub(r"[:|](?=\s)", " -", why), 200, placeholder=" …").replace(":", " ").replace("|", " ")
    graph = StateGraph(MoAState, _FORMS[name], input_schema=MessagesState, output_schema=MoAOutput)
    graph.add_node(node, RunnableLambda(lambda _: None)).add_edge(START, node).add_edge(node, END)  # it never runs
    return graph.compile(name=name)


# The agent

_ROUNDS: Final = 8


def agent(model: "BaseChatModel") -> Graph:
    """An agent that may calculate and tell the time; after some rounds of tools it has to answer."""
    from langchain.agents import create_agent
    from langchain.agents.middleware import ModelRequest, wrap_model_call
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool

    @wrap_model_call(name="rounds")
    async def bounded(request: ModelRequest[Any], handler: Callable[..., Any]) -> Any:
        turn = request.messages[max((k for k, m in enumerate(request.messages) if m.type == "human"), default=0) :]
        rounds = sum(isinstance(message, AIMessage) for message in turn)
        return await handler(request if rounds < _ROUNDS else request.override(tools=[]))

    return create_agent(
        model,
        [tool(calculate), tool(now)],
        middleware=[bounded],
        context_schema=linked(_FORMS["chat_moa_agent"], 1, ("model",)),
        name="chat_moa_agent",
    )


_OPERATIONS: Final[Mapping[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.UAdd: operator.pos, ast.USub: operator.neg,
    ast.Pow: lambda base, power: _power(base, power),
}  # fmt: skip


def calculate(expression: str) -> str:
    """Calculate with numbers, brackets, + - * / // % and **, such as "(2 + 3) * 7.5"."""
    try:
        return str(_value(ast.parse(expression.strip(), mode="eval").body))
    except (ArithmeticError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{expression!r} cannot be calculated: {error}"


def _value(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(operand=operand, op=op) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(operand))
    raise ValueError("numbers, brackets, + - * / // % and ** are all there is")


def _power(base: float, power: float) -> Any:
    if abs(power) > 1000 or abs(base) > 1e9:
        raise ValueError("that power is too large")
    return base**power


def now(timezone: str = "UTC") -> str:
    """The date and time now, in a time zone such as "Europe/Paris"."""
    try:
        return datetime.datetime.now(zoneinfo.ZoneInfo(timezone)).strftime("%A %Y-%m-%d %H:%M:%S %Z")
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return f"there is no time zone {timezone!r}: give one such as Europe/Paris"


_FORMS: Final[Mapping[str, type[Form]]] = {"moa": PresetForm, "moa_local": Form, "chat_moa_agent": PresetForm}
