"""Pictures of a mixture, offline."""

from typing import Any

from langchain_core.runnables import RunnableLambda

from moa_graph.config import MoAConfig

__all__ = ["mermaid", "outline"]


def outline(config: MoAConfig) -> Any:
    """The graph of a mixture, to be drawn and not run: its models are only named, so no key is needed."""
    return config.build(stand_in=_named)


def mermaid(config: MoAConfig) -> str:
    """The picture as Mermaid text: every layer opened, every proposer named."""
    return str(outline(config).get_graph(xray=True).draw_mermaid())


def _named(model: str) -> RunnableLambda[Any, Any]:
    def drawn(_: Any) -> str:
        raise RuntimeError(f"{model} is drawn, not built")

    return RunnableLambda(drawn, name=model)
