"""The folder of a trial: who works on it, and how far that is."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctxbench.ablate.files import write_atomically
from ctxbench.ablate.trial import Progress
from ctxbench.errors import RecordsError

_LOCK, _PROGRESS = "lock", "progress.json"
_TELL_S = 0.5
# somebody who only looks holds the lock for an instant
_TRIES, _BETWEEN_S = 5, 0.01


def folder_of(out: Path, trial: str) -> Path:
    """Return the folder in which a trial keeps its checkpoint, its weights and its lock."""
    return trials_of(out) / trial


def trials_of(out: Path) -> Path:
    """Return the folder of all trials."""
    return out / "trials"


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a trial, and say whether it could be had: False if another process has it.

    The system releases it when this process ends, however it ends. Processes that are forked
    meanwhile, such as those that read images, do not keep it.
    Raises: RecordsError if nothing can be written there, or the file system has no locks.
    """
    path = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _Handle(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise RecordsError(f"Cannot write {path}: {error.strerror}. Choose --out.") from None
    os.register_at_fork(after_in_child=handle.close)
    try:
        yield _take(handle.number, path)
    finally:
        handle.close()


def is_held(folder: Path) -> bool:
    """Say whether a process works on the trial."""
    try:
        handle = _Handle(os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:  # nobody has been here yet
        return False
    try:
        fcntl.flock(handle.number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        handle.close()


class _Handle:
    """An open file that is closed once, here or in a forked process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


def _take(handle: int, path: Path) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_BETWEEN_S)
        except OSError as error:
            raise RecordsError(
                f"Cannot lock {path}: {error.strerror}. Choose an --out on a file system with "
                f"file locks."
            ) from None
        else:
            return True
    return False


class Teller:
    """Writes how far a trial is into its folder, at most twice a second, for others to read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _PROGRESS
        self._last: Progress | None = None
        self._told_s = time.monotonic() - _TELL_S
        self._write("running")

    def __call__(self, progress: Progress) -> None:
        """Take note of the progress, and write it if the last time is long enough ago."""
        self._last = progress
        if time.monotonic() - self._told_s >= _TELL_S:
            self._write("running")

    def end(self, state: str) -> None:
        """Write what came last: the trial runs no longer."""
        self._write(state)

    def _write(self, state: str) -> None:
        told = {
            "state": state,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "told_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **(asdict(self._last) if self._last else {}),
        }
        text = json.dumps(told).encode()
        write_atomically(self._path, lambda file: file.write(text), sync=False)
        self._told_s = time.monotonic()


def read_progress(folder: Path) -> tuple[Progress | None, str | None]:
    """Return how far a trial was last, and which process said so."""
    try:
        told: Mapping[str, Any] = json.loads((folder / _PROGRESS).read_text())
    except (OSError, ValueError):  # not begun
        return None, None
    where = f"process {told.get('pid')} on {told.get('host')}"
    names = [field.name for field in fields(Progress)]
    if not all(name in told for name in names):
        return None, where
    return Progress(**{name: told[name] for name in names}), where
