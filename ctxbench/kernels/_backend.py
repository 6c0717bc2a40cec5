"""Which backend computes: the innermost `with` says, else the operator, else it is torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from typing import Concatenate, Literal, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ctxbench.errors import BackendError, UnknownNameError

_P = ParamSpec("_P")
_R = TypeVar("_R")

Backend = Literal["reference", "torch", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
DEFAULT: Backend = "torch"

# what each use_backend that is open has chosen, the innermost last, and that one by itself: a plain
# global, which torch.compile guards on
_open: dict[object, Backend] = {}
_inside: Backend | None = None


@dataclass(frozen=True, slots=True)
class Formulation:
    """What a backend has for an operator: how it computes, and where it applies, in words."""

    words: str
    applies: str


def check_backend(name: str) -> Backend:
    """Return the name of a backend. Raises: UnknownNameError."""
    for known in BACKENDS:
        if name == known:
            return known
    raise UnknownNameError("backend", str(name), BACKENDS)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every operator that runs inside, in any thread, with one backend.

    It counts more than what operators were built with; of two, the one that was opened last counts.

        with ctxbench.use_backend("triton"):
            y = model(x)

    Raises: UnknownNameError for a backend that does not exist; whoever runs an operator that the
            backend has no answer for gets a BackendError there.
    """
    global _inside  # noqa: PLW0603 - what a context manager is for
    chosen, key = check_backend(name), object()
    _open[key] = _inside = chosen
    try:
        yield
    finally:
        del _open[key]  # threads may leave theirs in another order
        _inside = next(reversed(_open.values()), None)


def inside() -> Backend | None:
    """Return what the innermost `use_backend` has chosen; None outside of all."""
    return _inside


def choose(own: Backend | None) -> Backend:
    """Return the backend that computes an operator which was built with `own`.

    Raises: BackendError for differentiation in forward mode, which torch does not refuse for
            operators of our own: it would take them for constants.
    """
    chosen = _inside or own or DEFAULT
    if chosen != "reference" and forward_ad._current_level >= 0:
        raise BackendError(
            f"Differentiation in forward mode needs backend='reference'; got backend={chosen!r}. "
            f"Use backend='reference', or ctxbench.use_backend('reference') around it."
        )
    return chosen


def told(own: Backend | None) -> str:
    """Return what the description of an operator says of the backend that it was built with."""
    return f", backend={own}" if own else ""


def why_not_here(name: Backend) -> str | None:
    """Say in a few words why a backend cannot run on this machine; None if it can."""
    if name != "triton":
        return None
    if find_spec("triton") is None:
        return "needs the package triton"
    if torch.cuda.is_available() or interprets():
        return None
    return "needs an NVIDIA GPU"


def check_triton(operator: str, *tensors: Tensor | None) -> None:
    """Raise BackendError where Triton cannot compute with these tensors."""
    way_out = "Use backend='torch', which runs everywhere."
    if find_spec("triton") is None:
        raise BackendError(
            f"{operator}: backend='triton' needs the package triton, which comes with torch for "
            f"CUDA. {way_out}"
        )
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise BackendError(
                f"{operator}: backend='triton' takes float32, bfloat16 and float16; got "
                f"{str(tensor.dtype).removeprefix('torch.')}. {way_out}"
            )
        if not (tensor.is_cuda or interprets()):
            raise BackendError(
                f"{operator}: backend='triton' needs an NVIDIA GPU; got a tensor on "
                f"{tensor.device}. {way_out}"
            )


def launches_there(
    function: Callable[Concatenate[Tensor, _P], _R],
) -> Callable[Concatenate[Tensor, _P], _R]:
    """Make the GPU of the first tensor the current one while a function launches Triton kernels.

    Triton launches them on the current one, wherever their tensors are.
    """

    @wraps(function)
    def launch(first: Tensor, /, *rest: _P.args, **options: _P.kwargs) -> _R:
        with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
            return function(first, *rest, **options)

    return launch


def interprets() -> bool:
    """Whether Triton interprets its kernels, so that they run on a CPU: TRITON_INTERPRET=1."""
    from triton import knobs

    return bool(knobs.runtime.interpret)
