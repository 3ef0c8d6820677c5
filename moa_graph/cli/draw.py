"""`moa draw`: a mixture's picture, and a run's."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from moa_graph.cli.options import ConfigOption, LayersOption, chosen
from moa_graph.cli.terminal import say, write

__all__ = ["draw"]


def draw(
    config: ConfigOption = None,
    layers: LayersOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to: a .png, .svg, .mmd or .txt file, which is replaced if it is there.",
            show_default=False,
        ),
    ] = None,
    collapsed: Annotated[bool, typer.Option("--collapsed", help="One box for each layer.")] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="FILE", help="Colour it by a run: what `moa ask --json` printed.", show_default=False
        ),
    ] = None,
) -> None:
    """Draw a mixture: every layer, every proposer. As Mermaid on standard output, or to a file. Needs no key."""
    from moa_graph.draw import draw as drawn

    before = output is not None and os.path.exists(os.path.expanduser(output))
    ran = _ran(run) if run else {}
    if ran:
        asked = None if ran["receipt"].get("stopped") else len(ran["receipt"]["layers"]) + 1
        config, layers = config or ran["config"], layers or asked
    picture = drawn(chosen(config, layers).config, output, expand=not collapsed, receipt=ran.get("receipt"))
    if output is None:
        write(picture.mermaid)
    else:
        say(f"written to {output}" + ", in place of what was there" * before)


def _ran(path: Path) -> dict[str, Any]:
    from moa_graph.errors import MoAConfigError

    try:
        ran = json.loads(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
        ran["config"], ran["receipt"]["layers"]
    except OSError as error:
        raise MoAConfigError(
            f"{path}: cannot be read ({error.strerror}); give what `moa ask --json` printed"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MoAConfigError(f"{path}: this is not what `moa ask --json` prints") from error
    return ran  # type: ignore[no-any-return]
