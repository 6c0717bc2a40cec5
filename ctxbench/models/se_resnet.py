"""SE-ResNet: every residual branch ends in channel gates computed from its global average."""

from functools import partial

from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec
from ctxbench.models.resnet import DEPTHS, ResNet, ResNetConfig, resnet


class SqueezeExcitation(nn.Module):
    """Scales every channel by a gate that sees the average of all channels.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   2 * C * (C // reduction) MACs per image for the gates.
    Raises: ValueError if reduction leaves no channel.
    Source: arXiv:1709.01507, section 3; without biases, as arXiv:2108.07387 counts it.
    """

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(
                f"SqueezeExcitation needs reduction from 1 to the {channels} channels it reduces; "
                f"got reduction={reduction}."
            )
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def gates(self, x: Tensor) -> Tensor:
        """Return the factor of every channel, (B, C), each between 0 and 1."""
        mean_BC = x.mean((2, 3))
        return self.excite(self.squeeze(mean_BC).relu()).sigmoid()  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return x, scaled channel by channel."""
        return x * self.gates(x)[:, :, None, None]


def se_resnet(config: ResNetConfig, *, reduction: int = 16) -> ResNet:
    """Build an SE-ResNet; differs from `resnet` in the gates that end each residual branch."""
    return resnet(config, attention=partial(SqueezeExcitation, reduction=reduction))


_SOURCE = "arXiv:1709.01507; arXiv:2108.07387, Table 5"

SPECS = {
    f"se_resnet{depth}": ModelSpec(
        se_resnet, source=_SOURCE, preset=DEPTHS[depth], baseline=f"resnet{depth}"
    )
    for depth in (50, 101, 152)
}
