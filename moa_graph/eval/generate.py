"""The first stage: every contender answers every item, many at a time; what is there is not asked again."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from moa_graph.budget import Budget
from moa_graph.config import MoAConfig
from moa_graph.errors import BudgetExceededError, MoAConfigError, MoARunError, describe
from moa_graph.eval.calls import Calls, asking_for, booked
from moa_graph.eval.contenders import Contender, adjusted
from moa_graph.eval.items import Item
from moa_graph.eval.store import Key, RunDirectory
from moa_graph.state import plain_proposals

__all__ = [
    "AT_ONCE",
    "OnProgress",
    "Progress",
    "Stage",
    "answer",
    "built",
    "generate",
    "left_of",
    "limit",
    "seed_of",
    "spread",
]

Stage = Literal["generate", "judge"]

AT_ONCE: Final = 8
"""How many items and contenders are asked at once where nobody says."""

OnProgress = Callable[["Progress"], None]


@dataclass
class Progress:
    """How far a stage is. `before`: what was there when it began; `usd`: spent since, as far as it is known."""

    stage: Stage
    total: int
    before: int = 0
    done: int = 0
    failed: int = 0
    unparsed: int = 0
    usd: float = 0.0
    stopped: str = ""
    """Why it ends before its end."""
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        return self.total - self.before - self.done - self.failed

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def usd_per_second(self) -> float:
        return self.usd / self.seconds

    @property
    def seconds_left(self) -> float | None:
        """`None`: not known before something has ended."""
        ended = self.done + self.failed
        return self.seconds / ended * self.left if ended else None


async def generate(
    directory: RunDirectory,
    items: Sequence[Item],
    contenders: Sequence[Contender],
    *,
    seed: int,
    at_once: int = AT_ONCE,
    usd: float | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Progress:
    """Let every contender answer every item. What fails is kept as failed, and asked again at the next start.

    usd: what the whole evaluation may spend, earlier starts and judgements included.
    Raises MoAConfigError where a contender cannot be built, or nothing is left to spend.
    """
    calls = booked(directory)
    asking = _Asking(directory, calls, seed, usd)
    progress = Progress("generate", sum(len(item.turns) for item in items) * len(contenders))
    todo = []
    for item in items:
        for contender in contenders:
            states = [directory.answers.status(asking.key(item, contender, t)) for t in range(1, len(item.turns) + 1)]
            progress.before += states.count("ok")
            if states.count("ok") < len(states):
                todo.append((item, contender))
    on_progress(progress)

    async def one(pair: tuple[Item, Contender]) -> None:
        await asking.ask(*pair, progress, on_progress)

    try:
        await spread(todo, one, at_once, progress)
    finally:
        calls.close()
    return progress


async def spread(todo: Sequence[Any], one: Callable[[Any], Any], at_once: int, progress: Progress) -> None:
    """Do it for each, `at_once` at a time, until something stops it. Raises the first thing that goes wrong."""
    waiting: Iterator[Any] = iter(todo)

    async def work() -> None:
        for each in waiting:
            if progress.stopped:
                return
            await one(each)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(todo))):
                group.create_task(work())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def seed_of(seed: int, item: str, turn: int) -> int:
    """The seed of one run: with one and the same for all, every item's references would be shuffled alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{item}:{turn}".encode("utf-8", "replace")).digest()[:4], "big") >> 1


def limit(usd: float | None, spent: float) -> dict[str, Any]:
    """What is left, for all runs of a stage together, as `MoAConfig.build` takes it.

    Raises MoAConfigError where nothing is left.
    """
    left = left_of(usd, spent)
    return {} if left is None else {"budget": Budget(usd=left, shared=True)}


def left_of(usd: float | None, spent: float) -> float | None:
    """$ that are left; `None`: nobody has set a limit. Raises MoAConfigError where nothing is left."""
    if usd is not None and spent >= usd:
        raise MoAConfigError(f"the budget of ${usd:g} is spent: ${spent:.4g} so far; give a higher --budget to go on")
    return None if usd is None else usd - spent


def built(config: MoAConfig, name: str, usd: float | None) -> Any:
    """The graph of a contender or a judge. Raises MoAConfigError naming it."""
    try:
        return config.build(**limit(usd, 0.0))
    except MoAConfigError as error:
        raise MoAConfigError(f"{name}: {error}") from error


class _Asking:
    """The contenders' graphs, and what they answer."""

    def __init__(self, directory: RunDirectory, calls: Calls, seed: int, usd: float | None) -> None:
        self._directory, self._calls, self._seed = directory, calls, seed
        self._budget = limit(usd, directory.spent)
        self._graphs: dict[Key, Any] = {}

    def key(self, item: Item, contender: Contender, turn: int) -> Key:
        return item.id, contender.name, self._seed, turn

    def graph(self, contender: Contender, temperature: float | None, max_tokens: int | None) -> Any:
        key = contender.name, temperature, max_tokens
        if key not in self._graphs:
            config = adjusted(contender.config, temperature, max_tokens)
            self._graphs[key] = config.build(cache=self._calls, **self._budget)
        return self._graphs[key]

    async def ask(self, item: Item, contender: Contender, progress: Progress, on_progress: OnProgress) -> None:
        """Every turn that is not answered; a later turn is not asked where an earlier one failed."""
        said: list[Any] = [(message["role"], message["content"]) for message in item.history]
        graph = self.graph(contender, item.temperature, item.max_tokens)
        for turn, question in enumerate(item.turns, 1):
            key = self.key(item, contender, turn)
            said.append(("user", question))
            if self._directory.answers.status(key) == "ok":
                record = self._directory.answers.get(key)
                assert record is not None
            else:
                with asking_for(key):
                    record = await answer(graph, said, seed_of(self._seed, item.id, turn))
                if reason := record.pop("stopped", None):
                    progress.stopped = progress.stopped or reason
                    if not record["receipt"]["calls"]:
                        return  # nothing was asked
                fields = dict(zip(self._directory.answers.fields, key, strict=True))
                self._directory.answers.append({**fields, **record})
                self._note(record, progress)
                if record["status"] == "ok":
                    self._calls.end(key)
                else:
                    progress.failed += len(item.turns) - turn
                on_progress(progress)
            if record["status"] != "ok":
                return
            said.append(("assistant", record["answer"]))

    def _note(self, record: Mapping[str, Any], progress: Progress) -> None:
        progress.usd += (record.get("receipt") or {}).get("cost_usd_at_least") or 0.0
        if record["status"] == "ok":
            progress.done += 1
        else:
            progress.failed += 1


class _FirstToken(BaseCallbackHandler, _StreamingCallbackHandler[Any]):
    """Notes when the final model's first token is there. It streams for this; LangGraph's own stream costs more."""

    run_inline = True

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._began, self._finals = time.monotonic(), set[Any]()

    def on_chat_model_start(self, *_: Any, run_id: Any, metadata: Mapping[str, Any] | None = None, **__: Any) -> None:
        if (metadata or {}).get("moa_role") == "final":
            self._finals.add(run_id)

    def on_llm_new_token(self, token: str | list[Any], *, run_id: Any, **_: Any) -> None:
        if token and self.seconds is None and run_id in self._finals:
            self.seconds = round(time.monotonic() - self._began, 3)

    def tap_output_aiter(self, run_id: Any, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        return output

    def tap_output_iter(self, run_id: Any, output: Iterator[Any]) -> Iterator[Any]:
        return output


async def answer(graph: Any, messages: Sequence[Any], seed: int) -> dict[str, Any]:
    """What a mixture answers, as a line of the file has it: with proposals, receipt, and how long it took."""
    began, first = time.monotonic(), _FirstToken()
    try:
        state = await graph.ainvoke(
            {"messages": list(messages)}, {"configurable": {"seed": seed}, "callbacks": [first]}
        )
    except Exception as error:
        return _failed(error, round(time.monotonic() - began, 3))
    last = state["messages"][-1]
    return {
        "status": "ok",
        "answer": last.text,
        "seconds": round(time.monotonic() - began, 3),
        "first_token": first.seconds,
        "receipt": last.response_metadata["moa"],
        "proposals": plain_proposals(state["proposals"]),
    }


def _failed(error: Exception, seconds: float) -> dict[str, Any]:
    """A run without an answer, and what it had asked until then."""
    known = isinstance(error, MoARunError)
    told: dict[str, Any] = {
        "status": "failed",
        "error": str(error) if known else describe(error),
        "seconds": seconds,
        "receipt": getattr(error, "receipt", None),
        "proposals": plain_proposals(getattr(error, "proposals", ())),
    }
    return {**told, "stopped": str(error)} if isinstance(error, BudgetExceededError) else told
