"""What fits into a window: counts that are never too low, and references made to fit without a word lost in silence."""

import asyncio
import gzip
import json
import pickle
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableBinding, RunnableLambda
from langchain_openai import ChatOpenAI

from moa_graph import Proposer, create_moa, local
from moa_graph.fit import (
    LEAST,
    MARK,
    MEDIA,
    PER_MESSAGE,
    RESERVE,
    DoesNotFit,
    about,
    about_messages,
    counter,
    fit,
    window,
)
from moa_graph.testing import ScriptedChatModel
from moa_graph.transport import shared

ANSWERS = Path(__file__).parents[2] / "shared" / "data" / "alpaca_eval" / "outputs"

needs_local = pytest.mark.skipif(not local.available(), reason='needs pip install "moa-graph[local]"')
needs_answers = pytest.mark.skipif(not ANSWERS.is_dir(), reason="needs the answers of models to AlpacaEval")

# ruff: noqa: E501, RUF001 - the texts below
KNOWN = {
    "German": (
        "Der Himmel erscheint blau, weil das Sonnenlicht an den Molekülen der Atmosphäre gestreut wird.",
        38,
    ),  # SmolLM2
    "Chinese": (
        "天空之所以呈现蓝色，是因为太阳光进入大气层后，会与空气分子发生瑞利散射。波长较短的蓝光比波长较长的红光散射得更强烈，因此从各个方向进入我们眼睛的光以蓝色为主。傍晚时分，阳光穿过更厚的大气，蓝",
        185,
    ),  # SmolLM2
    "Japanese": (
        "空が青く見えるのは、太陽の光が大気中の分子によって散乱されるためです。波長の短い青い光は、波長の長い赤い光よりも強く散乱されます。そのため、昼間の空は青く、夕方になると光が長い距離を通るので",
        168,
    ),  # SmolLM2
    "Korean": (
        "하늘이 파랗게 보이는 이유는 태양빛이 대기 중의 분자에 의해 산란되기 때문입니다. 파장이 짧은 파란빛은 파장이 긴 빨간빛보다 훨씬 더 강하게 산란됩니다. 그래서 우리는 모",
        191,
    ),  # SmolLM2
    "Arabic": (
        "تبدو السماء زرقاء لأن ضوء الشمس يتشتت عند دخوله الغلاف الجوي للأرض. الضوء الأزرق ذو الطول الموج",
        95,
    ),  # SmolLM2
    "Hindi": ("आकाश नीला इसलिए दिखाई देता है क्योंकि सूर्य का प्रकाश वायुमंडल के कणों से टकराकर बिखर जाता है।", 104),  # SmolLM2
    "Thai": ("ท้องฟ้าเป็นสีฟ้าเพราะแสงอาทิตย์กระเจิงเมื่อผ่านชั้นบรรยากาศของโลก แสงสีน้ำเงินมีความยาวคลื่นสั้", 176),  # SmolLM2
    "Russian": (
        "Небо кажется голубым, потому что солнечный свет рассеивается молекулами воздуха в атмосфере Зем",
        75,
    ),  # SmolLM2
    "Greek": (
        "Ο ουρανός φαίνεται γαλάζιος επειδή το φως του ήλιου σκεδάζεται από τα μόρια της ατμόσφαιρας. Το",
        106,
    ),  # Claude 2
    "Hebrew": (
        "השמיים נראים כחולים משום שאור השמש מתפזר באטמוספירה של כדור הארץ. אור כחול, בעל אורך גל קצר, מת",
        103,
    ),  # SmolLM2
    "Vietnamese": (
        "Bầu trời có màu xanh vì ánh sáng mặt trời bị tán xạ khi đi qua bầu khí quyển của Trái Đất. Ánh",
        74,
    ),  # SmolLM2
    "Swahili": (
        "Anga huonekana la bluu kwa sababu mwanga wa jua hutawanywa na molekuli za angahewa. Mwanga wa b",
        41,
    ),  # Llama 2
    "English": (
        "The sky is blue because air scatters short waves of sunlight more strongly than long ones.",
        20,
    ),  # Llama 2
    "emoji": (
        "\U0001f600\U0001f389\U0001f680\U0001f44d\U0001f3fd\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f1e9\U0001f1ea\u2764\ufe0f\U0001f525\u2728\U0001f916\U0001f973\U0001fae0",
        71,
    ),  # Llama 2
    "code": (
        "for (let i = 0; i < items.length; i++) {\n    total += items[i].price * (1 - rate);\n}\nreturn total;",
        38,
    ),  # Llama 2
    "numbers": (
        "668835601 274281998 796487718 384974575 853832589 741361655 903565516 794460042 700113703 990338920",
        100,
    ),  # Llama 2
    "base64": (
        "JbGwh+/ibAf/DSHX2wszd3c4pcZ003/xNurBP1UyI6Y4QUYNO2qh5o1oJyj2EPscf9ktX6LoFHgAcVLeqGUfP3lh",
        73,
    ),  # Llama 2
    "table": ("| name | value |\n|------|------:|\n| a | 1.25 |\n| b | 20.5 |", 32),  # Llama 2
    "maths": ("∀x∈ℝ: x² ≥ 0 ∧ √(x²) = |x| ⇒ ∑ᵢ xᵢ² ≠ ∫₀¹ f(t)dt ± ∞", 60),  # Mistral
    "accents": ("Cafe\u0301 cre\u0300me bru\u0302le\u0301e", 15),  # SmolLM2
}
"""Kind of text -> (text, the most tokens that any tokenizer measured makes of it), and which one that is."""


@pytest.fixture(scope="module", autouse=True)
def _stopped() -> Iterator[None]:
    yield
    local.close()


def prose(seed: int, sentences: int) -> str:
    """Some sentences of made-up words."""
    rng = random.Random(seed)
    words = ["air", "scatters", "blue", "light", "strongly", "whereas", "red", "passes", "Rayleigh", "3.5", "nm"]
    return " ".join(
        f"{rng.choice(['The', 'Some', 'No'])} {' '.join(rng.choices(words, k=rng.randint(3, 14)))}."
        for _ in range(sentences)
    )


def given(seed: int) -> tuple[list[str], int]:
    """Two to seven references of many lengths, and a room too small for all of them."""
    rng = random.Random(seed)
    references = [prose(seed * 10 + k, rng.choice([1, 3, 10, 40, 90])) for k in range(rng.randint(2, 7))]
    return references, rng.randint(1, sum(map(about, references)) - 1)


# ---------------------------------------------------------------------------------------------- how long a text is


@pytest.mark.parametrize("kind", KNOWN)
def test_an_estimate_is_no_less_than_any_tokenizer_says(kind: str) -> None:
    """In each script, the estimate is at least what the greediest of nine tokenizers needs, and not three times it."""
    text, most = KNOWN[kind]
    assert most <= about(text) <= 3 * most


@needs_local
async def test_the_texts_are_measured_well() -> None:
    """No text is more tokens to the embedded model's tokenizer than is written down."""
    count = counter(local.chat_model())
    assert count
    counted = {kind: await count(text) for kind, (text, _) in KNOWN.items()}
    assert {kind: n for kind, n in counted.items() if n > KNOWN[kind][1]} == {}


@needs_local
@needs_answers
async def test_an_estimate_of_real_answers_is_not_too_low() -> None:
    """Of 70 answers of large models, prose and code, each is estimated no lower than its tokens, and all at twice."""
    count = counter(local.chat_model())
    assert count
    rng, texts = random.Random(7), []
    for file in sorted(ANSWERS.glob("*.json.gz")):
        texts += [item["output"] for item in rng.sample(json.loads(gzip.decompress(file.read_bytes())), 10)]
    counted = await asyncio.gather(*map(count, texts))
    assert [text for text, n in zip(texts, counted, strict=True) if about(text) < n] == []
    assert sum(map(about, texts)) < 2 * sum(counted)


def test_nothing_is_no_token() -> None:
    """The empty text counts for nothing."""
    assert about("") == 0


def test_half_an_emoji_is_counted() -> None:
    """A lone surrogate, which cannot be encoded, is no error."""
    assert 0 < about("\ud83d") <= about("😀")


def test_an_estimate_is_a_sum() -> None:
    """A text is estimated at what its parts are, but for rounding: what holds for the beginning holds for the rest."""
    text = "".join(text for text, _ in KNOWN.values())
    for end in range(0, len(text), 97):
        assert 0 <= about(text[:end]) + about(text[end:]) - about(text) <= 1


# --------------------------------------------------------------------------------------------------------- messages


def test_a_message_is_more_than_its_text() -> None:
    """Each message counts for its text and what a template puts around it."""
    messages = [SystemMessage("Be brief."), HumanMessage("Why?")]
    assert about_messages(messages) == about("Be brief.") + about("Why?") + 2 * PER_MESSAGE


def test_text_blocks_count_as_text() -> None:
    """A content of text blocks counts for what the same text does."""
    blocks = HumanMessage([{"type": "text", "text": "Why?"}, "Say."])
    assert about_messages([blocks]) == PER_MESSAGE + about("Why?") + about("Say.")


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}, "image"),
        ({"type": "image", "base64": "A" * 50_000, "mime_type": "image/png"}, "image"),
        ({"type": "input_audio", "input_audio": {"data": "A" * 50_000, "format": "wav"}}, "audio"),
        ({"type": "video", "base64": "A" * 50_000}, "video"),
        ({"type": "file", "base64": "A" * 50_000, "mime_type": "application/pdf"}, "file"),
        ({"type": "document", "source": {"data": "A" * 50_000}}, "file"),
    ],
)
def test_media_count_for_a_stated_amount(block: dict[str, Any], kind: str) -> None:
    """A picture, a sound, a film or a file counts for the amount stated for its kind, not for its bytes as text."""
    assert about_messages([HumanMessage([block])]) == PER_MESSAGE + MEDIA[kind]


def test_tool_calls_and_results_count() -> None:
    """What a model asked of a tool counts, and what the tool said."""
    call = {"name": "search", "args": {"query": "why is the sky blue"}, "id": "call_1"}
    asked = about_messages([AIMessage("", tool_calls=[call])])
    assert asked > 2 * PER_MESSAGE + about("search" + "why is the sky blue" + "call_1")
    assert about_messages([ToolMessage("Rayleigh.", tool_call_id="call_1")]) >= PER_MESSAGE + about("Rayleigh.call_1")


# --------------------------------------------------------------------------------------------------- exact counting


@needs_local
async def test_the_embedded_model_is_counted_exactly() -> None:
    """The count of a prompt is what the model's own usage says, but for the template, also through bindings."""
    model = shared(local.chat_model(max_tokens=1, temperature=0.0)).bind(seed=1).with_config(tags=["mine"])
    count = counter(model)
    assert count
    used = [(await model.ainvoke(text)).usage_metadata["input_tokens"] for text in ("Why?", "Why is the sky blue?")]
    assert await count("Why is the sky blue?") - await count("Why?") == used[1] - used[0]


@needs_local
async def test_counting_does_not_block() -> None:
    """Many counts at once, on the embedded model's server, block the event loop nowhere."""
    count = counter(local.chat_model())
    assert count
    with blockbuster_ctx("moa_graph"):
        counted = await asyncio.gather(*(count("word " * k) for k in range(40)))
    assert counted == sorted(counted)


@needs_local
async def test_half_an_emoji_is_no_error_to_the_server() -> None:
    """A text that cannot be sent as it is, is counted all the same."""
    count = counter(local.chat_model())
    assert count
    assert await count("a\ud83db") == await count("a?b")


@needs_local
async def test_a_server_that_is_gone_leaves_the_estimate() -> None:
    """Where the embedded model does not answer any more, the estimate counts."""
    count = counter(local.chat_model())
    assert count
    local.close()
    assert await count("Why is the sky blue?") == about("Why is the sky blue?")


async def test_a_tokenizer_of_ones_own_counts_in_a_thread() -> None:
    """A model's `custom_get_token_ids` is what counts, and it does not run on the event loop."""
    threads = []

    def ids(text: str) -> list[int]:
        threads.append(threading.current_thread())
        return list(text.encode())

    count = counter(ScriptedChatModel(answers=["x"], custom_get_token_ids=ids).bind(stop=["."]))
    assert count
    assert await count("four") == 4
    assert threads != [threading.current_thread()]


@pytest.mark.parametrize(
    "model",
    [
        ScriptedChatModel(answers=["x"]),
        RunnableLambda(lambda messages: messages),
        ChatOpenAI(model="gpt-4o", api_key="key"),
        ChatOpenAI(model="gpt-4o", api_key="key", base_url="http://127.0.0.1:9/v1"),
    ],
)
def test_other_models_have_no_counter(model: Any) -> None:
    """Where no tokenizer is at hand there is none, and none is fetched."""
    assert counter(model) is None


# ------------------------------------------------------------------------------------------------------- the window


def test_a_window_is_the_profile_without_the_answer() -> None:
    """LangChain's own profile of a known model, minus what is said to be its answer."""
    model = ChatOpenAI(model="gpt-4o", api_key="key")
    assert window(model, 1000) == model.profile["max_input_tokens"] - 1000


def test_a_profile_may_be_given() -> None:
    """Who makes the model says how large its window is."""
    assert window(ChatOpenAI(model="mine", api_key="key", profile={"max_input_tokens": 5000}), 1000) == 4000


@pytest.mark.parametrize(
    "model",
    [
        ChatOpenAI(model="mine", api_key="key", profile={"max_input_tokens": 5000}, max_tokens=700),
        ChatOpenAI(model="mine", api_key="key", profile={"max_input_tokens": 5000}).bind(max_tokens=700),
        ChatOpenAI(model="mine", api_key="key", profile={"max_input_tokens": 5000}, max_tokens=9).bind(max_tokens=700),
        RunnableBinding(
            bound=ChatOpenAI(model="mine", api_key="key", profile={"max_input_tokens": 5000}).bind(max_tokens=9),
            kwargs={"max_completion_tokens": None, "max_tokens": 700},
        ),
    ],
)
def test_a_model_says_how_long_its_answer_is(model: Any) -> None:
    """Without a limit given, the one it was bound with or made with counts; the outermost binding wins."""
    assert window(model, None) == 4300


@pytest.mark.parametrize(("whole", "left"), [(100_000, 100_000 - RESERVE), (4000, 3000)])
def test_an_answer_of_no_known_length_has_a_reserve(whole: int, left: int) -> None:
    """Where nothing limits the answer, the reserve stays free, and no more than a quarter of a small window."""
    model = ScriptedChatModel(answers=["x"], profile={"max_input_tokens": whole, "max_output_tokens": 3999})
    assert window(model, None) == left


def test_an_answer_as_long_as_the_window_leaves_nothing() -> None:
    """The room is never less than none."""
    assert window(ScriptedChatModel(answers=["x"], profile={"max_input_tokens": 100}), 200) == 0


@pytest.mark.parametrize(
    "model",
    [
        ScriptedChatModel(answers=["x"]),
        ScriptedChatModel(answers=["x"], profile={"max_input_tokens": 0}),
        RunnableLambda(lambda messages: messages),
    ],
)
def test_a_window_nobody_states_is_not_known(model: Any) -> None:
    """Without a profile, or with one that says 0 as LangChain's does of image models, the window is unknown."""
    assert window(model, 100) is None


def sized(window: int | None, **more: Any) -> ScriptedChatModel:
    return ScriptedChatModel(answers=["x"], profile={"max_input_tokens": window} if window else None, **more)


@pytest.mark.parametrize(
    "model",
    [
        sized(9000).with_fallbacks([sized(5000), sized(7000)]),
        sized(None).with_fallbacks([sized(5000)]),
        RunnableLambda(lambda messages: messages) | sized(5000) | StrOutputParser(),
        RunnableLambda(lambda messages: messages) | sized(9000).with_fallbacks([sized(5000).bind(stop=["."])]),
        (RunnableLambda(lambda messages: messages) | sized(5000)).bind(stop=["."]),
        sized(5000) | sized(700),
    ],
)
def test_a_model_inside_has_a_window(model: Any) -> None:
    """Of a chain it is that of the model that reads the prompt; of fallbacks the smallest, as each may be asked."""
    assert window(model, 1000) == 4000


async def test_references_are_made_to_fit_a_model_inside_a_chain() -> None:
    """Who reads them through a chain gets no more than its window holds, and the receipt tells."""
    reader = sized(700)
    final = Proposer(RunnableLambda(lambda messages: messages) | reader)
    long = [Proposer(ScriptedChatModel(answers=[prose(k, 60)]), name=f"p{k}") for k in range(3)]
    out = await create_moa(long, final, 2).ainvoke({"messages": [("user", "Why?")]})
    assert out["messages"][-1].response_metadata["moa"]["final"]["fit"]["trimmed"]
    assert about_messages(reader.prompts[0]) <= 700


@needs_local
def test_the_embedded_model_has_a_profile() -> None:
    """The embedded model's window is a slot, as its server says, unless another profile is given."""
    assert window(local.chat_model(max_tokens=100), None) == local.SLOT_TOKENS - 100
    assert window(local.chat_model(profile={"max_input_tokens": 500}, max_tokens=100), None) == 400


# ----------------------------------------------------------------------------------------------------------- to fit


@pytest.mark.parametrize("how", ["trim", "drop", "error"])
async def test_what_fits_is_left_alone(how: Any) -> None:
    """References that fill the room exactly stay as they are, byte for byte."""
    references = [" \n" + prose(1, 5), "", prose(2, 9) + "  "]
    fitted = await fit(references, sum(map(about, references)), how)
    assert (fitted.references, fitted.trimmed, fitted.dropped) == (references, [], [])


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("how", ["trim", "drop"])
async def test_it_fits_and_says_what_was_done(how: Any, seed: int) -> None:
    """What remains is within the room and in order; each is whole, or is told as shortened or as left out."""
    references, room = given(seed)
    fitted = await fit(references, room, how)
    assert sum(map(about, fitted.references)) <= room
    kept = [k for k in range(1, len(references) + 1) if k not in fitted.dropped]
    assert len(kept) == len(fitted.references)
    for k, shown in zip(kept, fitted.references, strict=True):
        if k in fitted.trimmed:
            assert shown.endswith(f" {MARK}")
            assert references[k - 1].startswith(shown.removesuffix(f" {MARK}"))
            assert len(shown) < len(references[k - 1])
        else:
            assert shown == references[k - 1]
    assert set(fitted.trimmed) <= set(kept)
    assert fitted.trimmed or fitted.dropped


@pytest.mark.parametrize("seed", range(10))
async def test_the_same_gives_the_same(seed: int) -> None:
    """Fitting is no matter of chance."""
    references, room = given(seed)
    assert await fit(references, room, "trim") == await fit(references, room, "trim")


@pytest.mark.parametrize("seed", range(40))
async def test_short_ones_stay_whole(seed: int) -> None:
    """A reference that needs no more than the same part of the room for each is never touched."""
    references, room = given(seed)
    fitted = await fit(references, room, "trim")
    short = [k for k, r in enumerate(references, 1) if about(r) <= room // len(references)]
    assert not set(short) & {*fitted.trimmed, *fitted.dropped}


async def test_what_short_ones_leave_goes_to_the_long() -> None:
    """One long reference beside short ones gets most of the room, not its part by number."""
    short, long = "Yes.", prose(1, 200)
    fitted = await fit([short, long, short], 500, "trim")
    assert fitted.trimmed == [2]
    assert about(fitted.references[1]) > 400


async def test_long_ones_get_the_same() -> None:
    """Two references that are both too long are shortened to about the same length, whichever is longer."""
    fitted = await fit([prose(1, 100), prose(2, 300)], 1000, "trim")
    sizes = [about(reference) for reference in fitted.references]
    assert fitted.trimmed == [1, 2]
    assert abs(sizes[0] - sizes[1]) < 50


@pytest.mark.parametrize("seed", range(40))
async def test_a_shortened_one_ends_with_a_sentence(seed: int) -> None:
    """Where a sentence ends in what fits, behind its first third, the shortened reference ends there."""
    references, room = given(seed)
    fitted = await fit(references, max(room, 100 * len(references)), "trim")
    kept = [k for k in range(1, len(references) + 1) if k not in fitted.dropped]
    for k, shown in zip(kept, fitted.references, strict=True):
        if k in fitted.trimmed:
            assert re.search(rf"\w\. {re.escape(MARK)}$", shown)


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("Short waves of light scatter more.", " About 3.14159 of them, as Dr. Meier says, z. B. here and there"),
        ('He said: "Short waves scatter more."', " And then he went on and on about it"),
        ("空が青いのは光のためです。", "波長の短い青い光は赤い光よりも強く"),
        ("हम नीला देखते हैं।", " सूर्य का प्रकाश वायुमंडल के कणों"),
        ("Reasons to give:\n1. Short waves scatter", "\n2. Long waves pass on and on and on"),
    ],
)
async def test_where_a_sentence_ends(head: str, tail: str) -> None:
    """With its quotation mark, in scripts without spaces, before an item of a list; not at a point within a name."""
    text = head + tail
    for room in range(about(f"{head} {MARK}") + 1, about(text)):
        assert (await fit([text], room, "trim")).references == [f"{head} {MARK}"]


async def test_an_open_code_fence_is_closed() -> None:
    """Where a reference is cut within a block of code, it is cut at a line's end, and the block is closed."""
    code = "Like this:\n\n```python\n" + "\n".join(f"total_{k} = price * {k}" for k in range(60)) + "\n```\n\nDone."
    shown = (await fit([code], 300, "trim")).references[0]
    assert re.search(r"\ntotal_(\d+) = price \* \1\n```\n\[…\]$", shown)
    assert about(shown) <= 300


async def test_without_words_it_is_cut_between_characters() -> None:
    """A text without any space is cut, but never within an emoji of several parts or before an accent."""
    family = "👩‍👩‍👧"
    for text in (family * 40, "e\u0301" * 100, "👍🏽" * 60):
        for room in range(40, 60):
            shown = (await fit([text], room, "trim")).references[0].removesuffix(f" {MARK}")
            unit = next(u for u in (family, "e\u0301", "👍🏽") if text.startswith(u))
            assert shown
            assert shown == unit * (len(shown) // len(unit))


async def test_an_early_full_stop_does_not_take_the_rest() -> None:
    """A sentence that ends early is no reason to lose all that follows: it ends behind a word."""
    text = "Sure. " + "word and " * 300
    shown = (await fit([text], 200, "trim")).references[0]
    assert about(shown) > 190
    assert shown.endswith((f"word {MARK}", f"and {MARK}"))


async def test_shares_too_small_leave_out_the_longest() -> None:
    """Where the room is not enough for the least share of each, the longest go, and the others keep a share."""
    references = [prose(k, 10 * k + 5) for k in range(6)]
    fitted = await fit(references, 3 * LEAST, "trim")
    assert fitted.dropped == [4, 5, 6]
    assert len(fitted.references) == 3


@pytest.mark.parametrize("how", ["trim", "drop"])
@pytest.mark.parametrize("room", [-5, 0, 1])
async def test_no_room_leaves_nothing(how: Any, room: int) -> None:
    """In a room too small for any, all are left out, and told."""
    fitted = await fit([prose(1, 9), prose(2, 9)], room, how)
    assert (fitted.references, fitted.trimmed, fitted.dropped) == ([], [], [1, 2])


async def test_drop_leaves_out_the_longest_first() -> None:
    """Whole references go, the longest of those that remain first, of equals the later; none is shortened."""
    short, long, middle = prose(1, 2), prose(2, 90), prose(3, 20)
    references = [middle, long, short, middle]
    fitted = await fit(references, about(middle) + about(short), "drop")
    assert (fitted.references, fitted.trimmed, fitted.dropped) == ([middle, short], [], [2, 4])


async def test_error_says_what_is_needed() -> None:
    """Where nothing may be changed, the error has both numbers and says what would help, also after pickling."""
    references = [prose(1, 50)]
    with pytest.raises(DoesNotFit, match=r"need \d+ tokens .* room for 20: .*trim.*larger window") as caught:
        await fit(references, 20, "error")
    assert (caught.value.needed, caught.value.room) == (about(references[0]), 20)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.needed, again.room) == (str(caught.value), caught.value.needed, 20)


# ------------------------------------------------------------------------------------------------ with exact counts


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
async def test_an_exact_count_decides(factor: float, seed: int) -> None:
    """A counter far from the estimate is what decides, it is asked seldom, and most of the room is used."""
    calls = []

    async def count(text: str) -> int:
        calls.append(text)
        return int(len(text.split()) * 3 * factor + text.count("blue") * 2)

    references = [prose(seed * 7 + k, 60) for k in range(4)]
    sizes = [await count(reference) for reference in references]
    calls.clear()
    fitted = await fit(references, sum(sizes) // 2, "trim", count)
    assert len(calls) <= 5 * len(references)
    used = sum([await count(reference) for reference in fitted.references])
    assert sum(sizes) // 2 * 0.8 < used <= sum(sizes) // 2
    assert fitted.dropped == []


async def test_a_foresight_that_was_too_low_is_corrected() -> None:
    """Where the beginning takes fewer tokens than the rest, more of it is kept than the average would allow."""

    async def count(text: str) -> int:
        return text.count("a") + 20 * text.count("b")

    text = "a. " * 400 + "b. " * 400
    assert await count((await fit([text], 2000, "trim", count)).references[0]) > 1200


@needs_local
async def test_it_fits_by_the_embedded_tokenizer() -> None:
    """What the embedded model's own tokenizer counts is within the room, where the estimate would have cut more."""
    count = counter(local.chat_model())
    assert count
    references = [prose(k, 150) for k in range(4)]
    exact, estimated = await fit(references, 2000, "trim", count), await fit(references, 2000, "trim")
    used = sum([await count(reference) for reference in exact.references])
    assert 1700 < used <= 2000
    assert len("".join(exact.references)) > len("".join(estimated.references))
