"""A run to be killed: `python -m tests.interrupted SAVER WHERE BASE_URL` asks on thread 1."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from moa_graph import LayerPolicy, create_moa

ASK = {"messages": [("user", "Why?")]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


def mixture(base_url: str, checkpointer: Any) -> Any:
    """Three layers of three: one proposer of the second one is told to hang."""
    chat = {name: ChatOpenAI(model=name, base_url=base_url, api_key="key") for name in ("a", "b", "d", "final")}
    first, second = [chat["a"], chat["b"]], [chat["a"], chat["b"], chat["d"]]
    return create_moa([first, second], chat["final"], policy=LayerPolicy(quorum=2), checkpointer=checkpointer)


@asynccontextmanager
async def opened(saver: str, where: str) -> AsyncIterator[Any]:
    kind: Any = {"sqlite": AsyncSqliteSaver, "postgres": AsyncPostgresSaver}[saver]
    async with kind.from_conn_string(where) as checkpointer:
        await checkpointer.setup()
        yield checkpointer


async def main(saver: str, where: str, base_url: str) -> None:
    async with opened(saver, where) as checkpointer:
        await mixture(base_url, checkpointer).ainvoke(ASK, THREAD)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
