"""`moa ask`: one question, one answer."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_graph.cli.options import (
    CacheOption,
    ConfigOption,
    LayersOption,
    QuestionArgument,
    announce,
    asked_for,
    cache_on_disk,
    chosen,
    usd,
)
from moa_graph.cli.terminal import between, is_terminal, say, starting, write

if TYPE_CHECKING:
    from moa_graph.choose import Choice
    from moa_graph.errors import MoARunError

__all__ = ["ask"]


def ask(
    question: QuestionArgument = None,
    config: ConfigOption = None,
    layers: LayersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer, proposals and receipt as JSON.")] = False,
    show_proposals: Annotated[bool, typer.Option("--show-proposals", help="Show every proposer's answer.")] = False,
    show_receipt: Annotated[bool, typer.Option("--receipt", help="Show who answered, seconds and tokens.")] = False,
    review: Annotated[
        bool, typer.Option("--review", help="Stop behind each layer: read, edit, drop or add proposals.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Say what it is going to take, and ask before asking.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="USD", parser=usd, help="Leave out layers that would cost more.", show_default=False
        ),
    ] = None,
    cache: CacheOption = False,
) -> None:
    """Ask a mixture. The answer goes to standard output, everything else to standard error."""
    asked = asked_for(question or [], "moa ask")
    with starting():
        from moa_graph.cli import receipt
        from moa_graph.cli.recording import recorded
        from moa_graph.errors import MoARunError
        from moa_graph.stats import setting

        setting()  # a mistake in it is told before anybody is asked
        choice = chosen(config, layers)
        graph: Any = choice.build(
            cache=cache_on_disk() if cache else None,
            **(_kept() if review else {}),
            **({} if budget is None else {"budget": _limit(choice, budget)}),
        )
    announce(choice)
    if confirm:
        _confirm(choice, asked, graph.budget)
    with recorded(choice.name, graph, asked) as answered:
        try:
            state = _run(graph, asked, stream=not as_json, review=review)
        except MoARunError as error:
            _save(error, choice, as_json=as_json)
            if show_receipt and error.receipt:
                receipt.show(error.receipt)
            raise
        answered(state["messages"][-1])
        if as_json:
            write(json.dumps(_as_json(choice, state), ensure_ascii=False, indent=2) + "\n")
        else:
            between()
        if show_proposals:
            receipt.show_proposals(state["proposals"])
        if show_receipt:
            receipt.show(state["messages"][-1].response_metadata["moa"])
        say(f"{choice.name}: {receipt.summary(state['messages'][-1].response_metadata['moa'])}")


def _limit(choice: "Choice", usd: float) -> Any:
    from dataclasses import replace

    from moa_graph.budget import Budget

    own = choice.config.budget
    return replace(own.budget(), usd=usd) if own else Budget(usd=usd, on_exceed="answer")


def _confirm(choice: "Choice", question: str, budget: Any) -> None:
    """Raises MoAConfigError where nobody is there to ask, and leaves where they say no."""
    from moa_graph.cli.estimate import show

    show(choice.config.estimate(question), sys.stderr, budget)
    if not _agreed():
        say("nobody was asked")
        raise typer.Exit(1)


def _agreed() -> bool:
    """What is said on standard input, a terminal or a pipe; the answer's own bytes are all of standard output."""
    from moa_graph.errors import MoAConfigError

    if is_terminal(sys.stdin) and not is_terminal(sys.stderr):
        raise MoAConfigError("--confirm asks on standard error, and nobody sees it: leave it on the terminal")
    while True:
        say("Ask? [y/N]")
        said = sys.stdin.readline() if sys.stdin else ""
        if not said and not is_terminal(sys.stdin):
            raise MoAConfigError("--confirm wants y or n on standard input: use moa estimate, or --budget USD")
        if (word := said.strip().lower()) in ("y", "yes", "n", "no", ""):
            return word in ("y", "yes")


def _kept() -> dict[str, Any]:
    """A run that stops on its way is kept meanwhile."""
    from langgraph.checkpoint.memory import InMemorySaver

    return {"checkpointer": InMemorySaver()}


def _run(graph: Any, question: str, *, stream: bool, review: bool) -> dict[str, Any]:
    import asyncio

    from moa_graph.cli.answer import Answer
    from moa_graph.cli.live import run

    if review:
        from moa_graph.cli.recording import whole
        from moa_graph.cli.review import run_reviewed

        return whole(run_reviewed(graph, {"messages": [("user", question)]}, answer=Answer() if stream else None))
    return asyncio.run(run(graph, {"messages": [("user", question)]}, answer=Answer() if stream else None))


def _save(error: "MoARunError", choice: "Choice", *, as_json: bool) -> None:
    """What was answered before a run failed has been paid for: it is shown."""
    from moa_graph.cli import receipt

    if as_json:
        told = {"answer": None, "error": str(error), **_told(choice, error.proposals), "receipt": error.receipt}
        write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    elif answered := [proposal for proposal in error.proposals if proposal["status"] == "ok"]:
        receipt.show_proposals(answered)


def _as_json(choice: "Choice", state: dict[str, Any]) -> dict[str, Any]:
    answer = state["messages"][-1]
    return {
        "answer": answer.text,
        **_told(choice, state["proposals"]),
        "receipt": answer.response_metadata["moa"],
    }


def _told(choice: "Choice", proposals: Sequence[Any]) -> dict[str, Any]:
    from moa_graph.state import plain_proposals

    return {"config": choice.name, "proposals": plain_proposals(proposals)}
