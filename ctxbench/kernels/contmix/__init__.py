"""ContMix: every position mixes its window with a kernel made from its affinities."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels._register import custom_op
from ctxbench.kernels.contmix import _reference, _torch
from ctxbench.kernels.contmix._reference import make_kernels

__all__ = ["FORMULATIONS", "make_kernels", "mix"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("all kernels, then a view of the map a tap", "everywhere"),
    "torch": Formulation(
        "part by part: logits, softmax and shifted maps, or one dense product; again in backward",
        "everywhere",
    ),
    "triton": Formulation(
        "one kernel a direction: the kernels of a tile in registers, mixed by one dense product",
        "NVIDIA GPUs; float32 to 256 taps, bfloat16 and float16 to 512",
    ),
}


def mix(
    values_BGCHW: Tensor,
    affinity_BGLHW: Tensor,
    weight_TL: Tensor,
    bias_T: Tensor,
    table_GYX: Tensor,
    *,
    kernel_size: int,
    backend: Backend | None = None,
) -> Tensor:
    """Return at every position the sum of its window, weighted by a softmax: (B, G, C, H, W).

    The logit of tap t of the T = kernel_size^2 taps is weight[t] . affinity + bias[t], plus the
    entry of the table (G, 2 * kernel_size - 1, 2 * kernel_size - 1) for where the tap lies from the
    position. Near a border the window is shifted inward to stay full, so the map must be at least
    as large as the window; then the taps of a position begin elsewhere, and so do their entries.

    The result has the dtype of the values, and so has the precision, but for sums and exponentials
    of half precision, which torch and triton compute in float32. They keep of all weights one
    number a position, and compute the weights again in backward; a second derivative is there for
    the reference alone. On a CPU torch is deterministic.

    Raises: BackendError where the chosen backend cannot compute this; ValueError for a map smaller
            than the window.
    """
    if min(values_BGCHW.shape[-2:]) < kernel_size:
        height, width = values_BGCHW.shape[-2:]
        raise ValueError(
            f"ContMix needs a map that holds its window; got a map of {height}x{width} and "
            f"kernel_size={kernel_size}. Enlarge the map, as ctxbench.ops.ContMix does."
        )
    chosen = choose(backend)
    if chosen == "reference":
        kernels = make_kernels(affinity_BGLHW, weight_TL, bias_T, table_GYX)
        return _reference.aggregate(values_BGCHW, kernels, kernel_size)
    out: Tensor = _contmix(
        values_BGCHW, affinity_BGLHW, weight_TL, bias_T, table_GYX, kernel_size, chosen
    )[0]
    return out


@custom_op("contmix")
def _contmix(
    values: Tensor,
    affinity: Tensor,
    weight: Tensor,
    bias: Tensor,
    table: Tensor,
    kernel_size: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return the mixed values, and what backward needs to compute their weights again."""
    inputs = (values, affinity, weight, bias, table)
    module = _module(backend, inputs)
    with torch.autocast(values.device.type, enabled=False):
        return module.forward(*inputs, kernel_size)  # type: ignore[no-any-return]


@_contmix.register_fake
def _(
    values: Tensor,
    affinity: Tensor,
    weight: Tensor,
    bias: Tensor,
    table: Tensor,
    kernel_size: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    batch, groups, _, height, width = values.shape
    dtype = torch.promote_types(values.dtype, torch.float32)
    lse = values.new_empty((batch, groups, height, width), dtype=dtype)
    return values.new_empty(values.shape), lse


@custom_op("contmix_backward", is_gradient=True)
def _contmix_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    kernel_size: int,
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the five inputs, empty ones where they are not needed."""
    module = _module(backend, inputs)
    with torch.autocast(grad.device.type, enabled=False):
        grads = module.backward(grad, *inputs, out, lse, kernel_size, needs)
    return tuple(x.new_empty(0) if g is None else g for x, g in zip(inputs, grads, strict=True))  # type: ignore[return-value]


@_contmix_backward.register_fake
def _(
    grad: Tensor,
    inputs: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    kernel_size: int,
    needs: Sequence[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    pairs = zip(inputs, needs, strict=True)
    return tuple(x.new_empty(x.shape if need else 0) for x, need in pairs)  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.kernel_size, ctx.backend = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, out, lse = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:5])
    grads = _contmix_backward(grad, inputs, out, lse, ctx.kernel_size, needs, ctx.backend)
    return (*(g if need else None for g, need in zip(grads, needs, strict=True)), None, None)


_contmix.register_autograd(_differentiate, setup_context=_keep)


def _module(backend: str, tensors: Sequence[Tensor]) -> ModuleType:
    """Return the module that computes with these tensors. Raises: BackendError."""
    if backend == "torch":
        return _torch
    check_triton("contmix", *tensors)
    from ctxbench.kernels.contmix import _triton

    return _triton
