"""The state of an unfinished trial on disk: there whole, or not there at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from ctxbench.errors import CtxbenchError, RecordsError

CHECKPOINT, WEIGHTS = "checkpoint.pt", "weights.safetensors"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint of a folder; a crash at any moment leaves the old one or the new."""
    write_atomically(folder / CHECKPOINT, lambda file: torch.save(state, file))


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the state of an unfinished trial, or None if there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise CtxbenchError(f"Cannot read {path}: {first}. Remove it to begin anew.") from error
    return state


def remove_checkpoint(folder: Path) -> None:
    """Remove the state of a trial that has its row: not earlier, or a crash would lose it."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def save_weights(folder: Path, model: nn.Module) -> Path:
    """Write the weights of a finished trial and return where; they hold no code."""
    from safetensors.torch import save

    path = folder / WEIGHTS
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    data = save({key: value.clone() for key, value in tensors.items()})
    write_atomically(path, lambda file: file.write(data))
    return path


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, sync it, and give it its name.

    Raises: RecordsError if it cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
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
