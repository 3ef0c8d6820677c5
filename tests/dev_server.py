"""`langgraph dev`, LangGraph's own server, in a process of its own: offline, and without anybody's keys."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

needs_server = pytest.mark.skipif(
    not (find_spec("langgraph_cli") and find_spec("langgraph_api")), reason='needs pip install "langgraph-cli[inmem]"'
)


class Dev(NamedTuple):
    """A running `langgraph dev`."""

    url: str
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@contextmanager
def dev_server(folder: Path, **settings: str) -> Iterator[Dev]:
    """Serve the `langgraph.json` of `folder`, with these environment variables too."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.upper().endswith(("_API_KEY", "_PROXY"))},
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGSMITH_TRACING": "false",
        "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
        **settings,
    }
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    server = Dev(f"http://127.0.0.1:{port}", folder / "log")
    try:
        wait_for(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(server: Dev, process: "subprocess.Popen[bytes]", seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < until:
        try:
            with without_proxy.open(f"{server.url}/ok", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{server.said[-4000:]}")
