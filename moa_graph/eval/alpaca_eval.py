"""AlpacaEval 2.0: its 805 items, its judge, and its win rates, plain and length-controlled.

baseline = items(limit=50)
outputs = [{"instruction": item["instruction"], "output": ask(item["instruction"])} for item in baseline]
found = score(annotate(outputs, baseline, judge=Judge(model="…", base_url="…")), gamed="df_gamed.csv")
found["win_rate"], found["length_controlled_winrate"]  # both from 0 to 100, as the leaderboard has them

The package `alpaca_eval` does what it does for the leaderboard: its prompt, its parser, its regression. What it would
fetch by itself is handed to it, and what it sets for the whole process on import is taken back.
"""

import hashlib
import json
import logging
import os
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict

import yaml

from moa_graph.errors import MoAConfigError, MoARunError, clean, describe
from moa_graph.eval import data
from moa_graph.eval.alpaca_usage import NOTHING, Usage, counting, told_of, whole
from moa_graph.eval.extra import load

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "BASELINE",
    "ITEMS",
    "Annotation",
    "Annotations",
    "Item",
    "Judge",
    "JudgeError",
    "Score",
    "annotate",
    "items",
    "score",
    "write_judge",
]

BASELINE: Final = "gpt4_1106_preview"
"""The leaderboard's baseline, whose answers the contender's are compared with."""

ITEMS: Final = 805

Annotations: TypeAlias = "Sequence[Mapping[str, Any]] | str | os.PathLike[str] | DataFrame"
"""Records with `preference`, `output_1` and `output_2`, a JSON file of them (.json or .json.gz), or a DataFrame."""

_BASELINE_OUTPUTS: Final = "alpaca_eval/outputs/gpt4_1106_preview.json"
_UNNAMED: Final = ("baseline", "contender")
_JUDGE: Final = "weighted_alpaca_eval_gpt4_turbo"
_BATCH: Final = 64
_GAMED: Final = "alpaca_eval/df_gamed.csv"
_RECONSTRUCTED: Final = "alpaca_eval/df_gamed_reconstructed.csv"
_RECONSTRUCTED_SHA256: Final = "c18739fc4b5ca90adf0e9c6f7b8d698318b7aef48ba0dd3ba353b3e32ffce58c"
_GAMED_COLUMNS: Final = {
    "model", "index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline",
}  # fmt: skip
_NEEDED: Final = ("preference", "output_1", "output_2")

_NO_DOTENV: Final = "PYTHON_DOTENV_DISABLED"
_ITS_WARNINGS: Final = (
    (Warning, "pkg_resources is deprecated"),
    (FutureWarning, "'penalty' was deprecated"),
    (FutureWarning, "The default value for l1_ratios will change"),
    (FutureWarning, "The fitted attributes of LogisticRegressionCV will be simplified"),
)

_one_at_a_time = threading.RLock()
"""alpaca_eval is changed while it works, and so are Python's warnings."""
_one_at_a_time_judges = threading.Lock()
"""A judge may take an hour, in which scoring need not wait."""


class Score(TypedDict):
    """What the judge's preferences come to. Rates and standard errors are from 0 to 100."""

    generator: str
    """The contender, `generator_2` of the annotations."""
    baseline: str
    annotator: str | None
    """The judge's name in the annotations."""
    n: int
    """How many items have a preference."""
    unparsed: int
    """How many have none, since the judge's reply could not be read. They are in no win rate."""
    win_rate: float | None
    """`None` where no item has a preference."""
    standard_error: float | None
    discrete_win_rate: float | None
    """Where each item is won, lost or drawn."""
    length_controlled_winrate: float | None
    """What the win rate would be with answers of the baseline's length. `None`: see `reason`."""
    lc_standard_error: float | None
    regularisation: Literal["original", "reconstructed", "unknown"] | None
    """What length control was regularised with: the leaderboard's own data, data reconstructed from published
    statistics (within 0.2 points of the leaderboard), or a file that is neither."""
    reason: str | None
    """Why there is no length-controlled win rate."""
    avg_length: float
    """Characters of the contender's answers, on average."""


def score(annotations: Annotations, *, gamed: str | os.PathLike[str] | None = None, baseline: str = BASELINE) -> Score:
    """The contender's win rate against the baseline, and its length-controlled win rate, as the leaderboard has them.

    An item is recognised by its instruction, so neither the order nor a selection of them changes what an item counts
    for; where the instruction is another, by `index` (0 to 804), if it is there.

    Args:
        annotations: the judge's preferences, from 1 (the baseline's answer, `output_1`) to 2 (the contender's).
        gamed: the file `df_gamed.csv`, which length control is regularised with. None: what `MOA_GRAPH_DATA` or the
            user's cache has; where they have none, there is no length-controlled win rate, and `reason` says so.
        baseline: what the leaderboard's baseline is called in the annotations, as `generator_1`; "baseline" where they
            do not name it. Length control is about that one only.

    Raises:
        MoAConfigError: no annotations, a preference that is none, an item twice, several contenders or baselines, a
            file that cannot be used, or a package that is not installed.
    """
    rows = _placed(_rows(annotations))
    against, contender = _only(rows, "generator_1", _UNNAMED[0]), _only(rows, "generator_2", _UNNAMED[1])
    plain = _win_rate(rows)
    file, reason = _regularisation(rows, gamed, against == baseline)
    controlled, error = _length_controlled(rows, file) if file else (None, None)
    judged = sum(row["preference"] is not None for row in rows)
    return Score(
        generator=contender,
        baseline=against,
        annotator=_only(rows, "annotator", None),
        n=judged,
        unparsed=len(rows) - judged,
        win_rate=plain.get("win_rate"),
        standard_error=plain.get("standard_error"),
        discrete_win_rate=plain.get("discrete_win_rate"),
        length_controlled_winrate=controlled,
        lc_standard_error=error,
        regularisation=_kind(file) if file else None,
        reason=reason,
        avg_length=sum(len(row["output_2"]) for row in rows) / len(rows),
    )


# --- the records


def _rows(annotations: Annotations) -> list[dict[str, Any]]:
    """The records, each a dictionary of its own, with `preference` a number or None."""
    if isinstance(annotations, str | os.PathLike):
        where, found = os.fspath(annotations), _json(annotations)
    else:
        where, found = "annotations", _records(annotations)
    if not isinstance(found, list) or not found or not all(isinstance(row, Mapping) for row in found):
        raise MoAConfigError(f"{where}: there is no annotation in it; a list of records is wanted, with {_NEEDED}")
    return [{**row, "preference": _preference(row, f"{where}: record {n}")} for n, row in enumerate(found)]


def _json(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(data.read(path))
    except ValueError as error:
        raise MoAConfigError(f"{os.fspath(path)}: not JSON ({error})") from error


def _records(annotations: "Sequence[Mapping[str, Any]] | DataFrame") -> Any:
    if isinstance(annotations, Sequence):
        return list(annotations)
    if not hasattr(annotations, "to_dict"):
        return annotations
    rows = annotations.to_dict("records")
    numbered = "index" in annotations.columns or list(annotations.index) == list(range(len(rows)))
    return rows if numbered else [{**row, "index": k} for row, k in zip(rows, annotations.index, strict=True)]


def _preference(row: Mapping[str, Any], where: str) -> float | None:
    """0 and 1.5 are a draw. Not a number: the judge's reply could not be read."""
    for key in ("output_1", "output_2"):
        if not isinstance(row.get(key), str):
            raise MoAConfigError(f"{where}: {key} is {row.get(key)!r}; it must be the answer's text")
    said = row.get("preference")
    if said is None or said != said:
        return None
    if isinstance(said, bool) or not isinstance(said, Real) or not (said == 0 or 1 <= float(said) <= 2):
        raise MoAConfigError(f"{where}: preference is {said!r}; it must be from 1 (output_1 is better) to 2, or None")
    return float(said)


def _placed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records in the order of the 805 items, each with its `index`; None: it is none of them."""
    rows = [{**row, "index": _place(row)} for row in rows]
    twice = [place for place, n in Counter(row["index"] for row in rows).items() if n > 1 and place is not None]
    if twice:
        raise MoAConfigError(f"annotations: item {twice[0]} is there more than once; score one judge's reply to each")
    return sorted(rows, key=lambda row: ITEMS if row["index"] is None else row["index"])


def _place(row: Mapping[str, Any]) -> int | None:
    known = _places().get(_digest(row["instruction"])) if isinstance(row.get("instruction"), str) else None
    if known is not None or row.get("index") is None:
        return known
    if isinstance(row["index"], Integral) and 0 <= int(row["index"]) < ITEMS:
        return int(row["index"])
    raise MoAConfigError(f"annotations: index is {row['index']!r}; it must be from 0 to {ITEMS - 1}")


@cache
def _places() -> dict[str, int]:
    """Which item an instruction is, by the start of its SHA-256: the texts themselves do not come with the package."""
    digests = files("moa_graph.eval").joinpath("alpaca_eval_instructions.txt").read_text(encoding="ascii").split()
    return {digest: place for place, digest in enumerate(digests)}


def _digest(instruction: str) -> str:
    return hashlib.sha256(instruction.encode()).hexdigest()[:8]


def _only(rows: list[dict[str, Any]], key: str, otherwise: Any) -> Any:
    """What all records say of `key`. Raises MoAConfigError where they do not agree."""
    found = sorted({str(row[key]) for row in rows if row.get(key) is not None})
    if len(found) > 1:
        raise MoAConfigError(f"annotations: {key} is {' and '.join(map(repr, found[:3]))}; score one at a time")
    return found[0] if found else otherwise


# --- the regression


def _regularisation(rows: list[dict[str, Any]], gamed: Any, comparable: bool) -> tuple[Path | None, str | None]:
    """What to regularise length control with; or None, and why there is no length control."""
    path = Path(gamed) if gamed else data.find(_GAMED) or data.find(_RECONSTRUCTED)
    if gamed:
        _check_gamed(Path(gamed))  # a wrong file is a mistake, whatever else is missing
    judged = [row for row in rows if row["preference"] is not None]
    differences = {len(row["output_1"]) - len(row["output_2"]) for row in rows}
    strangers = sum(row["index"] is None for row in rows)
    reasons = {
        "no item has a preference": not judged,
        f"output_1 is not said to be by {BASELINE}, the baseline that length control is about": not comparable,
        f"{strangers} of {len(rows)} instructions are none of AlpacaEval's {ITEMS}": strangers > 0,
        "every answer is as much longer than the baseline's as every other": len(differences) == 1,
        f"there is no df_gamed.csv: give its path, or fetch {_GAMED}": path is None,
    }
    reason = next((reason for reason, applies in reasons.items() if applies), None)
    return (None, reason) if reason else (path, None)


def _check_gamed(path: Path) -> None:
    head, _, _ = data.read(path).partition(b"\n")
    if missing := _GAMED_COLUMNS - set(head.decode(errors="replace").strip().split(",")):
        raise MoAConfigError(f"{path}: is no df_gamed.csv, which has a column {min(missing)}")


def _kind(path: Path) -> Literal["original", "reconstructed", "unknown"]:
    digest = hashlib.sha256(data.read(path)).hexdigest()
    if digest == data.SOURCES[_GAMED].sha256:
        return "original"
    return "reconstructed" if digest == _RECONSTRUCTED_SHA256 or "reconstructed" in path.name else "unknown"


def _win_rate(rows: list[dict[str, Any]]) -> dict[str, float]:
    judged = [row["preference"] for row in rows if row["preference"] is not None]
    if not judged:
        return {}
    with _contained():
        found = load("alpaca_eval.metrics").get_winrate(load("pandas").DataFrame({"preference": judged}))
    # A single item has no standard error.
    return {key: float(value) for key, value in found.items() if value == value}


def _length_controlled(rows: list[dict[str, Any]], gamed: Path) -> tuple[float, float]:
    """The length-controlled win rate and its standard error, by alpaca_eval's regression."""
    named = dict(zip(("generator_1", "generator_2"), _UNNAMED, strict=True))
    columns = {
        key: [row.get(key) or named.get(key) for row in rows] for key in ("preference", "output_1", "output_2", *named)
    }
    with _contained(), load("sklearn").config_context():
        # An instruction's difficulty is looked up by the frame's index.
        frame = load("pandas").DataFrame(columns, index=[row["index"] for row in rows])
        glm = load("alpaca_eval.metrics.glm_winrate")
        with _instead_of_fetching(glm, gamed):
            found = glm.get_length_controlled_winrate(frame, save_weights_dir=None, is_warn_extreme_changes=False)
    return float(found["length_controlled_winrate"]), float(found["lc_standard_error"])


# --- the items


class Item(TypedDict):
    """An instruction, and the baseline's answer to it."""

    index: int
    """From 0 to 804."""
    dataset: str
    instruction: str
    output: str
    generator: str


def items(
    data_dir: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    *,
    say: Callable[[str], None] | None = None,
) -> list[Item]:
    """The 805 items, or `limit` of them drawn by chance, in their order; a larger draw has all of a smaller one.

    They come from where `moa_graph.eval.data.fetch` finds them. Raises MoAConfigError as that does, and for a limit
    below 1.
    """
    if limit is not None and limit < 1:
        raise MoAConfigError(f"limit is {limit}; it must be 1 or more")
    rows = data.rows(_BASELINE_OUTPUTS, data_dir, say=say)
    drawn = Random(seed).sample(range(len(rows)), len(rows))[:limit]  # noqa: S311 - nothing secret
    return [_item(place, rows[place]) for place in sorted(drawn)]


def _item(place: int, row: Mapping[str, Any]) -> Item:
    return Item(
        index=place,
        dataset=row["dataset"],
        instruction=row["instruction"],
        output=row["output"],
        generator=row["generator"],
    )


# --- the judge


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model at any OpenAI-compatible address that gives logprobs, which the preference is read from.

    Args:
        model: as the server calls it.
        base_url: such as "http://127.0.0.1:8000/v1".
        api_key: None: `OPENAI_API_KEY`, if it is set.
        name: what it is called in the annotations; None: as the model.
        concurrency: how many requests at once.
        timeout: seconds for one request.
        retries: how often a request that failed is sent again.
        options: further parameters of the request, such as `{"reasoning_effort": "none"}`.
    """

    model: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    name: str | None = None
    concurrency: int = 5
    timeout: float = 60.0
    retries: int = 5
    options: Mapping[str, Any] = field(default_factory=dict)


def write_judge(judge: Judge, folder: str | os.PathLike[str]) -> Path:
    """Write alpaca_eval's configuration of a judge: the leaderboard's prompt, parser and sampling, another model.

    The folder that it gives is what alpaca_eval takes as `annotators_config`. The key is in its `client.yaml`, which
    nobody else can read.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    client = {
        "api_key": judge.api_key or os.environ.get("OPENAI_API_KEY") or "none",
        "base_url": judge.base_url,
        "max_retries": judge.retries,
        "timeout": judge.timeout,
    }
    secret = home / "client.yaml"
    secret.touch(mode=0o600)
    secret.chmod(0o600)
    secret.write_text(yaml.safe_dump({"default": [client]}), encoding="utf-8")
    known = Path(_alpaca_eval("alpaca_eval.constants").EVALUATORS_CONFIG_DIR)
    config = yaml.safe_load((known / _JUDGE / "configs.yaml").read_text(encoding="utf-8"))[_JUDGE]
    config["prompt_template"] = str(known / config["prompt_template"])
    config["completions_kwargs"] |= {
        "model_name": judge.model,
        "num_procs": judge.concurrency,
        "client_config_path": str(secret.resolve()),
        "requires_chatml": True,
        "price_per_token": 0,  # it knows few, and warns of every other
        **judge.options,
    }
    (home / "configs.yaml").write_text(yaml.safe_dump({judge.name or judge.model: config}), encoding="utf-8")
    return home


class JudgeError(MoARunError):
    """The judge cannot be asked. `used`: tokens of what it has answered in this batch, and what is lost."""

    used: Sequence[dict[str, int] | None] = ()


class Annotation(TypedDict):
    """What the judge prefers. The fields are those of the leaderboard's annotations, the item's number, and `usage`."""

    index: int | None
    instruction: str
    output_1: str
    generator_1: str
    output_2: str
    generator_2: str
    annotator: str
    preference: float | None
    """From 1 (the baseline's answer) to 2 (the contender's); `None`: the reply could not be read."""
    usage: dict[str, int] | None
    """Tokens in and out; 0 where nobody was asked, since the answers are the same. Of a reply that could not be read,
    an equal share of what its batch has used beside the others. `None`: the server tells nothing."""


def annotate(
    outputs: Sequence[Mapping[str, Any]],
    baseline: Sequence[Mapping[str, Any]],
    *,
    judge: Judge,
    on_judged: Callable[[list[Annotation]], None] | None = None,
) -> list[Annotation]:
    """Let a judge compare the contender's answers with the baseline's, as AlpacaEval 2.0 does.

    Judged are the instructions of `outputs`, in their order. One call at a time works, further ones wait.

    Args:
        outputs: records with `instruction` and `output`, and `generator` for the contender's name.
        baseline: the baseline's, such as what `items` gives. It may have further instructions.
        judge: who is asked.
        on_judged: is given each batch of some dozens once it is judged: what a failure later on does not undo.

    Raises:
        MoAConfigError: an answer that is no text, an instruction twice or without an answer of the baseline.
        JudgeError: the judge cannot be asked.
    """
    pairs = _pairs(outputs, baseline)
    found: list[Annotation] = []
    with tempfile.TemporaryDirectory() as folder:
        config = write_judge(judge, folder)
        for start in range(0, len(pairs), _BATCH):
            batch = _judged(pairs[start : start + _BATCH], config, judge)
            found += batch
            if on_judged is not None:
                on_judged(batch)
    return found


def _pairs(outputs: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    ours, theirs = _by_instruction(outputs, "outputs"), _by_instruction(baseline, "baseline")
    if missing := [instruction for instruction in ours if instruction not in theirs]:
        raise MoAConfigError(f"baseline: there is no answer to {missing[0][:80]!r}, nor to {len(missing) - 1} others")
    return [
        {
            "instruction": instruction,
            "output_1": theirs[instruction]["output"],
            "generator_1": theirs[instruction].get("generator") or _UNNAMED[0],
            "output_2": answer["output"],
            "generator_2": answer.get("generator") or _UNNAMED[1],
        }
        for instruction, answer in ours.items()
    ]


def _by_instruction(records: Sequence[Mapping[str, Any]], where: str) -> dict[str, Mapping[str, Any]]:
    for n, record in enumerate(records):
        for key in ("instruction", "output"):
            if not isinstance(record.get(key), str):
                raise MoAConfigError(f"{where}: record {n}: {key} is {record.get(key)!r}; it must be a text")
    found = {record["instruction"]: record for record in records}
    if len(found) < len(records):
        twice = Counter(record["instruction"] for record in records).most_common(1)[0][0]
        raise MoAConfigError(f"{where}: the instruction {twice[:80]!r} is there more than once")
    return found


def _judged(pairs: list[dict[str, str]], config: Path, judge: Judge) -> list[Annotation]:
    annotators, utils = _alpaca_eval("alpaca_eval.annotators"), _alpaca_eval("alpaca_eval.utils")
    bars = SimpleNamespace(tqdm=lambda done, **_: done)
    used: list[Usage | None] = []
    client = counting(used)
    with (
        _one_at_a_time_judges,
        _silent(),
        _replaced(_alpaca_eval("alpaca_eval.decoders.openai"), "tqdm", bars),
        _replaced(utils, "tqdm", bars),
        _replaced(utils, "import_class", lambda _: client),
    ):
        annotator = annotators.PairwiseAnnotator(annotators_config=config.resolve(), caching_path=None)
        try:
            rows = annotator.annotate_pairs(load("pandas").DataFrame(pairs), chunksize=None)
        except Exception as error:
            where = f"{judge.model} at {clean(judge.base_url)}"
            failed = JudgeError(f"the judge {where} failed: {describe(error)}")
            failed.used = used
            raise failed from error
    by_instruction = {row["instruction"]: row for row in rows}
    found = [by_instruction[pair["instruction"]] for pair in pairs]
    usages = whole([_usage(pair, row) for pair, row in zip(pairs, found, strict=True)], used)
    return [_annotation(pair, row, usage, judge) for pair, row, usage in zip(pairs, found, usages, strict=True)]


def _usage(pair: Mapping[str, str], row: Mapping[str, Any]) -> Usage | None:
    same = pair["output_1"] == pair["output_2"]
    return {**NOTHING} if same else told_of(row.get("preference_raw_completion"))


def _annotation(pair: Mapping[str, str], row: Mapping[str, Any], usage: Usage | None, judge: Judge) -> Annotation:
    said = row.get("preference")
    return Annotation(
        index=_places().get(_digest(pair["instruction"])),
        instruction=pair["instruction"],
        output_1=pair["output_1"],
        generator_1=pair["generator_1"],
        output_2=pair["output_2"],
        generator_2=pair["generator_2"],
        annotator=judge.name or judge.model,
        preference=None if said is None or said != said else float(said),
        usage=usage,
    )


# --- the package, kept from what it does beside


def _alpaca_eval(module: str) -> Any:
    """A module of the package, imported without what that sets for the whole process."""
    with _contained():
        return load(module)


@contextmanager
def _contained() -> Iterator[None]:
    """Without alpaca_eval's traces: it reads a .env file, sets the root logger's level, and warns of its own age."""
    root = logging.getLogger()
    level, environment = root.level, os.environ.get(_NO_DOTENV)
    with _one_at_a_time, warnings.catch_warnings(), _silent():
        for category, message in _ITS_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        os.environ[_NO_DOTENV] = "1"
        try:
            yield
        finally:
            root.setLevel(level)
            os.environ.pop(_NO_DOTENV) if environment is None else os.environ.update({_NO_DOTENV: environment})


@contextmanager
def _silent() -> Iterator[None]:
    """It logs with the root logger, which would get a handler for standard error where it has none."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    real = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, real)


@contextmanager
def _instead_of_fetching(glm: Any, path: Path) -> Iterator[None]:
    """It asks a hub for `df_gamed.csv` by a function that it has imported; the answer is the file that is here."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "df_gamed.csv")
        file.write_bytes(data.read(path))
        with _replaced(glm, "hf_hub_download", lambda **_: str(file)):
            yield
