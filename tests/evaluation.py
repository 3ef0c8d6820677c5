"""What the tests of `moa_graph.eval` share: a server whose judge grades by script, mixtures, prompts, the data."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from moa_graph.cli import run
from moa_graph.eval.calls import Calls, asking_for
from moa_graph.eval.store import ANSWER, Lines
from tests.server import Behaviour, RecordingServer

DATA = Path(__file__).parents[2] / "shared" / "data"
with_data = pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' data are not beside this repository")

_SKILL = re.compile(r"^([A-Z][A-Za-z ]+): .*\nScore 1:", re.MULTILINE)


class JudgingServer(RecordingServer):
    """The model `judge` gives every MT-Bench answer a 7, every skill a 4, and prefers what stands first."""

    def _next_behaviour(self, model: str) -> Behaviour:
        if model != "judge" or model in self._scripts:
            return super()._next_behaviour(model)
        shown = " ".join(message["content"] for message in self.requests[-1].messages)
        if skills := _SKILL.findall(shown):
            return Behaviour(text=f"Well.\n{dict.fromkeys(skills, 4)}")
        return Behaviour(text='{"better": "A"}' if "<answer A" in shown else "Good. Rating: [[7]]")


def mixture(path: Path, base_url: str, **changes: Any) -> Path:
    """A file that describes two proposers, two layers and a final model, all at the server."""
    models = [{"model": f"openai:{name}", "base_url": base_url} for name in ("a", "b", "c")]
    described = {"proposers": models[:2], "aggregator": models[2], "layers": 2, "policy": {"retries": 0}, **changes}
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


def judge(path: Path, base_url: str, **changes: Any) -> Path:
    model = {"model": "openai:judge", "base_url": base_url}
    described = {"proposers": [model], "aggregator": model, "layers": 1, "policy": {"retries": 0}, **changes}
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


def prompts(path: Path, *questions: str) -> Path:
    path.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions), encoding="utf-8")
    return path


@contextmanager
def serving(server: JudgingServer, **changes: Any) -> Iterator[JudgingServer]:
    """A server that runs, with `two.yaml`, `judge.yaml` and `own.jsonl`, three prompts, in this folder."""
    with server:
        mixture(Path("two.yaml"), server.base_url, **changes)
        judge(Path("judge.yaml"), server.base_url)
        prompts(Path("own.jsonl"), "Why?", "What?", "Who?")
        yield server


def evaluate(*arguments: str, benchmark: str = "own.jsonl") -> int:
    """`moa eval run` in this folder, with `two.yaml`, judged by `judge.yaml`, into `out`."""
    return run(["eval", "run", benchmark, "-c", "two.yaml", "-j", "judge.yaml", "-o", "out", *arguments])


def lines(name: str) -> list[dict[str, Any]]:
    """What is in a file of `out`."""
    return [json.loads(line) for line in Path("out", name).read_text(encoding="utf-8").splitlines()]


def unfinished(out: str, usd: float) -> None:
    """What a process leaves that was killed when a proposer had answered, for so many $, an item that is not there."""
    answers = Lines(Path(out, "answers.jsonl"), ANSWER)
    calls = Calls(Path(out, "calls.jsonl"), answers)
    with asking_for(("an item", "two.yaml", 0, 1)):
        calls.set({("", "a"): ({"text": "x", "model": "a", "usage": None, "usd": usd}, None)})
    calls.close()
