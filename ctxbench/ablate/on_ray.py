"""Trials on a Ray cluster: one task each, on whichever machine has room."""

import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ctxbench.ablate.folder import is_held, trials_of
from ctxbench.ablate.stopping import Stopping
from ctxbench.ablate.work import Result, Task, attend, record_lost
from ctxbench.errors import CtxbenchError, MissingPackageError

_LOOK_S = 0.5
# machines of a cluster are taken away more often than a process of one machine dies
_RETRIES = 3
_REACH_S = 5.0
_SHARE = "With --engine ray, --out must be one folder that all machines of the cluster share."


class RayEngine:
    """Runs as many trials at a time as the cluster has room for.

    `address` is that of a cluster; without one, and without RAY_ADDRESS, Ray is started on this
    machine with room for `jobs` trials. The results folder must be the same one, under the same
    path, on every machine: locks, checkpoints and rows are files there, and a trial whose worker or
    machine dies goes on from its checkpoint elsewhere.
    """

    def __init__(self, address: str | None = None, jobs: int | None = None) -> None:
        self._address, self._jobs = address, jobs
        self._started = False
        self._ray = _import_ray()
        self._stdout = redirect_stdout(sys.stderr)

    def __enter__(self) -> "RayEngine":
        self._stdout.__enter__()  # for data: Ray prints there what becomes of its workers
        return self

    def __exit__(self, *error: Any) -> None:
        if self._started:
            self._ray.shutdown()
            self._started = False
        self._stdout.__exit__(*error)

    def run(self, tasks: Iterable[Task], stopping: Stopping) -> Iterator[Result]:
        """Yield the result of each task as it comes."""
        tasks = [replace(task, out=task.out.resolve()) for task in tasks]
        if not tasks:
            return
        self._start(tasks[0].run.threads)
        going = _Going(trials_of(tasks[0].out) / f".going-{uuid.uuid4().hex}")
        going.begin()
        try:
            yield from self._collect(tasks, going, stopping)
        finally:
            going.path.unlink(missing_ok=True)

    def _start(self, threads: int) -> None:
        if self._ray.is_initialized():
            return
        if self._address:
            _check_reachable(self._address)
        local = {"num_cpus": self._jobs * threads} if self._jobs and not self._address else {}
        with _same_sigterm():
            try:
                self._ray.init(
                    address=self._address or os.environ.get("RAY_ADDRESS") or "local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **local,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                first = str(error).strip().partition("\n")[0]
                raise CtxbenchError(f"Ray does not start: {first}") from error
        self._started = True

    def _collect(
        self, tasks: Iterable[Task], going: "_Going", stopping: Stopping
    ) -> Iterator[Result]:
        ray = self._ray
        waiting = {self._submit(task, going.path): task for task in tasks}
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=_LOOK_S)
            if stopping.asked.is_set() and going.stop():
                for handle, task in waiting.items():
                    if not is_held(task.folder):  # not begun yet
                        ray.cancel(handle)
            for handle in ready:
                yield self._result(handle, waiting.pop(handle), stopping)

    def _submit(self, task: Task, going: Path) -> Any:
        options = {
            "num_cpus": task.run.threads,
            "num_gpus": _gpus(self._ray, task.run.device),
            "max_retries": _RETRIES,
            "max_calls": 1,  # a process for each trial: its peak memory, and its crash, are its own
            "name": task.trial.id,
        }
        return self._ray.remote(**options)(_remote).remote(task, going, Path.cwd())

    def _result(self, handle: Any, task: Task, stopping: Stopping) -> Result:
        errors = self._ray.exceptions
        try:
            result: Result = self._ray.get(handle)
        except errors.TaskCancelledError:
            return Result(task.trial.id, "interrupted")
        except (
            errors.WorkerCrashedError,
            errors.NodeDiedError,
            errors.OutOfMemoryError,
            errors.LocalRayletDiedError,
        ) as error:
            if stopping.asked.is_set():
                return Result(task.trial.id, "interrupted")
            first = str(error).strip().partition("\n")[0]
            return record_lost(task, first)
        except errors.RayTaskError:
            # who is cancelled while it starts fails with whatever the interrupt has hit
            if stopping.asked.is_set():
                return Result(task.trial.id, "interrupted")
            raise
        if result.state == "unwritable":
            return replace(result, reason=f"{result.reason} {_SHARE}")
        return result


class _Going:
    """A file that all machines read: it is there while the command runs, and says when to stop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stopped = False

    def begin(self) -> None:
        self.path.write_text("go")

    def stop(self) -> bool:
        """Tell all trials to stop; False if they know already."""
        if self._stopped:
            return False
        self.path.write_text("stop")
        self._stopped = True
        return True


def _remote(task: Task, going: Path, working: Path) -> Result:
    """Do a trial in a worker of the cluster."""
    import torch

    if not going.is_file():
        reason = f"{task.out} on {socket.gethostname()} is not the folder of the command."
        return Result(task.trial.id, "unwritable", reason)
    torch.set_num_threads(task.run.threads)
    if working.is_dir():  # paths in specs are relative to it
        os.chdir(working)
    return attend(task, _stopped(going))


def _stopped(going: Path) -> Callable[[], bool]:
    """Return what says whether trials are to stop; it looks twice a second at most."""
    looked_s, stop = float("-inf"), False

    def _look() -> bool:
        nonlocal looked_s, stop
        now = time.monotonic()
        if not stop and now - looked_s >= _LOOK_S:
            looked_s = now
            try:
                stop = going.read_text() == "stop"
            except OSError:  # the command has gone
                stop = True
        return stop

    return _look


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """Put back the handler of SIGTERM, for which Ray has one of its own: trials are to save."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Raise at once where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit()):
        if address != "auto":
            raise CtxbenchError(f"--address {address!r} is no HOST:PORT of a Ray cluster.")
        return
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise CtxbenchError(
            f"No Ray cluster answers at {address}: {error.strerror or error}. `ray status` on its "
            f"head shows the address."
        ) from None


def _gpus(ray: ModuleType, device: str) -> int:
    if device == "auto":
        return 1 if ray.cluster_resources().get("GPU", 0) else 0
    return 1 if device.startswith("cuda") else 0


def _import_ray() -> ModuleType:
    # nothing about the use of this program is sent anywhere unless the user has it so
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise MissingPackageError("ray", "--engine ray", extra="ray") from None
    module: ModuleType = ray
    return module
