"""The public API as a type checker sees it: checked by mypy, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, assert_type

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from moa_graph import (
    AGGREGATE_AND_SYNTHESIZE,
    ChatMoA,
    FinalError,
    Layer,
    LayerPolicy,
    MoAConfig,
    MoAConfigError,
    MoAError,
    MoAState,
    Prompt,
    Proposal,
    Proposer,
    QuorumError,
    Receipt,
    create_layer,
    create_moa,
)
from moa_graph.events import Event, ProposerDone

Graph = CompiledStateGraph[Any, Any, Any, Any]


def build(model: BaseChatModel) -> Graph:
    luna = Proposer("openai:gpt-6-luna", name="luna", temperature=None, samples=2, system="Be terse.")
    policy = LayerPolicy(quorum=2, timeout=60.0, grace=5, retries=2, max_concurrency=None)
    prompt = Prompt(AGGREGATE_AND_SYNTHESIZE, envelope="sealed", shuffle=True)
    assert_type(create_layer([luna, model], layer=1, policy=policy, prompt=prompt), Graph)
    create_moa([luna, model, "together:x"], model, layers=3, policy=policy)
    create_moa([[luna], Layer([model, luna], policy=policy)], [model, "openai:x"], prompt="Combine:")
    create_moa(Layer([luna]), "openai:x", stream_proposers=True, name="mine")
    create_moa([luna], model, policy={"quorum": 2})  # type: ignore[arg-type]
    Prompt(envelope="open")  # type: ignore[arg-type]
    return assert_type(MoAConfig.preset("moa-lite").build(name="lite"), Graph)


def embed(moa: Graph) -> StateGraph[MoAState]:
    return StateGraph(MoAState).add_node("moa", moa).add_edge(START, "moa")


def read(state: MoAState) -> str:
    proposals = assert_type(state["proposals"], list[Proposal])
    assert_type(proposals[0]["layer"], int)
    assert_type(proposals[0]["content"], str)
    receipt: Receipt = state["messages"][-1].response_metadata["moa"]
    assert_type(receipt["calls"], int)
    assert_type(receipt["layers"][0]["proposals"][0]["error"], str | None)
    return assert_type(state["synthesis"], str)


def events(told: Iterator[Event]) -> None:
    for event in told:
        if event["type"] == "moa.done":
            assert_type(event["receipt"], Receipt)
        elif event["type"] == "moa.proposer_cut":
            assert_type(event, ProposerDone)
        elif event["type"] == "moa.final_started":
            assert_type(event["model"], str)


def failed(error: MoAError) -> list[Proposal]:
    if isinstance(error, QuorumError | FinalError):
        return assert_type(error.proposals, list[Proposal])
    assert isinstance(error, MoAConfigError)
    return []


async def chat(model: BaseChatModel) -> AsyncIterator[str]:
    mixture = ChatMoA(config="moa-lite")
    own = ChatMoA(proposers=[model], aggregator=model, layers=2)
    assert_type(await own.ainvoke("Why?"), AIMessage)
    assert_type(mixture.bind_tools([read]).invoke("Why?"), AIMessage)
    async for chunk in own.astream("Why?"):
        yield chunk.text
