"""Mixtures that are asked of a server which fails at random, and their receipts beside what the server counted.

Every dice is seeded: with the run's number for what is asked, with the model's name and how often it was asked for
what the server does. The names of a run's models begin with its number and their seat, so that a difference is found
where it is.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from random import Random
from typing import Any, Final, NamedTuple
from unittest.mock import patch
from uuid import UUID

import openai
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult
from langchain_core.tracers.context import register_configure_hook
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from moa_graph import ChatMoA, LayerPolicy, Proposer, completions, create_moa, transport
from moa_graph.errors import MoARunError
from moa_graph.models import Model
from moa_graph.transport import Ear
from tests.server import Behaviour, RecordingServer, Request

QUESTION: Final = {"messages": [("user", "Why is the sky blue?")]}
WAYS: Final = ("ainvoke", "astream", "invoke")
KINDS: Final = ("model",) * 6 + ("streaming",) * 2 + ("mixture", "chat mixture", "agent")
GRACE: Final = 0.3  # seconds; whoever answers at all does so in a tenth of it
TIMEOUT: Final = 3.0
BATCH: Final = 100  # mixtures that are made before any of them is asked: making one takes longer than a call
TURNS: Final = 3  # on a thread: the run that failed is resumed

FAULTS: Final = {
    "limited": 6, "error 500": 4, "error 503": 4, "bad request": 3, "without text": 5, "cut body": 4, "dropped": 3,
    "unfinished": 3, "slow": 4, "stalled": 2, "none": 62,
}  # fmt: skip
"""What a request meets, and how often of a hundred times."""


def behaviour(fault: str, dice: Random) -> Behaviour:
    words = " ".join(f"word{k}" for k in range(dice.randint(1, 30)))
    pause = dice.random() * GRACE / 10
    return {
        "none": Behaviour(text=words, latency=pause, unseen_tokens=dice.choice((0, 0, 7))),
        "limited": Behaviour(status=429, retry_after="0.01"),
        "error 500": Behaviour(status=500, latency=pause),
        "error 503": Behaviour(status=503, retry_after="0"),
        "bad request": Behaviour(status=400, latency=pause),
        "without text": Behaviour(text="", finish_reason="length", unseen_tokens=dice.randint(1, 50)),
        "cut body": Behaviour(text=words, close_after=dice.randint(0, 3)),
        "dropped": Behaviour(drop=True),
        "unfinished": Behaviour(text=words, unfinished=True),
        "slow": Behaviour(hang=True),
        "stalled": Behaviour(text=words, stall_after=1),
    }[fault]


class FaultyServer(RecordingServer):
    """It gives every request the fault that the dice of `seed` throw for it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self.faults: dict[str, int] = dict.fromkeys(FAULTS, 0)

    def _next_behaviour(self, model: str) -> Behaviour:
        dice = Random(f"{self._seed} {model} {self._asked[model]}")
        (fault,) = dice.choices([*FAULTS], [*FAULTS.values()])
        self.faults[fault] += 1
        return behaviour(fault, dice)


class Count(NamedTuple):
    """Requests, and tokens in and out."""

    calls: int
    input_tokens: int
    output_tokens: int

    def plus(self, other: "Count", times: int = 1) -> "Count":
        return Count(*(a + times * b for a, b in zip(self, other, strict=True)))

    @classmethod
    def sum(cls, counts: Sequence["Count"]) -> "Count":
        return cls(*map(sum, zip(*counts, strict=True))) if counts else cls(0, 0, 0)

    @classmethod
    def of(cls, receipts: Sequence[Mapping[str, Any]]) -> "Count":
        return cls.sum([cls(*(receipt[name] for name in cls._fields)) for receipt in receipts])

    @classmethod
    def by(cls, requests: Sequence[Request]) -> "Count":
        """What a server counted: every request, and the tokens of every usage that it sent in full."""
        told = [request for request in requests if request.told_usage]
        sums = (sum(getattr(request, name) for request in told) for name in ("prompt_tokens", "completion_tokens"))
        return cls(len(requests), *sums)


NOTHING: Final = Count(0, 0, 0)


class Heard(BaseCallbackHandler, Ear):
    """What has come in from the server, apart from the receipts: LangChain tells it of each model's runs.

    Where our own transport reads an answer, what it reads counts: the call may be cut before LangChain has it.
    """

    run_inline = True

    def __init__(self) -> None:
        self._model: dict[UUID, str] = {}
        self._streamed: set[UUID] = set()
        self._ids: set[str] = set()
        self.repeats: Counter[str] = Counter()
        self.asks: Counter[str] = Counter()
        self.counts: dict[str, Count] = {}
        self.unread: dict[str, int] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **told: Any) -> None:
        if (model := told["invocation_params"].get("model")) is None:
            return  # a mixture as a chat model: its own models tell for themselves
        self._model[run_id] = model
        self.unread[model] = self.unread.get(model, 0) + 1
        self._add(model, Count(1, 0, 0))

    def on_llm_new_token(self, token: Any, *, run_id: UUID, chunk: Any = None, **_: Any) -> None:
        if run_id in self._model and chunk is not None and chunk.message.usage_metadata:
            self._streamed.add(run_id)
            self._read(run_id, chunk.message)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        if run_id in self._model and not isinstance(error, asyncio.CancelledError | openai.APIConnectionError):
            self.unread[self._model[run_id]] -= 1

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        if run_id not in self._model:
            return
        self.unread[self._model[run_id]] -= 1
        message: Any = response.generations[0][0].message  # type: ignore[union-attr]
        if run_id not in self._streamed and message.response_metadata.get("id") not in self._ids:
            self._read(run_id, message)

    def _read(self, run_id: UUID, message: Any) -> None:
        if used := message.usage_metadata:
            self._add(self._model[run_id], Count(0, used["input_tokens"], used["output_tokens"]))

    def repeated(self) -> None:
        self.repeats[_PREFIX.get()] += 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hear whom we ask, which may be cut before LangChain knows of it, and what our transport reads."""
        fill, ask = completions._ANSWER.fill, Model.ask

        async def asked(model: Model, messages: Any, config: Any) -> Any:
            if not model.asks_others:
                self.asks[model.id.removeprefix("openai:")] += 1
            return await ask(model, messages, config)

        def read(answer: Any) -> Any:
            self._ids.add(answer["id"])
            used = answer["usage"]
            self._add(answer["model"], Count(0, used["prompt_tokens"], used["completion_tokens"]))
            return fill(answer)

        with patch.object(completions._ANSWER, "fill", read), patch.object(Model, "ask", asked):
            yield

    def _add(self, model: str, count: Count) -> None:
        self.counts[model] = self.counts.get(model, NOTHING).plus(count)

    def missed(self, requests: Sequence[Request], prefix: str = "") -> Count:
        """What a server counted and this side could not: answers sent while their call was cut, or its connection lost.

        `calls`: those cut before their request had left, as a negative number. Raises AssertionError where another
        call's count differs. `prefix`: of these models alone.
        """
        by_model: dict[str, list[Request]] = {}
        for request in requests:
            by_model.setdefault(request.model, []).append(request)
        repeats = sum(count for whose, count in self.repeats.items() if whose.startswith(prefix))
        missed = [Count(sum(map(is_repeat, requests)) - repeats, 0, 0)]
        for model in {*self.counts, *self.asks}:
            if not model.startswith(prefix):
                continue
            heard, sent = self.counts.get(model, NOTHING), by_model.get(model, [])
            early = max(0, self.asks[model] - heard.calls)
            heard = heard.plus(Count(early + sum(map(is_repeat, sent)), 0, 0))
            less = Count.by(sent).plus(heard, -1)
            assert less == NOTHING or early or self.unread.get(model), (model, less)
            missed.append(less)
        return Count.sum(missed)


def is_repeat(request: Request) -> bool:
    """Whether a client sent it again by itself."""
    return request.headers.get("x-stainless-retry-count", "0") != "0"


_PREFIX: ContextVar[str] = ContextVar("prefix", default="")
_HEARD: ContextVar[Heard | None] = ContextVar("heard", default=None)
register_configure_hook(_HEARD, inheritable=True)


class Thread:
    """One mixture, asked on one thread until it answers, at most `TURNS` times; each time is a run."""

    def __init__(self, number: int, seed: int, base_url: str) -> None:
        dice = Random(f"{seed} run {number}")
        self.prefix = f"r{number}-"
        self.receipts: list[Mapping[str, Any]] = []
        self._base_url, self._way, self._keeps = base_url, dice.choice(WAYS), dice.random() < 0.5
        saver = InMemorySaver() if self._keeps else None
        self._moa = self._mixture(self.prefix, dice, stream=self._way == "astream", checkpointer=saver)

    async def ask(self) -> None:
        config = {"configurable": {"thread_id": "t"}}
        for turn in range(TURNS if self._keeps else 1):
            try:
                self.receipts.append(await ask(self._moa, self._way, None if turn else QUESTION, config))
            except MoARunError as error:
                self.receipts.append(error.receipt or {})
            else:
                return

    def _mixture(self, prefix: str, dice: Random, *, stream: bool = False, **options: Any) -> Any:
        return create_moa(**self._arguments(prefix, dice), stream_proposers=stream, **options)

    def _arguments(self, prefix: str, dice: Random, depth: int = 0) -> dict[str, Any]:
        panels = [
            [self._proposer(f"{prefix}l{layer}p{k}", dice, depth) for k in range(1, dice.randint(2, 4))]
            for layer in range(1, dice.randint(2, 3))
        ]
        quorum = dice.randint(1, min(map(len, panels)))
        policy = LayerPolicy(quorum=quorum, grace=GRACE, timeout=TIMEOUT, retries=dice.randint(0, 2))
        finals = [self._model(f"{prefix}f{k}", streaming=False) for k in (1, 2)]
        return {"proposers": panels, "aggregator": finals, "policy": policy}

    def _proposer(self, name: str, dice: Random, depth: int) -> Any:
        kind = dice.choice(KINDS[:8] if depth else KINDS)
        if kind == "mixture":
            return Proposer(create_moa(**self._arguments(f"{name}-", dice, 1)), name=name)
        if kind == "chat mixture":
            return Proposer(ChatMoA(**self._arguments(f"{name}-", dice, 1)), name=name)
        if kind == "agent":
            model = ChatOpenAI(model=f"{name}-agent", base_url=self._base_url, api_key="key")
            return Proposer(create_agent(model, []), name=name)
        return self._model(f"{name}-m", streaming=kind == "streaming", name=name)

    def _model(self, model: str, *, streaming: bool, name: str | None = None) -> Proposer:
        options = {"streaming": True} if streaming else {}
        return Proposer(f"openai:{model}", name=name, base_url=self._base_url, parameters=options)


async def ask(moa: Any, way: str, given: Any, config: Any) -> Mapping[str, Any]:
    """The receipt of a run that answers."""
    if way == "invoke":
        out = await asyncio.to_thread(moa.invoke, given, config)
    elif way == "ainvoke":
        out = await moa.ainvoke(given, config)
    else:
        out = {}
        async for path, mode, data in moa.astream(given, config, stream_mode=["messages", "values"], subgraphs=True):
            out = data if mode == "values" and not path else out
    receipt: Mapping[str, Any] = out["messages"][-1].response_metadata["moa"]
    return receipt


async def ask_all(server: RecordingServer, seed: int, runs: int, at_once: int) -> tuple[list[Thread], Heard]:
    """`runs` mixtures, each asked on a thread of its own, and what LangChain told of their models."""
    heard = Heard()
    _HEARD.set(heard)
    threads: list[Thread] = []
    for first in range(0, runs, BATCH):
        batch = [Thread(number, seed, server.base_url) for number in range(first, min(first + BATCH, runs))]
        with heard.reading(), transport.Listening(heard):
            await _ask_all(batch, at_once)
        threads += batch
    with suppress(TimeoutError):
        await server.until(lambda: server.in_flight == 0)
    return threads, heard


async def _ask_all(threads: Sequence[Thread], at_once: int) -> None:
    left = iter(threads)

    async def place() -> None:
        for thread in left:
            _PREFIX.set(thread.prefix)
            await thread.ask()

    await asyncio.gather(*(place() for _ in range(at_once)))
