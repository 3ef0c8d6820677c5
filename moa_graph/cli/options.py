"""Options that several commands share."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moa_graph.choose import Choice

__all__ = ["ConfigOption", "LayersOption", "chosen"]

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="NAME|FILE", help="A preset or a YAML file.", show_default=False),
]
LayersOption = Annotated[
    int | None,
    typer.Option("--layers", "-l", min=1, help="Layers, the final model counted as the last.", show_default=False),
]


def chosen(config: str | None, layers: int | None) -> "Choice":
    """The mixture that the options mean. Raises MoAConfigError."""
    from dataclasses import replace

    from moa_graph.choose import choose

    choice = choose(config)
    if layers is None:
        return choice
    return replace(choice, config=choice.config.model_copy(update={"layers": layers}))
