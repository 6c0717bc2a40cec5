"""Pre-activation ResNet: batch norm and ReLU stand before each convolution, not behind it."""

from functools import partial
from typing import Protocol

from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec
from ctxbench.models.resnet import (
    DEPTHS,
    Conv3x3,
    Place,
    ResNet,
    ResNetConfig,
    conv1x1,
    plain_conv3x3,
)


class Branch(Protocol):
    """The slot of the residual branch: its convolutions, `width` channels between them."""

    def __call__(self, channels: int, width: int, place: Place) -> list[nn.Module]:
        """Return the convolutions in order; the strided one takes its stride from `place`."""
        ...


class PreactBlock(nn.Module):
    """Batch norm, ReLU and convolution, two or three times, beside an identity with nothing on it.

    Where the shape changes, the 1x1 shortcut starts from the activated input, too. The first block
    of the network has no activation of its own, because the stem has just activated its input.

    Shape:  (B, C, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).
    Source: arXiv:1603.05027, figure 4(e) and appendix; facebookarchive/fb.resnet.torch@7ac4a9f.
    """

    def __init__(
        self, channels: int, width: int, place: Place, *,
        expansion: int, branch: Branch, shortcut_norm: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.out_channels = expansion * width
        first = place.stage == 0 and place.index == 0
        self.preact = nn.Identity() if first else _norm_relu(channels)
        head, *tail = branch(channels, width, place)
        rest = [part for conv in tail for part in (_norm_relu(width), conv)]
        self.residual = nn.Sequential(head, *rest)
        self.shortcut: nn.Sequential | None = None
        if place.stride != 1 or channels != self.out_channels:
            self.shortcut = nn.Sequential(
                conv1x1(channels, self.out_channels, stride=place.stride),
                nn.BatchNorm2d(self.out_channels) if shortcut_norm else nn.Identity(),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return residual + identity, not activated."""
        y = self.preact(x)
        identity = x if self.shortcut is None else self.shortcut(y)
        return self.residual(y) + identity  # type: ignore[no-any-return]


def preact_resnet(
    config: ResNetConfig, *, conv3x3: Conv3x3 = plain_conv3x3, shortcut_norm: bool = False
) -> ResNet:
    """Build a pre-activation ResNet: the blocks of `resnet` in another order of operations.

    `shortcut_norm` adds a batch norm to the 1x1 shortcuts. The original has none; with it the
    network has exactly the parameters of the plain ResNet, which is what the CoConv paper prints.
    """
    if config.end_norm:
        raise ValueError(
            "end_norm=true moves a batch norm that ends a residual branch, and pre-activation has "
            "none there. Leave end_norm out."
        )

    branch, expansion = (_bottleneck, 4) if config.block == "bottleneck" else (_basic, 1)
    block = partial(
        PreactBlock,
        expansion=expansion,
        branch=partial(branch, conv3x3=conv3x3),
        shortcut_norm=shortcut_norm,
    )
    return ResNet(config, block, neck=_norm_relu)


def _basic(channels: int, width: int, place: Place, *, conv3x3: Conv3x3) -> list[nn.Module]:
    return [
        _entry3x3(channels, width, place, conv3x3=conv3x3),
        conv3x3(width, width, stride=1, dilation=place.dilation, place=place),
    ]


def _bottleneck(channels: int, width: int, place: Place, *, conv3x3: Conv3x3) -> list[nn.Module]:
    return [
        conv1x1(channels, width),
        _entry3x3(width, width, place, conv3x3=conv3x3),
        conv1x1(width, 4 * width),
    ]


def _entry3x3(channels: int, width: int, place: Place, *, conv3x3: Conv3x3) -> nn.Module:
    entry = {"stride": place.stride, "dilation": place.entry_dilation}
    return conv3x3(channels, width, **entry, place=place)


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


_SOURCE = "arXiv:1603.05027; arXiv:2108.07387, Table 5"

SPECS = {
    f"preact_resnet{depth}": ModelSpec(
        preact_resnet, source=_SOURCE, preset=preset, baseline=f"resnet{depth}"
    )
    for depth, preset in DEPTHS.items()
}
