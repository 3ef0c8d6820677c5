"""`moa ask --review`: a person between the layers reads, edits, drops and adds proposals."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

from langchain_core.runnables import RunnableConfig

from moa_graph.cli.answer import Answer
from moa_graph.cli.live import run, tree_of
from moa_graph.cli.receipt import show_proposals
from moa_graph.cli.terminal import is_terminal, say
from moa_graph.errors import MoAError
from moa_graph.review import aedit

__all__ = ["run_reviewed"]

_HELP: Final = "edit N [text], drop N, add text, show, go (or an empty line): the next layer, quit"
_PERSON: Final = {"proposer": "person", "model": "person", "status": "ok"}
_PROMPT: Final = "review> "


def run_reviewed(graph: Any, given: Any, *, answer: Answer | None) -> dict[str, Any]:
    """Run a mixture that has a checkpointer, and stop behind each layer for a person. Returns the final state."""
    config: RunnableConfig = {"configurable": {"thread_id": "review"}}
    tree = tree_of(graph)
    with asyncio.Runner() as runner:
        for name, _ in graph.get_subgraphs():
            state = runner.run(run(graph, given, config, answer=None, tree=tree, interrupt_after=[name]))
            layer = int(name.rpartition("_")[2])
            own = [proposal for proposal in state["proposals"] if proposal["layer"] == layer]
            _Review(layer, own, lambda proposals: runner.run(aedit(graph, config, proposals))).until_go()
            given = None
        final: dict[str, Any] = runner.run(run(graph, given, config, answer=answer, tree=tree))
    return final


class _Review:
    """One layer's proposals under review; `write` takes what is left of them."""

    def __init__(self, layer: int, proposals: list[Any], write: Callable[[list[Any]], object]) -> None:
        self._layer, self._proposals, self._write = layer, list(proposals), write
        self._changed = False

    def until_go(self) -> None:
        """Show the proposals, and do what is asked, line by line, until the next layer may read them."""
        self._show()
        say(_HELP)
        while True:
            command, _, rest = (_line() or "go").partition(" ")
            try:
                if command == "go":
                    if self._changed:
                        self._write(self._proposals)
                    return
                self._do(command, rest.strip())
            except MoAError as error:  # the thread is as it was: another line may mend it
                say(f"moa: {error}")

    def _do(self, command: str, rest: str) -> None:
        if command == "quit":
            raise KeyboardInterrupt
        if command == "show":
            self._show()
            return
        if command == "add" and rest:
            self._proposals.append({**_PERSON, "layer": self._layer, "content": rest})
        elif command == "drop":
            del self._proposals[self._place(rest)]
        elif command == "edit":
            number, _, text = rest.partition(" ")
            place = self._place(number)
            self._edit(place, text.strip() or _edited(self._proposals[place]["content"]))
        else:
            raise MoAError(f"{command!r} is none of: {_HELP}")
        self._changed = True
        say(f"{len(self._proposals)} proposal{'s' * (len(self._proposals) != 1)}")

    def _edit(self, place: int, text: str) -> None:
        if not text.strip():
            raise MoAError(f"a proposal without text: drop {place + 1} takes it away")
        kept = {name: value for name, value in self._proposals[place].items() if name != "error"}
        self._proposals[place] = {**kept, "content": text.strip(), "status": "ok"}

    def _place(self, number: str) -> int:
        if not number.isdecimal() or not 1 <= int(number) <= len(self._proposals):
            raise MoAError(
                f"{repr(number) if number else 'nothing'} is no proposal's number: 1 to {len(self._proposals)}"
            )
        return int(number) - 1

    def _show(self) -> None:
        numbered: list[Any] = [{**p, "proposer": f"{k}. {p['proposer']}"} for k, p in enumerate(self._proposals, 1)]
        show_proposals(numbered)


def _line() -> str:
    """The next line, from a person or a pipe; "" at the end, and where nobody is there to write one."""
    if sys.stdin is None:
        return ""
    if sys.stderr is not None and sys.stdin.isatty():
        sys.stderr.write(_PROMPT)
        sys.stderr.flush()
    return sys.stdin.readline().strip()


def _edited(text: str) -> str:
    """What a person makes of `text` in the editor that VISUAL or EDITOR names."""
    import click

    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise MoAError("an editor wants a terminal, and this is none: edit N the whole new text")
    try:
        made = click.edit(text)
    except click.ClickException as error:
        raise MoAError(f"{error.format_message()}; or write: edit N the whole new text") from error
    return text if made is None else made
