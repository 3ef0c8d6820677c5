"""A mixture as a model of inspect_ai, asked over loopback HTTP."""

import asyncio
import importlib.util
import json
import logging
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moa_graph.errors import MoARunError
from moa_graph.eval.inspect_messages import answered, stop_reason
from tests.evaluation import judge, mixture
from tests.server import Behaviour, RecordingServer

if importlib.util.find_spec("inspect_ai") is None:
    pytest.skip('inspect_ai is not installed: pip install "moa-graph[inspect]"', allow_module_level=True)

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    get_model,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolFunction, ToolInfo, ToolParams
from langchain_core.messages import AIMessage

# inspect_ai's own: how it calls tenacity
pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
TASKS = """
from inspect_ai import Task, eval, eval_retry, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import model_graded_qa
from inspect_ai.solver import generate

@task
def questions():
    asked = [Sample(input=f"Question {k}?", target="So.", id=k) for k in (1, 2)]
    return Task(dataset=asked, solver=generate(), scorer=model_graded_qa())
"""
EVAL = """
import json
from inspect_ai import eval, eval_retry

quiet = {"display": "none", "log_dir": "logs", "ctl_server": False, "max_retries": 0}
grader = {"grader": "moa/judge.yaml"}
[log] = eval("tasks.py", model="moa/two.yaml", model_roles=grader, max_samples=1, continue_on_fail=True, **quiet)
[again] = eval_retry(log, **quiet)
print(json.dumps([json.loads(each.model_dump_json(exclude={"eval"})) for each in (log, again)]))
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Everything inspect_ai keeps is kept here; the logging that it sets up ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("INSPECT_TRACE_FILE", str(tmp_path / "trace.log"))
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield tmp_path
    root.handlers[:], level = before
    root.setLevel(level)


@pytest.fixture
def moa(server: RecordingServer) -> Model:
    """`two.yaml`: two proposers, two layers and a final model."""
    mixture(Path("two.yaml"), server.base_url)
    return get_model("moa/two.yaml", memoize=False)


def ask(model: Model, given: str | list[ChatMessage] = "Why?", tools: Any = (), **config: Any) -> Any:
    return asyncio.run(model.generate(given, tools=list(tools), config=GenerateConfig(max_retries=0, **config)))


def failure(model: Model) -> Exception:
    """What its provider raises, before inspect_ai asks again."""
    with pytest.raises(MoARunError) as failed:
        asyncio.run(model.api.generate([ChatMessageUser(content="Why?")], [], "auto", GenerateConfig()))
    return failed.value


def of(server: RecordingServer, model: str) -> list[dict[str, Any]]:
    """The bodies of the requests that a model got."""
    return [request.body for request in server.requests if request.model == model]


def test_an_output_sums_up_all_calls(server: RecordingServer, moa: Model) -> None:
    """The answer is the final model's; usage is that of all three calls, and receipt and proposals are there."""
    server.script("a", Behaviour(cached_tokens=2))
    output = ask(moa)
    assert output.completion == "answer of c #1"
    assert output.stop_reason == "stop"
    assert output.usage.output_tokens == sum(request.completion_tokens for request in server.requests)
    read = sum(request.prompt_tokens for request in server.requests)
    assert (output.usage.input_tokens, output.usage.input_tokens_cache_read) == (read - 2, 2)
    assert output.usage.total_tokens == read + output.usage.output_tokens
    assert output.metadata["moa"]["calls"] == 3
    assert [proposal["content"] for proposal in output.metadata["proposals"]] == ["answer of a #1", "answer of b #1"]


def test_a_judge_is_asked_coldly(server: RecordingServer) -> None:
    """With `-M judge=true` at temperature 0, as `moa eval` does it, unless the file says another."""
    judge(Path("judge.yaml"), server.base_url)
    judge(Path("warm.yaml"), server.base_url, temperature=0.5)
    for name in ("judge.yaml", "warm.yaml"):
        ask(get_model(f"moa/{name}", memoize=False, judge=True))
    assert [body["temperature"] for body in of(server, "judge")] == [0.0, 0.5]


def test_dollars_are_there_where_prices_are(server: RecordingServer, moa: Model) -> None:
    """The sum of all calls by the mixture's own prices; of an unknown price nothing is made."""
    assert ask(moa).usage.total_cost is None
    prices = {f"openai:{name}": {"input": 0.0, "output": 1e6} for name in "abc"}
    mixture(Path("two.yaml"), server.base_url, prices=prices)
    output = ask(get_model("moa/two.yaml", memoize=False))
    assert output.usage.total_cost == output.usage.output_tokens


def test_what_a_call_says_of_sampling_reaches_every_model(server: RecordingServer, moa: Model) -> None:
    """Temperature and max_tokens go to all; `stop` to the final model; the seed decides over the run alone."""
    output = ask(moa, temperature=0.25, max_tokens=99, stop_seqs=["END"], seed=7)
    assert {(body["temperature"], body["max_completion_tokens"]) for body in (r.body for r in server.requests)} == {
        (0.25, 99)
    }
    assert [body.get("stop") for name in "abc" for body in of(server, name)] == [None, None, ["END"]]
    assert (
        output.metadata["moa"]["seed"]
        == ask(moa, temperature=0.25, max_tokens=99, stop_seqs=["END"], seed=7).metadata["moa"]["seed"]
    )


def test_what_a_mixture_does_not_do_is_told_once(moa: Model, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each setting that is left out, however often it is said."""
    ask(moa, top_p=0.5, timeout=60)
    ask(moa, top_p=0.5, timeout=60)
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        "moa/two.yaml: top_p is left out: a mixture's models keep their own"
    ]


def test_a_conversation_keeps_its_roles_and_the_final_model_has_the_tools(server: RecordingServer, moa: Model) -> None:
    """System, user with a picture, tool call and result arrive as such at the final model; the proposers read text."""
    weather = ToolInfo(name="weather", description="of a city", parameters=ToolParams())
    said: list[ChatMessage] = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content=[ContentText(text="Where is this?"), ContentImage(image=PIXEL)]),
        ChatMessageAssistant(content="", tool_calls=[ToolCall(id="1", function="weather", arguments={"city": "Rome"})]),
        ChatMessageTool(content="sunny", tool_call_id="1", function="weather"),
    ]
    ask(moa, said, [weather])
    [final] = of(server, "c")
    system, user, call, result = final["messages"]
    assert system["content"].startswith("Be brief.")
    assert user["content"][1]["image_url"]["url"] == PIXEL
    assert call["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert (result["role"], result["content"], result["tool_call_id"]) == ("tool", "sunny", "1")
    assert [tool["function"]["name"] for tool in final["tools"]] == ["weather"]
    [proposer] = of(server, "a")
    assert "tools" not in proposer
    assert proposer["messages"][-1]["content"] == "[result of weather]\nsunny"


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", None),
        ("any", "required"),
        ("none", "none"),
        (ToolFunction("weather"), {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_which_tool_is_to_be_called(server: RecordingServer, moa: Model, choice: ToolChoice, sent: Any) -> None:
    """inspect's words for it are the provider's."""
    weather = ToolInfo(name="weather", description="of a city", parameters=ToolParams())
    asyncio.run(moa.api.generate([ChatMessageUser(content="Why?")], [weather], choice, GenerateConfig()))
    assert of(server, "c")[0].get("tool_choice") == sent


def test_a_tool_call_is_given_back_and_a_broken_one_says_why() -> None:
    """inspect_ai calls the tool, and tells the model of arguments that are no JSON."""
    whole = {"name": "weather", "args": {"city": "Rome"}, "id": "1"}
    broken = {"name": "weather", "args": "{city", "id": "2", "error": None}
    message = AIMessage("Let me see.", tool_calls=[whole], invalid_tool_calls=[broken])
    made = answered(message, "moa")
    assert made.text == "Let me see."
    assert [(call.id, call.function, call.arguments) for call in made.tool_calls or []] == [
        ("1", "weather", {"city": "Rome"}),
        ("2", "weather", {}),
    ]
    assert "{city" in str((made.tool_calls or [])[1].parse_error)
    assert stop_reason(message, {"final": {}}) == "tool_calls"  # type: ignore[typeddict-item]


def test_two_runs_of_the_same_question_share_nothing(server: RecordingServer, moa: Model) -> None:
    """Epochs ask the same at the same time, and each is to have answers of its own."""

    async def both() -> list[Any]:
        return await asyncio.gather(moa.generate("Why?"), moa.generate("Why?"))

    assert {output.completion for output in asyncio.run(both())} == {"answer of c #1", "answer of c #2"}
    assert len(server.requests) == 6


def test_an_answer_cut_at_max_tokens_says_so(server: RecordingServer, moa: Model) -> None:
    """A provider's `length` is inspect's `max_tokens`."""
    server.script("c", Behaviour(finish_reason="length"))
    assert ask(moa).stop_reason == "max_tokens"


def test_no_text_at_max_tokens_is_an_output(server: RecordingServer, moa: Model) -> None:
    """A final model that only thought until its tokens were gone: no error, and no text either."""
    server.script("c", Behaviour(text="", finish_reason="length"))
    output = ask(moa)
    assert (output.completion, output.stop_reason) == ("", "max_tokens")
    assert output.usage.input_tokens > 0


def test_a_failure_that_may_pass_is_made_good_without_asking_twice(server: RecordingServer, moa: Model) -> None:
    """Rate limited at the end: worth a retry, which asks the final model alone; what was paid before is counted."""
    server.script("c", Behaviour(status=429), Behaviour())
    error = failure(moa)
    assert error.__cause__ is None, "a cause may have a key in it"
    decision = moa.api.should_retry(error)
    assert (decision.retry, decision.kind) == (True, "rate_limit")
    output = ask(moa)
    assert [len(of(server, name)) for name in "abc"] == [1, 1, 2]
    assert output.usage.output_tokens == sum(request.completion_tokens for request in server.requests)


@pytest.mark.parametrize(("status", "again"), [(429, True), (500, True), (401, False)])
def test_a_layer_is_asked_again_where_that_may_help(
    server: RecordingServer, moa: Model, status: int, again: bool
) -> None:
    """No proposer answered: again after rate limits and the server's own failures, not after a bad key."""
    server.script("a", Behaviour(status=status))
    server.script("b", Behaviour(status=401))
    assert bool(moa.api.should_retry(failure(moa))) is again


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("moa/no-such", {}, "neither a YAML file nor a preset"),
        ("moa/two.yaml#nobody", {}, "no contender 'nobody': one of two.yaml, openai:a"),
        ("moa/two.yaml", {"mixtures": "x"}, "no -M mixtures: mixture=NAME"),
        ("moa/two.yaml", {"base_url": "http://x"}, "addresses of their own"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(moa: Model, name: str, arguments: dict[str, Any], why: str) -> None:
    """inspect_ai shows such an error without a traceback."""
    with pytest.raises(PrerequisiteError) as error:
        get_model(name, memoize=False, **arguments)
    assert why in error.value.message.replace("\\[", "[")


def test_a_contender_and_a_label(server: RecordingServer, moa: Model) -> None:
    """`#NAME` is whom the mixture is compared with; with `mixture=`, the model's name is but a label."""
    assert ask(get_model("moa/mine#openai:b", memoize=False, mixture="two.yaml")).completion == "answer of b #1"
    assert [request.model for request in server.requests] == ["b"]


def test_an_answer_in_inspects_cache_is_that_of_this_mixture(server: RecordingServer, moa: Model) -> None:
    """The same question is asked once; after a change of the YAML file, again."""
    ask(moa, cache=True)
    assert ask(moa, cache=True).completion == "answer of c #1"
    assert len(server.requests) == 3
    mixture(Path("two.yaml"), server.base_url, layers=1)
    assert ask(get_model("moa/two.yaml", memoize=False), cache=True).completion == "answer of c #2"


def test_an_eval_and_its_retry(server: RecordingServer, monkeypatch: pytest.MonkeyPatch, own_folder: Path) -> None:
    """In a process of its own: a mixture is evaluated and another grades; what failed is asked again, and that alone.

    Neither a model's key nor an address's user is in anything that is kept, where a provider repeats what it refuses.
    """
    monkeypatch.setenv("MY_KEY", "sk-planted-secret-1")
    address = server.base_url.replace("//", "//user-planted:pass-planted@")
    models = [
        {"model": f"openai:{name}", "base_url": address, "api_key_env": "MY_KEY"} for name in ("a", "b", "c", "j")
    ]
    mixture(Path("two.yaml"), "", proposers=models[:2], aggregator=models[2])
    mixture(Path("judge.yaml"), "", proposers=models[:1], aggregator=models[3], layers=1)
    Path("tasks.py").write_text(TASKS, encoding="utf-8")
    server.script(
        "c", Behaviour(), Behaviour(status=401, error="Incorrect API key provided: sk-planted-secret-1"), Behaviour()
    )
    server.script("j", *[Behaviour(text="GRADE: C")] * 2)
    ran = subprocess.run([sys.executable, "-c", EVAL], capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    log, again = json.loads(ran.stdout.splitlines()[-1])
    assert [log["status"], again["status"]] == ["error", "success"]
    assert [bool(sample.get("error")) for sample in log["samples"]] == [False, True]
    assert again["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 1.0
    assert log["samples"][0]["output"]["metadata"]["moa"]["calls"] == 3
    assert [len(of(server, name)) for name in ("a", "b", "c", "j")] == [3, 3, 3, 2]
    kept = [ran.stdout.encode(), ran.stderr.encode()]
    for path in own_folder.rglob("*.eval"):
        with zipfile.ZipFile(path) as file:
            kept += [file.read(name) for name in file.namelist()]
    kept += [path.read_bytes() for path in own_folder.rglob("*") if path.suffix in (".log", ".json")]
    assert [text for text in kept if b"planted" in text] == []
