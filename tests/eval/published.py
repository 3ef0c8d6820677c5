"""What some tests need: the packages of the extra, and the published data where it lies beside the project."""

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published data is not in {DATA}")
# Not by importing it: the first import must be the one that takes back what it sets for the whole process.
needs_extra = pytest.mark.skipif(find_spec("alpaca_eval") is None, reason="the extra `eval` is not installed")


def leaderboard() -> Mapping[str, Mapping[str, float]]:
    """AlpacaEval 2.0's leaderboard by model, as it comes with the package; what is not in it is left out."""
    spec = find_spec("alpaca_eval")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return {row.pop(""): {key: float(value) for key, value in row.items() if key != "mode" and value} for row in rows}
