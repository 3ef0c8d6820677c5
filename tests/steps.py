"""What tests of the steps within a layer share: a mixture of scripted proposers, and what came of it."""

from typing import Any

from moa_graph import Layer, LayerPolicy, Proposer, create_moa
from moa_graph.testing import ScriptedChatModel

ASK = {"messages": [("user", "Why is the sky blue?")]}


def says(*answers: Any, **more: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers), **more)


def panel(*answers: Any) -> list[Proposer]:
    """Proposers a, b, c, ... that answer so; in every layer the same."""
    return [a if isinstance(a, Proposer) else Proposer(_model(a), name=chr(97 + k)) for k, a in enumerate(answers)]


def _model(answer: Any) -> ScriptedChatModel:
    return answer if isinstance(answer, ScriptedChatModel) else says(answer)


def mixture(
    answers: Any, *, layers: int = 2, policy: LayerPolicy | None = None, final: Any = None, **steps: Any
) -> Any:
    members = panel(*answers) if isinstance(answers, list | tuple) else answers
    return create_moa(Layer(members, **steps), final or says("So."), layers=layers, policy=policy)


def receipt(out: Any) -> Any:
    return out["messages"][-1].response_metadata["moa"]


def decisions(out: Any) -> list[tuple[int, str, str, list[str], str]]:
    return [(d["layer"], d["step"], d["by"], d["chosen"], d["said"]) for d in receipt(out)["decisions"]]


def read_on(final: ScriptedChatModel) -> str:
    """What the final model was shown of the answers."""
    return final.prompts[0][0].text
