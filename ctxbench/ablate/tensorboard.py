"""TensorBoard logs of trials: their curves, the settings that differ, and what was trained.

The command writes them, from what trials leave anyway: the row of a finished one, the checkpoint of
one under way. So they are the same wherever a trial runs and whoever takes it up, training knows
nothing of them, and what is finished has them without being trained again.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctxbench.ablate.checkpoint import CHECKPOINT, load_position
from ctxbench.ablate.event_file import append_events
from ctxbench.ablate.experiment import Experiment
from ctxbench.ablate.folder import folder_of
from ctxbench.ablate.identity import beyond_defaults
from ctxbench.ablate.plan import Planned, load
from ctxbench.ablate.status import Ledger, TrialState, Watch, shown
from ctxbench.ablate.tensorboard_events import (
    Found,
    Head,
    found_in_position,
    found_in_row,
    missing,
)
from ctxbench.ablate.trial import Trial
from ctxbench.data import batches
from ctxbench.errors import CtxbenchError, MissingPackageError, RecordsError
from ctxbench.records import Row, prepare

FILE = "events.out.tfevents.ctxbench"  # TensorBoard knows its files by the word in the middle
_LOOK_S = 5.0
_LONGEST = 120  # characters of a folder's name, of which file systems take 255 bytes


def check_package() -> None:
    """Raise MissingPackageError if TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401 - whether it is there
    except ImportError:
        raise MissingPackageError("tensorboard", "--tensorboard", extra="tensorboard") from None


@dataclass(frozen=True, slots=True)
class _Log:
    """The log of one trial: where it is, its head, and how many steps an epoch has."""

    trial: str
    path: Path
    head: Head
    steps: int


class Logs:
    """The logs of an experiment, in `out`/tensorboard/EXPERIMENT/LABEL/SEED.

    `trouble` says why they lack something, None if they do not: trials go on without them.
    Raises: MissingPackageError without TensorBoard; RecordsError if nothing can be written there.
    """

    def __init__(
        self, experiment: Experiment, planned: Sequence[Planned], *, out: Path, download: bool
    ) -> None:
        check_package()
        folder = out / "tensorboard" / safe_name(experiment.name)
        prepare(folder)
        self.trouble: str | None = None
        self._out = out
        self._logs = list(_logs(experiment, planned, folder, download))
        self._ledger = Ledger(out)
        self._rows: dict[Path, Row] = {}
        self._saved: dict[Path, int] = {}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write what there is, go on as trials do, and write the rest at the end.

        Raises: RecordsError if what there is at the beginning cannot be written.
        """
        watch = Watch(self._out, list(dict.fromkeys(log.trial for log in self._logs)))
        self.update(watch.look())
        if self.trouble:
            raise RecordsError(self.trouble)
        with shown(watch, self.update, every_s=_LOOK_S):
            yield

    def update(self, states: Mapping[str, TrialState]) -> None:
        """Append what trials have left since the last time."""
        trouble = None
        for log in self._logs:
            try:
                if states[log.trial].state == "done":
                    self._finished(log)
                else:
                    self._unfinished(log)
            except RecordsError as error:
                trouble = str(error)
        self.trouble = trouble

    def _finished(self, log: _Log) -> None:
        row = self._ledger.row(log.trial)
        if row is not None and row != self._rows.get(log.path):
            _write(log, found_in_row(row, log.steps))
            self._rows[log.path] = row

    def _unfinished(self, log: _Log) -> None:
        folder = folder_of(self._out, log.trial)
        try:
            saved = (folder / CHECKPOINT).stat().st_mtime_ns
            position = load_position(folder) if saved != self._saved.get(log.path) else None
        except (OSError, CtxbenchError):  # there is none; of one that is broken the trial tells
            return
        if position is not None:
            _write(log, found_in_position(position, log.steps, saved / 1e9))
            self._saved[log.path] = saved


def _write(log: _Log, found: Found) -> None:
    if found.points:
        append_events(log.path, lambda events: missing(events, log.head, found))


def safe_name(text: str) -> str:
    """Return a name for a folder that no other text has: unusual characters are %-escaped."""
    name = quote(text, safe=",()")
    return _short(name if name.strip(".") else name.replace(".", "%2E"))


def _short(name: str) -> str:
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{mark}"


def _logs(
    experiment: Experiment, planned: Sequence[Planned], folder: Path, download: bool
) -> Iterator[_Log]:
    for each in planned:
        labels = each.variant.labels
        named = [f"{safe_name(axis)}={safe_name(label)}" for axis, label in labels.items()]
        variant = _short("+".join(named)) if named else safe_name(each.model)
        settings = {"experiment": experiment.name, **_values(experiment, labels)}
        for trial in each.trials:
            head = Head(f"{folder.name}/{variant}", settings, _text(each, trial))
            path = folder / variant / str(trial.seed) / FILE
            steps = batches.steps(load(trial.data, download).train, trial.recipe.batch)
            yield _Log(trial.id, path, head, steps)


def _values(experiment: Experiment, labels: Mapping[str, str]) -> dict[str, str | float]:
    """Return the labels of a variant; on an axis of numbers they are numbers, and so in order."""
    numbers = {axis.name for axis in experiment.axes if all(map(_is_number, axis.choices))}
    return {name: float(label) if name in numbers else label for name, label in labels.items()}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _text(planned: Planned, trial: Trial) -> str:
    """Say in Markdown what was trained."""
    told = {
        "network": trial.model,
        "data": trial.data,
        "recipe": _spoken(trial.recipe),
        "augmentation": _spoken(trial.augmentation),
        "seed": trial.seed,
        "trial": trial.id,
        "parameters": planned.params,
        "MACs": planned.macs,
    }
    return "\n".join(f"- {name}: `{value}`" for name, value in told.items())


def _spoken(settings: Any) -> str:
    changed = beyond_defaults(settings).items()
    return ", ".join(f"{key}={value}" for key, value in changed) or "as by default"
