"""What `moa eval similarity` prints: a table on a terminal, plain columns in a pipe."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, TextIO

from rich.table import Table
from rich.text import Text

from moa_graph.cli.tables import aligned, printed
from moa_graph.cli.terminal import safe

__all__ = ["show"]

_COLUMNS: Final = ("spearman", "low", "high", "items", "dropped", "paper_low", "paper_high", "measure", "layers")
_ALL_FIT: Final = 105
_LONGER: Final = ("BLEU-4", "BLEU-5")


def show(found: Mapping[str, Any], stream: TextIO | None) -> None:
    """Print what `moa_graph.eval.uptake.uptake` found."""
    words = ["", *map(safe, _words(found))]
    printed(
        stream,
        lambda width: [_head(found), *_drawn(found, width), *words],
        lambda: [_head(found), *_plain(found), *words],
    )


def _head(found: Mapping[str, Any]) -> str:
    items, of = found["judged_items"], found["items"]
    judged = f"{items:,}" if items == of else f"{items:,} of {of:,}"
    whose = "the run's own judge" if found["own_judge"] else _other(found["run_judge"])
    return safe(
        f"{found['benchmark']}: {found['proposals']['scored']:,} proposals of {judged} item{'s' * (of != 1)} judged by "
        f"{found['judge']}, {whose}"
    )


def _other(judge: str | None) -> str:
    return f"not the run's own judge ({judge})" if judge else "the run's answers are not judged yet"


def _drawn(found: Mapping[str, Any], width: int) -> list[Any]:
    """On a narrow terminal without the longer n-grams, which say nearly the same."""
    paper = {name: span for name, span in found["paper"].items() if width >= _ALL_FIT or name not in _LONGER}
    return [part for name, rows in _by_mixture(found) for part in ("", _table(name, rows, paper))]


def _table(mixture: str, rows: Sequence[Mapping[str, Any]], paper: Mapping[str, Sequence[float]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(Text(safe(mixture)), overflow="fold", min_width=16)
    table.add_column("layers", no_wrap=True)
    for name in [*paper, "items", "dropped"]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        measures = [row["measures"][name] for name in paper]
        table.add_row(
            Text(safe(_name(row)), style="" if row["aggregator"] else "bold"),
            _layers(row),
            *(_cell(each) for each in measures),
            _span([each["items"] for each in measures]),
            Text(_span([each["dropped"] for each in measures]), style="red" if measures[0]["dropped"] else "dim"),
        )
    ranges = (f"{low:+.2f} {high:+.2f}" for low, high in paper.values())
    table.add_row(Text("the paper's six", style="italic"), "1 > 2", *(Text(each, style="italic") for each in ranges))
    return table


def _cell(measure: Mapping[str, Any]) -> Text:
    if measure["mean"] is None:
        return Text("-")
    cell = Text(f"{measure['mean']:+.2f}")
    if measure["low"] is not None:
        cell.append(f"\n{measure['low']:+.2f} {measure['high']:+.2f}", style="dim")
    return cell


def _span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{most:,}" if least == most else f"{least:,}-{most:,}"


def _name(row: Mapping[str, Any]) -> str:
    return row["aggregator"] or "all of them"


def _layers(row: Mapping[str, Any]) -> str:
    return f"{row['layer']} > {row['into']}"


def _by_mixture(found: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [(name, list(rows)) for name, rows in groupby(sorted(found["rows"], key=_mixture), key=_mixture)]


def _mixture(row: Mapping[str, Any]) -> str:
    return str(row["mixture"])


def _plain(found: Mapping[str, Any]) -> list[str]:
    """The same columns whatever is in them, the aggregator's name last: there may be spaces in it."""
    lines: list[str] = []
    for name, rows in _by_mixture(found):
        table: list[Sequence[str]] = [[*_COLUMNS, "aggregator"]]
        for row in rows:
            for measure, each in row["measures"].items():
                numbers = [each["mean"], each["low"], each["high"], each["items"], each["dropped"]]
                told = ["-" if n is None else f"{n:.6g}" for n in [*numbers, *found["paper"][measure]]]
                table.append([*told, measure, _layers(row).replace(" ", ""), _name(row)])
        lines += ["", safe(name), *aligned(table)]
    return lines


def _words(found: Mapping[str, Any]) -> list[str]:
    counts = found["proposals"]
    what = {
        "unasked": "proposals are not judged: --judge has them judged.",
        "unparsed": "of the judge's replies say no score: no preference (--retry-unreadable asks again).",
        "judge_failed": "judgements failed: the same --judge asks for them again.",
    }
    said = [row["says"] for row in found["rows"] if row["says"]]
    said += [f"{counts[name]:,} {told}" for name, told in what.items() if counts[name]]
    if any(each["dropped"] for row in found["rows"] for each in row["measures"].values()):
        said.append(
            "dropped: instances that say nothing, with fewer than two preferences, or all of them the same, or all "
            "proposals equally similar."
        )
    said.append(
        "Spearman's coefficient, within each instance, of how similar proposals are to what was made of them and how "
        "the judge prefers them; the mean over the items, with its 95% interval."
    )
    said.append(f"the paper's: {found['source']}.")
    return said
