"""A run as one HTML page that needs nothing else: tables, plots, and every question with all that was answered.

    write(Path("runs/mt"))  # runs/mt/report.html

What models wrote is text that nobody vouches for. The page holds it as JSON, shows it as text and never as HTML, and
its content security policy lets nothing run but its own script, and no request out.
"""

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from moa_graph.errors import MoAConfigError
from moa_graph.eval import data, figures
from moa_graph.eval.extra import load
from moa_graph.eval.items import Item
from moa_graph.eval.questions import line, whole
from moa_graph.eval.report_plots import illustrated
from moa_graph.eval.score import Scored, scored, summed_up
from moa_graph.money import dollars

__all__ = ["page", "write"]

_BEGINS: Final = "<!doctype html>\n<!-- moa eval report -->\n"
_TITLES: Final = {"alpaca-eval": "AlpacaEval 2.0", "flask": "FLASK", "mt-bench": "MT-Bench"}
_FINER: Final = {"alpaca-eval": "data set", "flask": "skill"}


def write(directory: Path, out: Path | None = None, data_dir: Path | None = None) -> Path:
    """Write a run's page, to `report.html` in its directory where nothing else is said; gives where it is.

    Raises MoAConfigError: there is no run, the extra `eval` is not installed, `out` is something else or cannot be
    written.
    """
    path = directory / "report.html" if out is None else out
    parts = page(directory, data_dir)
    first = next(parts)  # whatever is wrong with the run comes before what is wrong with the file
    try:
        _check(path)
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            unfinished = Path(beside, path.name)
            with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                file.write(first)
                file.writelines(parts)
            os.replace(unfinished, path)
    except OSError as error:
        raise MoAConfigError(f"{path}: the report cannot be written ({error.strerror or error})") from error
    return path


def _check(path: Path) -> None:
    """Raises MoAConfigError where something else would be lost."""
    if path.is_dir():
        raise MoAConfigError(f"{path}: is a directory: give the report a file, such as {path / 'report.html'}")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.read(len(_BEGINS)) != _BEGINS:
                raise MoAConfigError(f"{path}: is there already, and is no report: give --out another file")


def page(directory: Path, data_dir: Path | None = None) -> Iterator[str]:
    """The page in pieces: one question at a time is in memory. Raises MoAConfigError."""
    jinja2, markup = load("jinja2"), load("markupsafe").Markup
    found = scored(directory)
    report, run, items = summed_up(found, data_dir), found.directory, list(found.items.values())
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "score": _score,
        "number": _number,
        "usd": dollars,
        "json": lambda told: markup(_json(told)),
    }
    questions = _Questions(found, report)
    yield _BEGINS
    yield from environment.get_template("report.html").generate(
        title=_TITLES.get(report["benchmark"], report["benchmark"]),
        report=report,
        run=run.run,
        ranked=sorted(report["contenders"], key=lambda one: (one["mean"] is None, -(one["mean"] or 0))),
        tables=list(_tables(report, items)),
        plots=[{**plot, "svg": markup(plot["svg"])} for plot in illustrated(report)],
        configs={name: _yaml(told["config"]) for name, told in (run.run.get("configs") or {}).items()},
        controls=list(dict.fromkeys(_controlled(report["contenders"]))),
        licences=data.licences(report["benchmark"]),
        questions=questions,
        style=markup(_file("report.css")),
        script=markup(_file("report.js")),
        policy=_policy(_file("report.css"), _file("report.js")),
    )


class _Questions:
    """The questions one by one, and afterwards the line of each."""

    def __init__(self, found: Scored, report: Mapping[str, Any]) -> None:
        self._directory, self._items, self._rubric = found.directory, list(found.items.values()), found.rubric
        self.categories = sorted({item.category for item in self._items if item.category})
        self._seed = report["seed"]
        self._names = [one["name"] for one in report["contenders"]]
        self._reference = "Baseline's answer" if report["benchmark"] == "alpaca-eval" else "Reference answer"
        self._lines: list[dict[str, Any]] = []
        compared: Mapping[str, str] = next(iter(report["comparisons"]), {})
        best = [one["name"] for one in sorted(report["contenders"], key=lambda one: -(one["mean"] or 0))]
        first = compared.get("mixture") or self._names[0]
        second = compared.get("other") or next((name for name in best if name != first), first)
        self.pair = (self._names.index(first), self._names.index(second))
        given = zip(report["contenders"], figures.short(self._names), strict=True)
        self._about = [{"name": one["name"], "short": name, "kind": one["kind"]} for one, name in given]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._lines = []
        for item in self._items:
            told = whole(item, self._names, self._directory, self._seed)
            self._lines.append(line(item, self._names, self._rubric, told))
            yield told

    def told(self) -> dict[str, Any]:
        """What the list of questions is made from."""
        return {"contenders": self._about, "lines": self._lines, "reference": self._reference}


def _tables(report: Mapping[str, Any], items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    """The finer scores: by turn or order shown, and by category or skill."""
    every = dict.fromkeys(name for one in report["contenders"] for name in one["parts"])
    known = [axis for axis in report["radar"]["axes"] if axis in every]
    apart = [name for name in every if name.startswith(("turn ", "shown ")) and name not in known]
    counted = {name: sum(name in (item.category, *item.extra.get("skills", ())) for item in items) for name in known}
    by = _FINER.get(report["benchmark"], "category")
    for title, columns in ((f"By {by}", known), ("By turn" if "turn 1" in apart else "By order shown", apart)):
        if columns:
            rows = [(one["name"], [one["parts"].get(name) for name in columns]) for one in report["contenders"]]
            best = [max((row[k] for _, row in rows if row[k] is not None), default=None) for k in range(len(columns))]
            yield {
                "title": title, "columns": columns, "items": [counted.get(name) for name in columns],
                "rows": dict(rows), "best": best,
            }  # fmt: skip


def _controlled(contenders: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """With what AlpacaEval's win rates are controlled for length, or why they are not."""
    for found in filter(None, (one.get("alpaca_eval") for one in contenders)):
        if found["length_controlled_winrate"] is None:
            yield f"No length-controlled win rate: {found['reason']}."
        else:
            yield f"LC: length-controlled, with {found['regularisation']} regularisation data; ± its standard error."


def _file(name: str) -> str:
    return files("moa_graph.eval").joinpath("page", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing but this style and this script."""
    allowed = (f"{kind}-src 'sha256-{_sha256(text)}'" for kind, text in (("style", style), ("script", script)))
    return "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(told: Any) -> str:
    """JSON that no HTML parser finds a tag in."""
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
