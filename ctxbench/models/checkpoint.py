"""Weights from a file into a network: strictly, and without running anybody's code."""

import zipfile
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from ctxbench.errors import CheckpointError
from ctxbench.models import cgc_resnet, contextual, coresnet, overlock

State = dict[str, Tensor]

# where training programs keep the weights, and what their wrappers write before each name
_NESTS = ("state_dict", "model", "model_state_dict", "module", "state_dict_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# written by averaging wrappers; no weight
_COUNTERS = ("n_averaged",)
# what has one row a class
_HEADS = ("fc.weight", "head.weight", "classes.weight")
# each turns the names in one group's published files into ours, and leaves other files alone
_FROM_AUTHORS = (
    coresnet.from_authors,
    cgc_resnet.from_authors,
    contextual.from_authors,
    overlock.from_authors,
)


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a safetensors file or of a torch file into `model`, strictly.

    Reads our own state dicts and the authors': nested under `state_dict` or `model`, behind
    `module.`, with their names. The network is unchanged if anything does not fit.

    Raises: CheckpointError, in one line, for a file that is missing, torn, holds code instead of
            tensors, or does not fit: every missing, unexpected or misshapen entry is named.
    """
    path, model = Path(path), unwrap(model)
    wanted = model.state_dict()
    state = _strip(_unnest(_read(path), path), wanted)
    if state.keys() != wanted.keys():
        state = _converted(state, model, path)
    _check_fit(state, wanted, path)
    before = {key: value.clone() for key, value in wanted.items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError) as error:
        model.load_state_dict(before)
        raise CheckpointError(f"{path}: {_line(error)}") from None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside a compiled or parallel one."""
    for name in ("_orig_mod", "module"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and len(list(model.children())) == 1:
            return unwrap(inner)
    return model


def _read(path: Path) -> object:
    if path.is_dir() or not path.exists():
        raise CheckpointError(f"There is no weight file {str(path)!r}.")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from None
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if not (head.startswith(b"PK") or head[:1] == b"\x80"):  # a zip archive or a pickle
        raise CheckpointError(
            f"{path} is no complete weight file: it is neither a torch nor a safetensors file."
        )
    try:
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # an odd pickle protocol, on the way to refusal
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damaged bytes fail in every way there is
        raise CheckpointError(_why_unreadable(path, str(error))) from None


def _why_unreadable(path: Path, error: str) -> str:
    saved = "Save a state dict alone: torch.save(model.state_dict(), path)."
    if not zipfile.is_zipfile(path):
        return (
            f"{path} is no complete weight file, or holds Python objects besides tensors, which "
            f"would run code when read. {saved}"
        )
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return f"{path} is a TorchScript program, not a state dict. {saved}"
    if "Unsupported global" in error or "Unsupported class" in error or "GLOBAL" in error:
        return (
            f"{path} holds Python objects besides tensors, which would run code when read. {saved}"
        )
    return f"{path} is no complete weight file: torch cannot read it."


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no complete safetensors file: {_line(error)}") from None


def _unnest(content: object, path: Path) -> State:
    for _ in _NESTS:
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict but {type(content).__name__}.")
    state: dict[Any, Any] = {k: v for k, v in content.items() if k not in _COUNTERS}
    others = [
        str(key)
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(f"{path} holds entries that are no tensors: {_some(others)}.")
    return state


def _strip(state: State, wanted: State) -> State:
    """Drop what wrappers write before every name, unless the network's own names begin so."""
    for prefix in _PREFIXES if state.keys() != wanted.keys() else ():
        if state and all(key.startswith(prefix) for key in state):
            return _strip({key.removeprefix(prefix): value for key, value in state.items()}, wanted)
    return state


def _converted(state: State, model: nn.Module, path: Path) -> State:
    try:
        for convert in _FROM_AUTHORS:
            state = convert(state, model)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: its entries do not fit together: {_line(error)}") from None
    return state


def _check_fit(state: State, wanted: State, path: Path) -> None:
    """Name every entry that is missing, left over, or of another shape or kind of number."""
    shared = [key for key in wanted if key in state]
    faults = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} (file {tuple(state[key].shape)}, network {tuple(wanted[key].shape)})"
            for key in shared
            if not _same_shape(key, state[key], wanted[key])
        ],
        "of another kind of number": [
            f"{key} (file {state[key].dtype}, network {wanted[key].dtype})"
            for key in shared
            if wanted[key].is_floating_point() and not state[key].is_floating_point()
        ],
    }
    found = [f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys]
    if found:
        hint = _hint(state, wanted, {*faults["missing"], *faults["unexpected"]})
        raise CheckpointError(
            f"{path} does not fit the network. {'; '.join(found)}.{hint}",
            faults["missing"],
            faults["unexpected"],
        )


def _same_shape(key: str, theirs: Tensor, ours: Tensor) -> bool:
    if key.endswith("_extra_state"):  # the levels, which the layer itself compares and names
        return theirs.ndim == 2 and theirs.shape[1] == 2
    return theirs.shape == ours.shape


def _hint(state: State, wanted: State, odd: set[str]) -> str:
    """Say what the network would have to be, where the names tell."""
    if odd and all(".end_norm." in key or ".bn3." in key for key in odd):
        setting = "true" if any(".end_norm." in key for key in state) else "false"
        return f" Build it with end_norm={setting}."
    if odd and all(key.endswith("_extra_state") for key in odd):
        theirs = "plain" if any(key.endswith("_extra_state") for key in wanted) else "CoConv"
        return f" The file is of a network with {theirs} convolutions."
    for head in () if odd else _HEADS:
        if head in state and len(state[head]) != len(wanted[head]):
            return f" Build it with num_classes={len(state[head])}."
    return ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _some(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
