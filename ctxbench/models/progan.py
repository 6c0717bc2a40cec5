"""ProGAN and CoProGAN: generators of images from a latent vector, at their full resolution."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec, at_least_one
from ctxbench.ops import CoConv2d

IMAGE_PX = 128

# (channels, width, index of the resolution) -> a 3x3 convolution with bias
GeneratorConv = Callable[[int, int, int], nn.Module]


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """The channels at 4, 8, 16, ... px and the length of the latent vector.

    The widths are those of the table in the CoConv paper. The totals that it prints are nearly
    those of a generator twice as wide at 64 and 128 px.
    """

    widths: tuple[int, ...] = (512, 512, 512, 512, 256, 128)
    latent: int = 512

    def __post_init__(self) -> None:
        at_least_one(self, "widths", "latent")


class PixelNorm(nn.Module):
    """Scales the channels of each sample, or pixel, to a mean square of 1.

    Shape:  (B, C, ...) -> (B, C, ...).
    Source: arXiv:1710.10196, section 4.2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x over the root of its mean square."""
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Generator(nn.Module):
    """A 4x4 layer on the latent vector, then two 3x3 convolutions per resolution.

    Shape:  (B, latent) -> (B, 3, S, S) with S = 4 * 2 ** (resolutions - 1).
    Source: arXiv:1710.10196, Table 2 and appendix A.1, when the last resolution is fully grown.
    """

    def __init__(self, config: GeneratorConfig, *, conv3x3: GeneratorConv) -> None:
        super().__init__()
        self.latent_norm = PixelNorm()
        first, last = config.widths[0], config.widths[-1]
        start = nn.ConvTranspose2d(config.latent, first, 4)
        self.layers = nn.Sequential(nn.Sequential(*_active(start, conv3x3(first, first, 0))))
        for index, (before, width) in enumerate(pairwise(config.widths), start=1):
            convs = conv3x3(before, width, index), conv3x3(width, width, index)
            self.layers.append(nn.Sequential(nn.Upsample(scale_factor=2), *_active(*convs)))
        self.to_rgb = nn.Conv2d(last, 3, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights from N(0, 2 / fan_in), N(0, 1 / fan_in) for the colours; biases are zero.

        The original keeps weights of variance 1 and multiplies by that factor in every forward
        pass. Both start as the same function with as many parameters; what differs is the size of
        Adam's step in each layer.
        """
        # fan_in of the transposed layer is 16 * width, which is the gain that the original gives it
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        nn.init.kaiming_normal_(self.to_rgb.weight, nonlinearity="linear")

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Return images, about in the range -1 to 1."""
        x = self.latent_norm(latent_BZ)[:, :, None, None]
        return self.to_rgb(self.layers(x))  # type: ignore[no-any-return]


def plain_conv3x3(channels: int, width: int, index: int) -> nn.Module:
    """Return the 3x3 convolution of the plain generator, the same at every resolution."""
    del index
    return nn.Conv2d(channels, width, 3, padding=1)


def progan(config: GeneratorConfig, *, conv3x3: GeneratorConv = plain_conv3x3) -> Generator:
    """Build a ProGAN generator."""
    return Generator(config, conv3x3=conv3x3)


def coprogan(config: GeneratorConfig, *, levels: tuple[int, ...] = (1, 2, 3, 4, 4, 4)) -> Generator:
    """Build a CoProGAN generator; differs from `progan` in the 3x3 convolutions alone.

    `levels` counts the dilations 1, 2, 3, ... per resolution, each with an equal share of the
    channels; the first takes what is left over.
    """
    if len(levels) != len(config.widths) or min(levels) < 1:
        raise ValueError(
            f"levels={','.join(map(str, levels))} should count from 1 and name the "
            f"{len(config.widths)} resolutions of widths. Give one level per resolution."
        )

    def build(channels: int, width: int, index: int) -> nn.Module:
        return CoConv2d(channels, width, levels=_equal_split(width, levels[index]))

    return progan(config, conv3x3=build)


def latents(options: Mapping[str, Any], batch: int, height: int, width: int) -> Tensor:
    """Return zeros in the shape of a batch of latent vectors; the image's size is the network's."""
    if height != width or height not in (IMAGE_PX, 4 << str(options.get("widths", "")).count(",")):
        raise ValueError(
            f"the generator makes images of one size from a latent vector; {height}x{width} cannot "
            f"be asked for. Leave --image-size out."
        )
    return torch.zeros(batch, int(options.get("latent", 512)))


def _active(*convs: nn.Module) -> list[nn.Module]:
    return [part for conv in convs for part in (conv, nn.LeakyReLU(0.2, inplace=True), PixelNorm())]


def _equal_split(width: int, levels: int) -> list[tuple[int, int]]:
    share = width // levels
    rest = [(share, rate) for rate in range(2, levels + 1)]
    return [(width - share * len(rest), 1), *rest]


_SOURCE = "arXiv:1710.10196; arXiv:2108.07387, Table 2"

SPECS = {
    "progan128": ModelSpec(progan, source=_SOURCE, image_px=IMAGE_PX, inputs=latents),
    "coprogan128": ModelSpec(
        coprogan, source=_SOURCE, baseline="progan128", image_px=IMAGE_PX, inputs=latents
    ),
}
