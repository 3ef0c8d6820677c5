"""`moa draw`: a mixture's picture."""

import typer

from moa_graph.cli.options import ConfigOption, LayersOption, chosen

__all__ = ["draw"]


def draw(config: ConfigOption = None, layers: LayersOption = None) -> None:
    """Print a mixture's graph as Mermaid: every layer, every proposer. Needs no key."""
    from moa_graph.draw import mermaid

    typer.echo(mermaid(chosen(config, layers).config))
