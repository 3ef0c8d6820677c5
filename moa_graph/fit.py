"""What fits into a model's context window: how much it may take, how long a text is, how references are made to fit.

A count is exact where the model's own tokenizer is at hand; elsewhere it is an estimate that is meant to be too high.
"""

import asyncio
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal, Protocol, cast

import aiohttp
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase

from moa_graph import local
from moa_graph.errors import MoARunError
from moa_graph.loops import PerLoop

__all__ = [
    "LEAST",
    "MARK",
    "MEDIA",
    "PER_MESSAGE",
    "RESERVE",
    "Counter",
    "DoesNotFit",
    "Fit",
    "Fitted",
    "about",
    "about_messages",
    "counter",
    "fit",
    "window",
]

Fit = Literal["trim", "drop", "error"]

MARK: Final = "[…]"
"""Stands behind every reference that was shortened."""

LEAST: Final = 16
"""Tokens: a reference is shortened to no less than this; where its share would be smaller, one is left out."""

RESERVE: Final = 2048
"""Tokens kept free for an answer whose length nothing limits, but at most a quarter of the window."""

PER_MESSAGE: Final = 8
"""Tokens that a chat template puts around a message; around a tool call as well."""

MEDIA: Final[Mapping[str, int]] = {"image": 1600, "audio": 4000, "video": 16000, "file": 16000}
"""Tokens that a content block which is no text counts for, whatever its size."""

# Hundredths of tokens per character. Of nine tokenizers (GPT-4's and GPT-4o's, Claude 2, Llama 2 and 3, Mistral,
# Gemma 3, Qwen 3, SmolLM2) none needs more than the sum in 983 of 987 texts: 90 languages, code, numbers, base64; the
# others are drawings made of signs, runs of blanks, piled-up accents and the rarest Han. English is estimated at twice
# what GPT-4o needs.
# The letters that English words are mostly made of weigh little; the others stand for rare words and random text.
_ASCII: Final = [
    (b"ehinorst", 22),
    (b" ", 14),
    (b"abcdfgjklmpquvwxyz", 73),
    (b"\t\n\r", 60),
    (b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", 97),
    (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 106),
    (b"0123456789", 112),
    (bytes(range(0x80, 0xC0)), 200),
]
_REST: Final = 260  # accented letters; the words they stand in are split as well
_PAGES: Final = [  # by the upper half of a UTF-16 unit
    (b"\x00", 0),  # ASCII and Latin-1: above
    (bytes(range(0x4E, 0xA0)), 230),  # Han
    (b"\x04", 122),  # Cyrillic
    (b"\x06", 162),  # Arabic
    (b"\x30\xff", 210),  # Kana, full width
    (bytes(range(0xAC, 0xD8)), 285),  # Hangul
    (bytes(range(0xD8, 0xE0)), 206),  # surrogates, of which an emoji has two
    (b"\x20\x25", 200),  # dashes and quotation marks, boxes
    (b"\x03", 170),  # Greek, combining marks
    (b"\x05\x09\x0b\x0e", 230),  # Hebrew and Armenian, Devanagari and Bengali, Tamil, Thai
    (b"\x01\x0d", 260),  # Latin, Malayalam
    (b"\x0a\x0c", 335),  # Gurmukhi, Telugu, Kannada
    (b"\x12\x13", 360),  # Ethiopic
]
_OTHER: Final = 320

_TRIES: Final = 4  # how often a shortened reference is counted, at most
_ENOUGH: Final = 0.9  # of its share: a reference that takes as much is not tried longer
_SECONDS: Final = 5.0  # for the embedded model's server to count

_SENTENCE = re.compile(
    r"[.!?…]+[\"')\]»”’*_]*(?=\s|$)"  # noqa: RUF001 - Western
    r"|[。！？｡؟۔।॥።။។]+[」』）”’]*"  # noqa: RUF001 - scripts that put no space behind a sentence, or have a stop of their own
    r"|\n(?=\s*(?:\n|[-*+•#>|]|\d+[.)]\s|```|~~~))"  # a paragraph, an item of a list, a row of a table
)
_NO_END = re.compile(
    r"(?:^|\n)\s*\d+\.$|(?:^|[\s(])(?:\w|(?:\w\.)+\w|Dr|Mr|Mrs|Ms|Prof|St|vs|etc|approx|Fig|No|Nr|cf|bzw|ca|usw)\.$"
)
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})", re.MULTILINE)


class Counter(Protocol):
    """How many tokens a text is to one model."""

    async def __call__(self, text: str) -> int:
        """The tokens of `text`."""


class DoesNotFit(MoARunError):  # noqa: N818 - it reads as what is the matter
    """The references do not fit into the model's window, and `fit="error"` forbids to shorten them."""

    def __init__(self, needed: int, room: int) -> None:
        super().__init__(
            f"the references need {needed} tokens and the model has room for {max(room, 0)}: "
            'allow fit="trim" or "drop", or choose a model with a larger window'
        )
        self.needed, self.room = needed, room

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.needed, self.room)


@dataclass(frozen=True)
class Fitted:
    """References that fit, in their order; which of the given ones (from 1) were shortened, and which left out."""

    references: list[str]
    trimmed: list[int]
    dropped: list[int]


def about(text: str) -> int:
    """How many tokens `text` is at most, as estimated from its characters alone."""
    return -(-_weight(text) // 100)


def about_messages(messages: Sequence[BaseMessage]) -> int:
    """How many tokens messages are at most, estimated: `PER_MESSAGE` around each, `MEDIA` for what is no text."""
    return sum(_about_message(message) for message in messages)


def _about_message(message: BaseMessage) -> int:
    blocks = [message.content] if isinstance(message.content, str) else message.content
    calls = [*getattr(message, "tool_calls", ()), *getattr(message, "invalid_tool_calls", ())]
    names = f"{message.name or ''}{getattr(message, 'tool_call_id', '')}"
    return (
        PER_MESSAGE + about(names) + sum(map(_about_block, blocks)) + sum(PER_MESSAGE + _about_data(c) for c in calls)
    )


def _about_block(block: str | dict[Any, Any]) -> int:
    if isinstance(block, str):
        return about(block)
    kind = str(block.get("type", ""))
    media = next((name for name in MEDIA if name in kind), "file" if kind in ("document", "media") else None)
    if media:
        return MEDIA[media]
    return about(block["text"]) if kind == "text" and isinstance(block.get("text"), str) else _about_data(block)


def _about_data(data: object) -> int:
    return about(json.dumps(data, ensure_ascii=False, default=str))


def _weight(text: str) -> int:
    """Hundredths of tokens; a sum over the characters, so the weight of a text is that of its parts."""
    weight = _weighed(text.encode("latin-1", "ignore"), _ASCII, _REST)
    if not text.isascii():
        weight += _weighed(text.encode("utf-16-be", "surrogatepass")[::2], _PAGES, _OTHER)
    return weight


def _weighed(data: bytes, classes: Sequence[tuple[bytes, int]], other: int) -> int:
    weight = 0
    for members, each in classes:
        if not data:
            break
        rest = data.translate(None, members)
        weight += each * (len(data) - len(rest))
        data = rest
    return weight + other * len(data)


def counter(model: Runnable[Any, Any]) -> Counter | None:
    """An exact counter for `model`, or None where its tokenizer is not at hand.

    A model with `custom_get_token_ids` is counted by that, in a thread, and what it raises is raised. The embedded
    model is counted by its server; where that does not answer, the text counts for what `about` says.
    """
    inner, _ = _unbound(model)
    if not isinstance(inner, BaseChatModel):
        return None
    if ids := inner.custom_get_token_ids:
        return _in_a_thread(ids)
    address = getattr(inner, "openai_api_base", None)
    if not (isinstance(address, str) and local.serves(address)):
        return None
    key = cast("Any", inner).openai_api_key
    return _by_server(f"{address.removesuffix('/v1')}/tokenize", key.get_secret_value())


def _in_a_thread(ids: Callable[[str], list[int]]) -> Counter:
    async def count(text: str) -> int:
        return len(await asyncio.to_thread(ids, text))

    return count


def _by_server(url: str, key: str) -> Counter:
    headers = {"Authorization": f"Bearer {key}"}

    async def count(text: str) -> int:
        content = text.encode("utf-8", "replace").decode()  # half an emoji is no JSON
        session = await _sessions.get()
        try:
            async with session.post(url, json={"content": content}, headers=headers) as response:
                response.raise_for_status()
                return len((await response.json())["tokens"])
        except (aiohttp.ClientError, TimeoutError, LookupError, TypeError, ValueError):
            return about(text)

    return count


def _session() -> aiohttp.ClientSession:
    # a connection that is kept holds a thread of the server
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=8, force_close=True), timeout=aiohttp.ClientTimeout(total=_SECONDS)
    )


_sessions = PerLoop(_session, aiohttp.ClientSession.close)


def window(model: Runnable[Any, Any], max_tokens: int | None) -> int | None:
    """The tokens that a prompt to `model` may take; None where its window is not known.

    Its profile's `max_input_tokens` minus its own output: `max_tokens`, else what it is bound with or says itself,
    else `RESERVE`. LangChain fills the profile in for the models it knows; `profile={"max_input_tokens": …}` where the
    model is made overrides it. Of a model with fallbacks it is the smallest one that is known; of a chain that of the
    first model in it.
    """
    known = [_window(*one, max_tokens) for one in _readers(model)]
    return min((tokens for tokens in known if tokens is not None), default=None)


def _window(inner: Any, bound: Mapping[str, Any], max_tokens: int | None) -> int | None:
    profile = getattr(inner, "profile", None)
    whole = _positive(profile.get("max_input_tokens")) if isinstance(profile, Mapping) else None
    if whole is None:
        return None
    said = chain([max_tokens], map(bound.get, _OUTPUT), (getattr(inner, name, None) for name in _OUTPUT))
    return room(whole, next(filter(None, map(_positive, said)), None))


def room(window: int, output: int | None) -> int:
    """What a window leaves for a prompt; where nothing limits the answer, `RESERVE` stays free for it."""
    return max(0, window - (output or min(RESERVE, window // 4)))


_OUTPUT: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _readers(model: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Every model that may be given the prompt, and what it is bound with."""
    inner, bound = _unbound(model)
    if isinstance(inner, RunnableWithFallbacks):
        within = [reader for one in inner.runnables for reader in _readers(one)]
    elif isinstance(inner, RunnableSequence):
        within = next(filter(None, map(_readers, inner.steps)), [])
    else:
        return [(inner, bound)] if isinstance(inner, BaseChatModel) else []
    return [(reader, {**own, **bound}) for reader, own in within]


def _unbound(model: Any) -> tuple[Any, dict[str, Any]]:
    """The model inside all bindings, and what they bind; the outermost says it last."""
    bound: dict[str, Any] = {}
    while isinstance(model, RunnableBindingBase):
        bound = {**model.kwargs, **bound}
        model = model.bound
    return model, bound


async def fit(
    references: Sequence[str], room: int, how: Fit, count: Callable[[str], Awaitable[int]] | None = None
) -> Fitted:
    """`references` within `room` tokens, counted one by one with `count` (by default `about`); as they are if they fit.

    "trim": each gets a fair share; the short ones stay whole, what they leave goes to the long ones, and those are
    shortened, at the end of a sentence if that keeps a third of what fits, and end in `MARK`. Where a share would
    be under `LEAST`, the longest reference is left out instead.
    "drop": the longest one that remains is left out (of equals the later one), until the rest fits.
    "error": raises DoesNotFit.
    In a room too small for any of them, none remains.
    """
    counted: Callable[[str], Awaitable[int]] = count or _estimate
    sizes = dict(enumerate(await asyncio.gather(*map(counted, references)), 1))
    if (needed := sum(sizes.values())) <= room:
        return Fitted(list(references), [], [])
    if how == "error":
        raise DoesNotFit(needed, room)
    share = _fair(sizes, room) if how == "trim" else _all_or_none(sizes, room)
    long = [k for k in share if share[k] < sizes[k]]
    short = await asyncio.gather(*(_shortened(references[k - 1], sizes[k], share[k], counted) for k in long))
    shown = {k: references[k - 1] for k in share} | dict(zip(long, short, strict=True))
    kept = [k for k in sorted(shown) if shown[k]]
    return Fitted(
        [shown[k] for k in kept],
        [k for k in long if k in kept],
        [k for k in range(1, len(references) + 1) if k not in kept],
    )


async def _estimate(text: str) -> int:
    return about(text)


def _all_or_none(sizes: Mapping[int, int], room: int) -> dict[int, int]:
    kept = dict(sizes)
    while kept and sum(kept.values()) > room:
        del kept[_longest(kept)]
    return kept


def _fair(sizes: Mapping[int, int], room: int) -> dict[int, int]:
    """What each reference may take: all it needs, or the same as every other that does not get it."""
    kept = dict(sizes)
    while kept:
        share = _shares(kept, room)
        if all(share[k] == kept[k] or share[k] >= LEAST for k in kept):
            return share
        del kept[_longest(kept)]
    return kept


def _shares(sizes: Mapping[int, int], room: int) -> dict[int, int]:
    share = {}
    for done, k in enumerate(sorted(sizes, key=sizes.__getitem__)):
        share[k] = min(sizes[k], room // (len(sizes) - done))
        room -= share[k]
    return dict(sorted(share.items()))


def _longest(sizes: Mapping[int, int]) -> int:
    return max(sizes, key=lambda k: (sizes[k], k))


async def _shortened(text: str, size: int, share: int, count: Callable[[str], Awaitable[int]]) -> str:
    """The beginning of `text`, in at most `share` of its `size` tokens; "" where there is none.

    What fits is foreseen by weight, in proportion between a length that fits and one that does not, and verified.
    """
    if count is _estimate:
        return _cut(text, 100 * share)
    best, aim = "", share
    low, low_count, high, high_count = 0, 0, _weight(text), size
    for _ in range(_TRIES):
        budget = low + (high - low) * (aim - low_count) // (high_count - low_count)
        if not (piece := _cut(text, budget)) or piece == best:
            break
        if (counted := await count(piece)) > share:
            high, high_count, aim = budget, counted, max(low_count, int(share * _ENOUGH))
        else:
            best, low, low_count = piece, budget, counted
            if counted >= share * _ENOUGH:
                break
    return best


def _cut(text: str, budget: int) -> str:
    """The longest beginning of `text` that ends well and weighs no more than `budget` with its mark."""
    for marks in (f" {MARK}", f"\n~~~~\n{MARK}"):
        end = _good_end(text, _within(text, budget - _weight(marks)))
        piece = text[:end].rstrip()
        closed = f"{piece}\n{fence}\n{MARK}" if (fence := _open_fence(piece)) else f"{piece} {MARK}"
        if piece and (not fence or _weight(closed) <= budget):
            return closed
    return ""


def _within(text: str, budget: int) -> int:
    """How many characters of `text` weigh no more than `budget`; each half is weighed once."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if (weight := _weight(text[low:middle])) <= budget:
            low, budget = middle, budget - weight
        else:
            high = middle - 1
    return low


def _good_end(text: str, end: int) -> int:
    """Where to end at or before `end`: behind a sentence, else a word, else a character; never in the first third."""
    third = end // 3
    last = max(_sentence_ends(text, third, end), default=0)
    if last == 0 and _open_fence(text[:end]):
        last = text.rfind("\n", third, end)
    if last > 0:
        return last
    if end < len(text) and not text[end].isspace():
        words = [m.start() for m in re.finditer(r"\s+", text[third:end])]
        end = third + words[-1] if words else _between_characters(text, end)
    return end


def _sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    for found in _SENTENCE.finditer(text, start):
        if found.end() > end:
            return
        if not (found[0] == "." and _NO_END.search(text[max(0, found.end() - 20) : found.end()])):
            yield found.end()


def _between_characters(text: str, end: int) -> int:
    """Not before an accent, a skin tone or the second half of an emoji, nor behind what joins two of them."""
    while 0 < end < len(text) and (_belongs_to_the_one_before(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return end


def _belongs_to_the_one_before(character: str) -> bool:
    joined = character == "\u200d" or "\ufe00" <= character <= "\ufe0f" or "🏻" <= character <= "🏿"
    return joined or "\udc00" <= character <= "\udfff" or unicodedata.category(character)[0] == "M"


def _open_fence(text: str) -> str:
    """The fence of a block of code that is open at the end of `text`; "" where none is."""
    fence = ""
    for found in _FENCE.finditer(text):
        if not fence:
            fence = found[1]
        elif found[1].startswith(fence):
            fence = ""
    return fence
