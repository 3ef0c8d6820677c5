"""Compiled graphs that know when a run begins: of a layer, and of a mixture."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from moa_graph.events import teller
from moa_graph.policy import LayerPolicy
from moa_graph.state import Proposal
from moa_graph.waiting import KEY, LayerRun

__all__ = ["CompiledLayer", "CompiledMoA", "Run", "run_of"]

_RUN: Final = "__moa_run"
_KEEP_TRIES, _KEEP_PAUSE = 200, 0.01  # 2 s for a checkpoint; with durability "exit" it is written later
_SPARE_THREADS: Final = 8  # LangGraph's own work in a layer: streaming, checkpoints
Config = RunnableConfig | None


class Run(NamedTuple):
    """Which run this is, and since when (`time.monotonic()`). A resumed thread is another run."""

    id: str
    started: float


def _new_run() -> Run:
    return Run(uuid.uuid4().hex, time.monotonic())


def run_of(config: RunnableConfig) -> Run:
    """The run that a node is part of."""
    return config["configurable"][_RUN]  # type: ignore[no-any-return]


class _Compiled(CompiledStateGraph[Any, Any, Any, Any]):
    """Every entry point of a compiled graph goes through `stream` or `astream`: there a run begins."""

    def stream(self, input: Any, config: Config = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        return super().stream(input, self._begin(config or {}, sync=True), **kwargs)

    def astream(self, input: Any, config: Config = None, **kwargs: Any) -> AsyncIterator[Any]:  # noqa: A002
        return super().astream(input, self._begin(config or {}, sync=False), **kwargs)

    def _begin(self, config: RunnableConfig, *, sync: bool) -> RunnableConfig:
        raise NotImplementedError


class CompiledMoA(_Compiled):
    def _begin(self, config: RunnableConfig, *, sync: bool) -> RunnableConfig:
        return _with(config, {_RUN: _new_run()})


class CompiledLayer(_Compiled):
    """A layer. Its proposers wait for each other, so each must have begun: its own limits count, not LangGraph's."""

    def __init__(self, *, layer: int, slots: Mapping[str, int], policy: LayerPolicy, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.layer, self.slots, self.policy = layer, slots, policy

    def _begin(self, config: RunnableConfig, *, sync: bool) -> RunnableConfig:
        within = config.get("configurable", {}).get(_RUN)
        run = within or _new_run()
        layer = LayerRun(
            self.layer,
            len(self.slots),
            self.policy,
            earlier=lambda: self._earlier(config, sync),
            kept=lambda slots: self._until_kept(slots, config, sync),
            at_once=config.get("max_concurrency"),
            run=run.id,
            tell=teller(config) if within else None,  # a mixture's events come from the mixture
        )
        own = {KEY: layer, _RUN: run}
        return {**_with(config, own), "max_concurrency": len(self.slots) + _SPARE_THREADS}

    async def _earlier(self, config: RunnableConfig, sync: bool) -> dict[int, Proposal] | None:
        """What this layer's proposers have answered, by slot, in the checkpoint; None: there is none."""
        if "thread_id" not in config.get("configurable", {}):
            return None
        get: Callable[..., Any] = self.get_state
        try:
            state = await asyncio.to_thread(get, config) if sync else await self.aget_state(config)
        except ValueError:
            return None  # no checkpointer: nothing is kept
        done = [task for task in state.tasks if task.name in self.slots and task.result]
        return {p["slot"]: p for task in done for p in (task.result or {}).get("proposals") or ()}

    async def _until_kept(self, slots: set[int], config: RunnableConfig, sync: bool) -> None:
        """Wait until the checkpoint has the answers of `slots`: a sync node's is written after its task has ended."""
        if not sync:
            return
        for _ in range(_KEEP_TRIES):
            kept = await self._earlier(config, sync)
            if kept is None or slots <= kept.keys():
                return
            await asyncio.sleep(_KEEP_PAUSE)


def _with(config: RunnableConfig, own: Mapping[str, Any]) -> RunnableConfig:
    return {**config, "configurable": {**config.get("configurable", {}), **own}}
