"""What is kept of the runs that `moa ask`, `moa chat` and `moa compare` made, for `moa stats`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from moa_graph.cli.terminal import OutputError, say
from moa_graph.errors import MoAConfigError, MoAError, describe
from moa_graph.stats import Store, record, setting

if TYPE_CHECKING:
    from moa_graph.compare import Match
    from moa_graph.state import Decision, Proposal

__all__ = ["keep_all", "recorded", "whole"]

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
    from moa_graph.state import plain_proposals

    *before, answer = state["messages"]
    last = answer.response_metadata["moa"]
    made = cast("list[Proposal]", plain_proposals(state["proposals"]))
    decided = [cast("Decision", {**decision, "run": ""}) for decision in last["decisions"]]
    told = receipt(made, last["final"], "", stopped=last["stopped"], decisions=decided, seed=last["seed"])
    metadata = {**answer.response_metadata, "moa": told}
    return {**state, "messages": [*before, answer.model_copy(update={"response_metadata": metadata})]}


def keep_all(match: "Match") -> None:
    """Keep the runs of a comparison, as far as it has come, but for those in which nobody was asked."""
    with _told_if_not():
        if (wanted := setting()) == "off":
            return
        store = Store()
        with store.at_once():
            for standing in match.comparison.standings:
                for question, made in zip(match.comparison.questions, standing.outcomes, strict=True):
                    if made is None or (made.status == "stopped" and made.receipt and not made.receipt["calls"]):
                        continue
                    store.record(
                        made.receipt, config=standing.name, question="\n".join(str(m.text) for m in question),
                        answer=made.answer or None, error=made.error or None, graph=match.graph(standing.name),
                        text=wanted == "text",
                    )  # fmt: skip


def _keep(**run: Any) -> None:
    with _told_if_not():
        record(**run)


@contextmanager
def _told_if_not() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        say(f"not recorded: {error if isinstance(error, MoAError) else describe(error)}")
