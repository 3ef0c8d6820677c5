"""Many answers, read through a small window: the nodes `window_1` … before the last, and the last node behind them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig

from moa_graph.aggregator import Sequential
from moa_graph.answers import text_of
from moa_graph.asking import unheard
from moa_graph.errors import BudgetExceededError
from moa_graph.events import Tell, decided
from moa_graph.final import End, Writer
from moa_graph.nodes import Node, State, no_text
from moa_graph.reading import reference, shown
from moa_graph.state import Decision, Proposal, Running

__all__ = ["last_window", "window"]


class _View(NamedTuple):
    """What one window shows, and what is left for those behind it."""

    answers: Sequence[Proposal]
    rest: int
    number: int
    texts: Sequence[str]


def window(family: Sequential, writer: Writer, layer: int, number: int) -> Node:
    """The running synthesis and the next answers -> the next synthesis. Nobody is asked where the last node can read
    all that is left. Raises FinalError, and BudgetExceededError, as `Writer.write` does.
    """

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        end = End(state, config)
        running = _NOTHING if number == 1 else state["running"]
        view = _view(family, end, running)
        if not view.rest or running["stopped"]:
            return {"running": running} if number == 1 else {}
        running, decisions = await _read(family, writer, layer, end, running, config, tell)
        return {"running": running, "decisions": decisions}

    return Node(f"window_{number}", call)


def last_window(family: Sequential, inner: Writer, writer: Writer, layer: int, nodes: int) -> Node:
    """The running synthesis and the answers that are left -> the mixture's answer, with the receipt of the run in it.

    Where a person has added more answers than the `nodes` before it could read, it has further windows of its own.
    """

    async def call(state: State, config: RunnableConfig, tell: Tell) -> dict[str, Any]:
        end = End(state, config)
        running: Running = state["running"] if nodes else _NOTHING
        before = len(end.decisions)
        while _view(family, end, running).rest and not running["stopped"]:
            running, _ = await _read(family, inner, layer, end, running, config, tell)
        view = _view(family, end, running)
        end.stopped = end.stopped or running["stopped"] or None
        reads = state if view.number == 1 and not view.rest else _shown(end, view, writer)
        answer, made = await writer.write(end, reads, config, tell)
        decision = _decision(layer, end, view)
        if view.rest:
            decision["said"] += f"; {view.rest} were not read: {running['stopped']}"
        end.decisions.append(decision)
        tell(decided(decision))
        return {**end.done(answer, made, tell), "decisions": end.decisions[before:]}

    return Node("final", call)


_NOTHING = Running(read=0, windows=0, syntheses=[], stopped="")


def _view(family: Sequential, end: End, running: Running) -> _View:
    """The next window. The first one has no synthesis to read, and room for more answers."""
    answers, done = end.answers()[running["read"] :], running["syntheses"]
    room = family.window - family.keep if done else family.window
    texts = [*done[-family.keep :], *map(reference, answers[:room])]
    return _View(answers[:room], len(answers[room:]), running["windows"] + 1, texts)


async def _read(
    family: Sequential, writer: Writer, layer: int, end: End, running: Running, config: RunnableConfig, tell: Tell
) -> tuple[Running, list[Decision]]:
    """One window is read. Where a budget has no room for it and wants an answer, the last node makes do without."""
    view = _view(family, end, running)
    behind = -(-view.rest // (family.window - family.keep))
    try:
        answer, call = await writer.write(
            end, _shown(end, view, writer), unheard(config), _unsaid, f"window {view.number}", aside=behind
        )
    except BudgetExceededError as error:
        if end.run.purse is None or end.run.purse.budget.on_exceed != "answer":
            raise
        return {**running, "stopped": str(error).partition(";")[0]}, []
    if not (text := text_of(answer)):
        raise end.failed(f"window {view.number} failed: {no_text(answer)}", call)
    decision = _decision(layer, end, view)
    decision["call"] = cast("dict[str, Any]", {**call, "proposer": f"window_{view.number}", "seconds": end.lap()})
    end.keep(decision)
    tell(decided(decision))
    read = running["read"] + len(view.answers)
    syntheses = [*running["syntheses"], text][-family.keep :]
    return Running(read=read, windows=view.number, syntheses=syntheses, stopped=""), [decision]


def _shown(end: End, view: _View, writer: Writer) -> State:
    return shown(end.state, view.texts, writer.prompt, end.run.seed)


def _unsaid(_: object) -> None:
    """Nobody is told that the final model is asked before it is."""


def _decision(layer: int, end: End, view: _View) -> Decision:
    read = [answer["proposer"] for answer in view.answers]
    said = f"window {view.number} read {len(read)} answer{'s' * (len(read) != 1)}"
    if view.number > 1:
        said += " and what the windows before made of theirs"
    return Decision(
        layer=layer, step="aggregator", by=Sequential.name, chosen=read, said=said, run=end.run.id, part=view.number
    )
