"""`moa chat`: many questions on one thread, which is kept."""

import shutil
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_graph.cli.options import CacheOption, ConfigOption, LayersOption, announce, cache_on_disk, chosen
from moa_graph.cli.terminal import OutputError, is_terminal, say, starting, write

if TYPE_CHECKING:
    import asyncio

    from moa_graph.cli.talk import Talk
    from moa_graph.cli.threads import Thread, Threads

__all__ = ["chat"]

_OPEN = " (not answered)"


def chat(
    thread: Annotated[
        str | None,
        typer.Option("--thread", "-t", metavar="NAME", help="Go on with this thread.", show_default=False),
    ] = None,
    new: Annotated[
        str | None,
        typer.Option("--new", "-n", metavar="NAME", help="Start a thread of this name.", show_default=False),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the threads that are kept.")] = False,
    config: ConfigOption = None,
    layers: LayersOption = None,
    cache: CacheOption = False,
) -> None:
    """Talk with a mixture. The thread is kept; without --thread a new one begins, named after its first question."""
    import asyncio

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            if show_list:
                failed = runner.run(_list(stack))
            else:
                failed = _loop(runner, runner.run(_open(stack, thread, new, config, layers, cache)))
        finally:
            runner.run(stack.aclose())
    if failed:
        raise typer.Exit(1)


async def _open(
    stack: AsyncExitStack, thread: str | None, new: str | None, config: str | None, layers: int | None, cache: bool
) -> "Talk":
    from moa_graph.errors import MoAConfigError

    if thread is not None and new is not None:
        raise MoAConfigError("--thread goes on with a thread and --new starts one: give one of them")
    if sys.stdout is None:
        raise MoAConfigError("standard output is closed: there is nowhere to put the answers")
    with starting():
        from moa_graph.cli.talk import Talk
        from moa_graph.stats import setting

        setting()  # a mistake in it is told before anybody is asked
        threads = await _threads(stack)
        name = await threads.known(thread) if thread is not None else None
        name = await threads.fresh(new) if new is not None else name
        choice = chosen(config, layers)
        graph = choice.build(checkpointer=threads.saver, cache=cache_on_disk() if cache else None)
    announce(choice)
    if thread is not None:
        _tell(await threads.thread(thread))
    return Talk(choice, graph, threads, name)


async def _threads(stack: AsyncExitStack) -> "Threads":
    from moa_graph.cli.threads import opened

    return await stack.enter_async_context(opened())


def _tell(thread: "Thread") -> None:
    turns = f"{thread.turns} question{'s' * (thread.turns != 1)}"
    say(f"thread {thread.name}: {turns}, the last: {thread.question}")
    if not thread.answered:
        say("it was not answered: /retry asks it again")


async def _list(stack: AsyncExitStack) -> bool:
    """List the threads. Whether one of them could not be read."""
    from moa_graph.cli.threads import Thread, place

    found = await (await _threads(stack)).all() if place().exists() else []
    threads = [one for one in found if isinstance(one, Thread)]
    columns = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None
    width = max((len(thread.name) for thread in threads), default=0)
    for one in threads:
        line = f"{one.name:{width}}  {one.turns:3}  {one.when}  {one.question}"
        write(f"{line[: columns and columns - len(_OPEN)]}{_OPEN * (not one.answered)}\n")
    for why in found:
        if not isinstance(why, Thread):
            say(f"moa: {why}")
    if not found:
        say("no thread is kept yet: moa chat starts one")
    return len(threads) < len(found)


def _loop(runner: "asyncio.Runner", talk: "Talk") -> bool:
    """Ask every line until there is no more. Whether, with nobody at the keyboard, a turn failed."""
    from moa_graph.cli.keys import Keys

    failed = False
    with Keys(runner.run(talk.messages())) as keys:
        while True:
            try:
                if (line := keys.line()) is None:
                    break
                if line.strip():
                    failed |= not _done(runner, talk, line, keys.at_keyboard)
            except EOFError:  # /quit
                break
    if keys.at_keyboard and talk.name:
        say(f"moa chat --thread {talk.name}  goes on with this thread.")
    return failed and not keys.at_keyboard


def _done(runner: "asyncio.Runner", talk: "Talk", line: str, at_keyboard: bool) -> bool:
    """Whether what the line wants has been done; else it has been told why."""
    from sqlite3 import Error

    from moa_graph.cli.commands import command
    from moa_graph.errors import MoAError

    said = line.strip()
    doing: Coroutine[Any, Any, None] = command(talk, said) if line.startswith("/") else talk.ask(said)
    try:
        runner.run(doing)
    except KeyboardInterrupt:
        if not at_keyboard:
            raise
        say("stopped: /retry asks those that have not answered")
    except (EOFError, BrokenPipeError, OutputError):
        raise
    except Error as error:
        raise MoAError(f"{talk.threads.path}: the history cannot be written: {error}") from error
    except Exception as error:
        say(f"moa: {_why(error)}")
    else:
        return True
    return False


def _why(error: Exception) -> str:
    from moa_graph.errors import BudgetExceededError, MoAError, MoARunError, clean, describe

    if not isinstance(error, MoAError):
        return clean(describe(error))
    resumed = ""
    if isinstance(error, BudgetExceededError):
        resumed = "; with a higher budget in its file, moa chat --thread and /retry go on"
    elif isinstance(error, MoARunError):
        resumed = "; /retry asks only those that have not answered"
    return " ".join(str(error).split()) + resumed
