"""What some tests need: the packages of the extra, and the published data where it lies beside the project."""

from importlib.util import find_spec
from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published data is not in {DATA}")
# Not by importing it: the first import must be the one that takes back what it sets for the whole process.
needs_extra = pytest.mark.skipif(find_spec("alpaca_eval") is None, reason="the extra `eval` is not installed")
