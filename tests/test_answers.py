"""What a model gave, as a message, and its text."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from moa_graph import MoAError
from moa_graph.answers import text_of
from moa_graph.models import resolve


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("said", "said"),
        (AIMessage("said"), "said"),
        (HumanMessage("said"), "said"),
        ({"messages": [HumanMessage("asked"), AIMessage("said")]}, "said"),
    ],
)
async def test_every_kind_of_answer_becomes_a_message(output: Any, text: str) -> None:
    """A text, a message of any role and a messages state are answers."""
    answer = await resolve(RunnableLambda(lambda _: output), where="here").ask([HumanMessage("asked")], {})
    assert isinstance(answer, AIMessage)
    assert answer.text == text


@pytest.mark.parametrize("output", [42, None, {"messages": []}, {"text": "x"}, []])
async def test_what_is_no_answer_is_an_error(output: Any) -> None:
    """What else comes back is named by who gave it and its type."""
    with pytest.raises(MoAError, match=rf"odd gave {type(output).__name__} where"):
        await resolve(RunnableLambda(lambda _: output, name="odd"), where="here").ask([HumanMessage("asked")], {})


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (AIMessage("  said\n"), "said"),
        (AIMessage("<think>hm</think>said"), "said"),
        (AIMessage("\n<thinking>\nhm\n</thinking>\n\nsaid"), "said"),
        (AIMessage("hm</think>said"), "said"),
        (AIMessage("<think>never done"), ""),
        (AIMessage("<think></think>"), ""),
        (AIMessage("<think>a</think>\n<think>b</think>said"), "said"),
        (AIMessage("Write <think>so</think> to think."), "Write <think>so</think> to think."),
        (AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "said"}]), "said"),
        (AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "said"}]), "said"),
    ],
)
def test_text_is_without_thinking(message: BaseMessage, text: str) -> None:
    """Thinking before the answer is left out, marked or as blocks; an answer that speaks of the marks is kept whole."""
    assert text_of(message) == text
