"""From any image to what a network takes: its own size, crop and normalisation."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a network wants its images; it changes nothing that fits already.

    `height` and `width` are what the network takes. With `resize_px` the shorter side becomes that
    and the centre is cut out; without, the whole image is resized and may change its aspect ratio.
    `mean` and `std` are of pixels as 0..1, one for each channel.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_px: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def frame(self, pixels: Tensor) -> Tensor:
        """Return the part of an image that the network sees, (C, height, width) in uint8.

        C is the network's: grey becomes coloured by repeating it, colours their luminance.
        """
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as v2

        mode = InterpolationMode(self.interpolation)
        size = (self.height, self.width)
        x = pixels
        if tuple(x.shape[1:]) != size:
            if self.resize_px is not None:
                x = v2.center_crop(v2.resize(x, [self.resize_px], mode, antialias=True), size)
            else:
                x = v2.resize(x, size, mode, antialias=True)
        if len(x) == len(self.mean):
            return x
        return (
            v2.rgb_to_grayscale(x) if len(self.mean) == 1 else x[:1].expand(len(self.mean), -1, -1)
        )

    def normalise(self, shown: Tensor) -> Tensor:
        """Return what `frame` has made as what the network takes, float32."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (shown / 255 - mean) / std

    def __str__(self) -> str:
        """Say it in a line for a picture."""
        size = f"{self.height}x{self.width} px"
        cut = f"shorter side to {self.resize_px} px ({self.interpolation}), central {size}"
        mean, std = (", ".join(f"{v:.3g}" for v in values) for values in (self.mean, self.std))
        resized = f"resized to {size} ({self.interpolation})"
        return f"{cut if self.resize_px else resized}; mean {mean}; std {std}"
