"""`moa eval`: mixtures on a benchmark or on your own prompts, beside their single models."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa_graph.cli import analyses, similarity
from moa_graph.cli.options import DataOption, RetryOption, announce, unneeded, usd
from moa_graph.cli.terminal import say, starting, write

if TYPE_CHECKING:
    from moa_graph.eval.generate import Progress, Stage
    from moa_graph.eval.run import Evaluation, Plan

__all__ = ["app"]

app = typer.Typer(
    help="Does mixing help? Measured on a benchmark, or on your own prompts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_STAGES = ("generate", "judge", "score")
_ENGINES = ("moa", "inspect")
_VARIATIONS = ("proposers", "roles", "ranker", "layers")


def _number(given: str | int) -> int:
    given = str(given)  # the default is none
    if not given.isdecimal() or int(given) < 1:
        raise typer.BadParameter(f"a whole number of at least 1 is needed, not {given!r}")
    return int(given)


def _stage(given: str) -> str:
    if given not in _STAGES:
        raise typer.BadParameter(f"one of {', '.join(_STAGES)} is needed, not {given!r}")
    return given


def _engine(given: str) -> str:
    if given not in _ENGINES:
        raise typer.BadParameter(f"one of {', '.join(_ENGINES)} is needed, not {given!r}")
    return given


def _variation(given: str) -> str:
    if given not in _VARIATIONS:
        raise typer.BadParameter(f"one of {', '.join(_VARIATIONS)} is needed, not {given!r}")
    return given


@app.command()
def run(
    benchmark: Annotated[
        str, typer.Argument(metavar="BENCHMARK|FILE.jsonl", help="alpaca-eval, mt-bench, flask, or your own prompts.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything is kept; the same again goes on.")
    ],
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", "-c", metavar="NAME|FILE", help="A preset or a YAML file; may be given several times."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", "-j", metavar="MODEL", help="provider:model, or a YAML file.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", metavar="N", parser=_number, help="N items, drawn by lot.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", metavar="S", help="What lots are drawn with.")] = 0,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="NAME", help="Whom your own prompts are judged beside.", show_default=False),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Where the benchmarks' data lie.", show_default=False),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="USD", parser=usd, help="Spend no more, in all starts.", show_default=False),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", parser=_number, help="How many items are asked at once.")
    ] = 8,
    no_singles: Annotated[
        bool, typer.Option("--no-singles", help="The mixtures alone, without their single models.")
    ] = False,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="|".join(_VARIATIONS),
            parser=_variation,
            help="Ask variants too, for that analysis; may be given several times.",
            show_default=False,
        ),
    ] = None,
    retry_unreadable: RetryOption = False,
    stage: Annotated[
        str | None,
        typer.Option("--stage", metavar="|".join(_STAGES), parser=_stage, help="This one alone.", show_default=False),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="|".join(_ENGINES), parser=_engine, help="inspect: BENCHMARK is a task of inspect_ai."
        ),
    ] = "moa",
    task_args: Annotated[
        list[str] | None,
        typer.Option("-T", metavar="KEY=VALUE", help="A parameter of inspect_ai's task; may be given several times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Ask every contender every item, have the answers judged, and compare. Started again, it asks nothing twice."""
    if stage == "score":
        _report(out, data_dir, as_json=as_json)
        return
    if engine == "inspect":
        from moa_graph.cli.eval_inspect import evaluate

        evaluate(
            benchmark, config or [], out.expanduser(), judge, limit=limit, seed=seed, singles=not no_singles,
            at_once=concurrency, args=task_args or [], report=lambda: _report(out, None, as_json=as_json),
            refused={"--stage": stage, "--budget": budget, "--baseline": baseline, "--data-dir": data_dir,
                     "--vary": vary or None,
                     "--retry-unreadable": retry_unreadable or None},
        )  # fmt: skip
        return
    with starting():
        from moa_graph.choose import choices
        from moa_graph.errors import MoAConfigError
        from moa_graph.eval.judge import judge_config
        from moa_graph.eval.rubric import JUDGED
        from moa_graph.eval.run import Evaluation

        if task_args:
            raise MoAConfigError(f"-T {task_args[0]}: it is a task of inspect_ai that has parameters: --engine inspect")
        if judge is None and stage != "generate":
            raise MoAConfigError("there is no judge: give --judge provider:model, or --stage generate to ask alone")
        chosen = choices(config or ())
        evaluation = Evaluation(
            benchmark, {choice.name: choice.config for choice in chosen}, out.expanduser(), limit=limit, seed=seed,
            judge=None if judge is None else (judge, judge_config(judge)), singles=not no_singles, baseline=baseline,
            data_dir=data_dir, vary=vary or (), judged=("ok",) if retry_unreadable else JUDGED,
        )  # fmt: skip
        stages: list[Stage] = ["generate", "judge"] if stage is None else [stage]  # type: ignore[list-item]
        plans = evaluation.plans(stages, budget)
    if not config:
        announce(chosen[0])
    _announce(evaluation, plans)
    ended = _stages(evaluation, stages, concurrency, budget)
    if stage != "generate":
        _report(evaluation.out, data_dir, as_json=as_json)
    _raise_for(ended)


@app.command()
def score(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What --out of moa eval run was.")],
    data_dir: DataOption = None,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", metavar="FOLDER", help="Write plots there too, as PNG and SVG.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what the judgements come to. Reads the directory alone, and asks nobody."""
    unneeded(data_dir, _report(directory, data_dir, plots, as_json=as_json))


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What --out of moa eval run was.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Another file than DIR/report.html.", show_default=False),
    ] = None,
    data_dir: DataOption = None,
) -> None:
    """Write one HTML page with everything in it: tables, plots, every question with all answers. Asks nobody."""
    with starting():
        from moa_graph.eval.report import write as written

        page = written(directory.expanduser(), out.expanduser() if out else None, data_dir)
    write(f"{page}\n")


def _announce(evaluation: "Evaluation", plans: Sequence["Plan"]) -> None:
    """What is compared, whose data it is where that was not said before, and what it is going to take."""
    from moa_graph.cli.evaluating import planned

    items, contenders = len(evaluation.items), len(evaluation.contenders)
    said = f"{items} item{'s' * (items != 1)} x {contenders} contender{'s' * (contenders != 1)}"
    say(f"{evaluation.benchmark}: {said}")
    for name, why in evaluation.left_out.items():
        say(f"left out: {name} ({why})")
    if not (evaluation.out / "run.json").exists():
        for licence in evaluation.licences():
            say(f"data: {licence}")
    for plan in plans:
        judge = evaluation.judge and evaluation.judge[0]
        say(planned("answers" if plan.stage == "generate" else f"judging by {judge}", plan))


def _stages(
    evaluation: "Evaluation", stages: Sequence["Stage"], concurrency: int, usd: float | None
) -> "list[Progress]":
    import asyncio

    from moa_graph.cli.evaluating import shown

    async def all_of_them() -> "list[Progress]":
        ended = []
        with evaluation.opened() as directory:
            for stage in stages:
                async with shown() as line:
                    ended.append(
                        await evaluation.run(stage, directory, at_once=concurrency, usd=usd, on_progress=line.take)
                    )
                if ended[-1].stopped:
                    break
        return ended

    with _loaded_for_good():
        return asyncio.run(all_of_them())


@contextmanager
def _loaded_for_good() -> Iterator[None]:
    """What is loaded by now is no garbage: to look through it again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _report(directory: Path, data_dir: Path | None, plots: Path | None = None, *, as_json: bool) -> str:
    """Print the report; gives the benchmark that it is of."""
    from moa_graph.eval.score import score as scored

    report = scored(directory.expanduser(), data_dir)
    if plots is not None:
        from moa_graph.eval.report_plots import save

        say(f"written: {', '.join(map(str, save(report, plots.expanduser())))}")
    from moa_graph.cli.standings import show
    from moa_graph.cli.tables import give

    give(report, show, as_json=as_json)
    return str(report["benchmark"])


def _raise_for(ended: "Sequence[Progress]") -> None:
    """Raises MoAError where something is missing: the exit code says so."""
    from moa_graph.cli.evaluating import raise_for
    from moa_graph.errors import MoAError

    for progress in ended:
        if not progress.stopped and progress.unparsed and progress.unparsed == progress.before + progress.done:
            raise MoAError(
                f"none of the {progress.unparsed:,} replies of the judge could be read; they are kept: "
                "--retry-unreadable asks again; or give a new directory and another --judge"
            )
        raise_for(progress)


app.command("similarity")(similarity.similarity)
analyses.register(app)
