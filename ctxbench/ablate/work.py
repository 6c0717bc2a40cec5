"""One trial, done by the process that this runs in: lock, look, train, write the row."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ctxbench.ablate.checkpoint import remove_checkpoint
from ctxbench.ablate.folder import Teller, folder_of, locked
from ctxbench.ablate.rows import TRIALS, TrialRow
from ctxbench.ablate.status import Ledger
from ctxbench.ablate.train import failed
from ctxbench.ablate.trial import InterruptedTrial, Progress, Run, Trial, TrialError
from ctxbench.data._spec import BrokenImageError
from ctxbench.errors import CtxbenchError, RecordsError, SpecError
from ctxbench.records import append_rows, as_row

_TRACEBACK = "traceback.txt"
# what is the trial's own: its row says so, and nobody else is concerned
_OWN = (TrialError, SpecError, BrokenImageError)


Ending = Literal["ok", "failed", "interrupted", "held", "found", "lost", "mistake", "unwritable"]


class Train(Protocol):
    """What trains: `ctxbench.ablate.train.train`; it must be importable by name elsewhere."""

    def __call__(
        self,
        trial: Trial,
        folder: Path,
        run: Run,
        *,
        stop: Callable[[], bool],
        tell: Callable[[Progress], None],
    ) -> TrialRow:
        """Train and return the row."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """A trial to be done, and where its results go; `rows` of failures are known and forgiven."""

    trial: Trial
    out: Path
    run: Run
    train: Train
    rows: int = 0

    @property
    def folder(self) -> Path:
        """The folder of the trial."""
        return folder_of(self.out, self.trial.id)


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt at a trial ended.

    `held`: another process works on it; `found`: another has finished it meanwhile;
    `lost`: the process has died; `mistake`: of the user's, without a row; `unwritable`: of the
    disk's, which concerns all trials.
    """

    trial: str
    state: Ending
    reason: str | None = None


def crashed(task: Task, error: Exception) -> TrialRow:
    """Return the row of a trial that has crashed, and keep its traceback beside it."""
    path = task.folder / _TRACEBACK
    try:
        path.write_text("".join(traceback.format_exception(error)))
    except OSError as failure:
        raise RecordsError(f"Cannot write {path}: {failure.strerror}. Choose --out.") from error
    first = str(error).strip().partition("\n")[0]
    return failed(task.trial, f"{type(error).__name__}: {first} (see {path})", task.run)


def attend(
    task: Task,
    stop: Callable[[], bool],
    crashed: Callable[[Task, Exception], TrialRow] = crashed,
) -> Result:
    """Do a trial unless another process does, or has; what goes wrong is told in the result.

    An exception that nobody meant to raise goes to `crashed`, which makes a row of it.
    """
    try:
        with locked(task.folder) as mine:
            if not mine:
                return Result(task.trial.id, "held")
            found = came_meanwhile(task)
            if found:
                return found
            if stop():
                return Result(task.trial.id, "interrupted")
            return _train(task, stop, crashed)
    except RecordsError as error:
        return Result(task.trial.id, "unwritable", str(error))
    except CtxbenchError as error:
        return Result(task.trial.id, "mistake", str(error))


def came_meanwhile(task: Task) -> Result | None:
    """Return the result if somebody else has written the row since this command began."""
    rows = Ledger(task.out).rows(task.trial.id)[task.rows :]
    if not rows:
        return None
    good = any(row.get("status") == "ok" for row in rows)
    return Result(task.trial.id, "found", None if good else str(rows[-1].get("reason")))


def record_lost(task: Task, reason: str) -> Result:
    """Write the row of a trial whose process has died too often."""
    try:
        with locked(task.folder) as mine:
            if not mine:
                return Result(task.trial.id, "held")
            found = came_meanwhile(task)
            return found or _record(task, failed(task.trial, f"worker lost: {reason}", task.run))
    except RecordsError as error:
        return Result(task.trial.id, "unwritable", str(error))


def _train(
    task: Task, stop: Callable[[], bool], crashed: Callable[[Task, Exception], TrialRow]
) -> Result:
    teller = Teller(task.folder)
    try:
        row = task.train(task.trial, task.folder, task.run, stop=stop, tell=teller)
    except InterruptedTrial:
        teller.end("interrupted")
        return Result(task.trial.id, "interrupted")
    except _OWN as error:
        row = failed(task.trial, str(error), task.run)
    except CtxbenchError:
        raise
    except Exception as error:  # noqa: BLE001 - a row tells it, with its traceback: others go on
        row = crashed(task, error)
    result = _record(task, row)
    teller.end(row.status)
    return result


def _record(task: Task, row: TrialRow) -> Result:
    append_rows(TRIALS, [as_row(row)], raw=task.out / "raw", seed=task.trial.seed)
    if row.status == "ok":  # not before: until the row is there, the checkpoint is all there is
        remove_checkpoint(task.folder)
        return Result(task.trial.id, "ok")
    return Result(task.trial.id, "failed", row.reason)
