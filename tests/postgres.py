"""A PostgreSQL of the test's own: on a free port of 127.0.0.1, as a user that is not root, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_START = 60.0  # seconds it may take


def _programs() -> Path:
    """Where `initdb` and `postgres` are; Debian does not put them on the path."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return versions[-1].parent


def _user() -> str | None:
    """Whom PostgreSQL runs as: it refuses root."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return name
    pytest.skip("PostgreSQL refuses to run as root, and there is no user to run it as")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """Start it, give its connection string, and stop it. Skips the test, with the reason, where it cannot be."""
    programs, user, port = _programs(), _user(), _free_port()
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as directory:
        data = Path(directory, "data")
        data.mkdir(mode=0o700)
        if user is not None:
            Path(directory).chmod(0o711)
            shutil.chown(data, user)
        initdb = [programs / "initdb", "--pgdata", data, "--username", "moa", "--auth", "trust", "--no-sync"]
        made = subprocess.run(initdb, user=user, cwd="/", capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"initdb failed: {made.stderr.strip()[-300:]}")
        where = f"postgresql://moa@127.0.0.1:{port}/postgres"
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        command = [programs / "postgres", "-D", data, "-p", str(port), *options]
        with (
            Path(directory, "log").open("wb") as log,
            subprocess.Popen(command, user=user, cwd="/", stdout=log, stderr=log) as server,
        ):
            try:
                _wait(server, where, Path(log.name))
                yield where
            finally:
                server.terminate()


def _wait(server: "subprocess.Popen[bytes]", where: str, log: Path) -> None:
    end = time.monotonic() + _START
    while True:
        try:
            psycopg.connect(where, connect_timeout=5).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end:
                pytest.skip(f"PostgreSQL did not start: {log.read_text(errors='replace').strip()[-300:]}")
            time.sleep(0.05)
        else:
            return
