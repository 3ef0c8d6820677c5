"""What `langgraph.json` points at: graphs for LangGraph's server and Studio, which bring their own checkpointer."""

from typing import Any

from langgraph.graph.state import CompiledStateGraph

from moa_graph.choose import choose

__all__ = ["moa", "moa_local"]


def moa() -> CompiledStateGraph[Any, Any, Any, Any]:
    """The mixture that the keys in the environment allow; the embedded model's where there is none."""
    return choose(None).build(name="moa")


def moa_local() -> CompiledStateGraph[Any, Any, Any, Any]:
    """A mixture on the embedded model: no key, no network."""
    return choose("local").build(name="moa_local")
