"""CoConv: one convolution whose output channels are split between dilations."""

from collections.abc import Sequence

from torch import Tensor

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels.coconv import _reference
from ctxbench.kernels.coconv._reference import PaddingMode

__all__ = ["FORMULATIONS", "PaddingMode", "coconv2d"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("one convolution a level, concatenated", "everywhere"),
    "torch": Formulation("one convolution a level, concatenated", "everywhere"),
    "triton": Formulation("not yet", "nowhere"),
}


def coconv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    levels: Sequence[tuple[int, int]],
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    backend: Backend | None = None,
) -> Tensor:
    """Convolve with "same" padding, each level of output channels with its own dilation.

    `levels` are (width, dilation); the widths sum to the output channels.

    Shape: x (B, C, H, W) or (C, H, W), weight (O, C / groups, kh, kw) of odd sides, bias (O,)
           -> (B, O, ceil(H / stride), ceil(W / stride)).
    Raises: BackendError where the chosen backend cannot compute this.
    """
    if choose(backend) == "triton":
        check_triton("coconv", x, weight)
    return _reference.coconv2d(
        x, weight, bias, levels=levels, stride=stride, groups=groups, padding_mode=padding_mode
    )
