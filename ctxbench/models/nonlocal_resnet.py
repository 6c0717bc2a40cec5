"""NL-ResNet: every stage ends in a non-local block, in which each position sees all others."""

from functools import partial

import torch
from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec
from ctxbench.models.resnet import DEPTHS, ResNet, ResNetConfig, resnet


class NonLocal(nn.Module):
    """Adds to each position the average of all positions, weighted by embedded similarity.

    Suffixes: B batch, K embedded channels (C / 2), N positions that ask, M positions that answer.

    `pool` above 1 lets positions be seen through a max pooling of that size: the paper's
    subsampling, which makes the products cheaper.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   2 * C * C * N + C * N * M MACs per image, with N = H * W and M = N without pooling.
    Source: arXiv:1711.07971, equations 4 and 6 (embedded Gaussian), figure 2, section 3.3.
    """

    def __init__(self, channels: int, *, pool: int = 1) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.pool = nn.MaxPool2d(pool) if pool > 1 else nn.Identity()
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
        theta_BKN, phi_BKM = self.theta(x).flatten(2), self.pool(self.phi(x)).flatten(2)
        # as in the paper; video-nonlocal-net divides by sqrt(K)
        return torch.bmm(theta_BKN.transpose(1, 2), phi_BKM).softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return x + BN(out(the weighted averages))."""
        g_BKM = self.pool(self.g(x)).flatten(2)
        mean_BKN = torch.bmm(g_BKM, self.attention(x).transpose(1, 2))
        return x + self.norm(self.out(mean_BKN.reshape(*mean_BKN.shape[:2], *x.shape[2:])))  # type: ignore[no-any-return]


def nl_resnet(config: ResNetConfig, *, pool: int = 1) -> ResNet:
    """Build an NL-ResNet; differs from `resnet` in the non-local block that ends each stage."""
    if pool < 1:
        raise ValueError(f"pool={pool} is out of range. Give a whole number from 1.")
    network = resnet(config, stage_end=partial(NonLocal, pool=pool))
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
