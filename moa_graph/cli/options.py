"""Options that several commands share, and what they mean."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from moa_graph.choose import Choice

__all__ = [
    "CacheOption",
    "ConfigOption",
    "DataOption",
    "FolderOption",
    "LayersOption",
    "QuestionArgument",
    "RetryOption",
    "announce",
    "asked_for",
    "cache_on_disk",
    "chosen",
    "unneeded",
    "usd",
    "whole",
]

_MANY: Final = 100  # calls; the largest preset makes 13


def whole(given: str) -> int:
    """A whole number of at least 1, as an option's parser."""
    try:
        number = int(given)
    except ValueError:
        number = 0
    if number < 1:
        raise typer.BadParameter(f"a whole number of at least 1 is needed, not {given!r}")
    return number


def usd(given: str) -> float:
    """A sum of $, as an option's parser."""
    try:
        amount = float(given)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise typer.BadParameter(f"a number of $ above 0 is needed, not {given!r}")
    return amount


QuestionArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[QUESTION]", help="The question; standard input where it is left out or `-`.", show_default=False
    ),
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="NAME|FILE", help="A preset or a YAML file.", show_default=False),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where AlpacaEval's data lie.", show_default=False),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Write it there too: CSV, and plots as PNG and SVG.",
        show_default=False,
    ),
]
RetryOption = Annotated[
    bool, typer.Option("--retry-unreadable", help="Ask the judge again where its reply could not be read.")
]
LayersOption = Annotated[
    int | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="N",
        parser=whole,
        help="Layers, the final model counted as the last.",
        show_default=False,
    ),
]
CacheOption = Annotated[bool, typer.Option("--cache", help="Keep answers on disk; ask nothing twice.")]


def chosen(config: str | None, layers: int | None) -> "Choice":
    """The mixture that the options mean. Raises MoAConfigError."""
    from dataclasses import replace

    from moa_graph.choose import choose

    choice = choose(config)
    if layers is None:
        return choice
    said = f"{layers} layer{'s' * (layers != 1)}, not {choice.config.depth}"
    why = choice.why if layers == choice.config.depth else f"{choice.why}; {said}"
    return replace(choice, config=choice.config.model_copy(update={"layers": layers}), why=why)


def unneeded(data_dir: Path | None, benchmark: str) -> None:
    """Say on standard error where a folder of data was given and a run's report needs none."""
    from moa_graph.cli.terminal import safe, say

    if data_dir is not None and benchmark != "alpaca-eval":
        say(safe(f"--data-dir is not needed: only AlpacaEval's report reads data, and this is one of {benchmark}"))


def announce(choice: "Choice") -> None:
    """Say on standard error which mixture is asked, and why; and how many calls that is, where it is many."""
    from moa_graph.cli.terminal import say

    config = choice.config
    say(f"{choice.name} ({choice.why})" + (f": {config.description}" if config.description else ""))
    if config.retired:
        say(f"retired: {config.retired}")
    if (calls := config.estimate("?")["calls"]) > _MANY:
        say(f"each question takes {calls:,} calls")


def cache_on_disk() -> Any:
    """The answers kept on disk, in the user's cache folder. Raises MoAConfigError where they cannot be."""
    from sqlite3 import Error

    from langgraph.cache.sqlite import SqliteCache

    from moa_graph.errors import MoAConfigError
    from moa_graph.folders import cache_folder

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return SqliteCache[Any](path=str(folder / "answers.sqlite"))
    except (OSError, Error) as error:
        raise MoAConfigError(f"{folder / 'answers.sqlite'} cannot be used as a cache: {error}") from error


def asked_for(words: list[str], command: str) -> str:
    """The question that a command was given, or standard input. Raises MoAConfigError where there is none."""
    from moa_graph.errors import MoAConfigError

    example = f'{command} "Why is the sky blue?"'
    if len(words) > 1:
        raise MoAConfigError(f"the question is {len(words)} words: put quotes around it, as in {example}")
    if sys.stdout is None:
        raise MoAConfigError("standard output is closed: there is nowhere to put the answer")
    question = _read() if words in ([], ["-"]) else words[0]
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise MoAConfigError("the question is not UTF-8 text: convert it first, with iconv for instance") from error
    if not question.strip():
        raise MoAConfigError(f"the question is empty: {example}, or pipe it in")
    return question.strip()


def _read() -> str:
    from moa_graph.errors import MoAConfigError

    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise MoAConfigError(
            f"standard input is not {error.encoding.upper()} text (byte {error.start + 1}): convert it first, "
            "with iconv for instance"
        ) from error
