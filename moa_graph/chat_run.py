"""One run of a mixture as one call of a chat model: apart from the graph around it, whole or in chunks.

A run is a task of its own; whoever reads its chunks stands outside. So a stream that is closed, dropped or left open
when its event loop ends cancels a task, and no generator within a generator has to be closed from afar.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import set_config_context, var_child_runnable_config
from langgraph.config import get_stream_writer

from moa_graph.asking import unheard
from moa_graph.chat_answer import Pieces, whole
from moa_graph.errors import MoAError
from moa_graph.events import Tell
from moa_graph.loops import home
from moa_graph.within import Beneath

__all__ = ["answer", "awaited", "chunks", "iterated", "speak"]

_T = TypeVar("_T")
Say = Callable[[ChatGenerationChunk], None]
Speak = Callable[[Say], Coroutine[Any, Any, None]]


async def answer(graph: Any, messages: Sequence[BaseMessage], within: Beneath) -> AIMessage:
    """What a mixture answers, as a model's message. Raises QuorumError, FinalError."""
    return await _run(graph, messages, within)


async def speak(graph: Any, messages: Sequence[BaseMessage], within: Beneath, say: Say) -> None:
    """The same, as it is said; added up, the chunks are the message that `answer` gives."""
    pieces = Pieces()

    def hear(message: AIMessage) -> None:
        for piece in pieces.take(message):
            say(ChatGenerationChunk(message=piece))

    for piece in pieces.end(await _run(graph, messages, within, hear)):
        say(ChatGenerationChunk(message=piece))


async def _run(
    graph: Any, messages: Sequence[BaseMessage], within: Beneath, hear: Callable[[AIMessage], None] | None = None
) -> AIMessage:
    config, tell, said = _apart(within), _writer(), list[AIMessage]()
    modes = ["custom", "updates", *(["messages"] if hear else [])]

    async def run() -> None:
        async for mode, data in graph.astream({"messages": list(messages)}, config, stream_mode=modes):
            if mode == "messages" and hear:
                hear(data[0])
            elif mode == "custom" and tell:
                tell(data)
            elif mode == "updates" and "final" in data:
                said.append(data["final"]["messages"][-1])

    with set_config_context(config) as context:
        await asyncio.create_task(run(), context=context)
    return whole(said)


def _apart(within: Beneath) -> RunnableConfig:
    """The config of a run of its own: no checkpoint, stream or setting of a graph around it is its own."""
    config = unheard({"callbacks": within})
    config["tags"] = []
    if limit := (var_child_runnable_config.get() or {}).get("max_concurrency"):
        config["max_concurrency"] = limit
    return config


def _writer() -> Tell | None:
    """The custom stream of the graph that the model is part of, if it is."""
    try:
        write, around = get_stream_writer(), copy_context()
    except (RuntimeError, KeyError):
        return None
    return lambda event: around.run(write, event)  # it looks up there whose stream it is


async def chunks(spoken: Speak) -> AsyncGenerator[ChatGenerationChunk]:
    """The chunks as they come; closed early, it cancels what makes them, and waits until that has ended."""
    queue = asyncio.Queue[Any]()
    task = asyncio.create_task(spoken(queue.put_nowait))
    task.add_done_callback(queue.put_nowait)
    try:
        while (part := await queue.get()) is not task:
            yield part
        task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


# On the loop behind the sync entry points


def awaited(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """What the coroutine gives; it is cancelled where the wait for it is interrupted."""
    loop = _elsewhere()
    future = asyncio.run_coroutine_threadsafe(call(), loop)
    try:
        return future.result()
    finally:
        future.cancel()


def iterated(spoken: Speak) -> Iterator[ChatGenerationChunk]:
    """As `chunks`, for whoever cannot await them."""
    loop, queue = _elsewhere(), SimpleQueue[Any]()
    tasks: list[asyncio.Task[None]] = []

    def start() -> None:
        tasks.append(loop.create_task(spoken(queue.put)))
        tasks[0].add_done_callback(queue.put)

    loop.call_soon_threadsafe(start)
    part = None
    try:
        while not isinstance(part := queue.get(), asyncio.Task):
            yield part
        part.result()
    finally:
        if not isinstance(part, asyncio.Task):
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            while not isinstance(queue.get(), asyncio.Task):
                pass


def _elsewhere() -> asyncio.AbstractEventLoop:
    """That loop, to be waited for in this thread."""
    loop = home()
    with suppress(RuntimeError):
        if asyncio.get_running_loop() is loop:
            raise MoAError("a mixture called synchronously blocks the loop it would run on: await it here")
    return loop
