"""`moa estimate`: what a question is going to take, before anybody is asked."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from moa_graph.cli.options import ConfigOption, LayersOption, QuestionArgument, announce, asked_for, chosen
from moa_graph.cli.terminal import is_terminal, say, starting, write

if TYPE_CHECKING:
    from moa_graph.budget import Budget
    from moa_graph.estimate import Estimate, LayerEstimate

__all__ = ["estimate", "show"]

_WIDE = 200  # columns where nobody looks on


def estimate(
    question: QuestionArgument = None,
    config: ConfigOption = None,
    layers: LayersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Tell what a question is going to take: calls, tokens, $, operations. Asks nobody, needs no key."""
    asked = asked_for(question or [], "moa estimate")
    with starting():
        choice = chosen(config, layers)
        made, own = choice.config.estimate(asked), choice.config.budget
        budget = own.budget() if own else None
    announce(choice)
    if as_json:
        write(json.dumps(made, indent=2) + "\n")
        _warn(made, budget)
    else:
        show(made, sys.stdout, budget)


def show(made: "Estimate", stream: TextIO | None, budget: "Budget | None") -> None:
    """Print an estimate to a stream, and on standard error what it assumes, and whether the budget is smaller."""
    from rich.console import Console
    from rich.table import Table

    from moa_graph.money import money

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_footer=True)
    table.add_column("layer", footer="in all")
    footers = _row("", made)[1:]
    for name, footer in zip(("calls", "tokens in", "tokens out", "$", "TFLOPs"), footers, strict=True):
        table.add_column(name, footer=footer, justify="right")
    for layer in made["layers"]:
        last = layer is made["layers"][-1]
        table.add_row(*_row("final model" if last else str(layer["layer"]), layer))
    if stream is not None:
        console = Console(file=stream, width=None if is_terminal(stream) else _WIDE)
        console.print(table)
    say(f"{money(made['cost_usd'], made['cost_usd_at_least'], up=True)}, if every model is asked once and answers")
    if made["unpriced"]:
        say(f"the price of {', '.join(made['unpriced'])} is unknown: give it under `prices:` in the mixture's file")
    say(_assumed(made))
    _warn(made, budget)


def _warn(made: "Estimate", budget: "Budget | None") -> None:
    from moa_graph.estimate import too_small

    if smaller := too_small(budget, made):
        say(smaller)


def _row(name: str, told: "Estimate | LayerEstimate") -> list[str]:
    from moa_graph.money import dollars

    operations: Any = told.get("tflops_total", told.get("tflops"))
    return [
        name,
        str(told["calls"]),
        f"{told['input_tokens']:,}",
        f"{told['output_tokens']:,}",
        dollars(told["cost_usd"], told["cost_usd_at_least"], up=True),
        "?" if operations is None else f"{operations:,.3g}" if operations < 100 else f"{operations:,.0f}",
    ]


def _assumed(made: "Estimate") -> str:
    from moa_graph.budget import USUAL_OUTPUT

    known = made["measured"]
    of = f" (known from earlier runs for {', '.join(known)})" if known else ""
    return (
        f"assumed: an answer has {USUAL_OUTPUT} tokens, or max_tokens where that is less{of}; "
        "a model that thinks writes more, and a further attempt is a further call"
    )
