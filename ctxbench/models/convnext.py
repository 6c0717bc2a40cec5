"""ConvNeXt: the depthwise baseline, with an open slot for its 7x7 convolution.

The parts are named as in facebookresearch/ConvNeXt, so that its weights load.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from ctxbench.models._common import initialise, rising_rates
from ctxbench.models._spec import ModelSpec, at_least_one
from ctxbench.ops._norm import LayerNorm2d
from ctxbench.ops._parts import drop_path


@dataclass(frozen=True, slots=True)
class ConvNeXtConfig:
    """The shape of a ConvNeXt; every field is an option of the spec string.

    `width` is that of the first stage and doubles from stage to stage; `patch` is the side of the
    squares that the stem turns into pixels. `drop_path` is the share of residual branches that
    training leaves out in the last block, rising linearly from 0.
    """

    blocks: tuple[int, ...] = (3, 3, 9, 3)
    width: int = 96
    patch: int = 4
    drop_path: float = 0.0
    layer_scale: float = 1e-6
    num_classes: int = 1000
    in_channels: int = 3

    def __post_init__(self) -> None:
        at_least_one(self, "blocks", "width", "patch", "num_classes", "in_channels")


class Depthwise(Protocol):
    """The slot of the depthwise 7x7 convolution; stage and index count from 0."""

    def __call__(self, channels: int, *, stage: int, index: int) -> nn.Module:
        """Return a module that keeps the shape (B, channels, H, W)."""
        ...


def plain_depthwise(channels: int, *, stage: int, index: int) -> nn.Module:
    """Return the depthwise convolution of the plain ConvNeXt, the same everywhere."""
    del stage, index
    return nn.Conv2d(channels, channels, 7, padding=3, groups=channels)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution and a two-layer perceptron at each position, beside the identity.

    What is given besides `x` goes to the depthwise convolution: a contextual one takes a prior.
    """

    def __init__(self, channels: int, dwconv: nn.Module, *, scale: float, drop: float) -> None:
        super().__init__()
        self.dwconv = dwconv
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        # None once it is folded into pwconv2
        self.gamma: nn.Parameter | None = nn.Parameter(torch.full((channels,), scale))
        self.drop_path = drop_path(drop)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return x plus the scaled branch."""
        y = self.norm(self.dwconv(x, *context).permute(0, 2, 3, 1))
        y = self.pwconv2(self.act(self.pwconv1(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + self.drop_path(y.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


class ConvNeXt(nn.Module):
    """Stem, stages of blocks with halvings between them, average pooling and a classifier.

    Shape:  (B, in_channels, H, W) -> (B, num_classes) logits.
    Source: arXiv:2201.03545.
    """

    def __init__(self, config: ConvNeXtConfig, *, depthwise: Depthwise) -> None:
        super().__init__()
        widths = [config.width << stage for stage in range(len(config.blocks))]
        self.downsample_layers = nn.ModuleList([_stem(config)])
        for before, after in pairwise(widths):
            halve = nn.Conv2d(before, after, 2, 2)
            self.downsample_layers.append(nn.Sequential(LayerNorm2d(before, eps=1e-6), halve))
        drops = iter(rising_rates(config.drop_path, sum(config.blocks)))
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    ConvNeXtBlock(
                        width,
                        depthwise(width, stage=stage, index=index),
                        scale=config.layer_scale,
                        drop=next(drops),
                    )
                    for index in range(count)
                )
            )
            for stage, (width, count) in enumerate(zip(widths, config.blocks, strict=True))
        )
        self.out_channels = widths[-1]
        self.norm = nn.LayerNorm(self.out_channels, eps=1e-6)
        self.head = nn.Linear(self.out_channels, config.num_classes)
        self.apply(initialise)

    def stem(self, x: Tensor) -> Tensor:
        """Return what the first stage takes."""
        return self.downsample_layers[0](x)  # type: ignore[no-any-return]

    def parts(self) -> list[list[nn.Module]]:
        """Return what each stage applies in turn: a halving, except in the first, and blocks."""
        entries = zip(self.downsample_layers, self.stages, strict=True)
        return [
            [*stage.children()] if index == 0 else [entry, *stage.children()]
            for index, (entry, stage) in enumerate(entries)
        ]

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the output of every stage, (B, C_s, H_s, W_s)."""
        x = self.stem(x)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(self.downsample_layers[index](x) if index else x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits."""
        return self.head(self.norm(self.features(x)[-1].mean((2, 3))))  # type: ignore[no-any-return]


def convnext(config: ConvNeXtConfig, *, depthwise: Depthwise = plain_depthwise) -> ConvNeXt:
    """Build a ConvNeXt; `depthwise` fills the slot of the 7x7 convolution."""
    return ConvNeXt(config, depthwise=depthwise)


def _stem(config: ConvNeXtConfig) -> nn.Sequential:
    cut = nn.Conv2d(config.in_channels, config.width, config.patch, config.patch)
    return nn.Sequential(cut, LayerNorm2d(config.width, eps=1e-6))


# size -> blocks per stage and width of the first
SIZES: dict[str, dict[str, object]] = {
    "tiny": {"blocks": (3, 3, 9, 3), "width": 96},
    "small": {"blocks": (3, 3, 27, 3), "width": 96},
    "base": {"blocks": (3, 3, 27, 3), "width": 128},
}
# for 32x32 images: trains in about a minute on two cores
NANO = {"blocks": (1, 1, 3, 1), "width": 16, "patch": 2, "layer_scale": 1.0, "num_classes": 10}
_SOURCE = "arXiv:2201.03545"

SPECS = {
    **{
        f"convnext_{size}": ModelSpec(convnext, source=_SOURCE, preset=preset)
        for size, preset in SIZES.items()
    },
    "convnext_nano": ModelSpec(convnext, source=_SOURCE, preset=NANO, image_px=32),
}
