"""Trials on this machine: each in a process of its own, some of them at a time."""

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType

from ctxbench.ablate.stopping import Stopping
from ctxbench.ablate.work import Result, Task, attend, record_lost
from ctxbench.latency.machine import keep_freed_memory

# read once by a server, of which the process of a trial is then a copy: it begins at once
_PRELOADED = ["torch", "torchvision.transforms.v2", "ctxbench.ablate.local"]
_LOOK_S = 0.1
# how long a trial whose command was killed may take to finish its step and save
_ORPHANED_S = 60.0
_ATTEMPTS = 2
_THREADS = "OMP_NUM_THREADS"
# a process is started by one thread at a time, since that hides the user's program
_STARTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """Runs `jobs` trials at a time."""

    jobs: int = 1
    _slots: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue, init=False)

    def __enter__(self) -> "LocalEngine":
        for slot in range(self.jobs):
            self._slots.put(slot)
        return self

    def __exit__(self, *_: object) -> None:
        while not self._slots.empty():
            self._slots.get()

    def run(self, tasks: Iterable[Task], stopping: Stopping) -> Iterator[Result]:
        """Yield the result of each task as it comes."""
        from joblib import Parallel, delayed

        parallel = Parallel(
            n_jobs=self.jobs, backend="threading", return_as="generator_unordered", batch_size=1
        )
        yield from parallel(delayed(self._tend)(task, stopping) for task in tasks)

    def _tend(self, task: Task, stopping: Stopping) -> Result:
        """Have a process do the trial; one that dies is tried once more, from its checkpoint."""
        slot = self._slots.get()
        try:
            result = Result(task.trial.id, "interrupted")
            for _ in range(_ATTEMPTS):
                if stopping.asked.is_set():
                    return Result(task.trial.id, "interrupted")
                result = _attempt(task, slot, stopping)
                if result.state != "lost":
                    return result
            if stopping.asked.is_set():
                return Result(task.trial.id, "interrupted")
            return record_lost(task, str(result.reason))
        finally:
            self._slots.put(slot)


def _attempt(task: Task, slot: int, stopping: Stopping) -> Result:
    ours, theirs = multiprocessing.Pipe()
    with ours:
        process = _start(task, slot, theirs)
        try:
            result = _await(task, ours, process, stopping)
        finally:
            if stopping.at_once.is_set():
                process.kill()
        process.join()
        return result or Result(task.trial.id, "lost", _ending(process.exitcode))


def _start(task: Task, slot: int, theirs: Connection) -> ForkServerProcess:
    with _STARTING, theirs, _unseen_program():
        context = server(task.run.threads)
        process = context.Process(target=_child, args=(task, slot, theirs), daemon=False)
        process.start()
    return process


def _await(
    task: Task, ours: Connection, process: ForkServerProcess, stopping: Stopping
) -> Result | None:
    """Wait for the answer, None if the process dies without one, and pass on that it is to stop."""
    told = False
    while not stopping.at_once.is_set():
        try:
            if ours.poll(_LOOK_S):
                answer: Result = ours.recv()
                return answer
            if stopping.asked.is_set() and not told:
                told = True
                ours.send("stop")
        except (EOFError, OSError):
            return None
    process.kill()
    return Result(task.trial.id, "interrupted")


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else ""
        return f"killed by signal {-code} ({name})"
    return f"ended with exit code {code}"


def server(threads: int = 1) -> ForkServerContext:
    """Return the context of a server that has loaded torch; it is started once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with _threads(threads):
        forkserver.ensure_running()
    return context


@contextmanager
def _unseen_program() -> Iterator[None]:
    """Hide the program that runs, which a new process would import, and so perhaps run, again."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Let libraries that are loaded meanwhile use so many threads."""
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


def _child(task: Task, slot: int, parent: Connection) -> None:
    """Do a trial in a process of its own; it stops when it is told to, or its parent has gone."""
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has got it too, and says what to do
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    os.dup2(2, 1)  # standard output is for data
    threading.Thread(target=_listen, args=(parent, stop), daemon=True).start()
    _choose_gpu(task.run.device, slot)
    keep_freed_memory()  # or each step is given fresh pages, and spends a tenth of its time on them
    result = attend(task, stop.is_set)
    try:
        parent.send(result)
    except OSError:  # nobody waits for it any more; the row is written
        return


def _listen(parent: Connection, stop: threading.Event) -> None:
    try:
        parent.recv()
    except (EOFError, OSError):  # the parent was killed
        stop.set()
        time.sleep(_ORPHANED_S)
        os._exit(1)
    stop.set()


def _choose_gpu(device: str, slot: int) -> None:
    """Give trials that run at a time different GPUs, if there are several."""
    if device not in ("auto", "cuda"):
        return
    import torch

    count = torch.cuda.device_count()  # does not initialise CUDA
    if count > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % count]
