"""ContMix: every position mixes its window with a kernel made from its affinities."""

from torch import Tensor

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels.contmix import _reference
from ctxbench.kernels.contmix._reference import make_kernels

__all__ = ["FORMULATIONS", "make_kernels", "mix"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("all kernels, then a view of the map a tap", "everywhere"),
    "torch": Formulation("all kernels, then a view of the map a tap", "everywhere"),
    "triton": Formulation("not yet", "nowhere"),
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

    Raises: BackendError where the chosen backend cannot compute this.
    """
    if choose(backend) == "triton":
        check_triton("contmix", values_BGCHW, affinity_BGLHW, weight_TL)
    kernels = make_kernels(affinity_BGLHW, weight_TL, bias_T, table_GYX)
    return _reference.aggregate(values_BGCHW, kernels, kernel_size)
