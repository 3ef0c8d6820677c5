"""What it costs to import moa_graph and to start `moa`: `python -m tests.benchmarks.imports`.

Every run is a process of its own. The commands take turns, so that whatever else the machine does meets all.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.table import Row, report

RUNS = 11
ROOT = Path(__file__).parents[2]
LANGGRAPH = "import langgraph.graph"
PLAIN = "import moa_graph"
USED = "import moa_graph; moa_graph.create_moa"
TYPER = "import typer, rich"
HELP = "moa --help"


def commands() -> dict[str, list[str]]:
    moa = shutil.which("moa", path=sysconfig.get_path("scripts"))
    assert moa is not None, "moa is not installed beside this Python"
    codes = (LANGGRAPH, PLAIN, USED, TYPER)
    return {code: [sys.executable, "-c", code] for code in codes} | {HELP: [moa, "--help"]}


def seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def measure() -> dict[str, list[float]]:
    """Seconds of each command, `RUNS` times, after one run that compiles and is not counted."""
    with tempfile.TemporaryDirectory() as cache:  # bytecode is always cached here, whatever the environment says
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        rounds = [{what: seconds(c, environment) for what, c in commands().items()} for _ in range(RUNS + 1)]
    return {what: [each[what] for each in rounds[1:]] for what in commands()}


def main() -> int:
    times = measure()
    langgraph, typer = median(times[LANGGRAPH]), median(times[TYPER])
    return report(
        [
            Row(PLAIN, times[PLAIN], langgraph, limit=1.1),
            Row(USED, times[USED], langgraph),
            Row(HELP, times[HELP], typer, limit=2),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
