"""Trials under torchrun: one after the other, each trained by all of its processes together."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ctxbench.ablate import distributed
from ctxbench.ablate.device import device_of
from ctxbench.ablate.rows import TrialRow
from ctxbench.ablate.stopping import Stopping
from ctxbench.ablate.trial import OUT_OF_MEMORY, InterruptedTrial, Progress, Run, Trial, TrialError
from ctxbench.ablate.work import Result, Task, Train, attend
from ctxbench.errors import CtxbenchError, SpecError

# what happens to all processes alike, so that they can go on to the next trial together
_SHARED = (InterruptedTrial, TrialError, SpecError)
_TRAIN = "train"


class TorchrunEngine:
    """Runs trials one at a time. Rank 0 looks at rows, locks and writes; the others follow it.

    A process that dies, or has a trouble that the others have not (out of memory, a broken image
    under --strict), ends the run, as is torchrun's way: started again, it goes on where it was.
    """

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self._stack = ExitStack()

    def __enter__(self) -> "TorchrunEngine":
        self._stack.enter_context(distributed.joined(device_of(self._device)))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def run(self, tasks: Iterable[Task], stopping: Stopping) -> Iterator[Result]:
        """Yield the result of each task, the same one in every process."""
        lead = distributed.world()[0] == 0
        for task in tasks:
            if distributed.any_of(stopping.asked.is_set())[0]:
                yield Result(task.trial.id, "interrupted")
            elif lead:
                yield _lead(task, stopping.asked.is_set)
            else:
                yield _follow(task, stopping.asked.is_set)


class _AloneError(Exception):
    """What has happened to rank 0 alone, while the others wait for it: the run must end."""


def _lead(task: Task, stop: Callable[[], bool]) -> Result:
    """Do a trial as a single process would, and tell the others when to train."""
    try:
        result = attend(replace(task, train=_Leading(task.train)), stop, _pass_on)
    except _AloneError as error:
        if error.__cause__ is None or isinstance(error.__cause__, CtxbenchError):
            raise CtxbenchError(f"Trial {task.trial.id} ended: {error} {_AGAIN}") from error
        raise
    return distributed.from_rank0(result)


def _follow(task: Task, stop: Callable[[], bool]) -> Result:
    """Train along if rank 0 says so; its result is that of all."""
    said: Any = distributed.from_rank0(None)
    if said == _TRAIN:
        try:
            row = task.train(task.trial, task.folder, task.run, stop=stop, tell=_ignore)
        except _SHARED:
            row = None
        if row is not None and _is_own(row.reason):
            raise CtxbenchError(f"Trial {task.trial.id} failed: {row.reason}. {_AGAIN}")
        said = distributed.from_rank0(None)
    result: Result = said
    return result


class _Leading:
    """Trains, having told the others to."""

    def __init__(self, train: Train) -> None:
        self._train = train

    def __call__(
        self,
        trial: Trial,
        folder: Path,
        run: Run,
        *,
        stop: Callable[[], bool],
        tell: Callable[[Progress], None],
    ) -> TrialRow:
        distributed.from_rank0(_TRAIN)
        try:
            row = self._train(trial, folder, run, stop=stop, tell=tell)
        except _SHARED:
            raise
        except Exception as error:
            raise _AloneError(str(error)) from error
        if _is_own(row.reason):
            raise _AloneError(f"{row.reason}.")
        return row


_AGAIN = "Run the same command again to go on."


def _is_own(reason: str | None) -> bool:
    return (reason or "").startswith(OUT_OF_MEMORY)


def _ignore(progress: Progress) -> None:
    del progress


def _pass_on(task: Task, error: Exception) -> NoReturn:
    """End this process: the others may wait for it, or be gone themselves."""
    del task
    raise error
