"""All trials of an experiment: each is done once, whatever else runs, stops or dies meanwhile."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ctxbench.ablate import distributed
from ctxbench.ablate.checkpoint import WEIGHTS
from ctxbench.ablate.device import check_device
from ctxbench.ablate.folder import folder_of, is_held, trials_of
from ctxbench.ablate.local import LocalEngine
from ctxbench.ablate.on_ray import RayEngine
from ctxbench.ablate.on_torchrun import TorchrunEngine
from ctxbench.ablate.status import Ledger, Watch
from ctxbench.ablate.stopping import Stopping
from ctxbench.ablate.train import train
from ctxbench.ablate.trial import Run, Trial
from ctxbench.ablate.work import Ending, Result, Task, Train, came_meanwhile
from ctxbench.errors import CtxbenchError, RecordsError
from ctxbench.kernels import inside
from ctxbench.records import prepare

_POLL_S = 1.0


class Engine(AbstractContextManager["Engine"], Protocol):
    """What does tasks: `local.LocalEngine`, `on_ray.RayEngine`, `on_torchrun.TorchrunEngine`."""

    def run(self, tasks: Iterable[Task], stopping: Stopping) -> Iterator[Result]:
        """Yield the result of each task as it comes; `held` where another process has it."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """What is worth a line: how an attempt ended (see `Result`), or that the user has it stop."""

    kind: Ending | Literal["stopping"]
    trial: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: the trials that are done, the failed ones with their reason, those left."""

    done: tuple[str, ...]
    failed: dict[str, str]
    left: tuple[str, ...]
    interrupted: bool


def make_engine(
    name: str, *, jobs: int = 1, address: str | None = None, device: str = "auto"
) -> Engine:
    """Return the engine of a name, or that of torchrun if it has started this process.

    Raises: CtxbenchError for what does not fit together, or a device that is not there.
    """
    if name not in ("local", "ray"):
        raise CtxbenchError(f"There is no engine {name!r}. Use local or ray.")
    if jobs < 1:
        raise CtxbenchError(f"--jobs {jobs} does nothing. Use 1 or more.")
    if address and name != "ray":
        raise CtxbenchError(f"--address {address} is for --engine ray.")
    if name == "local":  # a cluster has devices of its own
        check_device(device)
    if distributed.world()[1] > 1:
        if name == "ray" or jobs > 1:
            raise CtxbenchError("torchrun trains one trial at a time: no --jobs, no --engine ray.")
        return TorchrunEngine(device)
    return RayEngine(address, jobs) if name == "ray" else LocalEngine(jobs)


def run_all(
    trials: Sequence[Trial],
    *,
    out: Path,
    run: Run,
    engine: Engine,
    retry: bool = False,
    weights: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
    train: Train = train,
) -> Outcome:
    """Do what is left to do, and return once every trial has a row, or the user stops it.

    Trials that have a row are not run again, but for failed ones with `retry`, and with `weights`
    for finished ones whose weights are not here: rows travel with a repository, weights do not.
    Those that another process works on are waited for, and taken over if it dies. Ctrl-C and
    SIGTERM let the trials under way finish their step and save; `on_event` may be called from the
    handler of a signal.
    Raises: CtxbenchError for what is not the trial's own and has no row, when all else is done, and
    inside `use_backend`, of which the identity of a trial would not tell; KeyboardInterrupt at a
    second Ctrl-C.
    """
    if inside() is not None:
        raise CtxbenchError(
            f"Inside use_backend({inside()!r}) nothing is trained: a trial would not say so. Write "
            f"backend={inside()} into the spec of the model."
        )
    for folder in (out / "raw", trials_of(out)):
        prepare(folder)
    stopping = Stopping()
    in_world = distributed.world()[1] > 1
    with stopping.on_signals(lambda: on_event(Event("stopping")), twice=not in_world), engine:
        tasks = distributed.from_rank0(_to_do(trials, out, run, train, (retry, weights)))
        mistakes = _drain(tasks, engine, stopping, on_event)
    if mistakes:
        more = f" ({len(mistakes)} trials)" if len(mistakes) > 1 else ""
        raise CtxbenchError(f"{mistakes[0]}{more}")
    return _outcome(trials, out, stopping.asked.is_set())


def _to_do(
    trials: Sequence[Trial], out: Path, run: Run, train: Train, again: tuple[bool, bool]
) -> dict[str, Task]:
    """Return what is to be done, by trial: what occurs twice in an experiment is done once.

    `again` says whether that includes failed trials, and those whose weights are not here.
    """
    ledger = Ledger(out)
    retry, weights = again
    tasks = {}
    for trial in trials:
        row = ledger.row(trial.id)
        good = row is not None and row.get("status") == "ok"
        lacking = good and weights and not (folder_of(out, trial.id) / WEIGHTS).is_file()
        if row is None or (retry and not good) or lacking:
            tasks[trial.id] = Task(trial, out, run, train, len(ledger.rows(trial.id)))
    return tasks


def _drain(
    tasks: dict[str, Task], engine: Engine, stopping: Stopping, on_event: Callable[[Event], None]
) -> list[str]:
    """Do the tasks and return the mistakes of the user that came up.

    Raises: RecordsError if results cannot be written; the others are stopped, and have saved.
    """
    mistakes, unwritable, announced = [], [], set()
    while tasks and not distributed.any_of(stopping.asked.is_set())[0]:
        with closing(_pass(tasks, engine, stopping)) as results:
            for result in results:
                if result.state != "held":
                    del tasks[result.trial]
                if result.state == "unwritable":
                    unwritable.append(str(result.reason))
                    stopping.asked.set()
                elif result.state == "mistake":
                    mistakes.append(str(result.reason))
                if (result.trial, result.state) not in announced:
                    announced.add((result.trial, result.state))
                    on_event(Event(result.state, result.trial, result.reason))
        if unwritable:
            raise RecordsError(unwritable[0])
        if tasks:
            stopping.asked.wait(_POLL_S)
    return mistakes


def _pass(
    tasks: dict[str, Task], engine: Engine, stopping: Stopping
) -> Generator[Result, None, None]:
    """Yield what others have done or hold, then what the engine does of the rest."""
    look = {trial: _by_others(task) for trial, task in tasks.items()}
    look = distributed.from_rank0(look)
    yield from (result for result in look.values() if result)
    results = engine.run([tasks[trial] for trial, by in look.items() if by is None], stopping)
    try:
        for result in results:  # noqa: UP028 - what closes this must not close the engine's
            yield result
    except BaseException:
        stopping.asked.set()
        raise
    finally:
        deque(results, maxlen=0)  # wait for those under way: they save


def _by_others(task: Task) -> Result | None:
    return came_meanwhile(task) or (Result(task.trial.id, "held") if is_held(task.folder) else None)


def _outcome(trials: Sequence[Trial], out: Path, interrupted: bool) -> Outcome:
    watch = Watch(out, list(dict.fromkeys(trial.id for trial in trials)))
    states = watch.look()
    return Outcome(
        done=tuple(name for name, state in states.items() if state.state == "done"),
        failed={n: str(state.reason) for n, state in states.items() if state.state == "failed"},
        left=tuple(n for n, state in states.items() if state.state in ("running", "waiting")),
        interrupted=interrupted,
    )
