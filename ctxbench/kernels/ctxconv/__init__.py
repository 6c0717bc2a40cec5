"""Contextual convolution: taps are displaced and weighted, and each sample changes the kernels."""

from torch import Tensor

from ctxbench.kernels._backend import Backend, Formulation, check_triton, choose
from ctxbench.kernels.ctxconv import _reference
from ctxbench.kernels.ctxconv._reference import Window

__all__ = ["FORMULATIONS", "Window", "contextual_conv2d"]

FORMULATIONS: dict[Backend, Formulation] = {
    "reference": Formulation("weighted lookups, then products", "everywhere"),
    "torch": Formulation("weighted lookups, then products", "everywhere"),
    "triton": Formulation("not yet", "nowhere"),
}


def contextual_conv2d(
    x: Tensor,
    weight: Tensor,
    change_BCT: Tensor | None,
    offset: Tensor | None,
    mask: Tensor | None,
    *,
    window: Window,
    groups: int,
    backend: Backend | None = None,
) -> Tensor:
    """Convolve x where `offset` says, with the kernels that `change` makes of the weight.

    `offset` (B, 2 * T, Y, X) holds (dy, dx) of each of the T = k * k taps in pixels, `mask`
    (B, T, Y, X) its factor; neither: the taps stay where they are. `change` (B, C, T) is added to
    the kernels: of a dense convolution (groups = 1) to those of every output channel, of a
    depthwise one (groups = C = O) to the kernel of its own channel.
    Between pixels a map is bilinear, beyond its border zero. Where a tap stands exactly on a pixel
    the gradient of its offset is that towards the next one, as in torchvision's deform_conv2d.

    Shape:  x (B, C, H, W), weight (O, C / groups, k, k) -> (B, O, Y, X), in the type of the offset,
            or of x without one. Places and sums are float32 at least.
    Raises: BackendError where the chosen backend cannot compute this.
    """
    if choose(backend) == "triton":
        check_triton("ctxconv", x, weight, change_BCT, offset, mask)
    return _reference.contextual_conv2d(
        x, weight, change_BCT, offset, mask, window=window, groups=groups
    )
