"""Pictures of a mixture, offline."""

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.graph import Graph
from langgraph.graph import END, START

from moa_graph.config import MoAConfig

__all__ = ["mermaid", "outline"]


def outline(config: MoAConfig) -> Any:
    """The graph of a mixture, to be drawn and not run: its models are only named, so no key is needed."""
    return config.build(stand_in=_named)


def mermaid(config: MoAConfig) -> str:
    """The picture as Mermaid text: every layer opened, every proposer in declared order with its model."""
    moa = outline(config)
    return _tidy(moa.get_graph(xray=True), _declared(moa)).draw_mermaid()


def _tidy(graph: Graph, order: Sequence[str]) -> Graph:
    """The same graph in declared order, with each model's id and nothing else under its name."""
    place = {node: k for k, node in enumerate(order)}
    for key in sorted(graph.nodes, key=lambda node: place.get(node, -1)):
        node = graph.nodes.pop(key)
        model = (node.metadata or {}).get("moa_model")
        graph.nodes[key] = node._replace(metadata={"model": model} if model else None)
    graph.edges.sort(key=lambda edge: (place.get(edge.source, -1), place.get(edge.target, -1)))
    return graph


def _declared(moa: Any) -> list[str]:
    """The nodes as they were declared; within a layer, the start, the proposers, then the aggregate."""
    order = []
    for name, layer in moa.get_subgraphs():
        members = [node for node in layer.nodes if node not in (START, "aggregate")]
        order += [f"{name}:{node}" for node in (START, *members, "aggregate")]
    return [*order, "final", END]


def _named(model: str) -> RunnableLambda[Any, Any]:
    def drawn(_: Any) -> str:
        raise RuntimeError(f"{model} is drawn, not built")

    return RunnableLambda(drawn, name=model)
