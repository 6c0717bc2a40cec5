"""Files that are there whole, or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ctxbench.errors import RecordsError


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, sync: bool = True) -> None:
    """Write a file under another name, sync it, and give it its name.

    Without `sync` a crash of the machine, not of the process, may lose it.

    Raises: RecordsError if it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RecordsError(
            f"Cannot write {path}: {error.strerror}. What was saved before is unharmed; make room "
            f"or choose --out, and run the same command again to continue."
        ) from None


def _sync_folder(folder: Path) -> None:
    """Make a rename last: it is the folder that holds the names."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
