"""ContMix in torch: shifted maps where windows are small, dense products where they are large."""

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from ctxbench.kernels.contmix import _shifts, _tiles


def forward(
    values_BGCHW: Tensor,
    affinity_BGLHW: Tensor,
    weight_TL: Tensor,
    bias_T: Tensor,
    table_GYX: Tensor,
    kernel_size: int,
) -> tuple[Tensor, Tensor]:
    """Return the mixed values and the logarithm of the sum of the exponentials of all logits.

    Shape: values (B, G, C, H, W), affinity (B, G, L, H, W) -> (B, G, C, H, W), (B, G, H, W).
    """
    inputs = (values_BGCHW, affinity_BGLHW, weight_TL, bias_T, table_GYX)
    return _formulation(values_BGCHW, kernel_size).forward(*inputs, kernel_size)  # type: ignore[no-any-return]


def backward(
    grad_BGCHW: Tensor,
    values_BGCHW: Tensor,
    affinity_BGLHW: Tensor,
    weight_TL: Tensor,
    bias_T: Tensor,
    table_GYX: Tensor,
    out_BGCHW: Tensor,
    lse_BGHW: Tensor,
    kernel_size: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of values, affinity, weight, bias and table; None where not needed."""
    inputs = (values_BGCHW, affinity_BGLHW, weight_TL, bias_T, table_GYX)
    of_forward = (out_BGCHW, lse_BGHW, kernel_size)
    return _formulation(values_BGCHW, kernel_size).backward(  # type: ignore[no-any-return]
        grad_BGCHW, *inputs, *of_forward, needs
    )


def _formulation(values_BGCHW: Tensor, kernel_size: int) -> ModuleType:
    """Return what is faster: shifts cost K * K passes over a map, tiles the zeros among the taps.

    At K = 5 shifts took 0.3 to 0.9 of the time of tiles on maps of 7x7 to 56x56, at K = 7 0.6 to
    1.0 from 28x28 on but 1.1 to 2.2 up to 14x14, at K = 9 and 13 1.4 to 2.7.
    """
    small = kernel_size <= 5 or (kernel_size == 7 and min(values_BGCHW.shape[3:]) > 20)
    return _shifts if small else _tiles
