"""Small networks that displace their samples."""

from torch import nn
from torchvision.ops import DeformConv2d

from ctxbench import ContextualConv2d


class Deformable(nn.Module):
    """Offsets of a plain convolution, as in most networks with torchvision's layer."""

    def __init__(self, channels=1, kernel=3, *, stride=1, dilation=1, groups=1, masks=True):
        super().__init__()
        taps, same = kernel**2, dilation * (kernel // 2)
        self.taps, self.groups, self.masks = taps, groups, masks
        self.offsets = nn.Conv2d(channels, 3 * groups * taps, kernel, stride, same, dilation)
        self.conv = DeformConv2d(channels, channels, kernel, stride, same, dilation, bias=False)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x):
        offset, mask = self.offsets(x).split(
            [2 * self.groups * self.taps, self.groups * self.taps], 1
        )
        return self.conv(x, offset, mask.sigmoid() if self.masks else None)


def contextual(channels=1, kernel=3, *, stride=1, dilation=1, groups=1, nudged=0.0):
    conv = ContextualConv2d(
        channels, channels, kernel, stride=stride, dilation=dilation, groups=groups, bias=False,
        parts="offsets",
    )  # fmt: skip
    nn.init.normal_(conv.offset_net[-1].weight, std=nudged)
    return conv.eval()


def last_bias(network):
    return network.offset_net[-1].bias if hasattr(network, "offset_net") else network.offsets.bias


def weight_of(network):
    return network.weight if hasattr(network, "weight") else network.conv.weight
