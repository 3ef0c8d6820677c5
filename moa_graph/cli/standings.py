"""An evaluation's report on standard output: tables on a terminal, plain columns in a pipe."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from rich.table import Table
from rich.text import Text

from moa_graph.cli.tables import aligned, printed
from moa_graph.cli.terminal import safe
from moa_graph.money import dollars

__all__ = ["show"]

_COLUMNS: Final = (
    "score", "low", "high", "scored", "failed", "unreadable", "calls", "tokens_out", "usd", "tflops", "seconds",
    "first_token",
)  # fmt: skip


def show(report: Mapping[str, Any], stream: TextIO | None) -> None:
    """Print a report."""
    printed(stream, lambda _: _drawn(report), lambda: _plain(report))


def _drawn(report: Mapping[str, Any]) -> list[Any]:
    parts: list[Any] = [_head(report), _standings(report), "", *map(safe, _words(report))]
    return [*parts, "", _finer(report)] if report["radar"]["axes"] else parts


def _head(report: Mapping[str, Any]) -> str:
    items = report["items"]
    drawn = f", drawn with seed {report['seed']}" if report["limit"] else ""
    beside = f", beside {report['baseline']}" if report["baseline"] else ""
    judge = f", judged by {report['judge']}" if report["judge"] else ", not judged yet"
    return safe(
        f"{report['benchmark']}: {items} item{'s' * (items != 1)}{drawn}{judge}{beside}; score {report['unit']}"
    )


def _standings(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("contender", overflow="fold", min_width=16)
    for name in ("score", "95% interval", "items", "failed", "unreadable", "calls", "out", "$", "TFLOPs", "s", "1st s"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in _ranked(report):
        took = one["per_item"]
        interval = "-" if one["low"] is None else f"{one['low']:.2f} to {one['high']:.2f}"
        table.add_row(
            Text(safe(one["name"]), style="bold" if one["kind"] == "mixture" else ""),
            "-" if one["mean"] is None else f"{one['mean']:.2f}",
            interval,
            str(one["scored"]),
            _marked(one["failed"]),
            _marked(one["unparsed"]),
            _short(took["calls"]),
            _short(took["output_tokens"]),
            "?" if took["cost_usd"] is None else dollars(took["cost_usd"]),
            _short(took["tflops_total"]),
            _short(took["seconds"]),
            _short(took["first_token"]),
        )
    return table


def _finer(report: Mapping[str, Any]) -> Table:
    """The finer scores, of the mixtures and of what they are compared with."""
    axes = list(
        dict.fromkeys([*report["radar"]["axes"], *(name for one in report["contenders"] for name in one["parts"])])
    )
    named = [one["name"] for one in report["contenders"] if one["kind"] == "mixture"]
    named += [compared["other"] for compared in report["comparisons"]]
    chosen = [one for one in report["contenders"] if one["name"] in named]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    for one in chosen:
        table.add_column(Text(safe(one["name"])), justify="right", overflow="fold")
    for axis in axes:
        values = [one["parts"].get(axis) for one in chosen]
        table.add_row(Text(safe(axis)), *("-" if value is None else f"{value:.2f}" for value in values))
    return table


def _words(report: Mapping[str, Any]) -> list[str]:
    said = [compared["says"] for compared in report["comparisons"]]
    said += [report["uncompared"]] if report["uncompared"] else []
    said += [_length_controlled(one["name"], one["alpaca_eval"]) for one in _ranked(report) if one.get("alpaca_eval")]
    if unread := sum(one["unparsed"] for one in report["contenders"]):
        again = "" if report["benchmark"].startswith("inspect ") else " (--retry-unreadable asks again)"
        said.append(f"{unread:,} of the judge's replies say no score: they count in no mean{again}.")
    said += _failures(report["contenders"])
    if any(one["per_item"]["cost_usd"] is None and one["per_item"]["of"] for one in report["contenders"]):
        said.append("$ ?: the price of a model is unknown (docs/cost.md says how to give one).")
    said.append("calls, tokens out, $, TFLOPs, seconds, first token: per item.")
    if spent := report["spent_usd_at_least"]:
        said.append(f"${dollars(spent)} were spent in all, as far as it is known.")
    return said


def _failures(contenders: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What went wrong, each kind once, and with whom."""
    whose: dict[str, dict[str, int]] = {}
    for one in contenders:
        for why, count in one["reasons"].items():
            whose.setdefault(why, {})[one["name"]] = count
    for why, counts in whose.items():
        times = sum(counts.values())
        told = "; ".join(counts) if len(counts) < 4 else f"{len(counts)} contenders"
        yield f"{told}: {times:,} time{'s' * (times != 1)} {why}"


def _length_controlled(name: str, found: Mapping[str, Any]) -> str:
    if found["length_controlled_winrate"] is None:
        return f"{name}: no length-controlled win rate: {found['reason']}."
    rate, error = found["length_controlled_winrate"], found["lc_standard_error"]
    return (
        f"{name}: length-controlled win rate {rate:.2f} ± {error:.2f} ({found['regularisation']} regularisation data)."
    )


def _ranked(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(report["contenders"], key=lambda one: -(one["mean"] if one["mean"] is not None else -1.0))


def _marked(count: int) -> Text:
    return Text(f"{count:,}", style="red" if count else "dim")


def _short(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain(report: Mapping[str, Any]) -> list[str]:
    """The same columns whatever is in them, the contender's name last: there may be spaces in it."""
    rows: list[Sequence[str]] = [[*_COLUMNS, "contender"]]
    for one in _ranked(report):
        took = one["per_item"]
        numbers = [
            one["mean"], one["low"], one["high"], one["scored"], one["failed"], one["unparsed"], took["calls"],
            took["output_tokens"], took["cost_usd"], took["tflops_total"], took["seconds"], took["first_token"],
        ]  # fmt: skip
        rows.append([*("-" if n is None else f"{n:.6g}" for n in numbers), " ".join(one["name"].split())])
    lines = [_head(report), *aligned(rows), "", *_words(report)]
    if finer := [(f"{v:.6g}", a, one["name"]) for one in report["contenders"] for a, v in one["parts"].items()]:
        lines += ["", *aligned([("score", "of", "contender"), *finer])]
    return lines
