"""The notebooks run as they stand, offline, and show what is committed."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks.execute import HERE, NOTEBOOKS, executed, kept

LOOPBACK_ONLY = """
from pytest_socket import socket_allow_hosts
socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)
"""
NO_MODEL = "import sys; sys.modules['xllamacpp'] = None\n"
SPEAKS_FREELY = "01_quickstart.ipynb"  # the embedded model does, and never twice the same
SECONDS = re.compile(r"\b\d+\.\d(?= s\b| \|)")

pytestmark = pytest.mark.timeout(300)  # a real model answers, on whatever machine this is
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def committed(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@cache
def run(path: Path) -> Any:
    return kept(executed(path, LOOPBACK_ONLY + NO_MODEL * (path.name != SPEAKS_FREELY)))


def told(notebook: Any) -> list[str]:
    """The text that each output shows, without seconds, and without what matplotlib says when it is new."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output for output in outputs if output.get("name") != "stderr"]
    texts = [output.get("text") or {**output.get("data", {}), "image/png": "a picture"} for output in shown]
    return [SECONDS.sub("…", str(text)) for text in texts]


@each_notebook
def test_it_runs(path: Path) -> None:
    """Each cell runs in a fresh kernel, with no network but this machine's own and no error."""
    assert [
        output for cell in run(path).cells for output in cell.get("outputs", []) if output.output_type == "error"
    ] == []


@each_notebook
def test_it_shows_what_is_committed(path: Path) -> None:
    """What a run prints is what a reader sees, but for seconds and for what a real model says."""
    now, then = told(run(path)), told(committed(path))
    assert len(now) == len(then)
    if path.name != SPEAKS_FREELY:
        assert now == then


@each_notebook
def test_it_is_committed_whole_and_small(path: Path) -> None:
    """Every cell has run, in order and without a warning; the file is small."""
    code = [cell for cell in committed(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum(bool(cell.outputs) for cell in code) > len(code) / 2
    assert {output.get("name", "stdout") for cell in code for output in cell.outputs} == {"stdout"}
    assert path.stat().st_size < 120_000


@each_notebook
def test_it_names_no_folder_of_a_machine(path: Path) -> None:
    """Neither code, text nor output has a path on whoever ran it, and no cell keeps when it ran."""
    notebook = committed(path)
    shown = [cell.source for cell in notebook.cells] + told(notebook)
    assert re.findall(r"/(?:work|root|tmp|home|Users|usr|opt)/\S+", "\n".join(shown)) == []
    assert [cell.metadata for cell in notebook.cells if cell.metadata] == []


@each_notebook
def test_links_lead_somewhere(path: Path) -> None:
    """Every link to a file leads to a file."""
    text = "\n".join(cell.source for cell in committed(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (HERE / target).exists(), target
