"""What commands of an evaluation print: tables on a terminal, plain columns in a pipe, or JSON."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

from rich.console import Console

from moa_graph.cli.terminal import between, is_terminal, output_errors, write

__all__ = ["aligned", "give", "printed"]

_WIDE: Final = 200  # columns in a pipe


def give(found: Mapping[str, Any], show: Callable[[Any, TextIO | None], None], *, as_json: bool) -> None:
    """On standard output: as `show` prints it, or as JSON."""
    if as_json:
        write(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
        return
    show(found, sys.stdout)
    between()


def printed(stream: TextIO | None, drawn: Callable[[int], Iterable[Any]], plain: Callable[[], Iterable[Any]]) -> None:
    """Print the parts that are for a terminal, which is told how wide it is, or those for a pipe."""
    if stream is None:
        return
    terminal = is_terminal(stream)
    console = Console(file=stream, width=None if terminal else _WIDE)
    with output_errors():
        for part in drawn(console.width) if terminal else plain():
            console.print(part, markup=False, emoji=False, highlight=False, soft_wrap=not terminal)
        stream.flush()


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of numbers under each other; the last one as it is."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    return ["  ".join([*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
