"""`moa ask`: one question, one answer."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_graph.cli.options import CacheOption, ConfigOption, LayersOption, announce, cache_on_disk, chosen
from moa_graph.cli.terminal import between, say, starting, write

if TYPE_CHECKING:
    from moa_graph.choose import Choice

__all__ = ["ask"]

_EXAMPLE = 'moa ask "Why is the sky blue?"'


def ask(
    question: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUESTION]", help="The question; standard input where it is left out or `-`.", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    layers: LayersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer, proposals and receipt as JSON.")] = False,
    show_proposals: Annotated[bool, typer.Option("--show-proposals", help="Show every proposer's answer.")] = False,
    show_receipt: Annotated[bool, typer.Option("--receipt", help="Show who answered, seconds and tokens.")] = False,
    review: Annotated[
        bool, typer.Option("--review", help="Stop behind each layer: read, edit, drop or add proposals.")
    ] = False,
    cache: CacheOption = False,
) -> None:
    """Ask a mixture. The answer goes to standard output, everything else to standard error."""
    asked = _question(question or [])
    with starting():
        from moa_graph.cli import receipt
        from moa_graph.cli.recording import recorded
        from moa_graph.stats import setting

        setting()  # a mistake in it is told before anybody is asked
        choice = chosen(config, layers)
        graph = choice.build(cache=cache_on_disk() if cache else None, **(_kept() if review else {}))
    announce(choice)
    with recorded(choice.name, graph, asked) as answered:
        state = _run(graph, asked, stream=not as_json, review=review)
        answered(state["messages"][-1], state["proposals"] if review else None)
        if as_json:
            write(json.dumps(_as_json(choice, state), ensure_ascii=False, indent=2) + "\n")
        else:
            between()
        if show_proposals:
            receipt.show_proposals(state["proposals"])
        if show_receipt:
            receipt.show(state["messages"][-1].response_metadata["moa"])
        say(f"{choice.name}: {receipt.summary(state['messages'][-1].response_metadata['moa'])}")


def _kept() -> dict[str, Any]:
    """A run that stops on its way is kept meanwhile."""
    from langgraph.checkpoint.memory import InMemorySaver

    return {"checkpointer": InMemorySaver()}


def _run(graph: Any, question: str, *, stream: bool, review: bool) -> dict[str, Any]:
    import asyncio

    from moa_graph.cli.answer import Answer
    from moa_graph.cli.live import run

    if review:
        from moa_graph.cli.review import run_reviewed

        return run_reviewed(graph, {"messages": [("user", question)]}, answer=Answer() if stream else None)
    return asyncio.run(run(graph, {"messages": [("user", question)]}, answer=Answer() if stream else None))


def _question(words: list[str]) -> str:
    from moa_graph.errors import MoAConfigError

    if len(words) > 1:
        raise MoAConfigError(f"the question is {len(words)} words: put quotes around it, as in {_EXAMPLE}")
    if sys.stdout is None:
        raise MoAConfigError("standard output is closed: there is nowhere to put the answer")
    question = _read() if words in ([], ["-"]) else words[0]
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise MoAConfigError("the question is not UTF-8 text: convert it first, with iconv for instance") from error
    if not question.strip():
        raise MoAConfigError(f"the question is empty: {_EXAMPLE}, or pipe it in")
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


def _as_json(choice: "Choice", state: dict[str, Any]) -> dict[str, Any]:
    answer = state["messages"][-1]
    return {
        "answer": answer.text,
        "config": choice.name,
        "proposals": [{k: v for k, v in p.items() if k != "run"} for p in state["proposals"]],
        "receipt": answer.response_metadata["moa"],
    }
