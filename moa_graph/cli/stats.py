"""`moa stats`: what the runs so far took, and how each model fared in them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moa_graph.cli.terminal import between, is_terminal, safe, say, write

if TYPE_CHECKING:
    from moa_graph.stats import Store

__all__ = ["stats"]

_LONGEST = 100_000  # days: before there was any model
_SORTED: Final[dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]]] = {
    "seconds": ("the slowest answers first, by their mean", lambda m: m["mean_seconds"] or m["slowest_seconds"]),
    "failed": ("the most failing first, timeouts included", lambda m: (m["failed"] + m["timeouts"], m["cut"])),
    "cost": ("the most expensive first", lambda m: m["cost_usd_at_least"]),
}
_STYLES: Final = {"failed": "red", "cut": "yellow", "timeouts": "red"}
_COLUMNS: Final = (  # in a pipe
    "calls", "answered", "failed", "cut", "timeouts", "mean_seconds", "slowest_seconds", "input_tokens",
    "output_tokens", "cost_usd_at_least", "unpriced",
)  # fmt: skip
_HEADINGS: Final = ("calls", "ok", "failed", "cut", "timeout", "mean s", "max s", "tokens", "$")  # on a terminal


def _days(given: str) -> int:
    if not given.isdecimal() or not 1 <= int(given) <= _LONGEST:
        raise typer.BadParameter(f"a whole number of days, 1 or more, is needed, not {given!r}")
    return int(given)


def _sort(given: str) -> str:
    if given not in _SORTED:
        raise typer.BadParameter(f"one of {', '.join(_SORTED)} is needed, not {given!r}")
    return given


def stats(
    days: Annotated[
        int | None,
        typer.Option("--days", "-d", metavar="N", parser=_days, help="The last N days alone.", show_default=False),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="NAME", help="The runs of this mixture alone.", show_default=False),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", "-s", metavar="|".join(_SORTED), parser=_sort, help="Which models come first.")
    ] = "seconds",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Sum up the runs that are kept: tokens, $, slow and failing models."""
    from moa_graph.stats import SETTING, Store, setting

    kept, store = setting(), Store()
    if kept == "off" or not store.path.exists():
        if as_json:
            write('{"runs": 0, "models": []}\n')
        none = f"no run is kept yet: moa ask, moa chat and moa compare keep theirs in {store.path}"
        say(f"{SETTING} is off: no run is kept, and none is read" if kept == "off" else none)
        return
    totals, models = _read(store, days, config)
    models.sort(key=_SORTED[sort][1], reverse=True)
    if as_json:
        _print_json(totals, models, sort)
    else:
        _print(totals, models, sort)
    between()
    text = "questions and answers too" if kept == "text" else "no text of questions and answers"
    say(f"kept in {store.path}: {text}; {SETTING}=off switches it off")


def _read(store: "Store", days: int | None, config: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The sums, and each model's. Raises MoAConfigError for a mixture that has no run."""
    if config is not None and config not in (known := store.configs()):
        from moa_graph.errors import MoAConfigError

        raise MoAConfigError(f"no run of {config!r} is kept: one of {', '.join(known)}")
    return store.totals(days, config), store.models(days, config)


def _print_json(totals: Mapping[str, Any], models: Sequence[Mapping[str, Any]], sort: str) -> None:
    import json

    write(json.dumps({**totals, "sort": sort, "models": models}, ensure_ascii=False, indent=2) + "\n")


def _print(totals: Mapping[str, Any], models: Sequence[Mapping[str, Any]], sort: str) -> None:
    write(_summary(totals))
    if not models:
        return
    write(f"\nmodels, {_SORTED[sort][0]} (--sort {'|'.join(_SORTED)})\n")
    if is_terminal(sys.stdout):
        _show(models)
    else:
        _print_plain(models)


def _summary(totals: Mapping[str, Any]) -> str:
    """The sums, in three lines."""
    runs, calls = totals["runs"], totals["calls"]
    if not runs:
        return "no run in that time\n"
    return (
        f"{runs:,} run{'s' * (runs != 1)} since {totals['first'][:10]}, {totals['failed']:,} failed\n"
        f"{calls:,} call{'s' * (calls != 1)}, {totals['input_tokens']:,} tokens in and "
        f"{totals['output_tokens']:,} out\n{_cost(totals)}\n"
    )


def _cost(totals: Mapping[str, Any]) -> str:
    if totals["cost_usd"] is not None:
        return f"${_dollars(totals['cost_usd'])}"
    unknown = f"unknown in {totals['unpriced']:,} of {totals['runs']:,} runs"
    if not totals["cost_usd_at_least"]:
        return f"$ unknown ({unknown})"
    return f"at least ${_dollars(totals['cost_usd_at_least'])} ({unknown})"


def _dollars(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 100 else f"{amount:.4f}"


def _print_plain(models: Sequence[Mapping[str, Any]]) -> None:
    """The same columns whatever is in them, one line for each model, its name last: there may be spaces in it."""
    rows = [[*_COLUMNS, "model"], *([*(_plain(model[name]) for name in _COLUMNS), model["model"]] for model in models)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(_COLUMNS))]
    for *numbers, model in rows:
        cells = (f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True))
        write(f"{'  '.join(cells)}  {' '.join(model.split())}\n")


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _show(models: Sequence[Mapping[str, Any]]) -> None:
    """A table, as wide as the terminal: a long name is broken into lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold", min_width=12)
    for name in _HEADINGS:
        table.add_column(name, justify="right", no_wrap=True)
    for model in models:
        table.add_row(
            Text(safe(model["model"])),
            *(f"{model[name]:,}" for name in ("calls", "answered")),
            *(_marked(model[name], style) for name, style in _STYLES.items()),
            *("-" if model[name] is None else f"{model[name]:.1f}" for name in ("mean_seconds", "slowest_seconds")),
            _short(model["input_tokens"] + model["output_tokens"]),
            _price(model),
        )
    Console().print(table)


def _marked(count: int, style: str) -> Any:
    from rich.text import Text

    return Text(f"{count:,}", style=style if count else "dim")


def _short(count: int) -> str:
    """A count in at most six characters: 950, 12.3k, 4.5M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _price(model: Mapping[str, Any]) -> str:
    """What it cost; `≥`: and more, the price of some calls is unknown."""
    if not model["unpriced"]:
        return _dollars(model["cost_usd"])
    return f"≥{_dollars(model['cost_usd_at_least'])}" if model["cost_usd_at_least"] else "?"
