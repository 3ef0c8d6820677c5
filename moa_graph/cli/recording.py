"""What is kept of a run that `moa ask` or `moa chat` made, for `moa stats`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from moa_graph.cli.terminal import OutputError, say
from moa_graph.errors import MoAConfigError, MoAError, describe

if TYPE_CHECKING:
    from moa_graph.state import Decision, Proposal

__all__ = ["recorded", "whole"]

_NOT_ITS_OWN = (MoAConfigError, OutputError, BrokenPipeError)  # nobody was asked, or nobody reads on


@contextmanager
def recorded(config: str, graph: Any, question: str) -> Iterator[Callable[..., None]]:
    """Keep the run that is made within: what it answered, once the function that this yields is told, or why it failed.

    It is kept at the end, and a store that cannot be written is a line on standard error: never a failure.
    """
    told: dict[str, Any] = {}

    def answered(answer: Any) -> None:
        told.update(receipt=answer.response_metadata["moa"], answer=answer.text)

    try:
        yield answered
    except Exception as error:
        if not told and not isinstance(error, _NOT_ITS_OWN):
            told.update(receipt=None, error=error)
        raise
    finally:
        if told:
            _keep(config=config, graph=graph, question=question, **told)


def whole(state: dict[str, Any]) -> dict[str, Any]:
    """The state behind a review, each layer of which was a run of its own: with a receipt as if it had been one."""
    from moa_graph.receipt import receipt

    *before, answer = state["messages"]
    last = answer.response_metadata["moa"]
    made = [cast("Proposal", {key: value for key, value in p.items() if key != "run"}) for p in state["proposals"]]
    decided = [cast("Decision", {**decision, "run": ""}) for decision in last["decisions"]]
    told = receipt(made, last["final"], "", stopped=last["stopped"], decisions=decided, seed=last["seed"])
    metadata = {**answer.response_metadata, "moa": told}
    return {**state, "messages": [*before, answer.model_copy(update={"response_metadata": metadata})]}


def _keep(**run: Any) -> None:
    from moa_graph.stats import record

    try:
        record(**run)
    except Exception as error:
        say(f"not recorded: {error if isinstance(error, MoAError) else describe(error)}")
