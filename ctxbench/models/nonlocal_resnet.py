"""NL-ResNet: every stage ends in a non-local block, in which each position sees all others."""

import torch
from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec
from ctxbench.models.resnet import DEPTHS, ResNet, ResNetConfig, resnet


class NonLocal(nn.Module):
    """Adds to each position the average of all positions, weighted by embedded similarity.

    Suffixes: B batch, K embedded channels (C / 2), N positions that ask, M positions that answer.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   2 * C * C * N + C * N * N MACs per image, with N = H * W.
    Source: arXiv:1711.07971, equations 4 and 6 (embedded Gaussian), figure 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.theta = nn.Conv2d(channels, width, 1)
        self.phi = nn.Conv2d(channels, width, 1)
        self.g = nn.Conv2d(channels, width, 1)
        self.out = nn.Conv2d(width, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as facebookresearch/video-nonlocal-net does: the block starts as identity."""
        for conv in (self.theta, self.phi, self.g, self.out):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)

    def attention(self, x: Tensor) -> Tensor:
        """Return how much each position takes from each other one, (B, N, M); rows sum to 1."""
        theta_BKN, phi_BKM = self.theta(x).flatten(2), self.phi(x).flatten(2)
        # as in the paper; video-nonlocal-net divides by sqrt(K) and pools phi and g by 2
        return torch.bmm(theta_BKN.transpose(1, 2), phi_BKM).softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + BN(out(the weighted averages))."""
        g = self.g(x)
        mean_BKN = torch.bmm(g.flatten(2), self.attention(x).transpose(1, 2))
        return x + self.norm(self.out(mean_BKN.reshape(g.shape)))  # type: ignore[no-any-return]


def nl_resnet(config: ResNetConfig) -> ResNet:
    """Build an NL-ResNet; differs from `resnet` in the non-local block that ends each stage."""
    network = resnet(config, stage_end=NonLocal)
    for module in network.modules():
        if isinstance(module, NonLocal):  # the skeleton has drawn its kernels like all others
            module.reset_parameters()
    return network


_SOURCE = "arXiv:1711.07971; arXiv:2108.07387, Table 5"

SPECS = {
    f"nl_resnet{depth}": ModelSpec(
        nl_resnet, source=_SOURCE, preset=DEPTHS[depth], baseline=f"resnet{depth}"
    )
    for depth in (50, 101, 152)
}
