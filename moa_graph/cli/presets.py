"""`moa presets`: the mixtures that ship with the package. Read as YAML alone: LangGraph takes seconds to load."""

from importlib.resources import files
from typing import Annotated, Any

import typer

__all__ = ["app"]

app = typer.Typer(help="The mixtures that come with moa_graph.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def presets(context: typer.Context) -> None:
    """List the presets."""
    if context.invoked_subcommand is not None:
        return
    import yaml

    texts = _texts()
    for name, text in texts.items():
        preset: dict[str, Any] = yaml.safe_load(text)
        retired = " [retired]" if preset.get("retired") else ""
        typer.echo(f"{name:{max(map(len, texts))}}  {preset.get('description', '')}{retired}")
    typer.echo("\nmoa presets show NAME > moa.yaml  makes one your own.", err=True)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A preset's name.")]) -> None:
    """Print a preset as the commented YAML file it is, to copy and change."""
    texts = _texts()
    if name not in texts:
        import difflib

        from moa_graph.errors import MoAConfigError

        near = difflib.get_close_matches(name, texts, 1, 0.7)
        hint = f"did you mean {near[0]}? " if near else ""
        raise MoAConfigError(f"there is no preset {name!r}: {hint}one of {', '.join(texts)}")
    typer.echo(texts[name], nl=False)


def _texts() -> dict[str, str]:
    """Name -> the commented YAML."""
    found = [file for file in (files("moa_graph") / "presets").iterdir() if file.name.endswith(".yaml")]
    return {
        file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8")
        for file in sorted(found, key=lambda file: file.name.removesuffix(".yaml"))
    }
