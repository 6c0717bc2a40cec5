"""One operator of each family against its definition, forward and backward, by each backend."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctxbench.doctor._definitions import cgc, coconv, contextual, contmix
from ctxbench.doctor._row import BROKEN, Finding, finding, first_line
from ctxbench.kernels import BACKENDS, Backend, use_backend, why_not_here
from ctxbench.models import resolve, without_weights
from ctxbench.ops import CGConv2d, CoConv2d, ContextualConv2d, ContMix

_STEP = 1e-6  # that finds the slope
# type -> largest errors of output and slope; Triton has no float64
_LIMITS = {torch.float64: (1e-10, 1e-5), torch.float32: (1e-4, 1e-3)}
_PARAMS = ("resnet50", 25_557_032)  # torchvision's documentation prints it
_SIDE = 7  # ContMix pools to 7x7 regions: each pixel is one

Definition = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class _Case:
    """An operator, the channels of each of its inputs, and what it must be equal to."""

    build: Callable[[], nn.Module]
    definition: Definition
    channels: tuple[int, ...]
    side: int = 6


def operators(device: str = "cpu") -> Iterator[Finding]:
    """Yield a finding for each family and backend, and one for counting; no seed is changed."""
    backends: list[Backend] = ["reference", "torch"]
    if device != "cpu" and why_not_here("triton") is None:
        backends.append("triton")
    with torch.random.fork_rng(devices=[]):
        for name, case in CASES.items():
            for backend in backends:
                yield _check(name, case, device, backend)
    name, params = _PARAMS
    found = sum(p.numel() for p in without_weights(resolve(name)).parameters())
    yield finding(
        "ok" if found == params else "wrong",
        f"parameters of {name}",
        f"{found:,}",
        f"known to be {params:,}",
    )


def backends() -> Iterator[Finding]:
    """Yield which backends can compute operators here, or why not."""
    for name in BACKENDS:
        why = why_not_here(name)
        note = why or ("what others are held against" if name == "reference" else "")
        found = "cannot run here" if why else "runs here"
        yield finding("missing" if why else "ok", f"backend {name}", found, note)


def _check(name: str, case: _Case, device: str, backend: Backend) -> Finding:
    part = f"{name} on {device}, {backend}"
    dtype = torch.float32 if backend == "triton" else torch.float64
    limit, slope_limit = _LIMITS[dtype]
    torch.default_generator.manual_seed(0)  # of the CPU alone: GPUs draw nothing here
    try:
        op = case.build().double().eval().to(device)
        shape = (2, case.side, case.side)
        inputs = tuple(
            torch.randn(shape[0], width, *shape[1:], dtype=torch.float64).to(device)
            for width in case.channels
        )
        started = time.perf_counter()
        error, slope_error = _errors(op, case.definition, inputs, backend, dtype)
        took_ms = 1000 * (time.perf_counter() - started)
    except BROKEN as failure:
        return finding("wrong", part, "fails", f"{first_line(failure)}. Reinstall torch.")
    found = f"error {error:.0e}, of the gradient {slope_error:.0e}, {took_ms:.0f} ms"
    if error <= limit and slope_error <= slope_limit:  # false for what is no number
        return finding("ok", part, found, "equal to its definition")
    return finding("wrong", part, found, "gives other numbers than its definition: do not use it")


def _errors(
    op: nn.Module,
    definition: Definition,
    inputs: tuple[Tensor, ...],
    backend: Backend,
    dtype: torch.dtype,
) -> tuple[float, float]:
    """Return the relative errors of the output and of the slope along a random direction.

    What they are held against is computed in float64, the slope from the plain form.
    """
    with torch.no_grad(), use_backend("reference"):
        expected = definition(op, *inputs)
        towards, upstream = [_noise(x) for x in inputs], _noise(expected)
        ahead, behind = (
            op(*(x + step * d for x, d in zip(inputs, towards, strict=True)))
            for step in (_STEP, -_STEP)
        )
        slope = ((ahead - behind) * upstream).sum() / (2 * _STEP)
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    with use_backend(backend):
        y = op.to(dtype)(*leaves)
        gradients = torch.autograd.grad(y, leaves, upstream.to(dtype))
    found = sum((g * d).sum() for g, d in zip(gradients, towards, strict=True))
    error = (y - expected).abs().max() / expected.abs().max()
    return float(error.detach()), float((abs(found - slope) / abs(slope)).detach())


def _noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype).to(like.device)


def _bent() -> ContextualConv2d:
    """Return a contextual convolution that generates something; a new one does not."""
    op = ContextualConv2d(8, 4)
    for name, parameter in op.named_parameters():
        if name.startswith(("offset_net.3.", "kernel_net.3.")):  # the last layers, which are zero
            nn.init.normal_(parameter, std=0.2)
    return op


CASES = {
    "CoConv": _Case(lambda: CoConv2d(4, 8, levels=4), coconv, (4,)),
    "Context-Gated Convolution": _Case(lambda: CGConv2d(16, 4), cgc, (16,)),
    "contextual convolution": _Case(_bent, contextual, (8,)),
    "ContMix": _Case(lambda: ContMix(8, 6, 5, small_kernel_size=3), contmix, (8, 8, 6), side=_SIDE),
}
