"""The extra `eval`: who does not have it is told how to get it, and who does not evaluate does not pay for it."""

import subprocess
import sys

import pytest

from moa_graph.errors import MoAConfigError
from moa_graph.eval.extra import load

HEAVY = ("alpaca_eval", "datasets", "matplotlib", "pandas", "rapidfuzz", "sacrebleu", "scipy", "sklearn")


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the package, and what to type."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "sacrebleu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MoAConfigError, match=r'sacrebleu is not installed.*: pip install "moa-graph\[eval\]"'):
        load("sacrebleu.metrics")


def test_importing_the_evaluation_loads_none_of_it() -> None:
    """Every module of it can be imported where the extra is not installed."""
    script = (
        "import importlib, pkgutil, sys, moa_graph.eval as e;"
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(e.__path__, 'moa_graph.eval.')];"
        f"print(*(m for m in {HEAVY!r} if m in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
