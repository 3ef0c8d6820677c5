"""`moa eval similarity`: whether the aggregators take up the better proposals, over a stored run."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa_graph.cli.options import usd, whole
from moa_graph.cli.terminal import between, say, starting, write

if TYPE_CHECKING:
    from moa_graph.eval.generate import Progress
    from moa_graph.eval.proposals import ProposalJudge

__all__ = ["similarity"]


def similarity(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What --out of moa eval run was.")],
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            "-j",
            metavar="MODEL",
            help="Have the proposals judged first, by provider:model or a YAML file.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            metavar="N",
            parser=whole,
            help="Have those of N items judged, drawn by lot.",
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Where the benchmark's data lie.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="USD", parser=usd, help="Spend no more, the run itself included.", show_default=False
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", parser=whole, help="How many calls at once.")
    ] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Write it there too: CSV, and plots as PNG and SVG.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Do the aggregators take up the better proposals? Spearman's coefficient of similarity and a judge's preference.

    Without --judge it says what is judged so far, and asks nobody.
    """
    directory = directory.expanduser()
    ended = _judged(directory, judge, limit, data_dir, budget, concurrency) if judge else None
    with starting():
        from moa_graph.eval.uptake import uptake

        found = uptake(directory)
    if out is not None:
        from moa_graph.eval.uptake_files import write as written

        say(f"written: {', '.join(map(str, written(found, out.expanduser())))}")
    if as_json:
        write(json.dumps(found, ensure_ascii=False, indent=2) + "\n")
    else:
        from moa_graph.cli.correlations import show

        show(found, sys.stdout)
        between()
    if ended is not None:
        _raise_for(ended)


def _judged(
    path: Path, judge: str, limit: int | None, data_dir: Path | None, usd: float | None, at_once: int
) -> "Progress":
    """Have the proposals judged that are not judged yet."""
    import asyncio

    with starting():
        from moa_graph.eval.generate import built
        from moa_graph.eval.judge import judge_config
        from moa_graph.eval.proposals import ProposalJudge
        from moa_graph.eval.similarity import similarities
        from moa_graph.eval.store import RunDirectory

        similarities("whether its packages are there", ["before anybody is asked"])
        config, run = judge_config(judge), RunDirectory(path).run
        built(config, judge, usd)
    with RunDirectory.working(path, run, ()) as directory:
        with starting():
            asking = ProposalJudge(directory, judge, config, limit, data_dir)
        _announce(asking)
        return asyncio.run(_asked(asking, usd, at_once))


async def _asked(asking: "ProposalJudge", usd: float | None, at_once: int) -> "Progress":
    from moa_graph.cli.evaluating import shown

    async with shown() as line:
        return await asking.run(at_once=at_once, usd=usd, on_progress=line.take)


def _announce(asking: "ProposalJudge") -> None:
    from moa_graph.cli.receipt import money

    plan = asking.plan()
    what = f"{len(asking.asked):,} proposals, judged by {asking.name}"
    calls = f"about {plan.calls:,} call{'s' * (plan.calls != 1)} and {money(plan.cost_usd, plan.cost_usd_at_least)}"
    say(f"{what}: {calls if plan.left else 'all there'}")


def _raise_for(progress: "Progress") -> None:
    """Raises MoAError where something is missing: the exit code says so."""
    from moa_graph.errors import MoAError

    if progress.stopped:
        raise MoAError(f"{progress.left:,} judgements are missing: {progress.stopped}; a higher --budget goes on")
    if progress.failed:
        told = f"{progress.failed:,} judgement{'s' * (progress.failed != 1)} failed"
        raise MoAError(f"{told}; the same command asks again")
