"""What may be said in `moa chat` beside a question: `/proposals`, `/receipt`, `/config`, `/save`, `/retry`, ..."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from moa_graph.cli.receipt import show, show_proposals, summary
from moa_graph.cli.talk import Talk
from moa_graph.cli.terminal import say
from moa_graph.errors import MoAError

__all__ = ["COMMANDS", "command"]


async def command(talk: Talk, line: str) -> None:
    """Do what `line`, which begins with `/`, says. Raises MoAError for what is not known or cannot be done."""
    name, _, rest = line.partition(" ")
    if name not in COMMANDS:
        raise MoAError(
            f"there is no {name}: {', '.join(COMMANDS)}; a question that begins with / wants a space before it"
        )
    await COMMANDS[name][1](talk, rest.strip())


async def _proposals(talk: Talk, _: str) -> None:
    if not (proposals := await talk.proposals()):
        raise MoAError("there are no proposals: nobody has been asked yet")
    show_proposals(proposals)


async def _receipt(talk: Talk, _: str) -> None:
    messages = await talk.messages()
    if not messages or messages[-1].type != "ai":
        why = "the last question was not answered" if messages else "nothing was asked yet"
        raise MoAError(f"there is no receipt: {why}")
    show(messages[-1].response_metadata["moa"])


async def _config(talk: Talk, _: str) -> None:
    choice, graph = talk.choice, talk.graph
    say(f"{choice.name} ({choice.why})" + (f": {choice.config.description}" if choice.config.description else ""))
    for name, layer in graph.get_subgraphs():
        say(name.replace("_", " "))
        for proposer in getattr(layer, "slots", ()):
            say(f"  {proposer} ({(layer.nodes[proposer].metadata or {}).get('moa_model')})")
    say("final model")
    for model in choice.config.finals:
        say(f"  {model.model}")
    say(", ".join(f"{key}: {value}" for key, value in choice.config.policy.model_dump(exclude_none=True).items()))


async def _save(talk: Talk, where: str) -> None:
    if not where:
        raise MoAError("/save wants a file: /save talk.md")
    if not (messages := await talk.messages()):
        raise MoAError("there is nothing to save: nothing was asked yet")
    _write(where, _transcript(talk, messages))


def _write(where: str, text: str) -> None:
    path = Path(where).expanduser()
    try:
        with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except FileExistsError:
        raise MoAError(f"{path} is there already and stays as it is: choose another name") from None
    except OSError as error:
        raise MoAError(f"{path} cannot be written: {error.strerror}") from error
    say(f"saved to {path}")


def _transcript(talk: Talk, messages: list[Any]) -> str:
    parts, number = [f"# {talk.name}"], 0
    for message in messages:
        number += message.type == "human"
        who = f"## Question {number}" if message.type == "human" else f"## Answer {number}"
        parts += [who, message.text.strip()]
        if receipt := message.response_metadata.get("moa"):
            parts.append(f"*{summary(receipt)}*")
    if messages[-1].type == "human":
        parts.append("*not answered*")
    return "\n\n".join(parts) + "\n"


async def _retry(talk: Talk, _: str) -> None:
    await talk.retry()


async def _help(_: Talk, __: str) -> None:
    for name, (told, _do) in COMMANDS.items():
        say(f"{name:12}{told}")
    say("Ctrl-C stops a turn, Ctrl-D leaves. A question that begins with / wants a space before it.")


async def _quit(_: Talk, __: str) -> None:
    raise EOFError


Do = Callable[[Talk, str], Awaitable[None]]
COMMANDS: Final[dict[str, tuple[str, Do]]] = {
    "/proposals": ("what each proposer of the last turn said", _proposals),
    "/receipt": ("who answered in the last turn, seconds, tokens", _receipt),
    "/config": ("the mixture: its layers and models", _config),
    "/save": ("FILE: write the thread to a Markdown file", _save),
    "/retry": ("ask the last question again where it was not answered", _retry),
    "/help": ("this list", _help),
    "/quit": ("leave; the thread stays", _quit),
}
