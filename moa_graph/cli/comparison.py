"""What came of a comparison: a table, what it tells in words, the answers side by side, and all of it as JSON."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moa_graph.cli.answer import Document
from moa_graph.cli.terminal import is_terminal, output_errors, safe, write
from moa_graph.money import dollars, money
from moa_graph.standing import Comparison, Standing

__all__ = ["as_json", "notes", "show", "show_answers"]

_KINDS: Final = {"mixture": "mixtures", "single": "single models", "single-proposer": "single-proposer mixture"}
_TOKENS: Final = ("input_tokens", "output_tokens")
_PLAIN: Final = (  # in a pipe
    "kind", "calls", "tokens", "cost_usd", "cost_usd_at_least", "seconds", "answered", "failed", "stopped", "won",
    "tied", "lost", "unjudged", "score", "low", "high",
)  # fmt: skip
_NARROWEST: Final = 36  # columns that an answer beside others is given at least


def show(comparison: Comparison) -> None:
    """Print the table, and below it what it tells, on standard output."""
    if is_terminal(sys.stdout):
        with output_errors():
            Console().print(_table(comparison))
        write("\n")
    else:
        _print_plain(comparison)
    for line in _told(comparison):
        write(_folded(line) + "\n")


def _folded(line: str) -> str:
    if not is_terminal(sys.stdout):
        return line
    wrapped = Text(safe(line)).wrap(Console(), Console().width)
    return "\n".join(str(part).rstrip() for part in wrapped)


def _table(comparison: Comparison) -> Table:
    """As wide as the terminal; a long name is broken into lines, a column of failures is there where there are any."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("per question", overflow="fold", min_width=12)
    troubles = [name for name in ("failed", "stopped", "unjudged") if any(map(_trouble(name), comparison.standings))]
    for name in ("calls", "tokens", "$", "s", *troubles, "won", "tied", "lost", "score", "95%"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind, title in _KINDS.items():
        standings = [standing for standing in comparison.standings if standing.kind == kind]
        if standings:
            table.add_row(Text(title, style="dim"))
        for standing in standings:
            table.add_row(*_row(comparison, standing, troubles))
    return table


def _trouble(name: str) -> Any:
    return lambda standing: _count(standing, name)


def _count(standing: Standing, name: str) -> int:
    return standing.unjudged if name == "unjudged" else standing.count("ok" if name == "answered" else name)


def _row(comparison: Comparison, standing: Standing, troubles: Sequence[str]) -> Iterator[Any]:
    marks = {comparison.best: " (best)", comparison.baseline.name: " (baseline)"}
    yield Text(f"  {safe(standing.name)}{marks.get(standing.name, '')}")
    calls, tokens, seconds = standing.mean("calls"), standing.mean(*_TOKENS), standing.mean("seconds")
    yield "-" if calls is None else f"{calls:.3g}"
    yield "-" if tokens is None else f"{tokens:,.0f}"
    yield _price(standing)
    yield "-" if seconds is None else f"{seconds:.1f}"
    for name in troubles:
        count = _count(standing, name)
        yield Text(str(count), style="red" if count else "dim")
    if standing is comparison.baseline:
        yield from ("-",) * 5
        return
    yield from map(str, _results(standing))
    yield "-" if standing.score is None else f"{standing.score:.0%}"
    yield _range(standing)


def _price(standing: Standing) -> str:
    """$ per question that was answered; `12+` where more is unknown."""
    count = max(1, len(standing.receipts))
    if not standing.receipts:
        return "-"
    whole = standing.cost_usd
    return dollars(None if whole is None else whole / count, standing.cost_usd_at_least / count)


def _results(standing: Standing) -> list[int]:
    return [standing.scores.count(score) for score in (1.0, 0.5, 0.0)]


def _range(standing: Standing) -> str:
    """The interval; of one question there is none."""
    interval = standing.interval() if len(standing.scores) > 1 else None
    return f"{100 * interval.low:.0f}-{100 * interval.high:.0f}" if interval else "-"


def _print_plain(comparison: Comparison) -> None:
    """The same columns whatever is in them, one line for each contender, its name last: there may be spaces in it."""
    rows = [[*_PLAIN, "contender"]]
    for standing in comparison.standings:
        made = _summary(standing)
        rows.append([*(_plain(made[name]) for name in _PLAIN), " ".join(standing.name.split())])
    widths = [max(len(row[k]) for row in rows) for k in range(len(_PLAIN))]
    for kind, *numbers, name in rows:
        cells = (f"{number:>{width}}" for number, width in zip(numbers, widths[1:], strict=True))
        write(f"{kind:{widths[0]}}  {'  '.join(cells)}  {name}\n")
    write("\n")


def _plain(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(standing: Standing) -> dict[str, Any]:
    """Means over the answered questions, counts, and how it did against the baseline."""
    won, tied, lost = _results(standing)
    interval, count = standing.interval() if len(standing.scores) > 1 else None, len(standing.receipts)
    whole = standing.cost_usd
    return {
        "name": standing.name,
        "kind": standing.kind,
        "calls": standing.mean("calls"),
        "tokens": standing.mean(*_TOKENS),
        "cost_usd": whole / count if whole is not None and count else None,
        "cost_usd_at_least": standing.cost_usd_at_least / count if count else None,
        "seconds": standing.mean("seconds"),
        **{name: _count(standing, name) for name in ("answered", "failed", "stopped")},
        "won": won,
        "tied": tied,
        "lost": lost,
        "unjudged": standing.unjudged,
        "score": standing.score,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
    }


def _told(comparison: Comparison) -> Iterator[str]:
    """What it tells, in words: of the mixtures, the best single model and the single-proposer mixture."""
    baseline = comparison.baseline
    yield f"Judged against {baseline.name} by {comparison.judge}, blind and in both orders; a tie counts half."
    for standing in comparison.standings[1:]:
        who = standing.name
        if standing.kind == "single":
            if who != comparison.best:
                continue
            who = f"{who}, the best single model"
        elif standing.kind == "single-proposer":
            who = f"{who}, one model in the place of all proposers"
        yield f"{who}: {_finding(standing, baseline.name)}"
    if comparison.best:
        yield f"{comparison.best} was chosen as the best single model on these same questions, which favours it."


def _finding(standing: Standing, baseline: str) -> str:
    pairs = len(standing.scores)
    if standing.score is None:
        return "nothing was judged."
    these = f"these {pairs} questions do" if pairs > 1 else "one question does"
    found = {
        "better": f"better than {baseline} on questions like these.",
        "worse": f"{baseline} is better on questions like these.",
        "open": f"{these} not tell which is better.",
    }[standing.finding()]
    interval = standing.interval()
    reach = f" (95% interval {interval.low:.0%} to {interval.high:.0%})" if interval and pairs > 1 else ""
    return f"score {standing.score:.0%}{reach}; {found}"


def notes(comparison: Comparison) -> Iterator[str]:
    """What went wrong, what was left out, and what all of it cost: a line each."""
    for standing in comparison.standings:
        reasons = [outcome.error for outcome in standing.outcomes if outcome and outcome.error]
        reasons += [preference.why for preference in standing.preferences if preference.why]
        for reason in dict.fromkeys(reasons[:1]):
            more = f" (and {len(reasons) - 1:,} more)" if len(reasons) > 1 else ""
            yield f"{standing.name}: {reason}{more}"
    yield from comparison.notes
    made = [receipt for standing in comparison.standings for receipt in standing.receipts]
    costs = [standing.cost_usd for standing in comparison.standings]
    whole = None if None in costs else sum(cost for cost in costs if cost is not None)
    spent = money(whole, sum(standing.cost_usd_at_least for standing in comparison.standings))
    judged = money(comparison.judge_cost_usd, comparison.judge_cost_usd_at_least)
    calls = sum(receipt["calls"] for receipt in made)
    yield f"{calls:,} calls, {spent}; the judge: {comparison.judge_requests:,} calls, {judged}"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything: each contender's summary, and every answer with its receipt and how it was judged."""
    return {
        "judge": {
            "model": comparison.judge,
            "calls": comparison.judge_requests,
            "cost_usd": comparison.judge_cost_usd,
            "cost_usd_at_least": comparison.judge_cost_usd_at_least,
        },
        "baseline": comparison.baseline.name,
        "best_single": comparison.best,
        "notes": comparison.notes,
        "contenders": [
            {
                **_summary(standing),
                "models": sorted(standing.contender.models),
                "total_cost_usd": standing.cost_usd,
                "total_cost_usd_at_least": standing.cost_usd_at_least,
                "finding": None if standing is comparison.baseline else standing.finding(),
            }
            for standing in comparison.standings
        ],
        "questions": [_question_as_json(comparison, k) for k in range(len(comparison.questions))],
    }


def _question_as_json(comparison: Comparison, k: int) -> dict[str, Any]:
    messages = comparison.questions[k]
    answers = {}
    for standing in comparison.standings:
        if (outcome := standing.outcomes[k]) is not None:
            answers[standing.name] = {
                "status": outcome.status,
                "answer": outcome.answer,
                "error": outcome.error or None,
                "score": outcome.preference.score if outcome.preference else None,
                "orders": outcome.preference.said if outcome.preference else None,
                "unjudged": (outcome.preference.why or None) if outcome.preference else None,
                "receipt": outcome.receipt,
            }
    return {"messages": [{"role": m.type, "content": m.content} for m in messages], "answers": answers}


def show_answers(comparison: Comparison) -> None:
    """Print every question with its answers: on a terminal beside each other, elsewhere one below the other."""
    for k, messages in enumerate(comparison.questions):
        write(f"{k + 1}. {_asked(messages)}\n\n")
        cells = [(_head(comparison, standing, k), _answer(standing, k)) for standing in comparison.standings]
        if is_terminal(sys.stdout):
            with output_errors():
                _print_beside(cells)
        else:
            for head, answer in cells:
                write(f"{head}\n{answer}\n\n")


def _asked(messages: Sequence[Any]) -> str:
    return str(messages[-1].text).strip() if len(messages) == 1 else "\n".join(f"{m.type}: {m.text}" for m in messages)


def _head(comparison: Comparison, standing: Standing, k: int) -> str:
    outcome = standing.outcomes[k]
    if outcome is None or standing is comparison.baseline:
        return f"[{standing.name}]"
    if outcome.preference is None:
        return f"[{standing.name}: {'not judged' if outcome.status == 'ok' else outcome.status}]"
    words = {1.0: "won", 0.5: "tied", 0.0: "lost", None: "unjudged"}
    return f"[{standing.name}: {words[outcome.preference.score]}]"


def _answer(standing: Standing, k: int) -> str:
    outcome = standing.outcomes[k]
    return (outcome.answer or outcome.error) if outcome else ""


def _print_beside(cells: Sequence[tuple[str, str]]) -> None:
    console = Console()
    at_once = min(len(cells), max(1, (console.width + 2) // (_NARROWEST + 2)))
    for start in range(0, len(cells), at_once):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="bold")
        some = cells[start : start + at_once]
        for head, _ in some:
            table.add_column(Text(safe(head)), ratio=1, overflow="fold")
        for _ in range(at_once - len(some)):
            table.add_column("", ratio=1)
        table.add_row(*(Document(answer) for _, answer in some))
        console.print(table)
        console.print()
