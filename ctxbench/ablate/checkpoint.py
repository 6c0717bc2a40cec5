"""The state of an unfinished trial on disk: there whole, or not there at all."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctxbench.ablate.files import write_atomically
from ctxbench.errors import CtxbenchError

CHECKPOINT, WEIGHTS = "checkpoint.pt", "weights.safetensors"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint of a folder; a crash at any moment leaves the old one or the new."""
    write_atomically(folder / CHECKPOINT, lambda file: torch.save(state, file))


def load_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """Return the state of an unfinished trial, or None if there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    return _load(path, device)


def load_position(folder: Path) -> dict[str, Any] | None:
    """Return where an unfinished trial stands, or None; its weights stay on the disk."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    position: dict[str, Any] = _load(path, torch.device("cpu"), mmap=True)["position"]
    return position


def _load(path: Path, device: torch.device, *, mmap: bool = False) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
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
