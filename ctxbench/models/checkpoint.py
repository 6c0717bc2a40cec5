"""Weights from a file into a network: strictly, and without running anybody's code."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from ctxbench.errors import CheckpointError, MissingPackageError
from ctxbench.models import coresnet

State = dict[str, Tensor]

_NESTS = ("state_dict", "model", "model_state_dict", "module")
# each turns the names in one group's published files into ours, and leaves other files alone
_FROM_AUTHORS = (coresnet.from_authors,)
_PREFIXES = ("module.", "_orig_mod.")


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a `.safetensors` file or of a torch file into `model`, strictly.

    Reads our own state dicts and the authors': nested under `state_dict` or `model`, behind
    `module.`, with their names. The network is unchanged if anything does not fit.

    Raises: CheckpointError, in one line, for a file that is missing, torn, holds code instead of
            tensors, or does not fit: every missing, unexpected or misshapen entry is named.
    """
    path = Path(path)
    state = _strip(_unnest(_read(path), path))
    for convert in _FROM_AUTHORS:
        state = convert(state, model)
    _check_fit(state, model.state_dict(), path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        model.load_state_dict(before)
        raise CheckpointError(f"{path}: {error}") from None


def _read(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"There is no weight file {str(path)!r}.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # an odd pickle protocol, on the way to refusal
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(_why_refused(path, str(error))) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no complete weight file: {line}") from None


def _why_refused(path: Path, error: str) -> str:
    if "Unsupported" in error or "GLOBAL" in error or "allowlist" in error.lower():
        return (
            f"{path} holds Python objects besides tensors, which would run code when read. "
            f"Save its state dict alone: torch.save(model.state_dict(), path)."
        )
    return f"{path} is no complete weight file: {error.splitlines()[0]}"


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise MissingPackageError("safetensors", f"Reading {path}") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file: {error}") from None


def _unnest(content: object, path: Path) -> State:
    while isinstance(content, dict):
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict but {type(content).__name__}.")
    state: dict[str, Any] = dict(content)
    others = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} holds entries that are no tensors: {_some(others)}.")
    return state


def _strip(state: State) -> State:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _strip({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def _check_fit(state: State, wanted: State, path: Path) -> None:
    """Name every entry that is missing, left over, or of another shape."""
    shared = [key for key in wanted if key in state and not key.endswith("_extra_state")]
    misshapen = [
        f"{key} (file {tuple(state[key].shape)}, network {tuple(wanted[key].shape)})"
        for key in shared
        if state[key].shape != wanted[key].shape
    ]
    faults = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": misshapen,
    }
    found = [f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys]
    if found:
        raise CheckpointError(f"{path} does not fit the network. {'; '.join(found)}.")


def _some(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
