"""Other people's data that the evaluation needs: where it is, whose it is, and that it is the right version.

path = fetch("mt_bench/question.jsonl", say=print)
questions = rows("mt_bench/question.jsonl")

A file comes from `data_dir`, or the folder that `MOA_GRAPH_DATA` names; where neither is given, from
`~/.cache/moa_graph/data` (or `XDG_CACHE_HOME`), into which it is downloaded when it is first wanted. In a folder of
yours it may be compressed: `question.jsonl.gz`. Its checksum is that of what is in it.
"""

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from moa_graph.errors import MoAConfigError, clean, describe
from moa_graph.folders import cache_folder

__all__ = ["SETTING", "SOURCES", "Source", "cache_dir", "fetch", "find", "licences", "read", "rows"]

SETTING: Final = "MOA_GRAPH_DATA"
"""Names the folder where the files are, laid out as the names in `SOURCES` are."""

_SECONDS: Final = 60.0  # without a byte
_SUFFIXES: Final = ("", ".gz")


@dataclass(frozen=True)
class Source:
    """Where a file is published, what its bytes are, and under which terms."""

    url: str
    sha256: str
    licence: str


_ALPACA_EVAL: Final = (
    "https://huggingface.co/datasets/tatsu-lab/alpaca_eval/resolve/2edc6fad8be6b14ea7230aabfd08188da6b8b814"
)
_MT_BENCH: Final = (
    "https://raw.githubusercontent.com/lm-sys/FastChat/587d5cfa1609a43d192cedb8441cac3c17db105d/fastchat/llm_judge/data"
)
# As the paper used it: with its reference code.
_FLASK: Final = "https://raw.githubusercontent.com/togethercomputer/MoA/819420ff2240a391271f9faf035e9a5f3216cb9c/FLASK"

_ALPACA_EVAL_IS: Final = "AlpacaEval (tatsu-lab): CC-BY-NC-4.0, not for commercial use"
_MT_BENCH_IS: Final = "MT-Bench (LMSYS): Apache-2.0"
_FLASK_IS: Final = "FLASK (KAIST AI): its authors state no licence, and ask to be cited (arXiv 2307.10928)"

SOURCES: Final[Mapping[str, Source]] = MappingProxyType({
    # The 805 instructions with the baseline's answers.
    "alpaca_eval/outputs/gpt4_1106_preview.json": Source(
        f"{_ALPACA_EVAL}/alpaca_eval_gpt4_baseline.json",
        "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
        _ALPACA_EVAL_IS,
    ),
    # What length control is regularised with.
    "alpaca_eval/df_gamed.csv": Source(
        f"{_ALPACA_EVAL}/df_gamed.csv",
        "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d",
        _ALPACA_EVAL_IS,
    ),
    "mt_bench/question.jsonl": Source(
        f"{_MT_BENCH}/mt_bench/question.jsonl",
        "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
        _MT_BENCH_IS,
    ),
    "mt_bench/judge_prompts.jsonl": Source(
        f"{_MT_BENCH}/judge_prompts.jsonl",
        "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
        _MT_BENCH_IS,
    ),
    "mt_bench/reference_answer_gpt-4.jsonl": Source(
        f"{_MT_BENCH}/mt_bench/reference_answer/gpt-4.jsonl",
        "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
        _MT_BENCH_IS,
    ),
    "flask/flask_evaluation.jsonl": Source(
        f"{_FLASK}/evaluation_set/flask_evaluation.jsonl",
        "791950bf1f159b048eba8fee205eba606926c25467a9a31e6f9b6affc2e3e13d",
        _FLASK_IS,
    ),
    "flask/flask_hard_evaluation.jsonl": Source(
        f"{_FLASK}/evaluation_set/flask_hard_evaluation.jsonl",
        "9830d65b2a137b9184039850c748f52dde369377a0ae06c00ccb6d464d5ebb48",
        _FLASK_IS,
    ),
    "flask/skillset_description.json": Source(
        f"{_FLASK}/metadata_annotation/skillset/src/skillset_description.json",
        "78f03c29f5a6510b76b8a765cb539c302d69898b7e4d7c68372c9cc2427e595e",
        _FLASK_IS,
    ),
    "flask/prompt.jsonl": Source(
        f"{_FLASK}/gpt_review/src/prompt.jsonl",
        "64836bb1eb6940e7ddbbbf0ea66265191bfd49476036ca15fc2660bbfa326134",
        _FLASK_IS,
    ),
})  # fmt: skip
"""The files by name."""


def cache_dir() -> Path:
    """Where downloaded files are kept."""
    return cache_folder() / "data"


def fetch(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    say: Callable[[str], None] | None = None,
    mirror: str | None = None,
) -> Path:
    """The file of this name, of the right version: of the folder given, else of the cache, else downloaded into it.

    Args:
        name: one of `SOURCES`.
        data_dir: the folder where it is, perhaps compressed; then nothing is downloaded. None: what `MOA_GRAPH_DATA`
            names.
        say: is told under which terms the data is published, when the first file of a set is downloaded.
        mirror: the address of a copy of all files, by their names, to download from instead.

    Raises:
        MoAConfigError: an unknown name; a file that is not in the folder given, or is another version; a download that
            failed or brought something else.
    """
    source = _source(name)
    given = _given(data_dir)
    if given is not None:
        return _checked(_in(given, name), source, given / name)
    path = cache_dir() / name
    if not path.is_file() or _digest(path) != source.sha256:
        if say is not None and not (cache_dir() / name.partition("/")[0]).is_dir():
            say(source.licence)
        _download(source.url if mirror is None else f"{mirror.rstrip('/')}/{name}", source, path)
    return path


def rows(
    name: str, data_dir: str | os.PathLike[str] | None = None, *, say: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
    """The records of a JSON or JSON lines file, fetched as `fetch` does."""
    text = read(fetch(name, data_dir, say=say)).decode()
    found = [json.loads(line) for line in text.split("\n") if line.strip()] if name.endswith("l") else json.loads(text)
    return found if isinstance(found, list) else [found]


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The file of this name, or compressed, where it is already there: in the folder given, else in the cache.

    It is not checked, and nothing is downloaded.
    """
    given = _given(data_dir)
    folders = [cache_dir()] if given is None else [given, cache_dir()]
    return next((path for folder in folders if (path := _in(folder, name)) is not None), None)


def licences(benchmark: str) -> list[str]:
    """Whose a benchmark's data are, and under which terms; nothing for the user's own."""
    folder = benchmark.replace("-", "_") + "/"
    return sorted({source.licence for name, source in SOURCES.items() if name.startswith(folder)})


def read(path: str | os.PathLike[str]) -> bytes:
    """What is in a file, unpacked where it is compressed (.gz). Raises MoAConfigError where it cannot be read."""
    try:
        found = Path(path).read_bytes()
        return gzip.decompress(found) if os.fspath(path).endswith(".gz") else found
    except (OSError, EOFError, zlib.error) as error:
        raise MoAConfigError(f"{os.fspath(path)}: cannot be read ({clean(str(error))})") from error


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise MoAConfigError(f"no data is called {name!r}; one of {', '.join(SOURCES)}")
    return SOURCES[name]


def _given(data_dir: str | os.PathLike[str] | None) -> Path | None:
    folder = data_dir or os.environ.get(SETTING)
    return Path(folder).expanduser() if folder else None


def _in(folder: Path, name: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _digest(path: Path) -> str:
    return hashlib.sha256(read(path)).hexdigest()


def _checked(path: Path | None, source: Source, wanted: Path) -> Path:
    if path is None:
        raise MoAConfigError(f"{wanted}: there is no such file, nor one compressed; it is published at {source.url}")
    if (digest := _digest(path)) != source.sha256:
        raise MoAConfigError(f"{path}: is another version: SHA-256 {source.sha256} is expected, found {digest}")
    return path


def _download(url: str, source: Source, path: Path) -> None:
    """Into a file beside it first, so that whoever reads it meanwhile finds all of it or none."""
    import httpx2

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        body = httpx2.get(url, follow_redirects=True, timeout=_SECONDS).raise_for_status().content
        if (digest := hashlib.sha256(body).hexdigest()) != source.sha256:
            raise MoAConfigError(f"{url}: is another version: SHA-256 {source.sha256} is expected, found {digest}")
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            unfinished = Path(beside, path.name)
            unfinished.write_bytes(body)
            os.replace(unfinished, path)
    except (OSError, httpx2.HTTPError) as error:
        raise MoAConfigError(
            f"{path}: could not be downloaded ({describe(error)}); put what is at {url} there yourself"
        ) from error
