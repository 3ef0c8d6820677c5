"""What every test may use, and what none may: a provider's key of whoever runs them."""

import os
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from tests.server import RecordingServer

NOT_OURS = ("_API_KEY", "_API_TOKEN", "_BASE_URL", "_API_BASE", "_PROXY")
TRACING = ("LANGSMITH_", "LANGCHAIN_")


@pytest.fixture(autouse=True)
def no_provider_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the keys, endpoints, proxies and tracing of whoever runs the tests out of the environment."""
    for name in os.environ:
        if name.upper().endswith(NOT_OURS) or name.startswith(TRACING):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one authority, not all: no test uses TLS, and each HTTP client takes 0.1 s to load them."""
    end = "-----END CERTIFICATE-----\n"
    bundle = tmp_path_factory.mktemp("tls") / "one.pem"
    bundle.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(bundle))
        yield


@pytest.fixture(scope="session", autouse=True)
def data_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep runs, threads and prices apart from those of whoever runs the tests."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name in ("MOA_GRAPH_STATS", "MOA_GRAPH_PRICES"):
            patch.delenv(name, raising=False)
        yield data


@pytest.fixture(autouse=True)
def no_run_before(data_of_its_own: Path) -> None:
    """Forget the runs of other tests: how long their answers were would be known to an estimate."""
    (data_of_its_own / "moa_graph" / "runs.sqlite").unlink(missing_ok=True)


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with RecordingServer() as server:
        yield server
