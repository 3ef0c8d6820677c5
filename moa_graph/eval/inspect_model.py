"""A mixture as a model of inspect_ai: `inspect eval TASK --model moa/NAME`.

NAME: a preset, a YAML file's path or `provider:model`, one model alone; `NAME#CONTENDER`: whom `moa eval` compares the
mixture with, such as `moa/moa.yaml#single-proposer openai:gpt-6-luna`.
"""

import copy
import hashlib
import json
import logging
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    RetryDecision,
    StopReason,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from langchain_core.messages import BaseMessage
from rich.markup import escape

from moa_graph.advice import fitted
from moa_graph.choose import choose
from moa_graph.config import LayerConfig, MoAConfig, presets
from moa_graph.errors import FinalError, MoAConfigError, MoAError, MoARunError, QuorumError
from moa_graph.eval import inspect_messages
from moa_graph.eval.contenders import adjusted, contenders, fingerprint
from moa_graph.eval.judge import judge_config
from moa_graph.eval.unfinished import Attempted, Unfinished
from moa_graph.graph import create_moa
from moa_graph.retry import _PERMANENT_CODES, retry_after, transient
from moa_graph.state import plain_proposals

__all__ = ["MoAModel", "mixture_named", "prerequisite"]

_log = logging.getLogger(__name__)

_GRAPHS: Final = 16  # for so many settings of a call a graph is kept
_MAY_PASS: Final = re.compile(
    r"RateLimit|Connection|Timeout|InternalServer|ServiceUnavailable|Overloaded|Error code: (408|409|425|429|5\d\d)"
)
_RATE_LIMIT: Final = re.compile(r"RateLimit|Error code: 429")
_PERMANENT: Final = re.compile("|".join(sorted(_PERMANENT_CODES)))


def prerequisite(why: str) -> Exception:
    """The error by which inspect_ai says, without a traceback, what has to be done first."""
    from inspect_ai._util.error import PrerequisiteError

    return PrerequisiteError(escape(why))


def mixture_named(name: str) -> MoAConfig:
    """The mixture of `moa/NAME`. Raises MoAConfigError."""
    given, _, contender = name.partition("#")
    config = _given(given)
    if not contender:
        return config
    found = {one.name: one.config for one in contenders({given: config})}
    if contender not in found:
        raise MoAConfigError(f"{given} has no contender {contender!r}: one of {', '.join(found)}")
    return found[contender]


def _given(name: str) -> MoAConfig:
    path = Path(name).expanduser()
    if name in presets() or path.is_file() or path.suffix in (".yaml", ".yml"):
        return choose(name if name in presets() else str(path.absolute())).config
    return MoAConfig(proposers=[name], aggregator=name, layers=1) if ":" in name else choose(name).config


class MoAModel(ModelAPI):
    """A mixture that inspect_ai asks.

    mixture: the name or file, where `model_name` is but a label (`-M mixture=FILE`). judge: it grades, so it is asked
    as `judge_config` says.

    `temperature` and `max_tokens` go to all its models, where they may be sent (`max_tokens` is the smaller one),
    `seed` to the run, tools and `stop_seqs` to the final model; whatever else is said is told once and left out.
    The usage sums up all calls. Receipt and proposals are in the output's metadata.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        mixture: str | None = None,
        judge: bool = False,
        **unknown: Any,
    ) -> None:
        super().__init__(model_name, None, None, [], config or GenerateConfig())
        try:
            if unknown:
                raise MoAConfigError(f"there is no -M {next(iter(unknown))}: mixture=NAME|FILE and judge=true are all")
            if api_key or (base_url and not base_url.startswith(_STANDS_FOR)):
                raise MoAConfigError("a mixture's models have keys and addresses of their own: api_key_env, base_url")
            _, _, contender = model_name.partition("#")
            name = f"{mixture}#{contender}" if mixture and contender else mixture or model_name
            self._config = judge_config(name) if judge else mixture_named(name)
            self._unfinished, self._graphs, self._told = Unfinished(), dict[str, Any](), set[str]()
            self._graph(self._config, {})
        except MoAConfigError as error:
            raise prerequisite(f"{error} (moa/{model_name})") from None
        self.base_url = _STANDS_FOR + fingerprint(self._config)  # inspect's cache goes by it, and not by the mixture

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """The mixture's answer. Raises MoARunError; prerequisite errors for what it cannot be asked."""
        self._tell(inspect_messages.ignored(config))
        try:
            messages = inspect_messages.conversation(input)
            given = inspect_messages.given(tools, tool_choice, config)
            graph = self._graph(adjusted(self._config, config.temperature, config.max_tokens), given)
        except MoAConfigError as error:
            raise prerequisite(f"{error} (moa/{self.model_name})") from None
        what = _digest(messages, given, config)
        run = self._unfinished.begin(what, _seed(what, config.seed))
        try:
            with self._unfinished.going_on(run):
                state = await graph.ainvoke({"messages": messages}, {"configurable": {"seed": run.seed}})
        except MoARunError as error:
            return self._failed(error, what, run)
        return self._answered(state, run)

    def _answered(self, state: Mapping[str, Any], run: Attempted) -> ModelOutput:
        last = state["messages"][-1]
        receipt = last.response_metadata["moa"]
        message = inspect_messages.answered(last, self.model_name)
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=inspect_messages.stop_reason(last, receipt))],
            usage=inspect_messages.usage([*run.receipts, receipt]),
            metadata={
                "moa": receipt,
                "proposals": plain_proposals(state["proposals"]),
                **({"failed": run.receipts} if run.receipts else {}),
            },
        )

    def _failed(self, error: MoARunError, what: str, run: Attempted) -> ModelOutput:
        """What inspect_ai knows as an output without text. Raises all else, without the cause: a key might be in it."""
        receipts = [*run.receipts, *([error.receipt] if error.receipt else [])]
        if reason := _no_text(error):
            output = ModelOutput.from_content(self.model_name, "", reason, str(error))
            output.usage = inspect_messages.usage(receipts)
            output.metadata = {"moa": error.receipt, "proposals": plain_proposals(error.proposals)}
            return output
        decision = _decision(error, self._config)
        if decision:
            run.receipts = receipts
            self._unfinished.failed(what, run)
        plain = copy.copy(error)
        plain.__dict__["again"] = decision
        raise plain from None

    def should_retry(self, ex: Exception) -> RetryDecision:
        """Yes where enough of the failures may pass: rate limits, lost connections, timeouts, a server's own."""
        return getattr(ex, "again", RetryDecision.no())

    def connection_key(self) -> str:
        """How many are asked at once is counted for each mixture."""
        return str(self.base_url)

    def _graph(self, config: MoAConfig, given: Mapping[str, Any]) -> Any:
        """The graph for calls like this one; made when first needed. Raises MoAConfigError."""
        key = json.dumps([fingerprint(config), given], sort_keys=True)
        if key not in self._graphs:
            while len(self._graphs) >= _GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = create_moa(**fitted(config.arguments(), given), cache=self._unfinished)
        return self._graphs[key]

    def _tell(self, ignored: Sequence[str]) -> None:
        for name in ignored:
            if name not in self._told:
                self._told.add(name)
                _log.warning("moa/%s: %s is left out: a mixture's models keep their own", self.model_name, name)


_STANDS_FOR: Final = "moa:"


def _digest(messages: Sequence[BaseMessage], given: Mapping[str, Any], config: GenerateConfig) -> str:
    said = [[m.type, m.content, getattr(m, "tool_calls", None), getattr(m, "tool_call_id", None)] for m in messages]
    whole = [said, given, config.temperature, config.max_tokens, config.seed]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode("utf-8", "replace")).hexdigest()


def _seed(what: str, seed: int | None) -> int:
    """Of one run: with one and the same for all, every sample's references would be shuffled alike."""
    if seed is None:
        return random.getrandbits(31)
    return int(hashlib.sha256(f"{seed}:{what}".encode()).hexdigest()[:8], 16) >> 1


def _no_text(error: MoARunError) -> StopReason | None:
    """Why the final model had nothing to say, where inspect_ai has a word for it."""
    cause = error.__cause__ if isinstance(error, FinalError) else None
    if getattr(cause, "code", None) == "context_length_exceeded":
        return "model_length"
    if isinstance(cause, MoAError) and "(finish_reason: length)" in str(cause):
        return "max_tokens"
    return None


def _decision(error: MoARunError, config: MoAConfig) -> RetryDecision:
    """Whether the run is worth making again."""
    if isinstance(error, FinalError) and error.__cause__:
        cause = error.__cause__
        if not transient(cause):
            return RetryDecision.no()
        limited = getattr(cause, "status_code", None) == 429
        return (RetryDecision.rate_limit if limited else RetryDecision.transient)(retry_after(cause))
    if isinstance(error, QuorumError) and error.proposals:
        layer = max(proposal["layer"] for proposal in error.proposals)
        asked = [proposal for proposal in error.proposals if proposal["layer"] == layer]
        why = [proposal.get("error", proposal["status"]) for proposal in asked if proposal["status"] != "ok"]
        passing = [text for text in why if _MAY_PASS.search(text) and not _PERMANENT.search(text)]
        if len(asked) - len(why) + len(passing) >= _quorum(config, layer):
            limited = any(_RATE_LIMIT.search(text) for text in passing)
            return RetryDecision.rate_limit() if limited else RetryDecision.transient()
    return RetryDecision.no()


def _quorum(config: MoAConfig, layer: int) -> int:
    given = [one for one in config.proposers if isinstance(one, LayerConfig)]
    own = given[layer - 1].policy if layer <= len(given) else None
    return (own or config.policy).quorum
