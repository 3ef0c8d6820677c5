"""Mixture-of-Agents (Wang et al. 2024, arXiv 2406.04692) as LangGraph graphs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moa_graph.aggregator import Consistent, Rank, Sequential, Synthesize, Vote
    from moa_graph.budget import Budget
    from moa_graph.chat_model import ChatMoA
    from moa_graph.config import MoAConfig
    from moa_graph.critique import Critique
    from moa_graph.errors import BudgetExceededError, FinalError, MoAConfigError, MoAError, QuorumError
    from moa_graph.graph import create_layer, create_moa
    from moa_graph.panel import Layer, Proposer
    from moa_graph.policy import LayerPolicy
    from moa_graph.prompts import AGGREGATE_AND_SYNTHESIZE, Prompt
    from moa_graph.receipt import Receipt
    from moa_graph.route import Route
    from moa_graph.select import Cluster, Diverse, TopK
    from moa_graph.state import MoAState, Proposal
    from moa_graph.stop import Agreement, Judge, Sentinel

__version__ = "0.1.0"

__all__ = [
    "AGGREGATE_AND_SYNTHESIZE",
    "Agreement",
    "Budget",
    "BudgetExceededError",
    "ChatMoA",
    "Cluster",
    "Consistent",
    "Critique",
    "Diverse",
    "FinalError",
    "Judge",
    "Layer",
    "LayerPolicy",
    "MoAConfig",
    "MoAConfigError",
    "MoAError",
    "MoAState",
    "Prompt",
    "Proposal",
    "Proposer",
    "QuorumError",
    "Rank",
    "Receipt",
    "Route",
    "Sentinel",
    "Sequential",
    "Synthesize",
    "TopK",
    "Vote",
    "create_layer",
    "create_moa",
]

_HOME = {
    "aggregator": ["Consistent", "Rank", "Sequential", "Synthesize", "Vote"],
    "budget": ["Budget"],
    "chat_model": ["ChatMoA"],
    "config": ["MoAConfig"],
    "critique": ["Critique"],
    "errors": ["BudgetExceededError", "FinalError", "MoAConfigError", "MoAError", "QuorumError"],
    "graph": ["create_layer", "create_moa"],
    "panel": ["Layer", "Proposer"],
    "policy": ["LayerPolicy"],
    "prompts": ["AGGREGATE_AND_SYNTHESIZE", "Prompt"],
    "receipt": ["Receipt"],
    "route": ["Route"],
    "select": ["Cluster", "Diverse", "TopK"],
    "state": ["MoAState", "Proposal"],
    "stop": ["Agreement", "Judge", "Sentinel"],
}


def __getattr__(name: str) -> Any:
    # names load on first use, so that the command line does not pay for LangGraph before it needs it
    for module, names in _HOME.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"moa_graph.{module}"), name)
            return value
    raise AttributeError(f"module 'moa_graph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
