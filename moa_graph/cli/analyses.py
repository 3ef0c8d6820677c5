"""`moa eval proposers|roles|ranker|layers|budget`: the paper's analyses, over stored runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from rich.table import Table
from rich.text import Text

from moa_graph.cli.options import DataOption, FolderOption, unneeded
from moa_graph.cli.tables import aligned, give, printed
from moa_graph.cli.terminal import safe, say, starting
from moa_graph.money import dollars

__all__ = ["register"]

_SAID: Final = {
    "proposers": "The score by the number of proposers: different ones, and as many samples of one model.",
    "roles": "Each model as the final one of the panel, and in the place of all its proposers.",
    "ranker": "A final model that writes an answer, beside one that names the best.",
    "layers": "The score by the number of layers.",
    "budget": "The score against $ and TFLOPs, and who is on the Pareto front.",
}
_NUMBERS: Final = ("score", "low", "high", "scored", "lc")


def register(app: typer.Typer) -> None:
    """Add a command for each analysis."""
    for name, said in _SAID.items():
        app.command(name, help=f"{said} Reads the directories alone, and asks nobody.")(_command(name))


def _command(name: str) -> Any:
    def command(
        directories: Annotated[
            list[Path], typer.Argument(metavar="DIR...", help="What --out of moa eval run was; of one or several runs.")
        ],
        out: FolderOption = None,
        data_dir: DataOption = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    ) -> None:  # fmt: skip
        with starting():
            from moa_graph.eval.analyses import ANALYSES
            from moa_graph.eval.gathered import gathered

            found = ANALYSES[name](gathered([path.expanduser() for path in directories], data_dir))
        unneeded(data_dir, found["benchmark"])
        if out is not None:
            from moa_graph.eval.analysis_files import write as written

            say(f"written: {', '.join(map(str, written(found, out.expanduser())))}")
        give(found, show, as_json=as_json)

    return command


def show(found: Mapping[str, Any], stream: TextIO | None) -> None:
    """Print an analysis: a table on a terminal, plain columns in a pipe."""
    words = ["", *map(safe, _words(found))]
    printed(stream, lambda _: [_head(found), _drawn(found), *words], lambda: [_head(found), *_plain(found), *words])


def _head(found: Mapping[str, Any]) -> str:
    items = found["items"]
    judge = f", judged by {found['judge']}" if found["judge"] else ""
    return safe(f"{found['benchmark']}: {items} item{'s' * (items != 1)}{judge}; score {found['unit']}")


def _columns(found: Mapping[str, Any]) -> list[str]:
    """What a row says beside its score."""
    return [name for name in found["rows"][0] if name not in (*_NUMBERS, "contender") and not name.startswith("front_")]


def _drawn(found: Mapping[str, Any]) -> Table:
    columns = _columns(found)
    if found["analysis"] == "budget":
        columns = ["contender", *(name for name in columns if name != "kind")]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(_TITLES.get(name, name), overflow="fold", justify="right" if name in _COUNTED else "left")
    controlled = "lc" in found["rows"][0]
    for name in ("score", "95% interval", "items", *(["LC"] if controlled else [])):
        table.add_column(name, justify="right", no_wrap=True)
    before: Mapping[str, Any] = {}
    for row in found["rows"]:
        interval = "-" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        told = [_cell(row, name, before) for name in columns]
        last = ["-" if row["lc"] is None else f"{row['lc']:.2f}"] if controlled else []
        table.add_row(*told, f"{row['score']:.2f}", interval, str(row["scored"]), *last)
        before = row
    return table


_TITLES: Final = {"usd": "$", "tflops": "TFLOPs", "tflops_all": "of all", "which": "of whom", "end": "at the end"}
_COUNTED: Final = ("proposers", "layers", "usd", "tflops", "tflops_all")


def _cell(row: Mapping[str, Any], name: str, before: Mapping[str, Any]) -> Text:
    """`*`: on the front. A name that is that of the row before is not written again."""
    value = row[name]
    if name == "mixture":
        return Text("" if before.get(name) == value else safe(value))
    if name not in ("usd", "tflops", "tflops_all"):
        return Text(safe(str(value)))
    shown = "?" if value is None else dollars(value) if name == "usd" else f"{value:.3g}"
    return Text(f"{shown} *" if row.get(f"front_{name}") else f"{shown}  ")


def _plain(found: Mapping[str, Any]) -> list[str]:
    """The same columns whatever is in them, the contender's name last: there may be spaces in it."""
    numbers = [name for name in _NUMBERS if name in found["rows"][0]]
    columns = [*numbers, *_columns(found), *(name for name in found["rows"][0] if name.startswith("front_"))]
    rows = [[*(_word(row[name]) for name in columns), " ".join(row["contender"].split())] for row in found["rows"]]
    return aligned([[*columns, "contender"], *rows])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.6g}" if isinstance(value, int | float) else safe(str(value))


def _words(found: Mapping[str, Any]) -> list[str]:
    said = list(found["says"])
    if found["analysis"] == "budget":
        said.append(
            "*: on the front. TFLOPs: 2 x active parameters x tokens out, of each layer the largest, as in the paper; "
            "and of all calls."
        )
    if control := found["length_control"]:
        said.append(f"The score is the win rate; {control}.")
    return [*said, f"The paper: {found['paper']}."]
