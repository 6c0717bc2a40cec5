"""ContMix in blocks: mixing with dynamic kernels beside large static ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ctxbench.kernels import Backend
from ctxbench.ops._mixing import ContMix
from ctxbench.ops._norm import LayerNorm2d
from ctxbench.ops._parts import (
    GRN,
    LayerScale,
    ResidualDepthwise,
    SqueezeExcite,
    conv_norm,
    drop_path,
    feed_forward,
)
from ctxbench.ops._spec import Layer, OpSpec, check_numbers, one_map
from ctxbench.ops.reparam import DilatedReparam


class ContextMixer(nn.Module):
    """The branch of a dynamic block: ContMix beside a large static kernel, both gated.

    The query is made from the first C of the channels that come in, the key from the last P.
    `features` makes the C channels that are mixed; `channels` are (C, P, D).

    Shape:  (B, D, H, W) -> (B, D, H, W).
    Cost:   that of ContMix, of `features` and `values`, and per position C * (2 * C + R + D) with R
            that of DilatedReparam for one channel; 2 * C * max(16, C // 8) per image.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b.
    """

    def __init__(
        self,
        contmix: ContMix,
        *,
        channels: tuple[int, int, int],
        features: nn.Module,
        values: nn.Module,
        folded: bool,
    ) -> None:
        super().__init__()
        width, self.context_channels, total = channels
        self.width = width
        kernel_size = contmix.kernel_sizes[1]
        self.features, self.values, self.contmix = features, values, contmix
        self.gate = conv_norm(width, width, nn.SiLU())
        self.local = nn.Sequential(
            DilatedReparam(width, kernel_size, folded=folded, backend=contmix.backend),
            nn.BatchNorm2d(width),
        )
        self.fuse = conv_norm(width, width)
        self.excite = SqueezeExcite(width)
        self.project = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, total, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated sum of dynamic and static mixing."""
        features = self.features(x)
        mixed = self.contmix(self.values(features), *self._query_and_context(x))
        y = self.excite(self.fuse(mixed) + self.local(features))
        return self.project(self.gate(features) * y)  # type: ignore[no-any-return]

    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels that `forward` mixes with, see `ContMix.kernels`."""
        return self.contmix.kernels(*self._query_and_context(x))

    def _query_and_context(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.width], x[:, -self.context_channels :]


class ResidualMix(nn.Module):
    """The skeleton of a dynamic block: a mixer and a feed-forward part, each beside the identity.

    Shape:  (B, D, H, W) -> (B, D, H, W).
    Cost:   that of the mixer and D * 18 + hidden * (2 * D + 9) MACs per position.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b.
    """

    def __init__(
        self, mixer: ContextMixer, *, channels: int, hidden: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.local1, self.local2 = ResidualDepthwise(channels), ResidualDepthwise(channels)
        self.norm1 = LayerNorm2d(channels, eps=1e-6)
        self.norm2 = LayerNorm2d(channels, eps=1e-6)
        self.scale1, self.scale2 = LayerScale(channels), LayerScale(channels)
        self.mixer = mixer
        self.ffn = feed_forward(channels, hidden)
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Mix over space and context, then over channels."""
        x = self.local1(x)
        x = self.scale1(x) + self.drop_path(self.mixer(self.norm1(x)))
        x = self.local2(x)
        return self.scale2(x) + self.drop_path(self.ffn(self.norm2(x)))  # type: ignore[no-any-return]

    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels that `forward` mixes with, see `ContMix.kernels`."""
        return self.mixer.kernels(self.norm1(self.local1(x)))


class ContMixBlock(nn.Module):
    """The block that mixes a map with its own context, to put into any network.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   that of ContMix with P = C, C * (4 * C + R + 18) + hidden * (2 * C + 9) MACs per
            position with R that of DilatedReparam for one channel and hidden = ratio * C, and
            2 * C * max(16, C // 8) per image.
    Raises: ValueError for channels that are no multiple of 4 * heads, for even kernels, and for a
            kernel size that DilatedReparam does not know.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b, contmix.py.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 7,
        *,
        small_kernel_size: int = 5,
        heads: int = 1,
        ratio: int = 4,
        drop_path_rate: float = 0.0,
        folded: bool = False,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        mixer = ContextMixer(
            ContMix(
                channels,
                channels,
                kernel_size,
                small_kernel_size=small_kernel_size,
                heads=heads,
                backend=backend,
            ),
            channels=(channels, channels, channels),
            features=nn.Identity(),
            values=conv_norm(channels, channels),
            folded=folded,
        )
        self.block = ResidualMix(
            mixer, channels=channels, hidden=ratio * channels, drop_path_rate=drop_path_rate
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, mixed."""
        return self.block(x)  # type: ignore[no-any-return]

    def kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels that `forward` mixes with, see `ContMix.kernels`."""
        return self.block.kernels(x)


class DynamicBlock(nn.Module):
    """OverLoCK's block: the kernels that mix the features are made from a context prior.

    The first block of a network takes the prior as it is; each later one adds the initial prior to
    it. What comes out is features and prior, side by side.

    Shape:  x (B, C, H, W), context and reference (B, P, H, W) -> (B, C + P, H, W).
    Cost:   that of ContMix, and with D = C + P per position 9 * D + C * D for the features,
            C * (2 * C + R + D) for the rest of the mixer, R that of DilatedReparam for one channel,
            and 18 * D + hidden * (2 * D + 9) with hidden = ratio * C; 2 * C * max(16, C // 8) per
            image.
    Raises: ValueError for channels that are no multiple of 4 * heads, for even kernels, and for a
            kernel size that DilatedReparam does not know.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b.
    """

    def __init__(  # noqa: PLR0913 - the numbers that the paper names
        self,
        channels: int,
        context_channels: int,
        kernel_size: int,
        *,
        small_kernel_size: int = 5,
        heads: int = 1,
        ratio: int = 3,
        first: bool = False,
        drop_path_rate: float = 0.0,
        folded: bool = False,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        total = channels + context_channels
        self.first = first
        if not first:
            self.context_scale = LayerScale(context_channels)
            self.reference_scale = LayerScale(context_channels)
        mixer = ContextMixer(
            ContMix(
                channels,
                context_channels,
                kernel_size,
                small_kernel_size=small_kernel_size,
                heads=heads,
                backend=backend,
            ),
            channels=(channels, context_channels, total),
            features=_fuse(total, channels),
            values=nn.Identity(),
            folded=folded,
        )
        self.block = ResidualMix(
            mixer, channels=total, hidden=ratio * channels, drop_path_rate=drop_path_rate
        )

    def forward(self, x: Tensor, context: Tensor, reference: Tensor) -> Tensor:
        """Return the features and the prior after the block, unsplit."""
        return self.block(self._join(x, context, reference))  # type: ignore[no-any-return]

    def kernels(self, x: Tensor, context: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernels that `forward` mixes with, see `ContMix.kernels`."""
        return self.block.kernels(self._join(x, context, reference))

    def _join(self, x: Tensor, context: Tensor, reference: Tensor) -> Tensor:
        if not self.first:
            context = self.context_scale(context) + self.reference_scale(reference)
        return torch.cat([x, context], dim=1)


def _fuse(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.BatchNorm2d(channels),
        nn.GELU(),
        nn.Conv2d(channels, width, 1),
        GRN(width),
    )


def _contmix(
    *,
    channels: int = 64,
    kernel: int = 7,
    small_kernel: int = 5,
    heads: int = 1,
    ratio: int = 4,
    folded: bool = False,
    backend: Backend | None = None,
) -> ContMixBlock:
    check_numbers(channels=channels, ratio=ratio)
    return ContMixBlock(
        channels, kernel,
        small_kernel_size=small_kernel, heads=heads, ratio=ratio, folded=folded, backend=backend,
    )  # fmt: skip


def _dynamic_block(  # noqa: PLR0913 - the arguments of the class
    *,
    channels: int = 64,
    context_channels: int = 64,
    kernel: int = 7,
    small_kernel: int = 5,
    heads: int = 1,
    ratio: int = 3,
    first: bool = False,
    folded: bool = False,
    backend: Backend | None = None,
) -> DynamicBlock:
    check_numbers(channels=channels, context_channels=context_channels, ratio=ratio)
    return DynamicBlock(
        channels, context_channels, kernel,
        small_kernel_size=small_kernel, heads=heads, ratio=ratio, first=first, folded=folded,
        backend=backend,
    )  # fmt: skip


def _map_and_priors(
    options: Mapping[str, Any], batch: int, height: int, width: int
) -> tuple[Tensor, ...]:
    prior = (batch, options["context_channels"], height, width)
    return (*one_map(options, batch, height, width), torch.randn(prior), torch.randn(prior))


_SOURCE = "arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b"

CONTMIX_LAYER = Layer(_contmix, one_map)
DYNAMIC_BLOCK_LAYER = Layer(_dynamic_block, _map_and_priors)
CONTMIX = OpSpec(
    build=lambda: ContMixBlock(8, 7, small_kernel_size=3),
    inputs=lambda b, h, w: (torch.randn(b, 8, h, w),),
    source=_SOURCE,
)
DYNAMIC_BLOCK = OpSpec(
    build=lambda: DynamicBlock(8, 4, 7, small_kernel_size=3),
    inputs=lambda b, h, w: (
        torch.randn(b, 8, h, w),
        torch.randn(b, 4, h, w),
        torch.randn(b, 4, h, w),
    ),
    source=_SOURCE,
)
