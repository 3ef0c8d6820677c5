"""One thread of `moa chat`: turns that are asked, resumed and read back."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage

from moa_graph.cli.answer import Answer
from moa_graph.cli.live import run, tree_of
from moa_graph.cli.receipt import summary
from moa_graph.cli.recording import recorded
from moa_graph.cli.terminal import between, say
from moa_graph.cli.threads import Threads
from moa_graph.errors import MoAError

if TYPE_CHECKING:
    from moa_graph.choose import Choice
    from moa_graph.state import Proposal

__all__ = ["Talk"]


@dataclass
class Talk:
    """A thread and the mixture that answers in it. Without a name it begins, and gets one, with its first question."""

    choice: "Choice"
    graph: Any
    threads: Threads
    name: str | None = None

    @property
    def _config(self) -> dict[str, Any]:
        return {"configurable": {"thread_id": self.name}}

    async def messages(self) -> list[BaseMessage]:
        """What was said, in order."""
        return list((await self._state()).values.get("messages", [])) if self.name else []

    async def proposals(self) -> "list[Proposal]":
        """Those of the last turn, also of one that failed."""
        return _proposals(await self._state()) if self.name else []

    async def ask(self, question: str) -> None:
        """Ask, and show the answer. A question that was not answered is left out of what the models read."""
        if self.name is None:
            self.name = await self.threads.named_after(question)
            say(f"thread {self.name}")
        last = (await self.messages())[-1:]
        left: list[BaseMessage] = []
        if last and last[0].type == "human":
            left = [RemoveMessage(id=str(last[0].id))]
            say("the question before was not answered: it is left out")
        if not await self._run({"messages": [*left, HumanMessage(question)]}):
            raise MoAError("the mixture ended without an answer")

    async def retry(self) -> None:
        """Ask the last turn's question again where it was not answered: only those that did not answer are asked."""
        state = await self._state() if self.name else None
        messages = list(state.values.get("messages", [])) if state else []
        if state is None or not (state.next or (messages and messages[-1].type == "human")):
            raise MoAError("there is nothing to ask again: the last question was answered" if messages else _NOTHING)
        if state.next and await self._run(None, _proposals(state)):
            return
        last = (await self.messages())[-1]  # asked of another mixture, in which nothing is left to do
        if last.type == "human" and not await self._run({"messages": [last]}):
            raise MoAError("the mixture ended without an answer")

    async def _run(self, given: Any, known: "list[Proposal] | None" = None) -> bool:
        """Run the mixture and show it. Whether there is an answer."""
        begun = await self._state()
        before, question = _checkpoint(begun), _question((given or begun.values).get("messages", ()))
        tree = tree_of(self.graph)
        tree.known(known or [])
        with recorded(self.choice.name, self.graph, question) as answered:
            state = await run(self.graph, given, self._config, answer=Answer(), tree=tree)
            if not (messages := state.get("messages")) or messages[-1].type != "ai":
                return False
            answered(messages[-1])
        await self.threads.tidy(str(self.name), before, _checkpoint(await self._state()))
        between()
        say(f"{self.choice.name}: {summary(messages[-1].response_metadata['moa'])}")
        return True

    async def _state(self) -> Any:
        return await self.graph.aget_state(self._config, subgraphs=True)


_NOTHING = "there is nothing to ask again: no question has been asked"


def _question(messages: Iterable[BaseMessage]) -> str:
    """The last one that was asked."""
    return ([""] + [message.text for message in messages if message.type == "human"])[-1]


def _checkpoint(state: Any) -> str:
    return str(state.config["configurable"].get("checkpoint_id", ""))


def _proposals(state: Any) -> "list[Proposal]":
    """What a turn has, finished or not: in a layer that is at work, what its proposers have answered."""
    from moa_graph.state import merge_proposals

    found = merge_proposals([], state.values.get("proposals", []))
    for layer in (task.state for task in state.tasks if task.state and not isinstance(task.state, dict)):
        found = merge_proposals(found, layer.values.get("proposals") or [])
        for task in layer.tasks:
            found = merge_proposals(found, (task.result or {}).get("proposals") or [])
    return found
