"""What became of trials so far, read from the results folder: of those of other commands too."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ctxbench.ablate.folder import folder_of, is_held, read_progress
from ctxbench.ablate.rows import TRIALS
from ctxbench.ablate.trial import Progress
from ctxbench.records import Row, counting, read_rows

if TYPE_CHECKING:
    from ctxbench.ablate.plan import Planned

State = Literal["done", "failed", "running", "waiting"]


class Ledger:
    """The rows of finished and failed trials; the file is read again only when it has changed."""

    def __init__(self, out: Path) -> None:
        self._raw = out / "raw"
        self._seen: tuple[int, int] | None = None
        self._rows: dict[str, list[Row]] = {}

    def rows(self, trial: str) -> list[Row]:
        """Return all rows of a trial, oldest first."""
        path = self._raw / f"{TRIALS}.jsonl"
        try:
            now = path.stat()
        except OSError:
            return []
        seen = (now.st_size, now.st_mtime_ns)
        if seen != self._seen:
            self._rows = {}
            for row in read_rows(TRIALS, raw=self._raw).rows:
                self._rows.setdefault(str(row.get("trial")), []).append(row)
            self._seen = seen
        return self._rows.get(trial, [])

    def row(self, trial: str) -> Row | None:
        """Return the row that counts: that of a success, else the last."""
        return counting(self.rows(trial)).get(trial)


@dataclass(frozen=True, slots=True)
class TrialState:
    """Where a trial is: `reason` says why it failed, `where` who works on it or did so last."""

    trial: str
    state: State
    reason: str | None = None
    progress: Progress | None = None
    where: str | None = None


class Watch:
    """Looks after trials; one `look` costs about 20 microseconds for each that is not done."""

    def __init__(self, out: Path, trials: Sequence[str]) -> None:
        self._out, self._trials = out, tuple(trials)
        self._ledger = Ledger(out)

    def look(self) -> dict[str, TrialState]:
        """Return the state of each trial, in the order given."""
        return {trial: self._state(trial) for trial in self._trials}

    def _state(self, trial: str) -> TrialState:
        folder = folder_of(self._out, trial)
        row = self._ledger.row(trial)
        if row is not None and row.get("status") == "ok":
            return TrialState(trial, "done")
        running = is_held(folder)  # before its progress is read: it may be about to begin
        progress, where = read_progress(folder)
        if running:
            return TrialState(trial, "running", progress=progress, where=where)
        if row is not None:
            return TrialState(trial, "failed", row.get("reason"), progress, where)
        return TrialState(trial, "waiting", progress=progress, where=where)


def status_rows(planned: "Sequence[Planned]", out: Path) -> list[Row]:
    """Return a row for each trial: its state, how far it is, and its error in %."""
    ledger = Ledger(out)
    states = Watch(out, [trial.id for each in planned for trial in each.trials]).look()
    rows = []
    for each in planned:
        for trial in each.trials:
            found = states[trial.id]
            at, row = found.progress, ledger.row(trial.id) or {}
            rows.append(
                {
                    "variant": each.told()["variant"],
                    "seed": trial.seed,
                    "trial": trial.id,
                    "state": found.state,
                    "epoch": at and at.epoch,
                    "step": at and at.step,
                    "steps": at and at.steps,
                    "top1_error": row.get("top1_error", at and at.top1_error),
                    "where": found.where if found.state == "running" else None,
                    "reason": found.reason,
                }
            )
    return rows


@contextmanager
def shown(
    watch: Watch, show: Callable[[dict[str, TrialState]], None], *, every_s: float = 0.5
) -> Iterator[None]:
    """Call `show` with the state of all trials every half second, and once more at the end."""
    over = threading.Event()

    def _show() -> None:
        while not over.wait(every_s):
            show(watch.look())

    thread = threading.Thread(target=_show, name="ctxbench-show", daemon=True)
    show(watch.look())
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        show(watch.look())
