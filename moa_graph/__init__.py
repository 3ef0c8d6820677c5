"""Mixture-of-Agents (Wang et al. 2024, arXiv 2406.04692) as LangGraph graphs."""

from moa_graph.errors import FinalError, MoAConfigError, MoAError, QuorumError
from moa_graph.graph import create_layer, create_moa
from moa_graph.panel import Layer, Proposer
from moa_graph.policy import LayerPolicy
from moa_graph.prompts import AGGREGATE_AND_SYNTHESIZE, Prompt
from moa_graph.state import MoAState, Proposal

__version__ = "0.1.0"

__all__ = [
    "AGGREGATE_AND_SYNTHESIZE",
    "FinalError",
    "Layer",
    "LayerPolicy",
    "MoAConfigError",
    "MoAError",
    "MoAState",
    "Prompt",
    "Proposal",
    "Proposer",
    "QuorumError",
    "create_layer",
    "create_moa",
]
