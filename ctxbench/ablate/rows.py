"""What an ablation leaves behind: a row a trial, and a row that says what was compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbench.errors import UnknownNameError
from ctxbench.records import Row, append_rows, as_row, counting, latest, read_rows

TRIALS, EXPERIMENTS, EXAMPLES = "trials", "experiments", "examples"


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One training with one seed: what it was and what came out; errors are in %.

    `images_s` is the rate of the training step alone, `loader_images_s` what the loader can
    deliver, and `seconds` the training without evaluation and start. `top5_error` is None for data
    of five classes and fewer. `weights` is the beginning of the SHA-256 of the final weights,
    `resumed` how often the trial was taken up from a checkpoint, and `world` how many processes
    trained it. A failed trial has a `reason` and no results.
    """

    trial: str
    model: str
    data: str
    recipe: Mapping[str, Any]
    augmentation: Mapping[str, Any]
    seed: int
    status: str
    reason: str | None = None
    top1_error: float | None = None
    top5_error: float | None = None
    loss: float | None = None
    train_loss: float | None = None
    train_top1_error: float | None = None
    epochs: float | None = None
    steps: int | None = None
    images_s: float | None = None
    loader_images_s: float | None = None
    params: int | None = None
    macs: int | None = None
    seconds: float | None = None
    peak_mib: float | None = None
    weights: str | None = None
    broken_images: tuple[str, ...] = ()
    resumed: int = 0
    device: str | None = None
    threads: int | None = None
    world: int = 1
    curve: Mapping[str, list[float]] | None = None


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """What an experiment compares, as it stood when the command ran; the trials are told by id."""

    experiment: str
    title: str
    axes: Mapping[str, list[str]]
    baseline: Mapping[str, str]
    expects: list[Mapping[str, Any]]
    seeds: list[int]
    variants: list[Mapping[str, Any]]


def append_if_new(kind: str, record: Any, key: str, *, raw: Path) -> None:
    """Append a row, unless the last one of the same `key` says the same: commands are run again."""
    row = json.loads(json.dumps(as_row(record)))
    known = {before[key]: before for before in latest(read_rows(kind, raw=raw).rows, key)}
    before = known.get(row[key], {})
    if row != {name: before.get(name) for name in row}:
        append_rows(kind, [row], raw=raw)


def rows_of_experiment(name: str, *, raw: Path) -> list[Row]:
    """Return the row of an experiment as it was run last, then those of all trials there are.

    Raises: UnknownNameError for an experiment that has no rows.
    """
    rows = read_rows(EXPERIMENTS, raw=raw).rows
    kept = [row for row in rows if row.get("experiment") == name]
    if not kept:
        names = [str(row.get("experiment")) for row in rows]
        raise UnknownNameError("experiment", name, names or [f"none in {raw}"])
    return [kept[-1], *read_rows(TRIALS, raw=raw).rows]


def cautions(rows: Sequence[Row]) -> list[str]:
    """Say what weakens the trials of an experiment; `rows` are those of `rows_of_experiment`."""
    named = {trial for variant in rows[0]["variants"] for trial in variant["trials"]}
    counted = counting(row for row in rows[1:] if row.get("trial") in named)
    made = [row for row in counted.values() if row["status"] == "ok"]
    slow = sum(row["loader_images_s"] < row["images_s"] for row in made)
    found = [f"Reading images has limited {slow} trials. Choose --workers."] if slow else []
    places = sorted({f"{row['device']} x {row['world']}" for row in made})
    if len(places) > 1:
        found.append(f"The trials are not of one kind of place: {'; '.join(places)}.")
    return found
