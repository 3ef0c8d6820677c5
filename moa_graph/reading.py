"""What a model reads: x_i, with references that fit its context window; and what its answer is expected to take."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from langchain_core.messages import BaseMessage

from moa_graph import fit
from moa_graph.budget import USUAL_OUTPUT, Amount
from moa_graph.errors import MoAConfigError
from moa_graph.panel import Seat
from moa_graph.prompts import Prompt, x_next
from moa_graph.state import Fitting, Proposal

__all__ = [
    "about_answers",
    "about_decision",
    "about_reference",
    "about_synthesis",
    "asked",
    "expected",
    "expected_of_step",
    "fitted",
    "likely_answer",
    "likely_output",
    "read",
    "reference",
    "shown",
]

State = Any

_NUMBER: Final = 4  # tokens of a reference's number and line break
_INSTRUCTION: Final = 200  # tokens of what a judge or a critic is told
_VERDICT: Final = 30  # tokens of a decision
_CRITIQUE: Final = 90  # and of a critique of 60 words


def asked(state: State) -> list[BaseMessage]:
    """x_1, the conversation. Raises MoAConfigError where there is none."""
    if not (messages := state.get("messages")):
        raise MoAConfigError('there is no message to answer: give {"messages": [("user", "…")]}')
    return list(messages)


async def read(seat: Seat, state: State, prompt: Prompt) -> tuple[list[BaseMessage], Fitting | None]:
    """x_i as `seat` reads it, and what had to be done to its references; `None`: it reads them whole.

    Raises DoesNotFit where the prompt's `fit` is "error".
    """
    conversation, synthesis = asked(state), state.get("synthesis", "")
    whole = x_next(conversation, synthesis, seat.system)
    if seat.room is None or not (references := _references(state)) or _fits(whole, seat.room):
        return whole, None
    in_order = replace(prompt, shuffle=False)
    bare = x_next(conversation, in_order.synthesis([""] * len(references)), seat.system)
    count = fit.counter(seat.model.runnable)
    room = seat.room - await _tokens(bare, count)
    fitted = await fit.fit(references, room, prompt.fit, count)
    if not (fitted.trimmed or fitted.dropped):
        return whole, None
    synthesis = in_order.synthesis(fitted.references) if fitted.references else ""
    return x_next(conversation, synthesis, seat.system), Fitting(trimmed=fitted.trimmed, dropped=fitted.dropped)


def _fits(messages: Sequence[BaseMessage], room: int) -> bool:
    """Whether a prompt fits by estimate. Most are so short that their length tells: a character is 5 tokens at most."""
    texts = [message.content for message in messages]
    plain = all(isinstance(text, str) for text in texts) and not any(getattr(m, "tool_calls", ()) for m in messages)
    if plain and 5 * sum(map(len, texts)) + fit.PER_MESSAGE * len(texts) <= room:
        return True
    return fit.about_messages(messages) <= room


async def _tokens(messages: Sequence[BaseMessage], count: fit.Counter | None) -> int:
    """How long a prompt is, exactly where that is known."""
    texts = [message.content for message in messages if isinstance(message.content, str)]
    if count is None or len(texts) < len(messages):
        return fit.about_messages(messages)
    return await count("\n".join(texts)) + fit.PER_MESSAGE * len(texts)


def _references(state: State) -> list[str]:
    """The references in the synthesis; none where somebody else has written it."""
    synthesis, carry = state.get("synthesis", ""), state.get("carry") or {}
    if carry.get("length") != len(synthesis):
        return []
    return [synthesis[start:end] for start, end in carry["spans"]]


def reference(proposal: Proposal) -> str:
    """An answer as the next layer reads it."""
    if critique := proposal.get("critique"):
        return f"{proposal['content']}\n\nA critic says of this response: {critique}"
    return proposal["content"]


def shown(state: State, references: Sequence[str], prompt: Prompt, seed: int | None = None) -> State:
    """The state of who reads these references, and no others. `seed`: of their order, where it is shuffled."""
    synthesis, spans = prompt.placed(references, None if seed is None else f"{seed}:aggregator")
    carry = {key: value for key, value in (state.get("carry") or {}).items() if key != "tokens"}
    return {**state, "synthesis": synthesis, "carry": {**carry, "spans": spans, "length": len(synthesis)}}


def expected(seat: Seat, state: State, more: int = 0) -> Amount:
    """What an answer of `seat` is expected to take: its prompt, and as many tokens as `likely_answer` says.

    `more`: tokens of references that are not in the state yet.
    """
    bare, read = fit.about_messages(x_next(asked(state), "", seat.system)), about_synthesis(state) + more
    whole = bool(state.get("synthesis")) and not _references(state)  # somebody else has written it: it is not shortened
    tokens = bare + read if whole else fitted(bare, read, seat.room)
    return _amount(seat, tokens, likely_answer(seat))


def fitted(bare: int, read: int, room: int | None) -> int:
    """Tokens of a prompt with references of `read` tokens: made to fit, where they do not."""
    return bare + read if room is None else max(bare, min(bare + read, room))


def expected_of_step(kind: str, seat: Seat, question: int, answers: Sequence[int]) -> list[Amount]:
    """What a step of this kind is expected to ask `seat`, call by call; see `about_decision`."""
    calls = about_decision(kind, question, answers, seat.model.parameters.get("max_tokens"))
    return [_amount(seat, given, said) for given, said in calls]


def _amount(seat: Seat, given: int, said: int) -> Amount:
    usd = seat.prices.cost(seat.known_as, {"input_tokens": given, "output_tokens": said})
    return Amount(usd or 0.0, given + said, 1)


def about_synthesis(state: State) -> int:
    """Tokens of what there is to read beside the conversation."""
    synthesis, carry = state.get("synthesis", ""), state.get("carry") or {}
    estimated = fit.about(synthesis)
    return min(estimated, carry.get("tokens", estimated)) if carry.get("length") == len(synthesis) else estimated


def about_reference(proposal: Proposal) -> int:
    """Tokens of an answer as the next layer reads it: as many as were written, where that is known; else estimated."""
    text = reference(proposal)
    written = None if proposal.get("edited") else proposal.get("usage", {}).get("output_tokens")
    estimated = fit.about(text)
    return min(estimated, written + fit.about(text.removeprefix(proposal["content"]))) if written else estimated


def likely_answer(seat: Seat) -> int:
    """Output tokens that are expected of an answer of `seat`."""
    return likely_output(seat.model.parameters.get("max_tokens"), seat.usual_output)


def likely_output(max_tokens: int | None, usual: float | None = None) -> int:
    """Output tokens that are expected of an answer: the usual ones, else USUAL_OUTPUT, and never over `max_tokens`."""
    length = USUAL_OUTPUT if usual is None else round(usual)
    return length if max_tokens is None else min(length, max_tokens)


def about_decision(
    kind: str, question: int, answers: Sequence[int], max_tokens: int | None = None
) -> list[tuple[int, int]]:
    """The calls of a step, with tokens in and out: a critique's for each answer, else one that reads all of them.

    question, answers: their tokens. A route reads no answers.
    """
    said = _CRITIQUE if kind == "critique" else _VERDICT
    read = [0] if kind == "route" else answers if kind == "critique" else [sum(answers)]
    said = said if max_tokens is None else min(said, max_tokens)
    return [(_INSTRUCTION + question + tokens, said) for tokens in read]


def about_answers(prompt: Prompt, lengths: Sequence[int]) -> int:
    """Tokens that answers of these lengths are expected to take as references, with what they follow."""
    return _about_instruction(prompt) + sum(lengths) + _NUMBER * len(lengths) if lengths else 0


@lru_cache(maxsize=64)
def _about_instruction(prompt: Prompt) -> int:
    return fit.about(prompt.synthesis([]))
