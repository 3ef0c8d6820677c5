"""The threads of `moa chat`, kept in SQLite in the user's data folder: their names, and what was last asked in each."""

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moa_graph.errors import MoAConfigError, describe
from moa_graph.folders import data_folder

if TYPE_CHECKING:
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

__all__ = ["Thread", "Threads", "opened", "place"]

_WORDS, _LONGEST = 5, 40  # of a question, in a thread's name
_NAME: Final = re.compile(r"[^\s/\\\x00-\x1f\x7f-\x9f]{1,100}")
_LAST: Final = (
    "SELECT thread_id FROM checkpoints WHERE checkpoint_ns = '' GROUP BY thread_id ORDER BY max(checkpoint_id)"
)
_STEPS: Final = (
    "DELETE FROM {} WHERE thread_id = ? AND (checkpoint_ns <> '' OR (checkpoint_id > ? AND checkpoint_id < ?))"
)


@dataclass(frozen=True)
class Thread:
    """A thread as a list shows it. `when`: of the last turn, in local time."""

    name: str
    turns: int
    question: str
    when: str
    answered: bool


def place() -> Path:
    """The history file."""
    return data_folder() / "threads.sqlite"


@asynccontextmanager
async def opened() -> AsyncIterator["Threads"]:
    """The history, made where there is none. Raises MoAConfigError; a file that is no history stays as it is."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    path = place()
    with _named(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(path)
        connecting = AsyncSqliteSaver.from_conn_string(str(path))
        saver = await connecting.__aenter__()
    try:
        with _named(path):
            await saver.setup()
        yield Threads(saver, path)
    finally:
        await connecting.__aexit__(None, None, None)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise MoAConfigError(
            f"{path}: cannot be used as the history of chats ({error}); move it away, or set XDG_DATA_HOME"
        ) from error


def _check(path: Path) -> None:
    """Raises sqlite3.Error for a file that is damaged, or something else. Only reads."""
    if not path.exists():
        return
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if found != "ok":
        raise sqlite3.DatabaseError(" ".join(str(found).split()))
    if tables and "checkpoints" not in tables:
        raise sqlite3.DatabaseError("it is a database of something else")


class Threads:
    """What the history holds."""

    def __init__(self, saver: "AsyncSqliteSaver", path: Path) -> None:
        self.saver, self.path = saver, path

    async def names(self) -> list[str]:
        """Every thread's name, the latest last."""
        with _named(self.path):
            async with self.saver.conn.execute(_LAST) as found:
                return [str(name) async for (name,) in found]

    async def all(self) -> list[Thread | MoAConfigError]:
        """Every thread, the latest last; or why it cannot be read."""
        return [await self._thread_or_why(name) for name in await self.names()]

    async def _thread_or_why(self, name: str) -> Thread | MoAConfigError:
        try:
            return await self.thread(name)
        except MoAConfigError as error:
            return error

    async def known(self, name: str) -> str:
        """`name`, if there is such a thread. Raises MoAConfigError with the nearest one."""
        import difflib

        if name not in (names := await self.names()):
            near = difflib.get_close_matches(name, names, 1, 0.6)
            hint = f"did you mean {near[0]}? " if near else ""
            raise MoAConfigError(
                f"there is no thread {name!r}: {hint}`moa chat --list` shows all, `moa chat --new {name}` starts it"
            )
        return name

    async def fresh(self, name: str) -> str:
        """`name`, if no thread has it yet and it can be one's name. Raises MoAConfigError."""
        if not _NAME.fullmatch(name) or name.startswith("-"):
            raise MoAConfigError(f"{name!r} cannot be a thread's name: no spaces, slashes or leading - in it")
        if name in await self.names():
            raise MoAConfigError(f"there is a thread {name!r} already: `moa chat --thread {name}` goes on with it")
        return name

    async def named_after(self, question: str) -> str:
        """A name that no thread has yet, from a question's first words."""
        words = re.findall(r"\w+", question.lower())[:_WORDS]
        name = "-".join(words)[:_LONGEST].strip("-_") or "thread"
        taken, number = set(await self.names()), 1
        while (found := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        return found

    async def tidy(self, name: str, before: str, after: str) -> None:
        """Of a finished turn keep its end alone: the steps on the way to it repeat the whole thread each time."""
        with _named(self.path):
            async with self.saver.lock:
                for table in ("checkpoints", "writes"):
                    await self.saver.conn.execute(_STEPS.format(table), (name, before, after))
                await self.saver.conn.commit()

    async def thread(self, name: str) -> Thread:
        """A thread. Raises MoAConfigError where it cannot be read."""
        try:
            kept = await self.saver.aget_tuple({"configurable": {"thread_id": name, "checkpoint_ns": ""}})
            assert kept is not None
            messages = _messages(kept.checkpoint["channel_values"])
            when = datetime.fromisoformat(kept.checkpoint["ts"]).astimezone()
        except Exception as error:
            raise MoAConfigError(f"{self.path}: the thread {name!r} cannot be read: {describe(error)}") from error
        asked = [" ".join(message.text.split()) for message in messages if message.type == "human"]
        answered = bool(messages) and messages[-1].type == "ai"
        return Thread(name, len(asked), asked[-1] if asked else "", f"{when:%Y-%m-%d %H:%M}", answered)


def _messages(channels: Mapping[str, Any]) -> list[Any]:
    """What was said; a question too that no node has seen yet."""
    return [*channels.get("messages", []), *(channels.get("__start__") or {}).get("messages", [])]
