"""Experiments: `ctxbench ablate` as functions."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from pandas import DataFrame

from ctxbench.ablate.device import check_device
from ctxbench.ablate.distributed import world
from ctxbench.ablate.examples import examples
from ctxbench.ablate.experiment import Experiment, ExperimentError
from ctxbench.ablate.experiment_file import parse, read
from ctxbench.ablate.plan import Planned, estimate_s, plan, row_of
from ctxbench.ablate.rows import EXAMPLES, EXPERIMENTS, TRIALS, append_if_new
from ctxbench.ablate.runner import Event, make_engine, run_all
from ctxbench.ablate.status import Ledger, Watch
from ctxbench.ablate.tensorboard import Logs
from ctxbench.ablate.trial import Run
from ctxbench.api._rows import frame_of, raw_of, typed
from ctxbench.errors import UnknownNameError
from ctxbench.records import Row, counting, read_rows
from ctxbench.report import ablations

# the path of an experiment file, or what stands in one
Source = str | Path | Mapping[str, Any]
_PLAN = ("variant", "model", "data", "seeds", "params", "macs")
_TABLES = {
    "variants": ablations.ablations,
    "errors": ablations.ablation_errors,
    "expectations": ablations.judge,
}


def run_experiment(  # noqa: PLR0913 - the options of `ctxbench ablate`
    experiment: Source,
    overrides: Sequence[str] = (),
    *,
    jobs: int = 1,
    threads: int = 1,
    workers: int = 0,
    device: str = "auto",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    retry_failed: bool = False,
    weights: bool = False,
    download: bool = False,
    strict: bool = False,
    tensorboard: bool = False,
    out: str | Path | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> DataFrame:
    """Train every variant of a grid with several seeds, and put their errors side by side.

    `experiment` is a file, or a dict of what one holds; `overrides` change keys, like
    "recipe.epochs=2". Other options are those of the command; `on_event` is told how each trial
    ends. With `out`, a folder of results, rows and weights are saved there: what is done is not
    trained again, `experiment_table` and `draw_networks` find it. Without, nothing is kept.

    Returns a row for each variant: `n` trials are in it, `failed` and `missing` ones are not;
    `top1_error` is the mean in %, `difference_points` that to the baseline over paired seeds, each
    with a 95 % interval, `p` corrected over the variants, and `reasons` why trials failed.

    >>> errors = run_experiment({
    ...     "model": "coresnet_tiny:width=4:block=basic:blocks=1", "data": "digits:image_px=8",
    ...     "recipe": {"epochs": 1, "lr": 0.05}, "grid": {"model.levels": ["1", "3"]},
    ... })
    >>> errors[["variant", "n", "pairs"]]
        variant  n  pairs
    0  levels 1  1   <NA>
    1  levels 3  1      1

    Raises: CtxbenchError for what does not exist or fit; KeyboardInterrupt after Ctrl-C, once the
            trials under way have saved: called again with the same `out`, it goes on.
    """
    run = Run(device, threads, workers, download, strict)
    chosen = make_engine(engine, jobs=jobs, address=address, device=device)
    if engine == "local":  # a cluster has devices of its own
        check_device(device)
    known = _read(experiment, overrides)
    if tensorboard and out is None:
        raise ExperimentError("tensorboard=True writes logs. Give out, the folder for them.")
    planned = plan(known, download=download)
    trials = [trial for each in planned for trial in each.trials]
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctxbench-")))
        else:
            folder = Path(out).expanduser()
        if world()[0] == 0:  # of the processes that torchrun started
            append_if_new(EXPERIMENTS, row_of(known, planned), "experiment", raw=folder / "raw")
            for data in dict.fromkeys(trial.data for trial in trials):
                shown = examples(data, download=download)
                append_if_new(EXAMPLES, shown, "data", raw=folder / "raw")
            if tensorboard:
                stack.enter_context(_logged(Logs(known, planned, out=folder, download=download)))
        outcome = run_all(
            trials, out=folder, run=run, engine=chosen,
            retry=retry_failed, weights=weights, on_event=on_event,
        )  # fmt: skip
        if outcome.interrupted:
            raise KeyboardInterrupt
        return experiment_table(known.name, results=folder)


def plan_experiment(
    experiment: Source,
    overrides: Sequence[str] = (),
    *,
    timed: bool = False,
    threads: int = 1,
    device: str = "auto",
    download: bool = False,
) -> DataFrame:
    """List the variants of an experiment and what their networks cost; train nothing.

    With `timed`, three steps of each are tried, and `trial_s` says how many seconds a trial takes.

    >>> plan_experiment({"data": "digits", "grid": {"model": ["resnet_tiny"]}})[["variant", "macs"]]
                 variant      macs
    0  model resnet_tiny  27677696

    Raises: CtxbenchError for what does not exist or fit.
    """
    planned = plan(_read(experiment, overrides), download=download, absent=True)
    run = Run(device, threads, download=download)
    rows = [{**each.told(), **_time_of(each, run, timed=timed)} for each in planned]
    return frame_of(rows, [*_PLAN, *(["trial_s"] if timed else [])])


def experiment_status(
    experiment: Source, overrides: Sequence[str] = (), *, results: str | Path = "results"
) -> DataFrame:
    """Say of each trial whether it is done, running, failed or waiting, and how far it is.

    >>> status = experiment_status({"data": "digits", "grid": {"model": ["resnet_tiny"]}},
    ...     results="nowhere")
    >>> status[["variant", "seed", "state"]]
                 variant  seed    state
    0  model resnet_tiny     0  waiting

    Raises: CtxbenchError for what does not exist or fit.
    """
    out = Path(results).expanduser()
    planned = plan(_read(experiment, overrides))
    states = Watch(out, [trial.id for each in planned for trial in each.trials]).look()
    ledger = Ledger(out)
    rows = []
    for each in planned:
        for trial in each.trials:
            found, row = states[trial.id], ledger.row(trial.id) or {}
            at = found.progress
            rows.append(
                {
                    "variant": each.told()["variant"],
                    "seed": trial.seed,
                    "trial": trial.id,
                    "state": found.state,
                    "epoch": at.epoch if at else None,
                    "step": at.step if at else None,
                    "steps": at.steps if at else None,
                    "top1_error": row.get("top1_error", at.top1_error if at else None),
                    "where": found.where if found.state == "running" else None,
                    "reason": found.reason,
                }
            )
    return frame_of(rows)


def experiment_table(
    experiment: str,
    *,
    of: Literal["variants", "errors", "expectations", "trials"] = "variants",
    results: str | Path = "results",
) -> DataFrame:
    """Return what is known of an experiment by name, from the rows that its trials have saved.

    `of` says what a row is: a variant with all its numbers, or as it is printed with intervals
    ("errors"), an expectation with its verdict, or a trial.
    Raises: UnknownNameError for an experiment that has no rows.
    """
    raw = raw_of(results)
    rows = read_rows(EXPERIMENTS, raw=raw).rows
    kept = [row for row in rows if row.get("experiment") == experiment]
    if not kept:
        names = [str(row.get("experiment")) for row in rows]
        raise UnknownNameError("experiment", experiment, names or [f"none in {raw}"])
    rows = [*kept[-1:], *read_rows(TRIALS, raw=raw).rows]
    if of == "trials":
        return frame_of(_trials(rows))
    if of not in _TABLES:
        raise UnknownNameError("table of an experiment", of, [*_TABLES, "trials"])
    return typed(_TABLES[of](rows)).drop(columns="experiment")


@contextmanager
def _logged(logs: Logs) -> Iterator[None]:
    """Keep the logs of trials while they run, and warn at the end of what they lack."""
    with logs.kept():
        yield
    if logs.trouble:
        warnings.warn(f"TensorBoard logs lack something: {logs.trouble}", stacklevel=2)


def _read(source: Source, overrides: Sequence[str]) -> Experiment:
    overrides = [overrides] if isinstance(overrides, str) else overrides
    if isinstance(source, Mapping):
        name = source.get("title", "experiment")
        return parse(_as_toml(source), str(name), overrides, where="the experiment")
    if not isinstance(source, str | Path):
        raise ExperimentError(f"{source!r} is no experiment. Give the path of a file, or a dict.")
    return read(Path(source).expanduser(), overrides)


def _as_toml(value: Any) -> Any:
    """Return what TOML would have made of a value: lists for tuples and other sequences."""
    if isinstance(value, Mapping):
        return {str(key): _as_toml(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_toml(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _time_of(planned: Planned, run: Run, *, timed: bool) -> dict[str, Any]:
    if not timed:
        return {}
    return {"trial_s": estimate_s(planned, run) if planned.classes is not None else None}


def _trials(rows: Sequence[Row]) -> list[Row]:
    """Return a line for each trial of an experiment, with its variant, seed after seed."""
    experiment, *made = rows
    known = counting(made)
    lines = []
    for variant in experiment["variants"]:
        name = ", ".join(f"{axis} {label}" for axis, label in variant["labels"].items())
        for seed, trial in zip(experiment["seeds"], variant["trials"], strict=True):
            row = known.get(trial, {"status": "missing"})
            kept = {key: value for key, value in row.items() if not isinstance(value, dict)}
            lines.append({"variant": name or variant["model"], "seed": seed, **kept})
    return lines
