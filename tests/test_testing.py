import asyncio
import copy
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall
from langchain_core.runnables import RunnableBinding
from langchain_tests.unit_tests import ChatModelUnitTests
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, ValidationError

from moa_graph import testing
from moa_graph.testing import (
    Answer,
    ScriptedChatModel,
    bad_request,
    connection_lost,
    rate_limited,
    server_error,
    timed_out,
    unauthorized,
)

TEXTS = [
    "",
    "one",
    "one two",
    "  led by space",
    "trailing \n",
    "two\n\nparagraphs  here",
    "   ",
    "naïve 東京 \t x",
]
ADD = ToolCall(name="add", args={"a": 1, "b": 2}, id="call_1", type="tool_call")
SEARCH = ToolCall(name="search", args={"query": "moa"}, id="call_2", type="tool_call")


class TestStandard(ChatModelUnitTests):
    """LangChain's own suite for chat models holds."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ScriptedChatModel


def joined(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return chunks[0] + chunks[1:] if len(chunks) > 1 else chunks[0]  # type: ignore[return-value]


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


# What it says


def test_answers_in_order() -> None:
    """One answer a call, in order, the last one for ever, whether it was text, a message or an Answer."""
    model = ScriptedChatModel(answers=["a", AIMessage("b"), Answer("c")])
    assert [model.invoke("hi").text for _ in range(5)] == ["a", "b", "c", "c", "c"]


def test_default_answer() -> None:
    """A model with no script says something, and is named as scripted."""
    answer = ScriptedChatModel().invoke("hi")
    assert answer.text == "ok"
    assert answer.response_metadata == {"model_name": "scripted", "finish_reason": "stop"}


def test_answer_from_prompt() -> None:
    """A function makes the answer from the messages, and may answer with a failure."""

    def say(messages: list[BaseMessage]) -> str | Exception:
        return ValueError("no") if messages[-1].text == "fail" else f"heard {messages[-1].text}"

    model = ScriptedChatModel(answers=say)
    assert model.invoke("you").text == "heard you"
    with pytest.raises(ValueError, match="no"):
        model.invoke("fail")


def test_function_answers_nonsense() -> None:
    """A function that answers with something that is no answer is told what an answer is."""
    with pytest.raises(TypeError, match="not NoneType"):
        ScriptedChatModel(answers=lambda messages: None).invoke("hi")


@pytest.mark.parametrize("answers", [[], "text", [3], iter(["a"])])
def test_bad_answers(answers: Any) -> None:
    """Answers that could not be given are refused when the model is made."""
    with pytest.raises(ValidationError, match="answer"):
        ScriptedChatModel(answers=answers)


@pytest.mark.parametrize(
    "fields",
    [{"error_after": 1}, {"error": ValueError(), "error_after": 3}, {"stall_after": 3}, {"stall_after": -1}],
)
def test_bad_answer(fields: dict[str, Any]) -> None:
    """An Answer that could never fail or hang where it says is refused when it is made."""
    with pytest.raises(ValueError, match="_after"):
        Answer("two words", **fields)


def test_same_answer_has_fresh_ids() -> None:
    """A repeated answer is a new message each time, and the scripted message stays as it was."""
    message = AIMessage("again")
    model = ScriptedChatModel(answers=[message])
    assert model.invoke("hi").id != model.invoke("hi").id
    assert (message.id, message.usage_metadata, message.response_metadata) == (None, None, {})


def test_usage_counts_words() -> None:
    """Usage is the words of the prompt and of the answer, unless it was scripted."""
    assert ScriptedChatModel(answers=["a b c"]).invoke([("system", "be brief"), ("user", "hi")]).usage_metadata == {
        "input_tokens": 3,
        "output_tokens": 3,
        "total_tokens": 6,
    }
    usage = {"input_tokens": 7, "output_tokens": 8, "total_tokens": 15}
    assert ScriptedChatModel(answers=[Answer("a", usage=usage)]).invoke("hi").usage_metadata == usage


def test_metadata() -> None:
    """The model's name and the finish reason are reported, and a scripted message's own metadata wins."""
    message = AIMessage("a", response_metadata={"model_name": "other", "extra": 1})
    model = ScriptedChatModel(answers=[Answer("a", finish_reason="length"), message], model_name="luna-1")
    assert model.invoke("hi").response_metadata == {"model_name": "luna-1", "finish_reason": "length"}
    assert model.invoke("hi").response_metadata == {
        "model_name": "other",
        "finish_reason": "stop",
        "extra": 1,
    }


# Streaming


@pytest.mark.parametrize("text", TEXTS)
async def test_stream_is_the_answer(text: str) -> None:
    """Sync and async streams come a word at a time, and joined are exactly the answer."""
    model = ScriptedChatModel(answers=[text])
    for chunks in (list(model.stream("hi")), [chunk async for chunk in model.astream("hi")]):
        assert "".join(chunk.text for chunk in chunks) == text
        assert len(chunks) - 1 == max(len(text.split()), bool(text))


async def test_stream_equals_invoke() -> None:
    """Whatever way a call is made, the message is the same: content, usage, metadata and tool calls."""
    model = ScriptedChatModel(answers=[Answer("so be it", reasoning="let me think", tool_calls=[ADD, SEARCH])])
    whole = model.invoke("hi")
    for other in (
        await model.ainvoke("hi"),
        joined(list(model.stream("hi"))),
        joined([chunk async for chunk in model.astream("hi")]),
    ):
        assert other.text == whole.text == "so be it"
        assert other.usage_metadata == whole.usage_metadata is not None
        assert other.response_metadata == whole.response_metadata
        assert other.tool_calls == whole.tool_calls == [ADD, SEARCH]
        assert [block["type"] for block in other.content_blocks][:2] == ["reasoning", "text"]


def test_last_chunk() -> None:
    """Usage and metadata come once, on the last chunk."""
    *first, last = ScriptedChatModel(answers=["a b"]).stream("hi")
    assert last.usage_metadata is not None
    assert last.response_metadata == {"model_name": "scripted", "finish_reason": "stop"}
    assert last.chunk_position == "last"
    assert all(chunk.usage_metadata is None and not chunk.response_metadata for chunk in first)


def test_reasoning_is_no_text() -> None:
    """Reasoning is a content block of its own and never part of the text."""
    model = ScriptedChatModel(answers=[Answer("Paris", reasoning="a capital")])
    assert model.invoke("hi").text == "Paris"
    assert [chunk.text for chunk in model.stream("hi")] == ["", "Paris", ""]


def test_other_blocks_stream_whole() -> None:
    """A scripted message with a provider's blocks streams its text by the word and any other block whole."""
    content: list[str | dict[str, Any]] = [
        {"type": "thinking", "thinking": "a b", "signature": "s"},
        {"type": "text", "text": "c d"},
    ]
    model = ScriptedChatModel(answers=[AIMessage(content, id="mine", additional_kwargs={"k": "v"})])
    chunks = list(model.stream("hi"))
    assert [chunk.text for chunk in chunks] == ["", "c", " d", ""]
    whole = joined(chunks)
    assert [{k: v for k, v in block.items() if k != "index"} for block in whole.content] == content
    assert (whole.id, whole.additional_kwargs) == ("mine", {"k": "v"})
    assert model.invoke("hi").content == content


async def test_streams_out_of_a_graph() -> None:
    """Inside a LangGraph node, a plain call streams its words and its usage to whoever streams the graph."""
    model = ScriptedChatModel(answers=["a b c"])

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    stream = builder.compile().astream({"messages": [("user", "hi")]}, stream_mode="messages")
    chunks = [chunk async for chunk, _ in stream]
    assert [chunk.text for chunk in chunks] == ["a", " b", " c", ""]
    assert chunks[-1].usage_metadata["output_tokens"] == 3
    assert model.calls == 1


# Tools


def test_bind_tools() -> None:
    """Tools are bound in OpenAI's format, with the choice only if there is one."""

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = ScriptedChatModel(answers=[Answer(tool_calls=[ADD])])
    bound = model.bind_tools([add])
    assert isinstance(bound, RunnableBinding)
    assert [tool["function"]["name"] for tool in bound.kwargs["tools"]] == ["add"]
    assert "tool_choice" not in bound.kwargs
    assert bound.invoke("hi").tool_calls == [ADD]
    assert model.bind_tools([add], tool_choice="any").kwargs["tool_choice"] == "any"  # type: ignore[attr-defined]


def test_structured_output() -> None:
    """A scripted tool call comes out of `with_structured_output` as the object."""

    class City(BaseModel):
        name: str

    call = ToolCall(name="City", args={"name": "Paris"}, id="1", type="tool_call")
    model = ScriptedChatModel(answers=[Answer(tool_calls=[call])])
    assert model.with_structured_output(City).invoke("hi") == City(name="Paris")


# Time


def test_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latency comes before the first token, the rest between tokens; an answer's own times come first."""
    model = ScriptedChatModel(answers=["a b c", Answer("a b", latency=0, per_token=3)], latency=2, per_token=0.5)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert [(chunk.text, sum(pauses)) for chunk in model.stream("hi")][:3] == [("a", 2), (" b", 2.5), (" c", 3)]
    pauses.clear()
    model.invoke("hi")
    assert pauses == [0, 3]


def test_latency_is_real() -> None:
    """A call takes at least the time it is scripted to take."""
    start = time.perf_counter()
    ScriptedChatModel(answers=["a b"], latency=0.02, per_token=0.02).invoke("hi")
    assert time.perf_counter() - start >= 0.04


async def test_async_calls_overlap() -> None:
    """Async calls wait on the loop, not on each other, and the peak is counted."""
    model = ScriptedChatModel(latency=0.2)
    await asyncio.gather(*(model.ainvoke("hi") for _ in range(20)))
    assert (model.calls, model.in_flight, model.max_in_flight) == (20, 0, 20)


# Failures


FAILURES = [
    (rate_limited, openai.RateLimitError, 429),
    (server_error, openai.InternalServerError, 500),
    (lambda: server_error(503), openai.InternalServerError, 503),
    (bad_request, openai.BadRequestError, 400),
    (unauthorized, openai.AuthenticationError, 401),
    (timed_out, openai.APITimeoutError, None),
    (connection_lost, openai.APIConnectionError, None),
]


@pytest.mark.parametrize(("fail", "kind", "status"), FAILURES)
async def test_failures(fail: Any, kind: type[Exception], status: int | None) -> None:
    """Each failure is the openai exception of its kind, raised in all four ways to call a model."""
    error = fail()
    assert type(error) is kind
    assert getattr(error, "status_code", None) == status
    model = ScriptedChatModel(answers=[error])
    for call in (lambda: model.invoke("hi"), lambda: list(model.stream("hi"))):
        with pytest.raises(kind) as caught:
            call()
        assert caught.value is error
    with pytest.raises(kind):
        await model.ainvoke("hi")
    with pytest.raises(kind):
        [chunk async for chunk in model.astream("hi")]
    assert (model.calls, model.in_flight, model.cancelled) == (4, 0, 0)


@pytest.mark.parametrize(
    ("given", "header"), [(None, None), (2, "2"), (0.5, "0.5"), ("Wed, 21 Oct 2026 07:28:00 GMT",) * 2]
)
def test_retry_after(given: float | str | None, header: str | None) -> None:
    """Retry-After is sent as given, in seconds or as a date, and only when given."""
    assert rate_limited(given).response.headers.get("retry-after") == header


def test_server_error_status() -> None:
    """A status that is no server error is refused."""
    with pytest.raises(ValueError, match="404"):
        server_error(404)


def test_failure_then_answer() -> None:
    """A script of failures and answers reads as what a retry would see."""
    model = ScriptedChatModel(answers=[rate_limited(), connection_lost(), "at last"])
    answer = model.with_retry(retry_if_exception_type=(openai.APIError,), wait_exponential_jitter=False).invoke("hi")
    assert answer.text == "at last"
    assert model.calls == 3


def test_error_mid_stream() -> None:
    """`error_after` lets so many words through and then fails; without streaming it just fails."""
    model = ScriptedChatModel(answers=[Answer("a b c", error=connection_lost(), error_after=2)])
    words: list[str] = []
    with pytest.raises(openai.APIConnectionError):
        words.extend(chunk.text for chunk in model.stream("hi"))
    assert words == ["a", " b"]
    with pytest.raises(openai.APIConnectionError):
        model.invoke("hi")


def test_repeated_error_does_not_grow() -> None:
    """An error raised again starts a traceback of its own."""
    error = ValueError("again")
    model = ScriptedChatModel(answers=[error])

    def depth() -> int:
        with pytest.raises(ValueError, match="again") as caught:
            model.invoke("hi")
        return len(caught.traceback)

    assert depth() == depth() == depth()


# Hanging and cancelling


async def test_async_stall_is_cancelled() -> None:
    """An async call hangs, released or not, until it is cancelled, and that is counted."""
    model = ScriptedChatModel(answers=[Answer("a", stall_after=0)])
    model.release()
    task = asyncio.create_task(model.ainvoke("hi"))
    await until(lambda: model.in_flight)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (model.calls, model.in_flight, model.cancelled) == (1, 0, 1)


async def test_async_stream_stalls_midway() -> None:
    """An async stream gives its first words, then hangs, and is cancelled like a call."""
    model = ScriptedChatModel(answers=[Answer("a b c", stall_after=2)])
    words: list[str] = []

    async def read() -> None:
        async for chunk in model.astream("hi"):
            words.append(chunk.text)  # noqa: PERF401

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.1)
    assert words == ["a", " b"]
    assert (model.in_flight, model.cancelled) == (0, 1)


async def test_latency_is_cancelled() -> None:
    """A slow call that is cancelled while it waits is counted as cancelled, and a finished one is not."""
    model = ScriptedChatModel(answers=["quick", Answer("slow", latency=30)])
    await model.ainvoke("hi")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(model.ainvoke("hi"), 0.05)
    assert (model.calls, model.in_flight, model.cancelled) == (2, 0, 1)


def test_stream_closed_early() -> None:
    """A stream closed before its end is counted as given up, and one left after its last chunk is not."""
    model = ScriptedChatModel(answers=["a b"])
    stream = model._stream([HumanMessage("hi")])
    next(stream)
    assert model.in_flight == 1
    stream.close()  # type: ignore[attr-defined]
    assert (model.in_flight, model.cancelled) == (0, 1)
    stream = model._stream([HumanMessage("hi")])
    assert [next(stream).text for _ in range(3)] == ["a", " b", ""]
    stream.close()  # type: ignore[attr-defined]
    assert model.cancelled == 1


def test_sync_stall_is_released() -> None:
    """A stalled sync call goes on to its whole answer once released from another thread."""
    model = ScriptedChatModel(answers=[Answer("a b", stall_after=1)])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(model.invoke, "hi")
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.05)
        assert model.in_flight == 1
        model.release()
        assert answer.result(timeout=60).text == "a b"


def test_sync_stall_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled sync call that nobody releases gives up by itself."""
    monkeypatch.setattr(testing, "SYNC_STALL_LIMIT", 0.01)
    with pytest.raises(TimeoutError, match="not released"):
        ScriptedChatModel(answers=[Answer(stall_after=0)]).invoke("hi")


# The record


def test_prompts() -> None:
    """Every call's messages are recorded in order, and what is handed out is not the record itself."""
    model = ScriptedChatModel(answers=["a", "b"])
    model.invoke("first")
    list(model.stream([("system", "s"), ("user", "second")]))
    assert [[message.text for message in prompt] for prompt in model.prompts] == [["first"], ["s", "second"]]
    model.prompts.clear()
    assert model.calls == 2


def test_copies_share_the_record() -> None:
    """Whatever copy of the model is asked, the user's object knows, and the script goes on where it was."""
    model = ScriptedChatModel(answers=["a", "b", "c", "d", "e", connection_lost()])
    copies = [
        model.bind(stop=["x"]),
        model.bind_tools([]),
        model.model_copy(update={"name": "luna"}),
        model.model_copy(deep=True),
        copy.deepcopy(model.with_config(tags=["t"])),
    ]
    assert [each.invoke("hi").text for each in copies] == ["a", "b", "c", "d", "e"]
    assert model.calls == 5


def test_models_do_not_share() -> None:
    """Two models made separately have separate records."""
    one, two = ScriptedChatModel(), ScriptedChatModel()
    one.invoke("hi")
    assert (one.calls, two.calls) == (1, 0)


def test_threads() -> None:
    """Many threads at once lose no call, give each answer once, and keep prompt i beside answer i."""
    model = ScriptedChatModel(answers=[str(i) for i in range(200)])
    asked: dict[str, str] = {}
    start = threading.Barrier(8)

    def ask(thread: int) -> None:
        start.wait()
        for i in range(25):
            question = f"{thread}-{i}"
            asked[question] = model.invoke(question).text

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert (model.calls, model.in_flight) == (200, 0)
    assert 1 <= model.max_in_flight <= 8
    assert [asked[prompt[0].text] for prompt in model.prompts] == [str(i) for i in range(200)]


def test_several_event_loops() -> None:
    """One model serves several event loops, one after the other, and sync calls between."""
    model = ScriptedChatModel(answers=["a", "b", "c"])
    assert asyncio.run(model.ainvoke("hi")).text == "a"
    assert model.invoke("hi").text == "b"
    assert asyncio.run(model.ainvoke("hi")).text == "c"


def test_prompts_are_not_shown() -> None:
    """The model's repr and parameters, which tracers log, hold nothing of what it was asked."""
    model = ScriptedChatModel()
    model.invoke("a secret")
    assert "a secret" not in f"{model!r} {model.asdict()}"
    assert model.asdict() == {"model_name": "scripted", "_type": "scripted"}


# The module


def test_import_is_light() -> None:
    """Importing the module does not import openai."""
    code = "import sys, moa_graph.testing; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all() -> None:
    """`__all__` is sorted, and names what is there and documented."""
    assert testing.__all__ == sorted(testing.__all__)
    assert all(getattr(testing, name).__doc__ for name in testing.__all__)
