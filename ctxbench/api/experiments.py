"""Experiments: `ctxbench ablate` as functions."""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pandas import DataFrame

from ctxbench.ablate.begin import begun
from ctxbench.ablate.experiment import Experiment, ExperimentError
from ctxbench.ablate.experiment_file import parse, read
from ctxbench.ablate.plan import plan, plan_rows
from ctxbench.ablate.rows import rows_of_experiment
from ctxbench.ablate.runner import Event, make_engine, run_all
from ctxbench.ablate.status import status_rows
from ctxbench.ablate.trial import Run
from ctxbench.api._rows import frame_of, raw_of, typed
from ctxbench.errors import UnknownNameError
from ctxbench.records import Row, counting
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
    known = _read(experiment, overrides)
    if tensorboard and out is None:
        raise ExperimentError("tensorboard=True writes logs. Give out, the folder for them.")
    planned = plan(known, download=download)
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctxbench-")))
        else:
            folder = Path(out).expanduser()
        with begun(
            known, planned, out=folder, download=download, tensorboard=tensorboard,
            on_trouble=partial(warnings.warn, stacklevel=4),
        ):  # fmt: skip
            outcome = run_all(
                [trial for each in planned for trial in each.trials], out=folder, run=run,
                engine=chosen, retry=retry_failed, weights=weights, on_event=on_event,
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
    rows = plan_rows(planned, Run(device, threads, download=download) if timed else None)
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
    return frame_of(status_rows(plan(_read(experiment, overrides)), Path(results).expanduser()))


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
    rows = rows_of_experiment(experiment, raw=raw_of(results))
    if of == "trials":
        return frame_of(_trials(rows))
    if of not in _TABLES:
        raise UnknownNameError("table of an experiment", of, [*_TABLES, "trials"])
    return typed(_TABLES[of](rows)).drop(columns="experiment")


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
