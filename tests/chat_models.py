"""A chat model that does what LangChain's standard suite asks of one: it calls the tools that it is given."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.utils.function_calling import convert_to_openai_tool

from moa_graph.testing import ScriptedChatModel


class Obliging(ScriptedChatModel):
    """It calls the first of its tools once, with arguments that its schema wants; without tools it answers."""

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **keywords: Any) -> Any:
        first = convert_to_openai_tool(tools[0])["function"]

        def answer(messages: list[BaseMessage]) -> AIMessage:
            if messages[-1].type == "tool":
                return AIMessage(f"{first['name']} says {messages[-1].text}")
            args = arguments(first.get("parameters") or {}, messages[-1].text)
            return AIMessage("", tool_calls=[ToolCall(name=first["name"], args=args, id="call_1", type="tool_call")])

        said = self.model_copy(update={"answers": answer})
        return said.bind(tools=tools, tool_choice=tool_choice, **keywords)


def arguments(schema: Mapping[str, Any], question: str) -> dict[str, Any]:
    """A 3 for every number, and for every text what stands in the question's quotation marks."""
    quoted = re.search(r"'(.+?)'", question)
    text = quoted[1] if quoted else "so be it"
    properties = schema.get("properties", {})
    return {name: 3 if part.get("type") in ("integer", "number") else text for name, part in properties.items()}
