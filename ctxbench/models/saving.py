"""Weights of a network into a file, whole or not at all."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ctxbench import __version__
from ctxbench.errors import CheckpointError
from ctxbench.models.checkpoint import State, unwrap

_SAFETENSORS, _TORCH = (".safetensors",), (".pth", ".pt")


def save_checkpoint(
    model: nn.Module, path: str | Path, *, spec: str | None = None, overwrite: bool = False
) -> None:
    """Write the weights of a network as a safetensors file, or as a torch file (.pth, .pt).

    The version of this package and the `spec` of the network, if given, are written beside them:
    as metadata of a safetensors file, as entries beside `state_dict` in a torch file. Tensors that
    share memory are written one by one. `load_checkpoint` reads both.
    Raises: CheckpointError, in one line, for another suffix, a file that is there already unless
            `overwrite`, a folder that cannot be written to, and state that is no tensor.
    """
    path = Path(path)
    about = {"ctxbench": __version__, **({"spec": spec} if spec else {})}
    with write_new(path, suffixes=(*_SAFETENSORS, *_TORCH), overwrite=overwrite) as save:
        state = _state_of(unwrap(model), path)
        if path.suffix in _SAFETENSORS:
            save(lambda file: _write_safetensors(state, file, about))
        else:
            save(lambda file: torch.save({"state_dict": state, **about}, file))


@contextmanager
def write_new(
    path: Path, *, suffixes: Sequence[str], overwrite: bool
) -> Iterator[Callable[[Callable[[Path], object]], None]]:
    """Check a path at once, and give a function that lets another write it, whole or not at all.

    Raises: CheckpointError, in one line, for what `save_checkpoint` names.
    """
    if path.suffix not in suffixes:
        raise CheckpointError(
            f"{path}: the suffix {path.suffix!r} is unknown. Give {' or '.join(suffixes)}."
        )
    if path.is_dir() or (path.exists() and not overwrite):
        way_out = "Give another path." if path.is_dir() else "Give another path, or overwrite=True."
        raise CheckpointError(f"{path} is there already. {way_out}")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: there is no folder {str(path.parent)!r}. Make it first.")
    writer = f"{os.getpid()}.{threading.get_ident()}"  # others may write the same file
    temporary = path.with_name(f".{path.name}.{writer}.partial")

    def save(write: Callable[[Path], object]) -> None:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)

    try:
        temporary.touch()  # before the work, which may take minutes
        yield save
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _state_of(model: nn.Module, path: Path) -> State:
    state = model.state_dict()
    others = [key for key, value in state.items() if not _has_numbers(value)]
    if others:
        raise CheckpointError(
            f"{path}: {others[0]} is no dense tensor with numbers, and a weight file holds no "
            f"other."
        )
    # apart from each other, since views of one storage would all bring the whole of it
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def _has_numbers(value: object) -> bool:
    """Tell a dense tensor with numbers from anything else: without them are meta and lazy ones."""
    if not isinstance(value, Tensor) or is_lazy(value):
        return False
    return not value.is_meta and value.layout == torch.strided


def _write_safetensors(state: State, file: Path, about: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(state, file, metadata={"format": "pt", **about})
    except SafetensorError as error:  # whatever the system said is inside
        raise OSError(str(error)) from error
    except KeyError as error:
        raise OSError(f"safetensors has no form for {error.args[0]}") from error
