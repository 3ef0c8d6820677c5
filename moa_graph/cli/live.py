"""One run of a mixture, shown while it runs: the tree on standard error, the answer on standard output."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Self

from rich.console import Console
from rich.text import Text

from moa_graph.cli.answer import Answer
from moa_graph.cli.terminal import Pane, draws, is_terminal, quiet_keys, say
from moa_graph.cli.tree import Tree

__all__ = ["Live", "run", "tree_of"]

_EVERY: Final = 0.1  # seconds between two pictures
_MODES: Final = ["custom", "messages", "values"]


def tree_of(graph: Any) -> Tree:
    """The tree of a mixture's graph, with nobody asked yet."""
    layers = {name: layer.slots for name, layer in graph.get_subgraphs() if hasattr(layer, "slots")}
    panels = [sorted(layers[f"layer_{i}"], key=layers[f"layer_{i}"].get) for i in range(1, len(layers) + 1)]
    about = graph.nodes["final"].metadata or {}
    return Tree(panels, str(about.get("moa_model") or about.get("moa_aggregator", "final")))


async def run(
    graph: Any, given: Any, config: Any = None, *, answer: Answer | None, tree: Tree | None = None, **how: Any
) -> Any:
    """Run a mixture and show it; without `answer`, its layers alone. Returns the final state."""
    state: dict[str, Any] = {}
    async with Live(tree or tree_of(graph), answer) as live:
        async for namespace, mode, data in graph.astream(given, config, stream_mode=_MODES, subgraphs=True, **how):
            if mode == "custom":
                live.event(data)
            elif mode == "values" and not namespace:
                state = data
            elif mode == "messages" and not namespace and data[1].get("moa_role") == "final" and data[0].text:
                live.text(data[0].text)
        if answer and not answer.text and (messages := state.get("messages")) and messages[-1].type == "ai":
            live.text(messages[-1].text)
    return state


class Live:
    """A tree and an answer below it, drawn again and again on a terminal; elsewhere a line for each that ends."""

    def __init__(self, tree: Tree, answer: Answer | None) -> None:
        self._tree, self._answer = tree, answer
        self._console = Console(stderr=True)
        self._pane = Pane(self._console) if draws(sys.stderr) else None
        self._keys = quiet_keys()
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._keys.__enter__()
        self._ticker = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if self._ticker:
                self._ticker.cancel()
                await asyncio.wait([self._ticker])
            self._finish(kind)
        finally:
            self._keys.__exit__(None, None, None)
        if kind is None:
            self._check()

    def _finish(self, kind: type[BaseException] | None) -> None:
        if kind:
            self._tree.stop(failed=issubclass(kind, Exception))
        self._leave_tree()
        if self._answer:
            self._answer.end(whole=kind is None)

    def event(self, event: Any) -> None:
        """An event of the run, or of a graph within it."""
        if not isinstance(event, Mapping):
            return
        told = self._tree.take(event)
        if told and self._pane is None:
            say(told)

    def text(self, text: str) -> None:
        """A piece of the answer."""
        self._check()
        if self._answer:
            self._tree.answering()
            if is_terminal(sys.stdout):
                self._leave_tree()
            self._answer.write(text)

    def _leave_tree(self) -> None:
        """Leave the last picture standing: the answer comes below it."""
        if self._pane is not None:
            whole = self._tree.whole(self._console.size.width)
            with suppress(OSError):
                self._pane.commit(Text("\n").join([whole, Text("\n")]) if whole.plain else None)
            self._pane = None

    def _draw(self) -> None:
        if self._pane is not None:
            width, height = self._console.size
            with suppress(OSError):  # nobody looks on; who waits for the answer may
                self._pane.draw(self._tree.picture(width, height - 1))
        if self._answer:
            self._answer.draw()

    def _check(self) -> None:
        """Raises what went wrong while drawing: nobody can be shown the answer."""
        if self._ticker and self._ticker.done() and not self._ticker.cancelled():
            self._ticker.result()

    async def _tick(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(_EVERY)
