"""Small parts that the OverLoCK operators are made of; all keep (B, C, H, W)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GRN(nn.Module):
    """Global response normalisation: channels compete by the norm of their whole map.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   none in MACs.
    Source: arXiv:2301.00808, section 3.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return (gamma N + 1) x + beta, where N is the norm of a map over the mean norm."""
        norm: Tensor = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        share = norm / (norm.mean(1, keepdim=True) + self.eps)
        return (self.gamma * share + 1) * x + self.beta


class SqueezeExcite(nn.Module):
    """Channel gates from the channel means, with GELU inside and at least 16 hidden channels.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   2 * C * max(16, C // 8) MACs per image.
    Source: arXiv:1709.01507.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(16, channels // 8)
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel by its gate."""
        means = x.mean((2, 3), keepdim=True)
        gates: Tensor = self.excite(F.gelu(self.squeeze(means))).sigmoid()
        return x * gates


class ResidualDepthwise(nn.Module):
    """The identity plus a depthwise 3x3 convolution: x + DW(x).

    Shape: (B, C, H, W) -> (B, C, H, W).
    Cost:  9 * C MACs per pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + DW(x)."""
        return x + self.conv(x)  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A weight and a bias for each channel, which begin as the identity.

    Shape: (B, C, H, W) -> (B, C, H, W).
    Cost:  none in MACs.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return weight * x + bias."""
        return x * self.weight + self.bias


def conv_norm(channels: int, width: int, *activation: nn.Module) -> nn.Sequential:
    """Return a bias-free 1x1 convolution with batch normalisation and what follows it."""
    conv = nn.Conv2d(channels, width, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), *activation)


def feed_forward(channels: int, hidden: int) -> nn.Sequential:
    """Return the 1x1 convolutions to `hidden` channels and back, with DW3x3 and GRN between.

    Cost: hidden * (2 * channels + 9) MACs per pixel.
    """
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.GELU(),
        ResidualDepthwise(hidden),
        GRN(hidden),
        nn.Conv2d(hidden, channels, 1),
    )


def drop_path(rate: float) -> nn.Module:
    """Return what drops a whole residual branch, image by image, in training."""
    if not rate:
        return nn.Identity()
    from torchvision.ops import StochasticDepth  # not at import: it takes a second to load

    return StochasticDepth(rate, "row")  # type: ignore[no-any-return]
