"""What a call costs: whose price counts, what is unknown, which lists are refused, and the paper's figure."""

import asyncio
import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot

from moa_graph import MoAConfig, MoAConfigError
from moa_graph.config import presets
from moa_graph.prices import _PROVIDERS, PAPER, TABLES, Price, Prices, _Listed, read_prices
from moa_graph.prompts import AGGREGATE_AND_SYNTHESIZE
from tests.paper import DATA, FILES, FINAL, INSTRUCTION, PROPOSERS, SYNTHESIS, tokens

USED = {"input_tokens": 1000, "output_tokens": 100}
CACHED = {**USED, "cached_input_tokens": 400}
HERE = Path()


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of its own for each test: nobody's prices are read."""
    monkeypatch.delenv("MOA_GRAPH_PRICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def users(home: Path, text: str) -> Path:
    """The user's file."""
    return written(home / "moa_graph" / "prices.yaml", text)


# --- $ of a call


def test_input_and_output_have_a_price_each() -> None:
    """1000 tokens in at $2 a million and 100 out at $10 are $0.003."""
    assert Prices({"a": Price(2, 10)}).cost(["a"], USED) == pytest.approx(0.003)


def test_cached_input_has_a_price_of_its_own() -> None:
    """The cached tokens are a part of the input, not more of it."""
    assert Prices({"a": Price(2, 10, 0.5)}).cost(["a"], CACHED) == pytest.approx((600 * 2 + 400 * 0.5 + 1000) / 1e6)


def test_cached_input_without_a_price_costs_what_input_costs() -> None:
    """Nothing is cheaper than its price says."""
    assert Prices({"a": Price(2, 10)}).cost(["a"], CACHED) == pytest.approx(0.003)


def test_more_cached_tokens_than_tokens_are_no_discount() -> None:
    """A provider that counts wrongly makes no call cheaper than one that was cached wholly."""
    prices = Prices({"a": Price(2, 10, 0.5)})
    assert prices.cost(["a"], {**USED, "cached_input_tokens": 5000}) == pytest.approx((1000 * 0.5 + 1000) / 1e6)


@pytest.mark.parametrize("usage", [{}, {"input_tokens": 5}, {"output_tokens": 5}, {"total_tokens": 10}], ids=str)
@pytest.mark.parametrize("model", ["a", "openai:gpt-4o"])
def test_without_both_counts_the_cost_is_unknown(usage: dict[str, int], model: str) -> None:
    """A call that reported no tokens was not for nothing."""
    assert Prices({"a": Price(2, 10)}).cost([model], usage) is None


@pytest.mark.parametrize("model", ["nobody", "together:nobody/nothing", "nowhere:gpt-4o", "local", "", "openai:"])
def test_an_unknown_price_is_none(model: str) -> None:
    """It is never 0."""
    assert Prices().cost([model], USED) is None
    assert Prices().price([model]) is None


def test_without_a_name_the_price_is_unknown() -> None:
    """A model that goes by no name has no price."""
    assert Prices().cost([], USED) is None


@pytest.mark.parametrize("model", ["local:smollm2", "local:", "Local:/models/any.gguf"])
@pytest.mark.parametrize("usage", [USED, {}], ids=["tokens", "no tokens"])
def test_a_local_model_costs_nothing(model: str, usage: dict[str, int]) -> None:
    """Also where it reported no tokens: nothing times anything."""
    assert Prices().cost([model], usage) == 0.0


def test_a_local_model_may_be_given_a_price() -> None:
    """Electricity is not free."""
    assert Prices({"local:smollm2": Price(1, 1)}).cost(["local:smollm2"], USED) == pytest.approx(0.0011)


# --- whose price


ASKED, REPORTED, BARE = Price(1, 1), Price(2, 2), Price(3, 3)


@pytest.mark.parametrize(
    ("own", "chosen"),
    [
        ({"openai:x": ASKED, "x-2024": REPORTED, "x": BARE}, ASKED),
        ({"x-2024": REPORTED, "x": BARE}, REPORTED),
        ({"x": BARE}, BARE),
    ],
    ids=["the id that was asked for", "the name that was reported", "the id without its provider"],
)
@pytest.mark.parametrize("where", ["own", "user"])
def test_names_have_an_order(own: dict[str, Price], chosen: Price, where: str, config_home: Path) -> None:
    """The id that was asked for, the name that was reported, the id without its provider: in both lists."""
    if where == "user":
        users(config_home, "".join(f"{k}: {{input: {p.input}, output: {p.output}}}\n" for k, p in own.items()))
    assert Prices(own if where == "own" else None).price(["openai:x", "x-2024"]) == chosen


def test_own_prices_go_before_the_users(config_home: Path) -> None:
    """Even by a name that is less exact."""
    users(config_home, "openai:x: {input: 9, output: 9}")
    assert Prices({"x": BARE}).price(["openai:x"]) == BARE


def test_the_users_prices_go_before_the_list(config_home: Path) -> None:
    """Somebody with a contract pays other prices."""
    users(config_home, "openai:gpt-4o: {input: 1, output: 1}")
    assert Prices().price(["openai:gpt-4o"]) == Price(1, 1)


def test_the_users_prices_may_be_left_out(config_home: Path) -> None:
    """`user=False` reads no file."""
    users(config_home, "openai:gpt-4o: {input: 1, output: 1}")
    assert Prices(user=False).price(["openai:gpt-4o"]) == Price(2.5, 10, 1.25)


def test_in_the_list_what_was_reported_goes_first() -> None:
    """An alias is priced as the model behind it."""
    assert Prices().price(["openai:gpt-4o", "gpt-4o-2024-05-13"]) == Price(5, 15)


@pytest.mark.parametrize("reported", ["openai:openai/gpt-oss-120b", "something-else"])
def test_the_provider_is_the_one_that_was_asked(reported: str) -> None:
    """Together's answers say that they are OpenAI's, whose client asked for them."""
    assert Prices().price(["together:openai/gpt-oss-120b", reported]) == Price(0.15, 0.6)


def test_a_colon_in_a_reported_name_is_no_provider() -> None:
    """Somebody's own variant is not priced as what it was made from."""
    assert Prices().price(["openai:mine", "mine:gpt-4o"]) is None


def test_a_deployment_is_priced_as_what_it_runs() -> None:
    """Azure's deployments have names of their own."""
    assert Prices().price(["azure_openai:mine", "gpt-4o-2024-08-06"]) == Price(2.5, 10, 1.25)


@pytest.mark.parametrize(
    ("model", "known"),
    [("gpt-4o", True), ("claude-sonnet-4-5", True), ("deepseek-chat", False), ("gpt-oss-120b", False)],
)
def test_a_name_without_a_provider_is_its_makers(model: str, known: bool) -> None:
    """Unless anybody may serve it: then nobody knows the price."""
    assert (Prices().price([model]) is not None) == known


@pytest.mark.parametrize("model", ["ollama:gpt-oss:20b", "openai:gpt-oss-120b", "qwen2.5:7b"])
def test_a_server_of_ones_own_has_no_list_price(model: str) -> None:
    """What is listed for others says nothing of it."""
    assert Prices().price([model]) is None


@pytest.mark.parametrize("provider", ["google_genai", "google-genai", "Google_GenAI"])
def test_a_provider_is_known_however_it_is_written(provider: str) -> None:
    """As `init_chat_model` takes it."""
    assert Prices().price([f"{provider}:gemini-2.5-pro"]) is not None


def test_every_provider_is_one_of_the_list() -> None:
    """`genai-prices` knows each id that LangChain's providers are mapped to."""
    assert set(_PROVIDERS.values()) - {"litellm"} <= {provider.id for provider in get_snapshot().providers}


@pytest.mark.parametrize("preset", ["moa", "moa-lite", "openai", "self-moa", "local"])
def test_the_current_presets_have_prices(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is offered has a known price."""
    monkeypatch.setenv("TOGETHER_API_KEY", "made-up-key")
    monkeypatch.setenv("OPENAI_API_KEY", "made-up-key")
    ids = [str(proposer.model) for proposer in MoAConfig.preset(preset).models()]
    assert [name for name in ids if Prices().price([name]) is None] == []


# --- the list's own calculation


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 0, "output_tokens": 0},
        CACHED,
        {"input_tokens": 272_000, "output_tokens": 50},
        {"input_tokens": 400_000, "output_tokens": 50},
        {"input_tokens": 300_000, "output_tokens": 50, "cached_input_tokens": 299_000},
    ],
    ids=["nothing", "cached", "at a tier's edge", "long", "long and cached"],
)
def test_a_listed_price_is_what_the_list_calculates(usage: dict[str, int]) -> None:
    """Of every model in it: tiers by length, prices by hour and by call, cached input."""
    cached = usage.get("cached_input_tokens", 0)
    counts = Usage(input_tokens=usage["input_tokens"], output_tokens=usage["output_tokens"], cache_read_tokens=cached)
    now = datetime.now(UTC)
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            if (ours := _Listed(model, provider).cost(usage)) is not None:
                theirs = model.calc_price(counts, provider, genai_request_timestamp=now).total_price
                assert ours == pytest.approx(float(theirs), abs=1e-12), (provider.id, model.id)
                compared += 1
    assert compared > 1000


def test_a_long_prompt_costs_more_where_the_list_says_so() -> None:
    """Above the first tier every token is dearer; `price` tells the ordinary one."""
    prices, model = Prices(), ["openai:gpt-6-sol"]
    assert prices.cost(model, {"input_tokens": 300_000, "output_tokens": 0}) == pytest.approx(0.3 * 4)
    assert prices.price(model) == Price(2, 10, 0.2)


def test_a_price_for_each_call_is_counted() -> None:
    """Perplexity charges for the request too; so it has no flat price."""
    listed = calc_price(Usage(**USED), "sonar", provider_id="perplexity").total_price
    assert Prices().cost(["perplexity:sonar"], USED) == pytest.approx(float(listed))
    assert Prices().price(["perplexity:sonar"]) is None


def test_a_model_without_a_price_for_answers_is_unknown() -> None:
    """An entry with no price is not for nothing, unless it is called free."""
    assert Prices().cost(["openai:moderation"], USED) is None
    assert Prices().cost(["google_genai:gemma-3-27b-it"], USED) is None


def test_what_is_called_free_costs_nothing() -> None:
    """OpenRouter's `:free` models have no price, and that is one."""
    free = next(m.id for p in get_snapshot().providers if p.id == "openrouter" for m in p.models if ":free" in m.id)
    assert Prices().cost([f"openrouter:{free}"], USED) == 0.0


# --- what it takes


def test_importing_it_loads_no_list_and_no_yaml() -> None:
    """Both take time, and are loaded when a price is wanted."""
    script = "import sys; before = set(sys.modules); import moa_graph.prices; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name.split(".")[0] in ("genai_prices", "yaml", "httpx2")] == []


def test_it_never_goes_to_the_network() -> None:
    """In a fresh process: no socket is made and no thread started, by the first price or any other."""
    script = """
import socket, threading
def refuse(*given, **named): raise SystemExit("a socket")
socket.socket.__init__ = socket.getaddrinfo = refuse
from moa_graph.prices import Prices
p = Prices(user=False)
print([p.cost([m], {"input_tokens": 1, "output_tokens": 1}) is None for m in ("openai:gpt-4o", "openai:none")])
print(threading.active_count())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[False, True]", "1"]


@pytest.mark.parametrize("model", ["openai:gpt-6-sol", "together:openai/gpt-oss-120b", "together:nobody/nothing"])
def test_a_model_is_looked_up_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its price is at hand, or that it has none: it is asked on the event loop, for every call."""
    prices = Prices()
    first = prices.cost([model], CACHED)
    monkeypatch.setattr(prices, "_look_up", None)
    assert prices.cost([model], CACHED) == first


async def test_once_loaded_it_does_not_block_the_loop(config_home: Path) -> None:
    """After `load`, which reads a file and so belongs in a thread, no price needs a file."""
    users(config_home, "mine: {input: 1, output: 1}")
    prices = await asyncio.to_thread(Prices().load)
    with blockbuster_ctx("moa_graph"):
        assert prices.cost(["mine"], USED) == pytest.approx(0.0011)
        assert prices.cost(["openai:gpt-4o"], USED) == pytest.approx(0.0035)


def test_threads_may_ask_at_once() -> None:
    """All get the same answer, the first time too."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        assert all_ask() == [pytest.approx(0.0035)] * 8
    finally:
        sys.setswitchinterval(usual)


def all_ask() -> list[float | None]:
    prices, found = Prices(), list[float | None]()
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        found.append(prices.cost(["gpt-4o"], USED))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# --- the user's file


def test_the_users_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`MOA_GRAPH_PRICES` goes before the folder for configuration."""
    users(tmp_path, "a: {input: 1, output: 1}")
    monkeypatch.setenv("MOA_GRAPH_PRICES", str(written(tmp_path / "other.yaml", "a: {input: 2, output: 2}")))
    assert Prices().price(["a"]) == Price(2, 2)


def test_without_a_configuration_folder_it_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/.config/moa_graph/prices.yaml`."""
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    users(tmp_path / ".config", "a: {input: 1, output: 1}")
    assert Prices().price(["a"]) == Price(1, 1)


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable, the file, and what would be valid."""
    monkeypatch.setenv("MOA_GRAPH_PRICES", str(tmp_path / "none.yaml"))
    with pytest.raises(MoAConfigError, match=r"^MOA_GRAPH_PRICES: .*none\.yaml: cannot be read \(No such file.*YAML"):
        Prices().load()


def test_the_users_file_is_not_read_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making `Prices` reads nothing."""
    monkeypatch.setenv("MOA_GRAPH_PRICES", str(tmp_path / "none.yaml"))
    assert isinstance(Prices(), Prices)


def test_a_wrong_file_of_the_users_is_an_error(config_home: Path) -> None:
    """The message names the file, the model and the key."""
    users(config_home, "openai:x: {input: -1, output: 1}")
    with pytest.raises(MoAConfigError, match=r"prices\.yaml: openai:x: input is -1: .*0 or more"):
        Prices().price(["a"])


def test_a_file_is_parsed_once_for_each_state(config_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `Prices` looks at the file once, and reads it again only if it has changed."""
    path = users(config_home, "a: {input: 1, output: 1}")
    read: list[Path] = []
    real = Path.read_text

    def noted(self: Path, *given: Any, **named: Any) -> str:
        read.append(self)
        return real(self, *given, **named)

    monkeypatch.setattr(Path, "read_text", noted)
    assert [Prices().price(["a"]) for _ in range(3)] == [Price(1, 1)] * 3
    assert read.count(path) == 1
    users(config_home, "a: {input: 20, output: 20}")
    assert Prices().price(["a"]) == Price(20, 20)
    assert read.count(path) == 2


# --- lists that are given


def test_a_mapping_is_read() -> None:
    """Cached input may be left out, and may be null."""
    given = {"a": {"input": 1, "output": 2.5}, "b": {"input": 0, "output": 0, "cached_input": None}}
    assert read_prices(given, folder=HERE, where="prices") == {"a": Price(1, 2.5), "b": Price(0, 0)}


def test_a_table_is_read_by_its_name() -> None:
    """The paper's prices come with the package."""
    assert read_prices("paper-2024-05-22", folder=HERE, where="prices") == dict(PAPER)
    assert list(TABLES) == ["paper-2024-05-22"]


def test_a_path_is_relative_to_the_folder(tmp_path: Path) -> None:
    """That of the YAML file that names it."""
    written(tmp_path / "lists" / "mine.yaml", "a: {input: 1, output: 2, cached_input: 0.5}")
    assert read_prices("lists/mine.yaml", folder=tmp_path, where="prices") == {"a": Price(1, 2, 0.5)}


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_is_an_empty_list(tmp_path: Path, text: str) -> None:
    """A file with comments alone is no mistake."""
    written(tmp_path / "mine.yaml", text)
    assert read_prices("mine.yaml", folder=tmp_path, where="prices") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {input: 1", r"mine\.yaml: not YAML at line \d"),
        ("- a", r"mine\.yaml: \['a'\] is no mapping"),
        ("paper-2024-05-22", r"mine\.yaml: 'paper-2024-05-22' is no mapping"),
        ("a: 3", r"mine\.yaml: a: 3 is no price: write \{input"),
        ("4: {input: 1, output: 1}", r"mine\.yaml: 4 is no model"),
        ("a: {inputs: 1, output: 1}", r"a: inputs: unknown key; did you mean input\? one of .* per million"),
        ("a: {input: 1, output: 1, unit: token}", "a: unit: unknown key; one of input, output, cached_input"),
        ("a: {input: 1}", "a: output: this key is missing"),
        ("a: {input: 1, output: -1}", r"a: output is -1: it must be \$0 or more"),
        ("a: {input: 1, output: 1, cached_input: -0.5}", r"a: cached_input is -0\.5"),
        ("a: {input: .nan, output: 1}", "a: input is nan: .* a number"),
        ("a: {input: .inf, output: 1}", "a: input is inf"),
        ("a: {input: true, output: 1}", "a: input is True"),
        ("a: {input: $3, output: 1}", r"a: input is '\$3': .* a number, such as 0\.5"),
        ("a: {input: null, output: 1}", "a: input is None"),
    ],
)
def test_a_wrong_list_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """The message is one line that names where it was given, the file, the model and the key."""
    written(tmp_path / "mine.yaml", text)
    with pytest.raises(MoAConfigError, match=message) as caught:
        read_prices("mine.yaml", folder=tmp_path, where="prices")
    assert str(caught.value).startswith("prices: ")
    assert "\n" not in str(caught.value)


def test_a_list_that_is_neither_file_nor_table_is_refused(tmp_path: Path) -> None:
    """The message names the tables there are."""
    with pytest.raises(MoAConfigError, match=r"prices: .*paper-2023: cannot be read .* one of paper-2024-05-22"):
        read_prices("paper-2023", folder=tmp_path, where="prices")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A picture is no list of prices."""
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MoAConfigError, match=r"mine\.yaml: cannot be read \(not UTF-8 text\)"):
        read_prices("mine.yaml", folder=tmp_path, where="prices")


def test_a_price_is_checked_when_it_is_made() -> None:
    """In Python too."""
    with pytest.raises(MoAConfigError, match="output is 'x'"):
        Price(1, "x")  # type: ignore[arg-type]


# --- the paper


@pytest.mark.parametrize("preset", [name for name in presets() if name.startswith("moa-paper")])
def test_the_papers_presets_have_the_papers_prices(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model that they name is in the table, by the id that stands there."""
    monkeypatch.setenv("TOGETHER_API_KEY", "made-up-key")
    monkeypatch.setenv("OPENAI_API_KEY", "made-up-key")
    assert {str(proposer.model) for proposer in MoAConfig.preset(preset).models()} <= PAPER.keys()


def dollars(model: str, given: float, said: float) -> float:
    """$ of a call by the paper's prices, from characters in and out."""
    usage = {"input_tokens": tokens(model, given), "output_tokens": tokens(model, said)}
    found = Prices(PAPER, user=False).cost([model], usage)
    assert found is not None
    return found


def asked_with_references(model: str, references: int, said: int) -> float:
    return dollars(model, INSTRUCTION + len(AGGREGATE_AND_SYNTHESIZE) + references, said)


def first_layer() -> float:
    return sum(dollars(model, INSTRUCTION, said) for model, said in PROPOSERS.items())


def lite() -> float:
    final = asked_with_references("together:Qwen/Qwen1.5-72B-Chat", sum(PROPOSERS.values()), FINAL["lite"])
    return first_layer() + final


def moa() -> float:
    second = sum(asked_with_references(model, sum(PROPOSERS.values()), SYNTHESIS) for model in PROPOSERS)
    final = asked_with_references("together:Qwen/Qwen1.5-110B-Chat", 6 * SYNTHESIS, FINAL["moa"])
    return first_layer() + second + final


def alone(name: str) -> float:
    return dollars(f"openai:{name}", INSTRUCTION, FINAL[name])


@pytest.mark.parametrize(
    ("ours", "figure"),
    [
        (moa, 0.031),
        (lite, 0.006),
        (lambda: alone("gpt-4o-2024-05-13"), 0.007),
        (lambda: alone("gpt-4-turbo-2024-04-09"), 0.013),
    ],
    ids=["MoA", "MoA-Lite", "GPT-4o", "GPT-4 Turbo"],
)
def test_the_papers_figure_comes_out(ours: Callable[[], float], figure: float) -> None:
    """Prompts and answers of all calls, by the paper's prices, are within 10% of the $ that the paper shows."""
    assert ours() == pytest.approx(figure, rel=0.10)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the published answers are not in {DATA}")
def test_the_lengths_are_those_of_the_published_answers() -> None:
    """What the two figures are computed from, to a character."""
    for name, expected in {**{file: PROPOSERS[m] for file, m in FILES.items()}, "Together-MoA-Lite": 1968}.items():
        answers = json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))
        assert sum(len(answer["output"]) for answer in answers) / len(answers) == pytest.approx(expected, abs=1), name
        instructions = sum(len(answer["instruction"]) for answer in answers) / len(answers)
        assert instructions == pytest.approx(INSTRUCTION, abs=1)
