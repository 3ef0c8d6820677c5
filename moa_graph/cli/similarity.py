"""`moa eval similarity`: whether the aggregators take up the better proposals, over a stored run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa_graph.cli.options import FolderOption, RetryOption, usd, whole
from moa_graph.cli.terminal import say, starting

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
    retry_unreadable: RetryOption = False,
    out: FolderOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Do the aggregators take up the better proposals? Spearman's coefficient of similarity and a judge's preference.

    Without --judge it says what is judged so far, and asks nobody.
    """
    directory = directory.expanduser()
    ended = _judged(directory, judge, limit, data_dir, budget, concurrency, retry_unreadable) if judge else None
    with starting():
        from moa_graph.eval.uptake import uptake

        found = uptake(directory)
    if out is not None:
        from moa_graph.eval.uptake_files import write as written

        say(f"written: {', '.join(map(str, written(found, out.expanduser())))}")
    from moa_graph.cli.correlations import show
    from moa_graph.cli.tables import give

    give(found, show, as_json=as_json)
    if ended is not None:
        from moa_graph.cli.evaluating import raise_for

        raise_for(ended)


def _judged(
    path: Path, judge: str, limit: int | None, data_dir: Path | None, usd: float | None, at_once: int, retry: bool
) -> "Progress":
    """Have the proposals judged that are not judged yet."""
    import asyncio

    with starting():
        from moa_graph.eval.judge import built_judge, judge_config
        from moa_graph.eval.proposals import ProposalJudge
        from moa_graph.eval.rubric import JUDGED
        from moa_graph.eval.similarity import similarities
        from moa_graph.eval.store import RunDirectory

        similarities("whether its packages are there", ["before anybody is asked"])
        config, run = judge_config(judge), RunDirectory(path).run
        built_judge(judge, config, usd)
    with RunDirectory.working(path, run, ()) as directory:
        with starting():
            asking = ProposalJudge(directory, judge, config, limit, data_dir, ("ok",) if retry else JUDGED)
        _announce(asking)
        return asyncio.run(_asked(asking, usd, at_once))


async def _asked(asking: "ProposalJudge", usd: float | None, at_once: int) -> "Progress":
    from moa_graph.cli.evaluating import shown

    async with shown() as line:
        return await asking.run(at_once=at_once, usd=usd, on_progress=line.take)


def _announce(asking: "ProposalJudge") -> None:
    from moa_graph.cli.evaluating import planned

    say(planned(f"{len(asking.asked):,} proposals, judged by {asking.name}", asking.plan()))
