"""`ctxbench ablate`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxbench.cli._options import (
    RESULTS,
    DeviceOption,
    FormatOption,
    OutOption,
    QuietOption,
    note,
    progress,
)

if TYPE_CHECKING:
    from ctxbench.ablate.experiment import Experiment
    from ctxbench.ablate.plan import Planned
    from ctxbench.ablate.runner import Outcome
    from ctxbench.ablate.trial import Run

_PLAN = {
    "variant": "variant",
    "model": "network",
    "data": "data",
    "seeds": "seeds",
    "params": "params",
    "macs": "MACs",
    "trial_s": "a trial takes (s)",
}
_STATUS = {
    "variant": "variant",
    "seed": "seed",
    "trial": "trial",
    "state": "state",
    "epoch": "epoch",
    "step": "step",
    "steps": "of steps",
    "top1_error": "top-1 error (%)",
    "where": "where",
    "reason": "reason",
}
# what a terminal has room for; CSV and JSON hold the rest
_COLUMNS = (
    "variant", "n", "failed", "error_interval", "difference_interval", "p", "imagenet_top1_error",
)  # fmt: skip
_INTERRUPTED = 130


def ablate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An experiment, as TOML.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key: recipe.epochs=2, seeds=0,1"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the variants and what they cost; train nothing.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Say what is done, running, failed and waiting.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trials at a time.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of a trial.")] = 1,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that read images, for each trial.")
    ] = 0,
    device: DeviceOption = "auto",
    engine: Annotated[
        str, typer.Option("--engine", help="local, or ray: trials on the machines of a cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="Of the Ray cluster; without it, a local one.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    weights: Annotated[
        bool, typer.Option("--weights", help="Train again what is done but has no weights here.")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch data that are not there.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail a trial for a broken image; else it is skipped.")
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write the curves to tensorboard/EXPERIMENT/LABEL/SEED below --out as well, for "
            "`tensorboard --logdir`; of finished trials too.",
        ),
    ] = False,
    form: FormatOption = "table",
    out: OutOption = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Train every variant of a grid with several seeds, and judge what was expected.

    What is finished is never trained again, and what was interrupted goes on where it stopped.

    Example: ctxbench ablate experiments/coconv_levels.toml --jobs 2
    """
    from ctxbench.ablate.begin import begun
    from ctxbench.ablate.distributed import world
    from ctxbench.ablate.experiment_file import read
    from ctxbench.ablate.plan import plan
    from ctxbench.ablate.runner import make_engine, run_all
    from ctxbench.ablate.status import status_rows
    from ctxbench.ablate.tensorboard import check_package
    from ctxbench.ablate.trial import Run
    from ctxbench.cli._trials import display
    from ctxbench.render import render

    if tensorboard:
        check_package()
    run = Run(device, threads, workers, download, strict)
    chosen = make_engine(engine, jobs=jobs, address=address, device=device)
    experiment = read(file, overrides or ())
    planned = plan(experiment, download=download, absent=dry_run)
    first = world()[0] == 0  # of the processes that torchrun started
    if first and dry_run:
        _print_plan(planned, run, form, quiet)
    if first and status:
        typer.echo(render(status_rows(planned, out), _STATUS, form))
    if dry_run or status:
        return
    beginning = begun(
        experiment, planned, out=out, download=download, tensorboard=tensorboard,
        on_trouble=partial(note, quiet=False),
    )  # fmt: skip
    names = {t.id: f"{p.told()['variant']}, seed {t.seed}" for p in planned for t in p.trials}
    with beginning, display(names, out, quiet=quiet or not first) as on_event:
        outcome = run_all(
            [trial for each in planned for trial in each.trials], out=out, run=run, engine=chosen,
            retry=retry, weights=weights, on_event=on_event,
        )  # fmt: skip
    if first:
        _print_results(experiment, out, form, quiet)
    _finish(outcome, names, file)


def _print_plan(planned: "list[Planned]", run: "Run", form: Any, quiet: bool) -> None:
    from ctxbench.ablate.plan import plan_rows
    from ctxbench.render import render

    rows = plan_rows(progress(planned, "trying three steps", quiet=quiet), run)
    typer.echo(render(rows, _PLAN, form))
    trials = sum(row["seeds"] for row in rows)
    told = f"{trials} trials"
    if all(row["trial_s"] is not None for row in rows):
        seconds = sum(row["seeds"] * row["trial_s"] for row in rows)
        told += f", about {_spoken(seconds)} in all, one at a time on this machine"
    else:
        told += (
            "; the data are not there: costs are those of the networks as they come, with their "
            "own classes and image size, and no time is known"
        )
    note(f"{told}.", quiet=quiet)
    for reason in dict.fromkeys(each.absent for each in planned if each.absent):
        note(reason, quiet=quiet)


def _spoken(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.0f} seconds"


def _print_results(experiment: "Experiment", out: Path, form: Any, quiet: bool) -> None:
    from ctxbench.ablate.rows import cautions, rows_of_experiment
    from ctxbench.report.ablations import ablation_errors, ablation_findings, ablations
    from ctxbench.report.tables import text

    rows = rows_of_experiment(experiment.name, raw=out / "raw")
    whole = form in ("json", "csv")
    table = ablations(rows) if whole else ablation_errors(rows)
    columns = list(table) if whole else [k for k in _COLUMNS if k == "n" or any(table[k])]
    typer.echo(text(table[columns], form))
    for line in ablation_findings(rows).to_dict("records"):
        found = line["difference_interval"]
        difference = f"{found} points" if found else "no difference yet"
        said = f"{line['verdict']}: {difference}, n {line['n']}"
        said = f"expected: {line['words']}\n          {said}"
        if form == "table":  # the others are read by programs
            typer.echo(said)
        else:
            note(said, quiet=quiet)
    for caution in cautions(rows):
        note(caution, quiet=False)


def _finish(outcome: "Outcome", names: dict[str, str], file: Path) -> None:
    for trial, reason in outcome.failed.items():
        note(f"FAILED {names[trial]} ({trial}): {reason}", quiet=False)
    if outcome.interrupted:
        done, left = len(outcome.done), len(outcome.left)
        note(
            f"Interrupted: {done} trials done, {left} left. `ctxbench ablate {file}` with the same "
            f"options goes on.",
            quiet=False,
        )
        raise typer.Exit(_INTERRUPTED)
    if outcome.failed:
        note("--retry-failed runs them again.", quiet=False)
        raise typer.Exit(1)
