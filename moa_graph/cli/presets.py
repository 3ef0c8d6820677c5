"""`moa presets`: the mixtures that ship with the package."""

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="The mixtures that come with moa_graph.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def presets(context: typer.Context) -> None:
    """List the presets."""
    if context.invoked_subcommand is not None:
        return
    from moa_graph.config import MoAConfig
    from moa_graph.config import presets as names

    width = max(map(len, names()))
    for name in names():
        config = MoAConfig.preset(name)
        typer.echo(f"{name:{width}}  {config.description}{' [retired]' if config.retired else ''}")
    typer.echo("\nmoa presets show NAME > moa.yaml  makes one your own.", err=True)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A preset's name.")]) -> None:
    """Print a preset as the commented YAML file it is, to copy and change."""
    from moa_graph.config import preset_text

    typer.echo(preset_text(name), nl=False)
