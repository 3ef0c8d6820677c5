"""Compiled graphs that know when a run begins: of a layer, and of a mixture."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateUpdate

from moa_graph.budget import Budget, spent
from moa_graph.errors import MoAConfigError
from moa_graph.events import teller
from moa_graph.policy import LayerPolicy
from moa_graph.review import revise
from moa_graph.run import RUN, Run
from moa_graph.state import Proposal
from moa_graph.waiting import KEY, LayerRun

__all__ = ["CompiledLayer", "CompiledMoA"]

_LENT: Final = "__pregel_checkpointer"  # given to a graph within another whose state is read or written
_KEEP_TRIES, _KEEP_PAUSE = 200, 0.01  # 2 s for a checkpoint; with durability "exit" it is written later
_SPARE_THREADS: Final = 8  # LangGraph's own work in a layer: streaming, checkpoints
Config = RunnableConfig | None
Supersteps = Sequence[Sequence[StateUpdate]]


class _Compiled(CompiledStateGraph[Any, Any, Any, Any]):
    """Every entry point of a compiled graph goes through `stream` or `astream`: there a run begins."""

    def stream(self, input: Any, config: Config = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002
        _check_input(input)
        return super().stream(input, self._begin(config or {}, sync=True), **kwargs)

    def astream(self, input: Any, config: Config = None, **kwargs: Any) -> AsyncIterator[Any]:  # noqa: A002
        _check_input(input)
        return super().astream(input, self._begin(config or {}, sync=False), **kwargs)

    def _begin(self, config: RunnableConfig, *, sync: bool) -> RunnableConfig:
        raise NotImplementedError


class CompiledMoA(_Compiled):
    """A mixture. Proposals that a person edits are checked, and what the next layer reads is built of them anew."""

    def __init__(self, *, budget: Budget | None = None, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.budget = budget

    def _begin(self, config: RunnableConfig, *, sync: bool) -> RunnableConfig:
        purse, seed = self.budget.purse() if self.budget else None, config.get("configurable", {}).get("seed")
        return _with(config, {RUN: Run(purse=purse) if seed is None else Run(purse=purse, seed=_seed(seed))})

    def bulk_update_state(self, config: RunnableConfig, supersteps: Supersteps) -> RunnableConfig:
        if _edits(config, supersteps):
            supersteps = self._revised(supersteps, self.get_state(config).values)
        return super().bulk_update_state(config, supersteps)

    async def abulk_update_state(self, config: RunnableConfig, supersteps: Supersteps) -> RunnableConfig:
        if _edits(config, supersteps):
            supersteps = self._revised(supersteps, (await self.aget_state(config)).values)
        return await super().abulk_update_state(config, supersteps)

    def _revised(self, supersteps: Supersteps, kept: Mapping[str, Any]) -> Supersteps:
        """The one update that edits proposals, with the synthesis of the layer it edits."""
        [[(values, node, *task)]] = supersteps
        assert values is not None, "an edit has values"
        rest = {name: value for name, value in values.items() if name != "proposals"}
        if (new := revise(kept.get("proposals") or (), values["proposals"])) is None:
            return [[StateUpdate(rest, node, *task)]]
        written_by = f"layer_{new.layer}"
        if node not in (None, written_by):
            raise MoAConfigError(f"proposals of layer {new.layer} are edited as_node={written_by!r}, not {node!r}")
        if rest.get("synthesis", kept.get("synthesis")) == kept.get("synthesis"):
            layer: Any = self.nodes[written_by].bound
            before = {**kept, "proposals": new.proposals, "carry": _before(kept, new.layer)}
            rest |= layer.nodes["aggregate"].bound.synthesis(before, f"edited:{new.layer}", counted=True)
        return [[StateUpdate({**rest, "proposals": new.changed}, written_by, *task)]]


class CompiledLayer(_Compiled):
    """A layer. Its proposers wait for each other, so each must have begun: its own limits count, not LangGraph's."""

    def __init__(self, *, layer: int, slots: Mapping[str, int], policy: LayerPolicy, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.layer, self.slots, self.policy = layer, slots, policy

    def _begin(self, config: RunnableConfig, *, sync: bool) -> RunnableConfig:
        within = config.get("configurable", {}).get(RUN)
        run = within or Run()
        layer = LayerRun(
            self.layer,
            len(self.slots),
            self.policy,
            earlier=lambda: self._earlier(config, sync),
            kept=lambda slots: self._until_kept(slots, config, sync),
            at_once=config.get("max_concurrency"),
            run=run,
            tell=teller(config) if within else None,  # a mixture's events come from the mixture
        )
        own = {KEY: layer, RUN: run}
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


def _seed(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise MoAConfigError(f"the seed in the config is {given!r}: a whole number is needed")
    return given


def _before(kept: Mapping[str, Any], layer: int) -> Mapping[str, Any]:
    """What had been spent before a layer: what it took itself is counted anew."""
    before = [p for p in kept.get("proposals") or () if p["layer"] < layer]
    return {"spent": [*spent(before)]}


def _check_input(given: Any) -> None:
    """Raises MoAConfigError for a state without `messages`: a graph around this one has other keys."""
    if isinstance(given, Mapping) and given and "messages" not in given:
        keys = ", ".join(f"`{key}`" for key in given)
        raise MoAConfigError(
            f"there is no message to answer: the state has {keys} and no `messages`; give the graph around the "
            "mixture a state with `messages` (MessagesState), or call the mixture within a function node: "
            'moa.invoke({"messages": [("user", "…")]})'
        )


def _edits(config: RunnableConfig, supersteps: Supersteps) -> bool:
    """Whether this is one edit of proposals, and of this graph's own: not of a graph within, nor a copied history."""
    own = config.get("configurable", {})
    if (own.get("checkpoint_ns") and _LENT not in own) or len(supersteps) != 1 or len(supersteps[0]) != 1:
        return False
    values, node, *_ = supersteps[0][0]
    is_review = node is None or node.startswith("layer_")
    return is_review and isinstance(values, Mapping) and "proposals" in values


def _with(config: RunnableConfig, own: Mapping[str, Any]) -> RunnableConfig:
    return {**config, "configurable": {**config.get("configurable", {}), **own}}
