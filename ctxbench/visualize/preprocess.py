"""From any image to what a network takes: its own size, crop and normalisation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctxbench.errors import VisualizeError
from ctxbench.models import resolve
from ctxbench.models.replace import split_replacement
from ctxbench.spec import literal, split_spec

Interpolation = Literal["bilinear", "bicubic"]

# what the published networks were trained with
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE, _SHORTER = 224, 256  # the usual crop, and the shorter side that it is cut from
_SMALL_PX = 64  # networks for smaller images see them whole
_LONG = 8  # times what is seen; the rest is cut off before it is resized


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
    interpolation: Interpolation = "bilinear"

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
                x = _cut(x, size, self.resize_px)
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

    def sized(self, size: tuple[int, int] | None) -> "Preprocess":
        """Return the same for another height and width; None changes nothing.

        A square is cut as before, from a shorter side that grows with it. For what is no square the
        whole image is resized.
        """
        if size is None:
            return self
        if min(size) < 1:
            raise VisualizeError(f"Size {size[0]}x{size[1]} is no size. Give 1 px or more.")
        cut = self.resize_px is not None and size[0] == size[1]
        shorter = round(size[0] * (self.resize_px or 0) / self.height) if cut else None
        return replace(self, height=size[0], width=size[1], resize_px=shorter)

    def __str__(self) -> str:
        """Say it in a line for a picture."""
        size = f"{self.height}x{self.width} px"
        cut = f"shorter side to {self.resize_px} px ({self.interpolation}), central {size}"
        resized = f"whole image at {size} ({self.interpolation})"
        mean, std = (", ".join(f"{v:.3g}" for v in values) for values in (self.mean, self.std))
        plain = {*self.mean} == {0.0} and {*self.std} == {1.0}
        scaled = "pixels as 0..1" if plain else f"mean {mean}; std {std}"
        return f"{cut if self.resize_px else resized}; {scaled}"


def preprocess_of(
    network_spec: str, model: nn.Module, *, size: tuple[int, int] | None = None
) -> Preprocess:
    """Return how the network of a spec wants its images; `size` is that of `Preprocess.sized`.

    torchvision: what belongs to its best published weights, whether they are here or not; those for
    detection resize and normalise by themselves. timm: its own configuration. Others: mean and
    standard deviation of ImageNet, 256/224 of the image's side cut to it; networks for less than
    64 px see the whole image.
    Raises: VisualizeError for a network that takes no images of one or three channels.
    """
    plain, _ = split_replacement(network_spec)
    name, given = split_spec(plain)
    channels = _channels_of(plain, name, model)
    if name.startswith("torchvision/"):
        found = _torchvision(name, model)
    elif name.startswith("timm/"):
        found = _timm(model, {key: literal(text) for key, text in given.items()})
    else:
        found = _usual(resolve(plain).image_px)
    mean, std = (_in_channels(values, channels) for values in (found.mean, found.std))
    return replace(found, mean=mean, std=std).sized(size)


def _usual(side: int) -> Preprocess:
    shorter = None if side < _SMALL_PX else round(side * _SHORTER / _SIDE)
    return Preprocess(side, side, _MEAN, _STD, shorter)


def _torchvision(name: str, model: nn.Module) -> Preprocess:
    from torchvision import models

    known = list(models.get_model_weights(name.removeprefix("torchvision/")))
    if not known:
        return _usual(_SIDE)
    transforms = type(known[0]).DEFAULT.transforms()
    match type(transforms).__name__:
        case "ImageClassification" | "SemanticSegmentation":
            shorter = transforms.resize_size[0]
            side = getattr(transforms, "crop_size", [shorter])[0]
            mode = transforms.interpolation.value
            mean, std = tuple(transforms.mean), tuple(transforms.std)
            found = Preprocess(side, side, mean, std, shorter, mode)
        case "ObjectDetection":
            height, width = _detected_size(model)
            found = Preprocess(height, width, (0.0,) * 3, (1.0,) * 3)
        case kind:
            raise VisualizeError(f"{name} takes no single images: it is for {kind}.")
    # a vision transformer knows one size, which need not be that of the published weights
    own = getattr(model, "image_size", None)
    return found.sized((own, own)) if isinstance(own, int) else found


def _detected_size(model: nn.Module) -> tuple[int, int]:
    """Return the height and width that a detector would resize a square image to."""
    resizing: Any = getattr(model, "transform", None)
    fixed = getattr(resizing, "fixed_size", None)
    if fixed:
        width, height = fixed
        return height, width
    side = getattr(resizing, "min_size", (800,))[-1]
    return side, side


def _timm(model: nn.Module, options: dict[str, Any]) -> Preprocess:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model, args=options)
    _, height, width = config["input_size"]
    squashed = config["crop_mode"] == "squash" and config["crop_pct"] == 1
    cut = height == width and not squashed
    return Preprocess(
        height,
        width,
        tuple(config["mean"]),
        tuple(config["std"]),
        math.floor(height / config["crop_pct"]) if cut else None,  # rounded as timm does
        "bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )


def _channels_of(plain: str, name: str, model: nn.Module) -> int:
    network = resolve(plain)
    try:
        inputs = network.inputs(1, network.image_px, network.image_px)
    except ValueError:
        inputs = ()
    shape = inputs[0].shape if len(inputs) == 1 else ()
    if len(shape) != 4:
        raise VisualizeError(f"{plain} takes no images, so nothing can be shown of what it sees.")
    channels = int(shape[1])
    if ".py" in name:  # nobody knows its options, but the first convolution has seen the image
        first = (getattr(module, "in_channels", None) for module in model.modules())
        channels = next((count for count in first if isinstance(count, int)), channels)
    if channels not in (1, 3):
        raise VisualizeError(
            f"{plain} takes {channels} channels, and images have 1 or 3. Choose another network, "
            f"or build it with in_channels=3 if it has that option."
        )
    return channels


def _in_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return one value a channel; grey gets the mean of the colours."""
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels


def _cut(pixels: Tensor, size: Sequence[int], resize_px: int) -> Tensor:
    """Leave out of a very long image what would be cut off anyway, so that resizing is no work.

    The shorter side of 3 x 2000 pixels at 256 would make the other 170,000. Eight times what is
    seen stays: enough for filters, and for the rounding of sizes to change the scale by nothing.
    """
    shorter, longer = sorted(pixels.shape[1:])
    axis = 1 if pixels.shape[1] == longer else 2
    kept = math.ceil(_LONG * size[axis - 1] * shorter / resize_px)
    kept += (longer - kept) % 2  # or the centre would move by half a pixel
    return pixels if kept >= longer else pixels.narrow(axis, (longer - kept) // 2, kept)
