"""A run's directory: what was asked, every answer and every judgement, in files that are only ever added to.

    run.json           what is compared: benchmark, mixtures, seed, limit, judge
    items.jsonl        the items, as they were asked
    answers.jsonl      one line for each answer: of an item, a contender, a seed and a turn
    judgements.jsonl   one line for each judgement of such an answer
    proposals.jsonl    one line for each judgement of a proposal (`moa eval similarity`)
    calls.jsonl        what was answered within mixtures that have not come to their end
    lock               the process that works on it

A process may be killed at any time: a last line that is not whole is dropped, and what it told is asked again.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

from moa_graph.errors import MoAConfigError

__all__ = [
    "ANSWER",
    "JUDGEMENT",
    "PROPOSAL",
    "Key",
    "Lines",
    "RunDirectory",
    "check",
    "differences",
]

ANSWER: Final = ("item", "contender", "seed", "turn")
"""What tells one answer from another."""

JUDGEMENT: Final = (*ANSWER, "order")
"""What tells one judgement from another; `order`: of the answers shown, where there are two."""

PROPOSAL: Final = ("item", "seed", "proposal", "order")
"""What tells one judgement of a proposal from another; `proposal`: a digest of its text."""

FORMAT: Final = 1
_FREE: Final = ("judge", "baseline", "task_sha256")  # may be given later than the rest, once
_CHANGED: Final = {"items_sha256": "the items differ", "task_sha256": "the task's file has changed since"}

Key = tuple[Any, ...]


class _Place(NamedTuple):
    offset: int
    length: int
    status: str
    times: int


class Lines:
    """JSON objects, one a line, found by some of their fields. The last one of a key counts.

    Only where each line lies is kept in memory. Raises MoAConfigError for a line that is none.
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path, self.fields = path, tuple(fields)
        self.spent = 0.0
        """$ that all lines together tell of, as far as it is known; the failed ones too."""
        self._places: dict[Key, _Place] = {}
        self._file: IO[bytes] | None = None
        self._end = self._read()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def key(self, record: Mapping[str, Any]) -> Key:
        """The key of a line."""
        return tuple(record[name] for name in self.fields)

    def status(self, key: Key) -> str | None:
        """How it went: `None` where there is no such line."""
        place = self._places.get(key)
        return place.status if place else None

    def times(self, key: Key) -> int:
        """How many lines there are of a key."""
        place = self._places.get(key)
        return place.times if place else 0

    def get(self, key: Key) -> dict[str, Any] | None:
        """The last line of a key, read anew."""
        if (place := self._places.get(key)) is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place.offset)
            return json.loads(file.read(place.length))  # type: ignore[no-any-return]

    def all(self) -> Iterator[dict[str, Any]]:
        """The last line of each key, in the order of the file."""
        if not self._places:
            return
        with self.path.open("rb") as file:
            for place in sorted(self._places.values()):
                file.seek(place.offset)
                yield json.loads(file.read(place.length))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line, in one piece."""
        if self._file is None:
            self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
            self._file.truncate(self._end)  # what was not whole
            self._file.seek(self._end)
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        self._file.write(line + b"\n")
        self._note(record, len(line) + 1)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _note(self, record: Mapping[str, Any], length: int) -> None:
        key = self.key(record)
        self._places[key] = _Place(self._end, length, str(record.get("status", "ok")), self.times(key) + 1)
        self.spent += (record.get("receipt") or {}).get("cost_usd_at_least") or 0.0
        self._end += length

    def _read(self) -> int:
        """Find every whole line; gives where they end."""
        self._end = 0
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                    if record is None:
                        break
                    self._note(record, len(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    if not file.read(1):
                        break  # the last line, torn
                    raise MoAConfigError(
                        f"{self.path}, line {number}: this is not what an evaluation writes; move the file away"
                    ) from error
        return self._end


class RunDirectory:
    """An evaluation's files. One process at a time works on them.

    Raises MoAConfigError: it belongs to another evaluation, another process works on it, it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = _run_json(path)
        """What is compared."""
        self.answers = Lines(path / "answers.jsonl", ANSWER)
        self.judgements = Lines(path / "judgements.jsonl", JUDGEMENT)
        self.proposals = Lines(path / "proposals.jsonl", PROPOSAL)

    @classmethod
    @contextlib.contextmanager
    def working(cls, path: Path, run: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Iterator[Self]:
        """The directory of this run, made where there is none, for one process alone."""
        check(path, run)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with _lock(path / "lock"):
                check(path, run)  # another process may just have begun it
                _begin(path, run, items)
                directory = cls(path)
                try:
                    yield directory
                finally:
                    for lines in (directory.answers, directory.judgements, directory.proposals):
                        lines.close()
        except OSError as error:
            raise MoAConfigError(f"{path}: cannot be used for an evaluation ({error.strerror or error})") from error

    @property
    def spent(self) -> float:
        """$ spent so far, as far as it is known."""
        return self.answers.spent + self.judgements.spent + self.proposals.spent

    def items(self) -> list[dict[str, Any]]:
        """The items, as they were asked."""
        with (self.path / "items.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def _run_json(path: Path) -> dict[str, Any]:
    try:
        run = json.loads((path / "run.json").read_text(encoding="utf-8"))
        if run["format"] != FORMAT:
            raise MoAConfigError(f"{path}: it was made by another version of moa_graph ({run.get('version')})")
    except FileNotFoundError as error:
        raise MoAConfigError(f"{path}: there is no evaluation: no run.json in it") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, MoAConfigError):
            raise
        raise MoAConfigError(f"{path / 'run.json'}: this is not what an evaluation writes") from error
    return run  # type: ignore[no-any-return]


def check(path: Path, run: Mapping[str, Any]) -> None:
    """Raises MoAConfigError for a directory that is something else, or another run's."""
    if file := next((one for one in path.parents if one.is_file()), None):
        raise MoAConfigError(f"{path}: {file} is a file; give a directory, a new one or that of an earlier start")
    if not path.exists():
        return
    if not path.is_dir():
        raise MoAConfigError(f"{path} is a file: give a directory, a new one or that of an earlier start")
    if not (path / "run.json").exists():
        if any(file.name not in ("lock", "items.jsonl", "run.json.new") for file in path.iterdir()):
            raise MoAConfigError(f"{path} holds other files and no run.json: give a new directory")
        return
    if found := differences(_run_json(path), run):
        raise MoAConfigError(f"{path} is another evaluation's: {'; '.join(found)}; give a new directory")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, one line for each."""
    found = [
        _CHANGED.get(name) or _said("-T" if name == "task_args" else name, there.get(name), here.get(name))
        for name in ("benchmark", "task_args", "seed", "limit", "singles", "items_sha256")
        if there.get(name) != here.get(name)
    ]
    for name in _FREE:
        before, now = there.get(name), here.get(name)
        if before and now and _mark(before) != _mark(now):
            deep = [_CHANGED[name]] if name in _CHANGED else _deep(name, before, now)
            found += deep or [f"the file of the {name} says something else there"]
    configs = there.get("configs", {}), here.get("configs", {})
    if list(configs[0]) != list(configs[1]):
        found.append(_said("--config", *(", ".join(each) for each in configs)))
    for name in configs[0].keys() & configs[1].keys():
        if configs[0][name] != configs[1][name]:
            found += _deep(name, configs[0][name].get("config"), configs[1][name].get("config"))
    if len(found) > 1 and found[-1] == "the items differ":
        found.pop()
    return found


def _mark(given: Any) -> Any:
    """What tells a judge from another: its fingerprint, a task's own scorer's name; else the thing itself."""
    return given.get("fingerprint", given["name"]) if isinstance(given, dict) else given


def _deep(where: str, there: Any, here: Any) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        told = {**there, **here}.keys() - {"fingerprint", "models"}  # these follow from the rest
        names = [name for name in {**there, **here} if name in told and there.get(name) != here.get(name)]
        return [line for name in names for line in _deep(f"{where}.{name}", there.get(name), here.get(name))]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True), 1)
        return [line for k, (a, b) in pairs if a != b for line in _deep(f"{where}.{k}", a, b)]
    return [_said(where, there, here)]


def _said(name: str, there: Any, here: Any) -> str:
    return f"{name} is {_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _begin(path: Path, run: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
    """Write down what is compared; of a run that is there, what was not known of it before."""
    known = _run_json(path) if (path / "run.json").exists() else None
    if known is None:
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        (path / "items.jsonl").write_text(lines, encoding="utf-8", errors="backslashreplace")
        known = {}
    late = {name: run.get(name) for name in _FREE if run.get(name) and not known.get(name)}
    if known and (more := _all_contenders(known, run)) != known.get("contenders"):
        late["contenders"] = more
    if not known or late:
        whole = {"format": FORMAT, **run, **known, **late}
        new = path / "run.json.new"
        new.write_text(json.dumps(whole, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        new.replace(path / "run.json")


def _all_contenders(known: Mapping[str, Any], run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that are there, as they are, with what was not told of them before; behind them the new ones."""
    now = {one["name"]: one for one in run.get("contenders", ())}
    there = [{**now.pop(one["name"], {}), **one} for one in known.get("contenders", ())]
    return [*there, *now.values()]


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the directory. A process that was killed holds nothing any more, whatever its lock file says."""
    with path.open("a+", encoding="utf-8") as file:
        if not _taken(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise MoAConfigError(f"{path.parent} is in use by process {holder}: wait for it, or stop it")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _taken(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows: by the process's number alone
        file.seek(0)
        return not _alive(file.read().strip())
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, OSError):
        return False
    return True
