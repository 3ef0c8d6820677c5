"""Other people's data: the right version of it, from a folder, from the cache, or downloaded once."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from moa_graph.errors import MoAConfigError
from moa_graph.eval import data
from moa_graph.eval.data import SOURCES, Source, cache_dir, fetch, find, read, rows
from tests.eval.published import DATA, needs_data

QUESTIONS = b'{"a": 1}\n{"a": "\xe2\x80\xa8"}\n'
PROMPTS = b'[{"b": 2}]'
UNPUBLISHED = "set/never.json"


@pytest.fixture(autouse=True)
def three_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A set of three small files, and a cache of our own."""
    bodies = {"set/questions.jsonl": QUESTIONS, "set/prompts.json": PROMPTS, UNPUBLISHED: b"{}"}
    small = {
        name: Source(f"https://example.invalid/{name}", hashlib.sha256(body).hexdigest(), "Set: MIT")
        for name, body in bodies.items()
    }
    monkeypatch.setattr(data, "SOURCES", small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MOA_GRAPH_DATA", raising=False)


class Mirror(BaseHTTPRequestHandler):
    """Serves the files of a dictionary, and remembers what it was asked for."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = self.files.get(self.path.removeprefix("/"))
        self.send_response(404 if body is None else 200)
        # One that promises more than it sends breaks off.
        self.send_header("Content-Length", str(len(body or b"") + (10 if body == b"broken" else 0)))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror() -> Iterator[str]:
    Mirror.files, Mirror.asked = {"set/questions.jsonl": QUESTIONS, "set/prompts.json": PROMPTS}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def folder_with(folder: Path, name: str, body: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


# --- the table


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_complete(name: str) -> None:
    """Where it is, over TLS; what its bytes are; on which terms."""
    source = SOURCES[name]
    assert source.url.startswith("https://")
    assert len(bytes.fromhex(source.sha256)) == 32
    assert source.licence


@needs_data
@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"alpaca_eval/df_gamed.csv"}))
def test_the_published_files_are_those_of_the_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them has its checksum, compressed or not."""
    monkeypatch.setattr(data, "SOURCES", SOURCES)
    assert fetch(name, DATA).is_file()


# --- a folder of the user's


def test_a_file_of_the_folder_is_used(tmp_path: Path) -> None:
    """As it is, or compressed; it is read the same."""
    plain = folder_with(tmp_path, "set/prompts.json", PROMPTS)
    packed = folder_with(tmp_path, "set/questions.jsonl.gz", gzip.compress(QUESTIONS))
    assert fetch("set/prompts.json", tmp_path) == plain
    assert fetch("set/questions.jsonl", str(tmp_path)) == packed
    assert read(packed) == QUESTIONS


def test_the_folder_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`MOA_GRAPH_DATA` is looked in where no folder is given."""
    named = folder_with(tmp_path / "named", "set/prompts.json", PROMPTS)
    given = folder_with(tmp_path / "given", "set/prompts.json", PROMPTS)
    monkeypatch.setenv("MOA_GRAPH_DATA", str(tmp_path / "named"))
    assert fetch("set/prompts.json") == find("set/prompts.json") == named
    assert fetch("set/prompts.json", tmp_path / "given") == given


def test_another_version_is_refused(tmp_path: Path) -> None:
    """The message names the file, and both checksums."""
    path = folder_with(tmp_path, "set/prompts.json", b"[]")
    expected, found = hashlib.sha256(PROMPTS).hexdigest(), hashlib.sha256(b"[]").hexdigest()
    with pytest.raises(MoAConfigError) as caught:
        fetch("set/prompts.json", tmp_path)
    assert str(caught.value) == f"{path}: is another version: SHA-256 {expected} is expected, found {found}"


def test_what_is_not_in_the_folder_is_not_downloaded(tmp_path: Path, mirror: str) -> None:
    """Who names a folder gets what is in it: the message says what is missing, and where it is published."""
    with pytest.raises(MoAConfigError, match=r"set/prompts\.json: there is no such file, .* https://example\.invalid/"):
        fetch("set/prompts.json", tmp_path, mirror=mirror)
    assert Mirror.asked == []


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    """The message names it."""
    for body in (b"no gzip", gzip.compress(PROMPTS)[:-4]):
        folder_with(tmp_path, "set/prompts.json.gz", body)
        with pytest.raises(MoAConfigError, match=r"prompts\.json\.gz: cannot be read"):
            fetch("set/prompts.json", tmp_path)


def test_an_unknown_name_is_refused() -> None:
    """The message names those that there are."""
    with pytest.raises(MoAConfigError, match=r"no data is called 'mt_bench'; one of set/questions\.jsonl, "):
        fetch("mt_bench")


# --- the cache


def test_it_is_downloaded_once(mirror: str) -> None:
    """Then the file in the cache serves."""
    assert find("set/prompts.json") is None
    path = fetch("set/prompts.json", mirror=mirror)
    assert (path, path.read_bytes()) == (cache_dir() / "set/prompts.json", PROMPTS)
    assert fetch("set/prompts.json", mirror=mirror) == find("set/prompts.json") == path
    assert Mirror.asked == ["/set/prompts.json"]


def test_the_terms_are_said_once_for_a_set(mirror: str) -> None:
    """When its first file is downloaded."""
    said: list[str] = []
    for name in ("set/questions.jsonl", "set/prompts.json", "set/prompts.json"):
        fetch(name, mirror=mirror, say=said.append)
    assert said == ["Set: MIT"]


def test_an_old_version_in_the_cache_is_replaced(mirror: str) -> None:
    """The cache is ours: what is wrong in it is downloaded again."""
    folder_with(cache_dir(), "set/prompts.json", b"[]")
    assert fetch("set/prompts.json", mirror=mirror).read_bytes() == PROMPTS


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", r"/set/prompts\.json: is another version: SHA-256 \w{64} is expected, found \w{64}"),
        (
            b"broken",
            r"prompts\.json: could not be downloaded .*; put what is at http.* there yourself",
        ),
        (None, r"prompts\.json: could not be downloaded .*404"),
    ],
    ids=["another", "broken off", "missing"],
)
def test_a_download_that_failed_leaves_nothing(body: bytes | None, message: str, mirror: str) -> None:
    """Neither half a file, nor a wrong one, nor one beside it."""
    Mirror.files = {} if body is None else {"set/prompts.json": body}
    with pytest.raises(MoAConfigError, match=message):
        fetch("set/prompts.json", mirror=mirror)
    assert [path for path in cache_dir().rglob("*") if path.is_file()] == []


# --- records


def test_records_are_read(tmp_path: Path) -> None:
    """Of a JSON list, a JSON object, and of lines that may hold any character."""
    folder_with(tmp_path, "set/prompts.json", PROMPTS)
    folder_with(tmp_path, "set/questions.jsonl", QUESTIONS)
    folder_with(tmp_path, UNPUBLISHED, b"{}")
    assert rows("set/prompts.json", tmp_path) == [{"b": 2}]
    assert rows("set/questions.jsonl", tmp_path) == [{"a": 1}, {"a": "\u2028"}]
    assert rows(UNPUBLISHED, tmp_path) == [{}]
