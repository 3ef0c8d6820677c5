"""A person between the layers: proposals are read, edited, dropped and added, and the run goes on with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from moa_graph import LayerPolicy, MoAConfigError, MoAState, QuorumError, create_moa
from moa_graph.review import aedit, edit, layer_under_review
from moa_graph.testing import ScriptedChatModel, bad_request

ASK = {"messages": [("user", "Why?")]}
THREAD = {"configurable": {"thread_id": "1"}}
SAVERS = pytest.mark.parametrize("saver", ["memory", "memory, sync", "sqlite", "sqlite, sync"])


def model(name: str, *answers: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers) or [f"It is {name}."], model_name=name)


class Reviewed:
    """A mixture on a thread that stops after its first layer, sync or async."""

    def __init__(self, checkpointer: Any, *, sync: bool = False, layers: int = 3, **options: Any) -> None:
        self.sync = sync
        self.a, self.b, self.last = model("a"), model("b"), model("c")
        self.graph = create_moa(
            [self.a, self.b], self.last, layers, prompt="Merge:", checkpointer=checkpointer, **options
        )

    async def _do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.sync:
            return await asyncio.to_thread(getattr(self.graph, name), *args, **kwargs)
        return await getattr(self.graph, f"a{name}")(*args, **kwargs)

    async def run(self, asked: Any = None, config: Any = THREAD, after: Any = ("layer_1",)) -> Any:
        return await self._do("invoke", asked, config, interrupt_after=list(after))

    async def proposals(self, config: Any = THREAD) -> Any:
        return (await self._do("get_state", config)).values["proposals"]

    async def edit(self, proposals: Any, config: Any = THREAD) -> Any:
        if self.sync:
            return await asyncio.to_thread(edit, self.graph, config, proposals)
        return await aedit(self.graph, config, proposals)

    async def update(self, values: Any, node: str | None = None, config: Any = THREAD) -> Any:
        return await self._do("update_state", config, values, node)

    @property
    def read(self) -> str:
        """What the proposers of the second layer read last."""
        return str(self.a.prompts[-1][0].text)


@asynccontextmanager
async def reviewed(saver: str, directory: Path) -> AsyncIterator[Reviewed]:
    """Asked, and stopped after the first layer."""
    where, sync = str(directory / "checkpoints.sqlite"), "sync" in saver
    if saver == "sqlite":
        async with AsyncSqliteSaver.from_conn_string(where) as checkpointer:
            made = Reviewed(checkpointer)
            await made.run(ASK)
            yield made
    elif saver == "sqlite, sync":
        with SqliteSaver.from_conn_string(where) as checkpointer:
            made = Reviewed(checkpointer, sync=True)
            await made.run(ASK)
            yield made
    else:
        made = Reviewed(InMemorySaver(), sync=sync)
        await made.run(ASK)
        yield made


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Reviewed]:
    async with reviewed("memory", tmp_path) as stopped:
        yield stopped


def told(proposals: Any, layer: int = 1) -> list[tuple[str, str, str]]:
    return [(p["proposer"], p["status"], p["content"]) for p in proposals if p["layer"] == layer]


# Stop, read, go on


@SAVERS
async def test_a_run_stops_after_a_layer_and_goes_on(saver: str, tmp_path: Path) -> None:
    """Stopped after a layer, its proposals can be read; resumed as it stands, nothing is asked twice."""
    async with reviewed(saver, tmp_path) as made:
        assert told(await made.proposals()) == [("a", "ok", "It is a."), ("b", "ok", "It is b.")]
        assert made.last.calls == 0
        out = await made.run()
    assert (made.a.calls, made.b.calls, made.last.calls) == (2, 2, 1)
    assert out["messages"][-1].text == "It is c."
    receipt = out["messages"][-1].response_metadata["moa"]
    assert [call["resumed"] for layer in receipt["layers"] for call in layer["proposals"]] == [True] * 2 + [False] * 2


@SAVERS
async def test_an_edited_proposal_is_what_the_next_layer_reads(saver: str, tmp_path: Path) -> None:
    """Read, changed and written back, the new text is in the second layer's references, and the old one is not."""
    async with reviewed(saver, tmp_path) as made:
        proposals = await made.proposals()
        proposals[0]["content"] = "  It is Rayleigh.\n"
        await made.edit(proposals)
        out = await made.run()
    assert made.read == "Merge:\n1. It is Rayleigh.\n2. It is b."
    first, second = [p for p in out["proposals"] if p["layer"] == 1]
    assert (first["content"], first["edited"], "edited" in second) == ("It is Rayleigh.", True, False)
    assert first["usage"]["output_tokens"] == 3  # what the model's own answer used


@SAVERS
async def test_a_proposal_left_out_is_dropped(saver: str, tmp_path: Path) -> None:
    """Not in the list any more, it is no reference; that it was asked and paid for stays told."""
    async with reviewed(saver, tmp_path) as made:
        await made.edit((await made.proposals())[1:])
        out = await made.run()
    assert made.read == "Merge:\n1. It is b."
    assert told(out["proposals"]) == [("a", "cut", ""), ("b", "ok", "It is b.")]
    assert out["proposals"][0]["error"] == "dropped by a person"
    assert out["messages"][-1].response_metadata["moa"]["layers"][0]["answered"] == 1


@SAVERS
async def test_a_proposal_is_added(saver: str, tmp_path: Path) -> None:
    """A response of one's own stands behind the others, under one's own name; no call is counted for it."""
    async with reviewed(saver, tmp_path) as made:
        mine = [{"content": "Ask a physicist."}, {"content": "Look up.", "proposer": "Ada"}]
        await made.edit([*(await made.proposals()), *mine])
        out = await made.run()
    assert made.read.endswith("\n2. It is b.\n3. Ask a physicist.\n4. Look up.")
    assert told(out["proposals"])[2:] == [("person", "ok", "Ask a physicist."), ("Ada", "ok", "Look up.")]
    assert out["messages"][-1].response_metadata["moa"]["calls"] == 3


@SAVERS
async def test_langgraphs_own_update_does_the_same(saver: str, tmp_path: Path) -> None:
    """`update_state` with one edited proposal leaves the others, and the synthesis is built anew."""
    async with reviewed(saver, tmp_path) as made:
        await made.update({"proposals": [{"layer": 1, "slot": 2, "content": "Mie."}]}, "layer_1")
        await made.run()
    assert made.read == "Merge:\n1. It is a.\n2. Mie."


@SAVERS
async def test_the_past_is_forked(saver: str, tmp_path: Path) -> None:
    """After the end, an edit at the checkpoint behind layer 1 runs the rest once more; the finished run is kept."""
    async with reviewed(saver, tmp_path) as made:
        await made.run()
        if made.sync:
            history = await asyncio.to_thread(lambda: list(made.graph.get_state_history(THREAD)))
        else:
            history = [state async for state in made.graph.aget_state_history(THREAD)]
        [then] = [state for state in history if state.next == ("layer_2",)]
        proposals = then.values["proposals"]
        proposals[0]["content"] = "It is Rayleigh."
        fork = await made.edit(proposals, then.config)
        assert await made.proposals(fork) != await made.proposals(then.config)
        out = await made.run(None, fork)
        done = await made.proposals(history[0].config)
    assert made.read == "Merge:\n1. It is Rayleigh.\n2. It is b."
    assert told(out["proposals"], 2) == [("a", "ok", "It is a."), ("b", "ok", "It is b.")]
    assert (made.a.calls, made.last.calls) == (3, 2)
    assert told(done)[0] == ("a", "ok", "It is a.")


async def test_a_fork_without_an_edit_asks_the_later_layers_again() -> None:
    """From a checkpoint in the past, LangGraph runs what came after it anew: layer 1 is not asked."""
    made = Reviewed(InMemorySaver())
    await made.run(ASK, after=())
    [then] = [state async for state in made.graph.aget_state_history(THREAD) if state.next == ("layer_2",)]
    await made.run(None, then.config, after=())
    assert (made.a.calls, made.last.calls) == (3, 2)


# What else may be said


async def test_an_edit_of_an_edit(made: Reviewed) -> None:
    """A layer may be edited again and again before the run goes on; a dropped proposal comes back with its text."""
    whole = await made.proposals()
    await made.edit(whole[:1])
    await made.edit([*(await made.proposals())[:1], whole[1]])
    await made.run()
    assert made.read == "Merge:\n1. It is a.\n2. It is b."


async def test_each_layer_may_be_reviewed() -> None:
    """Stopped after every layer, the last one's edit is what the final model reads."""
    made = Reviewed(InMemorySaver())
    await made.run(ASK)
    await made.run(None, after=["layer_2"])
    assert layer_under_review(await made.graph.aget_state(THREAD)) == 2
    await made.edit([{"content": "Rayleigh.", "slot": 1}, {"content": "Mie."}])
    out = await made.run()
    assert made.last.prompts[0][0].text == "Merge:\n1. Rayleigh.\n2. Mie."
    assert told(out["proposals"], 1) == [("a", "ok", "It is a."), ("b", "ok", "It is b.")]


async def test_a_person_answers_for_one_that_failed() -> None:
    """Text for a proposal that failed makes it one that answered."""
    made = Reviewed(InMemorySaver())
    made.b.answers = [bad_request()]
    await made.run(ASK)
    proposals = await made.proposals()
    assert proposals[1]["status"] == "error"
    proposals[1]["content"] = "Mie."
    await made.edit(proposals)
    assert "error" not in (await made.proposals())[1]
    await made.run()
    assert made.read == "Merge:\n1. It is a.\n2. Mie."


@pytest.mark.parametrize("change", [{"content": " "}, {"status": "cut"}])
async def test_emptied_or_cut_is_dropped(made: Reviewed, change: dict[str, str]) -> None:
    """Where a whole list is edited, as in Studio, an emptied text or another status drops the proposal."""
    proposals = await made.proposals()
    proposals[0] |= change
    await made.update({"proposals": proposals})
    await made.run()
    assert made.read == "Merge:\n1. It is b."


async def test_the_whole_state_is_written_back(made: Reviewed) -> None:
    """Values read, changed and written back with the old synthesis in them, as Studio does: it is built anew."""
    values = dict((await made.graph.aget_state(THREAD)).values)
    values["proposals"][0]["content"] = "Rayleigh."
    await made.update(values, "layer_1")
    await made.run()
    assert made.read == "Merge:\n1. Rayleigh.\n2. It is b."


async def test_a_synthesis_of_ones_own_goes_before(made: Reviewed) -> None:
    """A person may write the very text that the next layer reads."""
    await made.update({"synthesis": "Say Rayleigh."}, "layer_1")
    await made.run()
    assert made.read == "Say Rayleigh."


async def test_nothing_changed_changes_nothing(made: Reviewed) -> None:
    """Written back as they were read, the proposals are nobody's edit."""
    before = await made.graph.aget_state(THREAD)
    await made.edit(before.values["proposals"])
    after = await made.graph.aget_state(THREAD)
    assert (after.values, after.next) == (before.values, before.next)


async def test_it_is_compiled_in(made: Reviewed) -> None:
    """`copy(update={"interrupt_after_nodes": ...})` makes a mixture that stops there without being told each time."""
    graph = made.graph.copy(update={"interrupt_after_nodes": ["layer_1"]})
    thread = {"configurable": {"thread_id": "2"}}
    await graph.ainvoke(ASK, thread)
    await aedit(graph, thread, [{"content": "Rayleigh."}])
    out = await graph.ainvoke(None, thread)
    assert made.read == "Merge:\n1. Rayleigh."
    assert out["messages"][-1].text == "It is c."


async def test_within_a_graph() -> None:
    """A mixture that stops after a layer stops the graph around it, which is told the edit and resumed."""
    made = Reviewed(None)
    node = made.graph.copy(update={"interrupt_after_nodes": ["layer_1"]})
    parent = StateGraph(MessagesState).add_node("moa", node).add_edge(START, "moa").compile(InMemorySaver())
    await parent.ainvoke(ASK, THREAD)
    [task] = (await parent.aget_state(THREAD, subgraphs=True)).tasks
    await aedit(parent, task.state.config, task.state.values["proposals"][:1])
    out = await parent.ainvoke(None, THREAD)
    assert made.read == "Merge:\n1. It is a."
    assert [message.text for message in out["messages"]] == ["Why?", "It is c."]


# What is refused


WRONG: list[tuple[Any, str]] = [
    ("text", "proposals: 'text': a list of proposals is needed"),
    (None, "proposals: nothing: a list"),
    (["Rayleigh."], "proposal 1: 'Rayleigh.': a mapping with"),
    ([{"layer": 1, "slot": 1}, 3], "proposal 2: 3: a mapping with"),
    ([{"layer": 1, "slot": 1, "text": "x"}], "proposal 1: unknown key text; one of attempts,"),
    ([{"layer": 1, "slot": 1, "content": 3}], "proposal 1: content is 3: a text is needed"),
    ([{"layer": 1, "slot": 1, "content": None}], "proposal 1: content is nothing: a text"),
    ([{"layer": 1, "slot": 1, "status": "fine"}], "proposal 1: status is 'fine': one of ok, error, timeout, cut"),
    ([{"layer": 1, "slot": 0, "content": "x"}], "proposal 1: slot is 0: a whole number of at least 1"),
    ([{"layer": 1, "slot": True, "content": "x"}], "proposal 1: slot is True: a whole number is needed"),
    ([{"layer": 1, "slot": "1", "content": "x"}], "proposal 1: slot is '1': a whole number is needed"),
    ([{"layer": 2, "slot": 1, "content": "x"}], "proposal 1: layer is 2: one that has answered is needed, 1 to 1"),
    ([{"layer": 1, "slot": 1, "usage": 5}], "proposal 1: usage is 5: a mapping is needed"),
]


@pytest.mark.parametrize("how", ["edit", "update_state"])
@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message for _, message in WRONG])
async def test_a_wrong_shape_is_refused(made: Reviewed, how: str, given: Any, message: str) -> None:
    """The error names the proposal, the key and what would be valid; nothing is written, and the thread goes on."""
    before = (await made.graph.aget_state(THREAD)).config
    with pytest.raises(MoAConfigError, match=message):
        await (made.edit(given) if how == "edit" else made.update({"proposals": given}, "layer_1"))
    assert (await made.graph.aget_state(THREAD)).config == before
    await made.run()
    assert made.read == "Merge:\n1. It is a.\n2. It is b."


async def test_a_slot_that_is_not_there(made: Reviewed) -> None:
    """`edit` gives a new proposal its slot; LangGraph's own update may name a new one, with its content."""
    with pytest.raises(MoAConfigError, match="proposal 2: slot is 9: one of 1, 2, or none, which adds a proposal"):
        await made.edit([{"slot": 1, "content": "x"}, {"slot": 9, "content": "x"}])
    with pytest.raises(MoAConfigError, match="proposal 1: this key is missing: content"):
        await made.update({"proposals": [{"layer": 1, "slot": 9}]}, "layer_1")
    await made.update({"proposals": [{"layer": 1, "slot": 9, "content": "x"}]}, "layer_1")
    assert [proposal["slot"] for proposal in await made.proposals()] == [1, 2, 9]


@pytest.mark.parametrize("given", [{"slot": 1}, {"layer": 1}, {}])
async def test_which_proposal_is_meant_must_be_said(made: Reviewed, given: dict[str, int]) -> None:
    """LangGraph's own update needs the layer and the slot."""
    with pytest.raises(MoAConfigError, match=r"proposal 1: this key is missing: (layer|slot)"):
        await made.update({"proposals": [{**given, "content": "x"}]}, "layer_1")


@pytest.mark.parametrize(("quorum", "left"), [(1, 0), (2, 1)])
async def test_too_few_left_is_an_error(quorum: int, left: int) -> None:
    """Dropping proposals below the quorum is QuorumError at once; nothing is written."""
    made = Reviewed(InMemorySaver(), policy=LayerPolicy(quorum=quorum))
    await made.run(ASK)
    with pytest.raises(QuorumError, match=f"layer 1: {left} of 2 .* {quorum} must; .*dropped by a person"):
        await made.edit((await made.proposals())[:left])
    out = await made.run()
    assert len(told(out["proposals"])) == 2


async def test_no_layer_has_ended() -> None:
    """Before the first layer and after the end there is nothing to review: the error says where the thread stands."""
    made = Reviewed(InMemorySaver())
    with pytest.raises(MoAConfigError, match=r"no layer has just ended: .* at its start; stop a run with"):
        await made.edit([])
    await made.run(ASK, after=())
    with pytest.raises(MoAConfigError, match=r"at its end; .*get_state_history"):
        await made.edit([])


async def test_the_node_must_be_the_layers(made: Reviewed) -> None:
    """A proposal of layer 1 written as another layer's node is refused: layer 2 would be skipped."""
    with pytest.raises(MoAConfigError, match="of layer 1 are edited as_node='layer_1', not 'layer_2'"):
        await made.update({"proposals": [{"layer": 1, "slot": 1, "content": "x"}]}, "layer_2")


async def test_layers_are_changed_one_at_a_time() -> None:
    """A change in two layers is refused: the later one answered the earlier one's former text."""
    made = Reviewed(InMemorySaver())
    await made.run(ASK, after=["layer_2"])
    both = [{**p, "content": "x"} for p in await made.proposals()]
    with pytest.raises(MoAConfigError, match="go back to layer 1"):
        await made.edit(both)


async def test_an_earlier_layer_is_gone_back_to() -> None:
    """Without `as_node`, an edit of layer 1 after layer 2 goes on with layer 2, asked anew."""
    made = Reviewed(InMemorySaver())
    await made.run(ASK, after=["layer_2"])
    await made.update({"proposals": [{"layer": 1, "slot": 1, "content": "Rayleigh."}]})
    assert (await made.graph.aget_state(THREAD)).next == ("layer_2",)
    await made.run(after=())
    assert made.read == "Merge:\n1. Rayleigh.\n2. It is b."
    assert made.a.calls == 3


async def test_a_graphs_own_proposals_are_its_own() -> None:
    """A graph around the mixture that keeps proposals in its own state writes them as it likes."""
    node = create_moa([model("a")], model("c"), 2)
    parent = StateGraph(MoAState).add_node("moa", node).add_edge(START, "moa").compile(InMemorySaver())
    await parent.ainvoke(ASK, THREAD)
    await parent.aupdate_state(THREAD, {"proposals": None}, as_node="moa")
    assert (await parent.aget_state(THREAD)).values["proposals"] == []
