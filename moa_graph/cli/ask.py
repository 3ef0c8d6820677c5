"""`moa ask`: one question, one answer."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_graph.cli.options import ConfigOption, LayersOption, chosen

if TYPE_CHECKING:
    from moa_graph.choose import Choice

__all__ = ["ask"]


def ask(
    question: Annotated[
        str | None,
        typer.Argument(help="The question; standard input where it is left out or `-`.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    layers: LayersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer, proposals and receipt as JSON.")] = False,
    show_proposals: Annotated[bool, typer.Option("--show-proposals", help="Show every proposer's answer.")] = False,
    show_receipt: Annotated[bool, typer.Option("--receipt", help="Show who answered, seconds and tokens.")] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Keep answers on disk; ask nothing twice.")] = False,
) -> None:
    """Ask a mixture. The answer goes to standard output, everything else to standard error."""
    import asyncio

    asked = _question(question)
    choice = chosen(config, layers)
    graph = choice.build(cache=_cache() if cache else None)
    _say(f"{choice.name} ({choice.why})" + (f": {choice.config.description}" if choice.config.description else ""))
    if choice.config.retired:
        _say(f"retired: {choice.config.retired}")
    state = asyncio.run(_run(graph, asked, stream=not as_json))
    if as_json:
        typer.echo(json.dumps(_as_json(choice, state), ensure_ascii=False, indent=2))
    if show_proposals:
        _show(state["proposals"])
    if show_receipt:
        from moa_graph.cli import receipt

        receipt.show(state["messages"][-1].response_metadata["moa"])
    _say(_summary(choice, state))


def _question(given: str | None) -> str:
    from moa_graph.errors import MoAConfigError

    if given in (None, "-"):
        given = "" if sys.stdin.isatty() else sys.stdin.read()
    if not given or not given.strip():
        raise MoAConfigError('the question is empty: moa ask "Why is the sky blue?", or pipe it in')
    return given.strip()


def _cache() -> Any:
    """The answers kept on disk, in the user's cache folder. Raises MoAConfigError where they cannot be."""
    from sqlite3 import Error

    from langgraph.cache.sqlite import SqliteCache

    from moa_graph.errors import MoAConfigError

    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moa_graph"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return SqliteCache[Any](path=str(folder / "answers.sqlite"))
    except (OSError, Error) as error:
        raise MoAConfigError(f"{folder / 'answers.sqlite'} cannot be used as a cache: {error}") from error


async def _run(graph: Any, question: str, *, stream: bool) -> dict[str, Any]:
    """Run the mixture and write its answer as it comes. Returns the final state."""
    from moa_graph.cli.live import Progress

    state: dict[str, Any] = {}
    written = ""
    try:
        with Progress() as progress:
            async for namespace, mode, data in graph.astream(
                {"messages": [("user", question)]}, stream_mode=["tasks", "messages", "values"], subgraphs=True
            ):
                if mode == "tasks":
                    progress.task(namespace, data)
                elif mode == "values" and not namespace:
                    state = data
                elif stream and not namespace and data[1].get("moa_role") == "final" and (text := data[0].text):
                    progress.answering()
                    typer.echo(text, nl=False)
                    written += text
        if stream and not written:
            typer.echo(written := state["messages"][-1].text, nl=False)
    finally:
        if written and not written.endswith("\n"):
            typer.echo()  # also where it broke off: what follows begins a line
    return state


def _show(proposals: list[Any]) -> None:
    for proposal in proposals:
        _say(f"\nlayer {proposal['layer']}, {proposal['proposer']} ({proposal['model']})")
        _say(proposal["content"] if proposal["status"] == "ok" else f"{proposal['status']}: {proposal.get('error')}")
    _say("")


def _summary(choice: "Choice", state: dict[str, Any]) -> str:
    receipt = state["messages"][-1].response_metadata["moa"]
    layers = "".join(f", layer {x['layer']}: {x['answered']} of {x['asked']} answered" for x in receipt["layers"])
    return (
        f"{choice.name}: {receipt['calls']} calls{layers}, {receipt['input_tokens']:,} tokens in and "
        f"{receipt['output_tokens']:,} out, {receipt['seconds']:.1f} s"
    )


def _as_json(choice: "Choice", state: dict[str, Any]) -> dict[str, Any]:
    answer = state["messages"][-1]
    return {
        "answer": answer.text,
        "config": choice.name,
        "proposals": [{k: v for k, v in p.items() if k != "run"} for p in state["proposals"]],
        "receipt": answer.response_metadata["moa"],
    }


def _say(text: str) -> None:
    typer.echo(text, err=True)
