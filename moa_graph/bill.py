"""What a call cost, in $ and in operations, as far as it is known."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NotRequired

from langchain_core.messages import BaseMessage
from typing_extensions import TypedDict

from moa_graph.flops import tflops
from moa_graph.prices import Prices
from moa_graph.receipt import known, total

__all__ = ["NOTHING", "UNKNOWN", "Bill", "bill_of", "bill_of_run", "reported"]


class Told(TypedDict):
    cost_usd: float | None
    tflops: float | None
    cost_usd_at_least: NotRequired[float]


class Bill(NamedTuple):
    """`cost_usd`, `tflops`: `None` where unknown; `at_least`: what is known of the cost."""

    cost_usd: float | None
    at_least: float
    tflops: float | None

    @classmethod
    def sum(cls, bills: Sequence["Bill"]) -> "Bill":
        return cls(
            total(bill.cost_usd for bill in bills),
            known(bill.at_least for bill in bills),
            total(bill.tflops for bill in bills),
        )

    def told(self) -> Told:
        """As a proposal and a receipt have it."""
        told = Told(cost_usd=self.cost_usd, tflops=self.tflops)
        if self.cost_usd is None and self.at_least:
            told["cost_usd_at_least"] = self.at_least
        return told


NOTHING: Final = Bill(0.0, 0.0, 0.0)
UNKNOWN: Final = Bill(None, 0.0, None)


def bill_of(prices: Prices, known_as: Sequence[str], answer: BaseMessage, usage: Mapping[str, int]) -> Bill:
    """What an answer cost, of a model that goes by the names `known_as` and by those that it reports."""
    if moa := answer.response_metadata.get("moa"):  # it was a mixture
        return bill_of_run(moa)
    names = (*known_as, *_reported_names(answer))
    if (cost := prices.cost(names, usage)) is not None:
        cost = round(cost, 9)
    said = usage.get("output_tokens")
    if (operations := None if said is None else tflops(names, said)) is not None:
        operations = round(operations, 9)
    return Bill(cost, cost or 0.0, operations)


def bill_of_run(receipt: Mapping[str, Any]) -> Bill:
    """What a run cost, by its receipt, be it of a server that writes older ones."""
    return Bill(receipt.get("cost_usd"), receipt.get("cost_usd_at_least", 0.0), receipt.get("tflops_total"))


def reported(answer: BaseMessage) -> str | None:
    """The model that answered, as its provider reports it."""
    metadata = answer.response_metadata
    return metadata.get("model_name") or metadata.get("model")


def _reported_names(answer: BaseMessage) -> list[str]:
    if not (name := reported(answer)):
        return []
    provider = answer.response_metadata.get("model_provider")
    return [f"{provider}:{name}", str(name)] if provider else [str(name)]
