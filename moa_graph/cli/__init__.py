"""The command line: `moa ask`, `moa chat`, `moa compare`, `moa presets`, `moa draw`, `moa stats`, `moa eval`, ...

Exit codes: 0 done, 1 it failed, 2 it was asked wrongly, 130 interrupted. Nothing heavy is imported here:
each command imports what it needs when it runs.
"""

import io
import os
import sys
from typing import Annotated

import typer

from moa_graph import __version__
from moa_graph.cli import ask, chat, compare, doctor, draw, estimate, presets, stats
from moa_graph.cli import eval as evaluation
from moa_graph.cli.terminal import say

__all__ = ["app", "main"]

app = typer.Typer(
    name="moa",
    help="Mixture-of-Agents: several models answer, layer after layer; a final model gives the answer.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: Rich's would double the time it takes to appear
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("estimate")(estimate.estimate)
app.command("compare")(compare.compare)
app.add_typer(presets.app, name="presets")
app.command("draw")(draw.draw)
app.command("doctor")(doctor.doctor)
app.command("stats")(stats.stats)
app.add_typer(evaluation.app, name="eval")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None: ...


def main(arguments: list[str] | None = None) -> None:
    """Run the command line, and leave the process with its exit code."""
    _fill_standard_files()
    sys.exit(run(arguments))


def _fill_standard_files() -> None:
    """Let no file that is opened later take the place of a closed standard one, and no character break a line."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line. Whatever goes wrong is one line on standard error, never a traceback."""
    try:
        return app(args=arguments, standalone_mode=False) or 0
    except KeyboardInterrupt:
        return 130
    except SystemExit as left:  # typer's way out where nobody reads on: not our failure
        return 0 if isinstance(left.__context__, BrokenPipeError) else int(left.code or 0)
    except Exception as error:
        if type(error).__name__ == "Abort":  # click's word for an interrupt
            return 130
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error))
            return 2
        code, line = _told(error)
        say(f"moa: {line}")
        return code


def _told(error: Exception) -> tuple[int, str]:
    if callable(shown := getattr(error, "format_message", None)):  # an option or a command it does not know
        return 2, " ".join(str(shown()).split())
    from moa_graph.errors import MoAConfigError, MoAError, clean, describe

    if isinstance(error, MoAError):
        return 2 if isinstance(error, MoAConfigError) else 1, " ".join(str(error).split())
    return 1, clean(describe(error))
