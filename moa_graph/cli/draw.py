"""`moa draw`: a mixture's picture."""

from pathlib import Path
from typing import Annotated

import typer

from moa_graph.cli.options import ConfigOption, LayersOption, chosen
from moa_graph.cli.terminal import say

__all__ = ["draw"]


def draw(
    config: ConfigOption = None,
    layers: LayersOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A .png, .svg, .mmd or .txt.", show_default=False),
    ] = None,
    collapsed: Annotated[bool, typer.Option("--collapsed", help="One box for each layer.")] = False,
) -> None:
    """Draw a mixture's graph, as Mermaid on standard output or to a file: every proposer. Needs no key."""
    from moa_graph.draw import draw as drawn

    picture = drawn(chosen(config, layers).config, output, expand=not collapsed)
    if output is None:
        typer.echo(picture.mermaid, nl=False)
    else:
        say(f"written to {output}")
