"""`moa compare`: several mixtures, the single models and the single-proposer mixture, side by side."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_graph.cli.options import QuestionArgument, asked_for, usd, whole
from moa_graph.cli.terminal import between, say, starting, write

if TYPE_CHECKING:
    from moa_graph.choose import Choice
    from moa_graph.outlook import Outlook
    from moa_graph.standing import Comparison

__all__ = ["compare"]

_AT_ONCE = 4


def compare(
    question: QuestionArgument = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE.jsonl",
            help="Questions: an object a line, with `question`, `prompt` or `messages`.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            "-c",
            metavar="NAME|FILE",
            help="A preset or a YAML file; several times for several mixtures. The first is the baseline.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", "-j", metavar="MODEL", help="Who judges: provider:model.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", parser=whole, help="The first N questions alone.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="USD", parser=usd, help="What all of it may cost.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", parser=whole, help="How many runs at once.")
    ] = _AT_ONCE,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, answers too.")] = False,
    show_answers: Annotated[bool, typer.Option("--show-answers", help="Show the answers side by side.")] = False,
    no_singles: Annotated[
        bool, typer.Option("--no-singles", help="The mixtures alone, without single models and single-proposer.")
    ] = False,
) -> None:
    """Compare mixtures with each other, with single models, and with the best in all proposers' place.

    Every answer is judged beside that of the first mixture: blind, and in both orders; ties count half.
    """
    with starting():
        from moa_graph.choose import choices
        from moa_graph.stats import setting

        setting()  # a mistake in it is told before anybody is asked
        chosen, wanted = choices(config or ()), _judge(judge)
        questions = _questions(question or [], file, limit)
        mixtures = {choice.name: choice.config for choice in chosen}
        from moa_graph.budget import Budget
        from moa_graph.cli.comparing import compared
        from moa_graph.compare import Match
        from moa_graph.outlook import outlook

        purse = Budget(usd=budget, shared=True) if budget else None
        match = Match(mixtures, questions, wanted, alone=not no_singles, budget=purse, concurrency=concurrency)
        expected = outlook(mixtures, questions, wanted, alone=not no_singles)
    _announce(chosen, expected, wanted, budget)
    comparison = compared(match)
    _show(comparison, as_json=as_json, show_answers=show_answers)
    if not comparison.baseline.count("ok") or not any(standing.scores for standing in comparison.standings):
        raise typer.Exit(1)


def _judge(given: str | None) -> str:
    from moa_graph.errors import MoAConfigError

    if not given:
        raise MoAConfigError(
            "who judges? Give --judge provider:model, a strong model that is in none of the mixtures; "
            "--judge local:smollm2 shows how it works"
        )
    return given


def _questions(words: list[str], file: Path | None, limit: int | None) -> list[Any]:
    from moa_graph.errors import MoAConfigError
    from moa_graph.questions import conversation, read_questions

    if file is None:
        return [conversation(asked_for(words, "moa compare"))]
    if words:
        raise MoAConfigError("a question and --file were given: give one of them")
    return read_questions(file, limit)


def _announce(choices: "list[Choice]", expected: "Outlook", judge: str, budget: float | None) -> None:
    """Say on standard error who is compared, and what that is going to take."""
    from moa_graph.money import dollars, money

    say(f"{', '.join(f'{choice.name} ({choice.why})' for choice in choices)}; judge: {judge}")
    for choice in choices:
        if choice.config.retired:
            say(f"{choice.name} is retired: {choice.config.retired}")
    if expected.own:
        say(f"{judge} is the judge and in {', '.join(expected.own)}: models tend to prefer their own answers")
    told = money(expected.cost_usd, expected.cost_usd_at_least, up=True)
    say(
        f"{_contenders(expected)}, {_many(expected.questions, 'question')}: about {_many(expected.calls, 'call')} and "
        f"{expected.judge_calls:,} of the judge, {expected.tokens:,} tokens, {told}"
    )
    if budget is not None and expected.cost_usd_at_least > budget:
        say(f"that is more than the budget of ${dollars(budget)}: what it does not reach is left out, and shown so")


def _contenders(expected: "Outlook") -> str:
    said = [_many(expected.mixtures, "mixture")]
    said += [_many(expected.singles, "single model")] if expected.singles else []
    said += ["the single-proposer mixture"] if expected.single_proposer else []
    return " and ".join([", ".join(said[:-1]), said[-1]]) if said[1:] else said[0]


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _show(comparison: "Comparison", *, as_json: bool, show_answers: bool) -> None:
    from moa_graph.cli import comparison as shown

    if as_json:
        write(json.dumps(shown.as_json(comparison), ensure_ascii=False, indent=2) + "\n")
    else:
        if show_answers:
            shown.show_answers(comparison)
        shown.show(comparison)
    if sys.stdout is not None:
        between()
    for line in shown.notes(comparison):
        say(line)
