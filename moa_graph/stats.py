"""What was asked and what came of it, kept in one SQLite file that anybody may query: `moa stats` sums it up.

The file is `$XDG_DATA_HOME/moa_graph/runs.sqlite` (`~/.local/share` where that is not set). `moa ask`, `moa chat` and
`moa compare` write to it; the library does where you call `record`. `MOA_GRAPH_STATS=off`: nothing is written or
read; `MOA_GRAPH_STATS=text`: questions and answers are kept too, otherwise no text is.

    runs                        one row for each run, also for one that failed
      id                        1, 2, 3, …
      at                        when it was recorded, in UTC: 2026-01-31T12:00:00Z
      config                    the mixture's name: a preset, a file; in a comparison the contender's
      status                    ok, failed
      error                     why it failed, in one line; NULL: it did not
      calls                     requests sent to providers
      input_tokens              as the providers reported them
      cached_input_tokens       those of them that providers read from their prefix caches
      output_tokens
      cost_usd                  NULL: the price of one of its calls is unknown
      cost_usd_at_least         the sum of what is known
      tflops_total              10^12 operations; NULL: unknown
      seconds                   wall time
      question, answer          NULL, unless MOA_GRAPH_STATS is text

    calls                       one row for each proposer of each layer, each step that asked a model, the final model
      run                       the run's id
      layer                     1, 2, …; the final model's is the last
      role                      proposer, final; of a step route, select, critique, stop; aggregator: a window
      proposer                  its name
      model                     the model that answered, as its provider reports it
      asked                     the model that was asked; NULL: unknown
      status                    ok, error, timeout, cut
      attempts                  how often it was asked, retries included
      calls                     requests sent to providers: an agent or a nested mixture makes several
      input_tokens              NULL: not reported
      output_tokens
      cost_usd                  NULL: unknown
      cost_usd_at_least
      seconds                   of all attempts
      cached, resumed           1: it was not asked in this run, so all its numbers are 0

What is NULL in all numbers of a run is not known: it failed in a way that left no receipt.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from moa_graph.errors import MoAConfigError, clean, describe
from moa_graph.folders import data_folder

if TYPE_CHECKING:
    import sqlite3  # loaded when it is used: who only asks what the setting is does not wait for it

    from moa_graph.receipt import Call, Receipt

__all__ = ["SETTING", "Store", "place", "record", "setting", "usual_output"]

SETTING: Final = "MOA_GRAPH_STATS"
_VERSION: Final = 1
_WAIT: Final = 5.0  # seconds for another process to end its writing; it takes milliseconds
_LATEST: Final = 200  # answers of a model that its usual output is the mean of
_WORD: Final = re.compile(r"[^\W_]+")
_WINDOW: Final = 12  # characters in a row that an error and a question share: it quotes the question
_NUMBERS: Final = (  # of a call
    "attempts", "calls", "input_tokens", "output_tokens", "cost_usd", "cost_usd_at_least", "seconds",
)  # fmt: skip
_SUMS: Final = (  # of a run
    "calls", "input_tokens", "cached_input_tokens", "output_tokens", "cost_usd", "tflops_total", "seconds",
)  # fmt: skip

_SCHEMA: Final = (
    """CREATE TABLE runs (
        id INTEGER PRIMARY KEY, at TEXT NOT NULL, config TEXT NOT NULL, status TEXT NOT NULL, error TEXT,
        calls INTEGER, input_tokens INTEGER, cached_input_tokens INTEGER, output_tokens INTEGER,
        cost_usd REAL, cost_usd_at_least REAL NOT NULL, tflops_total REAL, seconds REAL, question TEXT, answer TEXT
    )""",
    """CREATE TABLE calls (
        run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, layer INTEGER NOT NULL, role TEXT NOT NULL,
        proposer TEXT NOT NULL, model TEXT NOT NULL, asked TEXT, status TEXT NOT NULL,
        attempts INTEGER NOT NULL, calls INTEGER NOT NULL, input_tokens INTEGER, output_tokens INTEGER,
        cost_usd REAL, cost_usd_at_least REAL NOT NULL, seconds REAL NOT NULL,
        cached INTEGER NOT NULL, resumed INTEGER NOT NULL
    )""",
    "CREATE INDEX calls_by_run ON calls (run)",
    "CREATE INDEX calls_by_model ON calls (coalesce(asked, model), run)",
    f"PRAGMA user_version = {_VERSION}",
)
_INSERT: Final = "INSERT INTO {} ({}) VALUES ({})"
_WANTED: Final = "runs.at >= :since AND (:config IS NULL OR runs.config = :config)"
_TOTALS: Final = f"""
    SELECT count(*) AS runs, coalesce(sum(status = 'failed'), 0) AS failed, min(at) AS first, max(at) AS last,
        coalesce(sum(calls), 0) AS calls, coalesce(sum(input_tokens), 0) AS input_tokens,
        coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
        CASE WHEN count(*) = count(cost_usd) THEN total(cost_usd) END AS cost_usd,
        total(cost_usd_at_least) AS cost_usd_at_least, count(*) - count(cost_usd) AS unpriced,
        CASE WHEN count(*) = count(tflops_total) THEN total(tflops_total) END AS tflops_total,
        total(seconds) AS seconds
    FROM runs WHERE {_WANTED}"""  # noqa: S608 - constants alone
_MODELS: Final = f"""
    SELECT coalesce(asked, model) AS model, sum(calls.calls) AS calls, sum(calls.status = 'ok') AS answered,
        sum(calls.status = 'error') AS failed, sum(calls.status = 'cut') AS cut,
        sum(calls.status = 'timeout') AS timeouts,
        avg(CASE WHEN calls.status = 'ok' THEN calls.seconds END) AS mean_seconds,
        max(calls.seconds) AS slowest_seconds,
        coalesce(sum(calls.input_tokens), 0) AS input_tokens, coalesce(sum(calls.output_tokens), 0) AS output_tokens,
        CASE WHEN count(*) = count(calls.cost_usd) THEN total(calls.cost_usd) END AS cost_usd,
        total(calls.cost_usd_at_least) AS cost_usd_at_least, count(*) - count(calls.cost_usd) AS unpriced
    FROM calls JOIN runs ON runs.id = calls.run
    WHERE NOT cached AND NOT resumed AND {_WANTED} GROUP BY 1 ORDER BY 1"""  # noqa: S608 - constants alone
_USUAL: Final = """
    SELECT avg(output_tokens) FROM (
        SELECT output_tokens FROM calls
        WHERE coalesce(asked, model) = ? AND role IN ('proposer', 'final') AND status = 'ok'
            AND NOT cached AND NOT resumed
            AND output_tokens IS NOT NULL
        ORDER BY run DESC LIMIT ?
    )"""


def setting() -> Literal["on", "off", "text"]:
    """What `MOA_GRAPH_STATS` says. Raises MoAConfigError for what it cannot say."""
    match os.environ.get(SETTING, ""):
        case "":
            return "on"
        case "off":
            return "off"
        case "text":
            return "text"
        case other:
            raise MoAConfigError(
                f"{SETTING} is {clean(other)!r}: off (keep nothing), text (keep questions and answers too), or unset "
                "(keep who answered, tokens, $ and seconds)"
            )


def place() -> Path:
    """The store's file."""
    return data_folder() / "runs.sqlite"


def record(
    receipt: "Receipt | None",
    *,
    config: str,
    question: str | None = None,
    answer: str | None = None,
    error: BaseException | str | None = None,
    graph: Any = None,
) -> None:
    """Keep a run in the user's store, unless `MOA_GRAPH_STATS` is off.

    receipt: `messages[-1].response_metadata["moa"]`; of a run that failed, the error's own, which is taken where None
    is given. config: the mixture's name. question, answer: kept where `MOA_GRAPH_STATS` is text, and nowhere else.
    error: why it failed. graph: the mixture, which knows the models asked for; providers report other names.

    Raises MoAConfigError where the store cannot be written.
    """
    if (wanted := setting()) != "off":
        Store().record(
            receipt, config=config, question=question, answer=answer, error=error, graph=graph, text=wanted == "text"
        )


def usual_output(models: Sequence[str]) -> dict[str, float]:
    """The mean output tokens of each model's last answers, by the id that is asked for; of those that are known.

    Empty where nothing is kept, or the store cannot be read: an estimate does without.
    """
    if setting() == "off":
        return {}
    try:
        return Store().usual_output(models)
    except MoAConfigError:
        return {}


class Store:
    """Runs in one SQLite file. Each method raises MoAConfigError where it cannot be used, and leaves it as it is."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = place() if path is None else path
        self._open: sqlite3.Connection | None = None

    def record(
        self,
        receipt: "Receipt | None",
        *,
        config: str,
        question: str | None = None,
        answer: str | None = None,
        error: BaseException | str | None = None,
        graph: Any = None,
        text: bool = False,
    ) -> None:
        """Keep a run, as the function `record` does; with `text` its question and answer too."""
        receipt = receipt or getattr(error, "receipt", None)
        run = {
            "at": _utc(datetime.now(UTC)),
            "config": config,
            "status": "ok" if error is None else "failed",
            "error": None if error is None else _told(error, question or ""),
            **{name: (receipt or {}).get(name) for name in _SUMS},
            "cost_usd_at_least": (receipt or {}).get("cost_usd_at_least") or 0.0,
            "question": question if text else None,
            "answer": answer if text else None,
        }
        with self._writing() as connection:
            number = _insert(connection, "runs", run)
            for call in _calls(receipt, _asked(graph)) if receipt else ():
                _insert(connection, "calls", {"run": number, **call})

    def totals(self, days: int | None = None, config: str | None = None) -> dict[str, Any]:
        """The sums over all runs, or over those of the last `days` and of one mixture. `cost_usd` None: unknown."""
        return self._read(_TOTALS, _since(days, config))[0]

    def models(self, days: int | None = None, config: str | None = None) -> list[dict[str, Any]]:
        """How each model fared, in all that was asked of it: by the id that was asked, where that is known."""
        return self._read(_MODELS, _since(days, config))

    def configs(self) -> list[str]:
        """The names of the mixtures that are known."""
        return [row["config"] for row in self._read("SELECT DISTINCT config FROM runs ORDER BY 1", {})]

    def usual_output(self, models: Sequence[str]) -> dict[str, float]:
        """The mean output tokens of each model's last 200 answers, of those models that have any."""
        with self._reading() as connection:
            found = {model: connection.execute(_USUAL, (model, _LATEST)).fetchone()[0] for model in models}
        return {model: mean for model, mean in found.items() if mean is not None}

    def _read(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._reading() as connection:
            found = connection.execute(query, values)
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]

    @contextmanager
    def _reading(self) -> "Iterator[sqlite3.Connection]":
        import sqlite3

        with _named(self.path), closing(_connect(self.path, "ro")) as connection:
            if _is_new(connection):  # another process is about to make it
                raise sqlite3.DatabaseError("it is empty")
            yield connection

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """All runs that are recorded within are written together, or none is."""
        with self._writing() as self._open:
            try:
                yield
            finally:
                self._open = None

    @contextmanager
    def _writing(self) -> "Iterator[sqlite3.Connection]":
        """One transaction. It waits for those of other processes; what was not committed is as if it had not been."""
        if self._open is not None:
            yield self._open
            return
        with _named(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(_connect(self.path, "rw")) as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA if _is_new(connection) else ():
                    connection.execute(statement)
                yield connection
                connection.execute("COMMIT")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    import sqlite3

    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise MoAConfigError(
            f"{path}: cannot be used as the store of runs ({error}); move it away, set XDG_DATA_HOME, or {SETTING}=off"
        ) from error


def _connect(path: Path, mode: str) -> "sqlite3.Connection":
    import sqlite3

    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_WAIT, isolation_level=None)


def _is_new(connection: "sqlite3.Connection") -> bool:
    """Whether there is nothing in it yet. Raises sqlite3.Error for a file that is something else."""
    import sqlite3

    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and not version:
        return True
    if not {"runs", "calls"} <= tables or version < _VERSION:
        raise sqlite3.DatabaseError("it is a database of something else")
    if version > _VERSION:
        raise sqlite3.DatabaseError(f"a newer moa_graph made it: version {version}, and this one knows {_VERSION}")
    return False


def _insert(connection: "sqlite3.Connection", table: str, row: Mapping[str, Any]) -> int | None:
    marks = (f":{name}" for name in row)
    return connection.execute(_INSERT.format(table, ", ".join(row), ", ".join(marks)), row).lastrowid


def _since(days: int | None, config: str | None) -> dict[str, Any]:
    return {"since": "" if days is None else _utc(datetime.now(UTC) - timedelta(days=days)), "config": config}


def _utc(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def _asked(graph: Any) -> dict[tuple[int, str], str]:
    """The models that a mixture asks, by layer and name, a step's being its kind; in layer 0 what is behind the layers:
    the final model's first choice, and windows.
    """
    if graph is None:
        return {}
    layers = [layer for _, layer in graph.get_subgraphs() if hasattr(layer, "slots")]
    seats = {(layer.layer, name): node for layer in layers for name, node in layer.nodes.items()}
    seats |= {(0, name): node for name, node in graph.nodes.items()}
    said = {seat: node.metadata or {} for seat, node in seats.items()}
    return {seat: metadata["moa_model"] for seat, metadata in said.items() if "moa_model" in metadata}


def _calls(receipt: "Receipt", asked: Mapping[tuple[int, str], str]) -> Iterator[dict[str, Any]]:
    """The rows of a run's calls: of everybody whose turn came."""
    for layer in receipt["layers"]:
        for call in layer["proposals"]:
            if not _is_written(call):
                yield _row(layer["layer"], "proposer", call, asked.get((layer["layer"], call["proposer"])))
    for decision in receipt.get("decisions") or ():
        if "call" in decision:
            step: Any = decision["call"]
            place = (0, step["proposer"]) if "part" in decision else (decision["layer"], decision["step"])
            yield _row(decision["layer"], decision["step"], step, None if step["error"] else asked.get(place))
    if receipt["final"]["status"] != "unasked" and not _is_written(receipt["final"]):
        final, last = receipt["final"], len(receipt["layers"]) + 1
        first = None if final["error"] else asked.get((0, "final"))  # else another than the first choice answered
        yield _row(last, "final", final, first if final["status"] == "ok" else final["model"])


def _is_written(call: "Call") -> bool:
    """Whether a person wrote it, or a vote chose it: an answer that nobody was asked for."""
    return call["status"] == "ok" and not (call["attempts"] or call["cached"] or call["resumed"])


def _row(layer: int, role: str, call: "Call", asked: str | None) -> dict[str, Any]:
    usage, known = call["usage"], call.get("cost_usd")
    row = {
        "layer": layer, "role": role, "proposer": call["proposer"], "model": call["model"], "asked": asked,
        "status": call["status"], "attempts": call["attempts"], "calls": call.get("calls", call["attempts"]),
        "input_tokens": usage.get("input_tokens"), "output_tokens": usage.get("output_tokens"),
        "cost_usd": known, "cost_usd_at_least": known or call.get("cost_usd_at_least") or 0.0,
        "seconds": call["seconds"], "cached": call["cached"], "resumed": call["resumed"],
    }  # fmt: skip
    return row | dict.fromkeys(_NUMBERS, 0) if call["cached"] or call["resumed"] else row


def _told(error: BaseException | str, question: str) -> str:
    """An error in one line, without the question's words in it: providers quote what they refuse.

    What is left of them are single words of up to three small letters.
    """
    line = clean(error) if isinstance(error, str) else describe(error)
    asked = " ".join(question.split())
    line = _without_passages(line, asked)
    words = {
        word.casefold() for word in _WORD.findall(asked) if len(word) > 3 or word != word.lower() or word.isdigit()
    }
    return _WORD.sub(lambda word: "…" if word[0].casefold() in words else word[0], line)


def _without_passages(line: str, asked: str) -> str:
    size = min(_WINDOW, len(asked))
    if size < 4:
        return line
    windows = {asked[at : at + size] for at in range(len(asked) - size + 1)}
    quoted = {at + k for at in range(len(line)) if line[at : at + size] in windows for k in range(size)}
    shown = ("" if at in quoted and at - 1 in quoted else "…" if at in quoted else c for at, c in enumerate(line))
    return "".join(shown)
