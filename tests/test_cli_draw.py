"""`moa draw`."""

import json
from pathlib import Path

import pytest
import yaml

from moa_graph.cli import run

MODELS = {"proposers": ["openai:z", "openai:a"], "aggregator": "openai:last"}


@pytest.fixture(autouse=True)
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a mixture in it, and no key."""
    monkeypatch.chdir(tmp_path)
    Path("moa.yaml").write_text(yaml.safe_dump(MODELS), encoding="utf-8")


def ran(**changes: object) -> str:
    """What `moa ask --json` prints of a run of that mixture with one layer of proposers, in which one failed."""
    ok = {"proposer": "z", "model": "z", "status": "ok", "seconds": 1.2, "attempts": 1, "usage": {"output_tokens": 5},
          "error": None, "cached": False, "resumed": False}  # fmt: skip
    calls = [ok, {**ok, "proposer": "a", "status": "timeout", "seconds": 9.0, "error": "TimeoutError: 9 s"}]
    receipt = {"layers": [{"layer": 1, "asked": 2, "answered": 1, "seconds": 9.0, "proposals": calls}],
               "final": {**ok, "proposer": "final"}, "calls": 3, "input_tokens": 20, "output_tokens": 10,
               "seconds": 10.2}  # fmt: skip
    return json.dumps({"answer": "x", "config": "moa.yaml", "receipt": receipt, **changes})


def test_on_standard_output(capsys: pytest.CaptureFixture[str]):
    """Without a file it prints Mermaid, which can be piped on, and nothing else."""
    assert run(["draw", "--collapsed"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("---\nconfig:")
    assert (out.count("2 proposers"), err) == (2, "")


def test_to_a_file(capsys: pytest.CaptureFixture[str]):
    """`-o FILE` writes the picture and says so."""
    assert run(["draw", "-o", "moa.txt", "--layers", "2"]) == 0
    assert capsys.readouterr() == ("", "written to moa.txt\n")
    assert Path("moa.txt").read_text(encoding="utf-8").splitlines()[1:3] == ["├─ z  openai:z", "└─ a  openai:a"]


def test_to_a_file_that_is_there(capsys: pytest.CaptureFixture[str]):
    """A picture that is there is replaced, as other tools do with `-o`, and that is said."""
    Path("moa.txt").write_text("before")
    assert run(["draw", "-o", "moa.txt"]) == 0
    assert capsys.readouterr().err == "written to moa.txt, in place of what was there\n"
    assert "before" not in Path("moa.txt").read_text(encoding="utf-8")


def test_a_png(capsys: pytest.CaptureFixture[str]):
    """A PNG needs no network and no key."""
    pytest.importorskip("mermaidx", reason='needs pip install "moa-graph[draw]"')
    assert run(["draw", "-o", "moa.png", "--collapsed"]) == 0
    assert Path("moa.png").read_bytes().startswith(b"\x89PNG")


def test_a_run(capsys: pytest.CaptureFixture[str]):
    """`--run FILE` draws the mixture that `moa ask --json` asked, its layers too, and how it went."""
    Path("run.json").write_text(ran(), encoding="utf-8")
    assert run(["draw", "-o", "moa.txt", "--run", "run.json"]) == 0
    assert Path("moa.txt").read_text(encoding="utf-8").splitlines() == [
        "layer 1  1 of 2 answered",
        "├─ z  openai:z  ✓ 1.2 s · 5 out",
        "└─ a  openai:a  ✗ timeout after 9.0 s",
        "final  openai:last  ✓ 1.2 s · 5 out",
        "3 calls · 10.2 s · 20 tokens in, 10 out",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "moa.gif"], "moa.gif: a picture ends in one of .png, .svg, .mmd, .txt"),
        (["-o", "moa.yaml"], "moa.yaml: a picture ends in one of"),
        (["-o", "nowhere/moa.txt"], "nowhere/moa.txt: cannot be written (No such file or directory)"),
        (["-o", "folder.txt"], "folder.txt: cannot be written (Is a directory)"),
        (["-o", "~nobody-here/moa.txt"], "~nobody-here/moa.txt: cannot be written"),
        (["--run", "nowhere.json"], "nowhere.json: cannot be read (No such file or directory); give what `moa ask"),
        (["--run", "moa.yaml"], "moa.yaml: this is not what `moa ask --json` prints"),
        (["--run", "empty.json"], "empty.json: this is not what `moa ask --json` prints"),
        (["--run", "run.json", "-c", "moa-lite"], "the receipt is of another mixture: one of 2 layers, with z, a"),
        (["--run", "run.json", "--layers", "3"], "the receipt is of another mixture"),
    ],
)
def test_asked_wrongly(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    """What cannot be drawn is one line and exit code 2, and what was there is still there."""
    Path("folder.txt").mkdir()
    Path("run.json").write_text(ran(), encoding="utf-8")
    Path("empty.json").write_text("{}")
    assert run(["draw", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert yaml.safe_load(Path("moa.yaml").read_text(encoding="utf-8")) == MODELS
