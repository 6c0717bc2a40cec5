"""Context-gated convolution: each sample multiplies the weight by gates of its own."""

from torch import Tensor

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels.cgc import _reference
from ctxbench.kernels.cgc._reference import make_gates

__all__ = ["FORMULATIONS", "gated_conv2d", "make_gates"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("all gated weights, then a group a sample", "everywhere"),
    "torch": Formulation("all gated weights, then a group a sample", "everywhere"),
    "triton": Formulation("not yet", "nowhere"),
}


def gated_conv2d(
    x: Tensor,
    weight: Tensor,
    input_BCT: Tensor,
    output_BOT: Tensor,
    *,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    backend: Backend | None = None,
) -> Tensor:
    """Convolve sample b with weight[o, c] * sigmoid(input[b, c] + output[b, o]), tap by tap.

    Shape:  x (B, C, H, W), weight (O, C / groups, kh, kw) of odd sides, T = kh * kw taps
            -> (B, O, ceil(H / stride), ceil(W / stride)), with "same" padding.
    Raises: BackendError where the chosen backend cannot compute this.
    """
    if choose(backend) == "triton":
        check_triton("cgc", x, weight)
    return _reference.gated_conv2d(
        x, weight, input_BCT, output_BOT, stride=stride, dilation=dilation, groups=groups
    )
