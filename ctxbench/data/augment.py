"""What happens to an image between the data set and the network."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.data._keys import Keys, derived, key, keys, uniform, whole
from ctxbench.data._spec import Data, Images, TensorImages
from ctxbench.errors import DataError

# (images, labels (B,)) -> (images, labels or shares (B, classes))
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# any image, or a batch of one size -> the same, in another size
_Module = Callable[[Tensor], Tensor]

_MAGNITUDES = 31  # of v2.RandAugment
_PAD_SHARE = 8  # 4 pixels on each side of 32, as everybody does on CIFAR
# which of an image's random numbers is for what
_CROP, _DOWN, _RIGHT, _FLIP, _COLOUR, _IF_ERASED, _ERASED = range(7)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images are changed, and how others are framed; by default not at all.

    crop:          `pad` shifts an image by up to an eighth of its side over black; `resized` takes
                   a part with `crop_scale` of the area and changes its aspect ratio.
    flip:          probability of a mirror image.
    rand_augment:  magnitude of two operations of RandAugment, 1 to 30; 0 is off.
    color_jitter:  brightness, contrast and saturation change by up to this share.
    erasing:       probability that a rectangle becomes the mean colour.
    mixup, cutmix: alpha of the distribution of shares, 0 is off; with both, one of them a batch.
    eval_crop:     share of the shorter side that is seen where nothing is cropped at random. Images
                   that are stored at the size of the network are seen whole.
    Raises: ValueError naming the field and its value.
    """

    crop: Literal["none", "pad", "resized"] = "none"
    crop_scale: tuple[float, ...] = (0.08, 1.0)
    flip: float = 0.0
    rand_augment: int = 0
    color_jitter: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    eval_crop: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        _one_of("crop", self.crop, ("none", "pad", "resized"))
        _one_of("interpolation", self.interpolation, ("bilinear", "bicubic"))
        for name in ("flip", "erasing"):
            _within(name, getattr(self, name), 0, 1)
        for name in ("color_jitter", "mixup", "cutmix"):
            _within(name, getattr(self, name), 0, math.inf)
        _within("rand_augment", self.rand_augment, 0, _MAGNITUDES - 1)
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(
                f"crop_scale={self.crop_scale} is not two shares of the area, the smaller first, "
                f"above 0 and up to 1."
            )
        if not 0 < self.eval_crop <= 1:
            raise ValueError(f"eval_crop={self.eval_crop} is not above 0 and up to 1.")


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """Turns images into what a network takes; makes the same of an image in any batch.

    The order is that of torchvision's recipes: frame or crop, flip, colours, normalise, erase.
    The random numbers of an image come from its key alone.

    Shape:  uint8 (C, H, W) -> float32 (C, image_px, image_px).
    """

    image_px: int
    mean: Tensor  # (C, 1, 1), of pixels as 0..255
    std: Tensor
    frame: _Module | None = None
    crop: _Module | None = None
    pad: int = 0
    flip: float = 0.0
    colour: _Module | None = None
    erasing: float = 0.0
    erase: _Module | None = None

    def __call__(self, image: Tensor) -> Tensor:
        """Return one image for the network; its key is drawn from torch's generator."""
        index = torch.randint(2**62, (1,)) if self.random else torch.zeros(1, dtype=torch.int64)
        return self.batch([image], keys(key(), index))[0]

    @property
    def random(self) -> bool:
        """Tell whether two keys may give two different images."""
        by_chance = (self.crop, self.colour, self.erase)
        return bool(self.pad or self.flip) or any(part is not None for part in by_chance)

    def batch(self, images: Tensor | Sequence[Tensor], base: Keys) -> Tensor:
        """Return a batch (B, C, image_px, image_px) of images and their keys.

        Images of one size may come as one tensor (B, C, H, W), which is faster.
        """
        x = self._sized(images, base)
        self._check(x)
        if self.pad:
            side = 2 * self.pad + 1
            x = shifted(x, self.pad, whole(base, _DOWN, side), whole(base, _RIGHT, side))
        if self.flip:
            mirrored = torch.nonzero(uniform(base, _FLIP) < self.flip)[:, 0]
            x = x.index_copy(0, mirrored, x[mirrored].flip(-1))
        if self.colour is not None:
            x = _one_by_one(self.colour, x, derived(base, _COLOUR))
        x = x.float().sub_(self.mean).div_(self.std)
        if self.erase is not None:
            chosen = torch.nonzero(uniform(base, _IF_ERASED) < self.erasing)[:, 0]
            if len(chosen):
                # numpy takes a tensor of one number for that number
                seeds = derived(base, _ERASED)[chosen.numpy()]
                x[chosen] = _one_by_one(self.erase, x[chosen], seeds)
        return x

    def _sized(self, images: Tensor | Sequence[Tensor], base: Keys) -> Tensor:
        if self.crop is not None:
            return _one_by_one(self.crop, images, derived(base, _CROP))
        if isinstance(images, Tensor):
            return images if self.frame is None else self.frame(images)
        framed = images if self.frame is None else [self.frame(image) for image in images]
        return torch.stack(list(framed))

    def _check(self, x: Tensor) -> None:
        expected = (len(self.mean), self.image_px, self.image_px)
        if tuple(x.shape[1:]) != expected or x.dtype != torch.uint8:
            raise DataError(
                f"Images are {x.dtype} {tuple(x.shape[1:])}; the data set says uint8 {expected}. "
                f"Correct its channels and image_px."
            )


def training(data: Data, augmentation: Augmentation) -> Transform:
    """Return what makes training images."""
    from torchvision.transforms import v2

    plain = _plain(data, augmentation, data.train)
    colour = _colour(augmentation)
    if colour is not None and data.channels not in (1, 3):
        raise DataError(
            f"rand_augment and color_jitter change images of 1 or 3 channels; these have "
            f"{data.channels}. Leave them out."
        )
    resized = augmentation.crop == "resized"
    return Transform(
        image_px=data.image_px,
        mean=plain.mean,
        std=plain.std,
        frame=None if resized else plain.frame,
        crop=v2.RandomResizedCrop(
            data.image_px,
            scale=augmentation.crop_scale,
            interpolation=_interpolation(augmentation),
        )
        if resized
        else None,
        pad=max(1, data.image_px // _PAD_SHARE) if augmentation.crop == "pad" else 0,
        flip=augmentation.flip,
        colour=colour,
        erasing=augmentation.erasing,
        # 0 is the mean colour once an image is normalised; which are erased is drawn for a batch
        erase=v2.RandomErasing(p=1.0) if augmentation.erasing else None,
    )


def evaluation(data: Data, augmentation: Augmentation) -> Transform:
    """Return what makes images of the validation part, with nothing random in it."""
    return _plain(data, augmentation, data.validation)


def mixing(data: Data, augmentation: Augmentation) -> Mixing | None:
    """Return what mixes the images of a batch in pairs, or None; draws from torch's generator."""
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, augmentation.mixup), (v2.CutMix, augmentation.cutmix))
    mixers = [kind(alpha=alpha, num_classes=data.classes) for kind, alpha in kinds if alpha]
    if not mixers:
        return None
    mixer: Mixing = v2.RandomChoice(mixers) if len(mixers) > 1 else mixers[0]
    return mixer


def shifted(x: Tensor, pad: int, down: Tensor, right: Tensor) -> Tensor:
    """Return windows of the size of `x` out of `x` with `pad` zeros around it.

    Image b's window begins at row down[b] and column right[b] of the larger image. It is what
    v2.RandomCrop does, for a batch at once.
    """
    height, width = x.shape[-2:]
    windows_BCYXHW = F.pad(x, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
    return windows_BCYXHW[torch.arange(len(x)), :, down, right]


@contextmanager
def seeded_apart() -> Iterator[torch.Generator]:
    """Lend torch's generator, which v2 draws from, and put its state back."""
    generator = torch.default_generator
    state = generator.get_state()
    try:
        yield generator
    finally:
        generator.set_state(state)


def _one_by_one(part: _Module, images: Tensor | Sequence[Tensor], seeds: Keys) -> Tensor:
    changed = []
    with seeded_apart() as generator:
        for image, seed in zip(images, seeds.tolist(), strict=True):
            generator.manual_seed(seed)
            changed.append(part(image))
    return torch.stack(changed)


def _plain(data: Data, augmentation: Augmentation, images: Images) -> Transform:
    return Transform(
        image_px=data.image_px,
        mean=255 * torch.tensor(data.mean)[:, None, None],
        std=255 * torch.tensor(data.std)[:, None, None],
        frame=_frame(images, data.image_px, augmentation),
    )


def _frame(images: Images, image_px: int, augmentation: Augmentation) -> _Module | None:
    from torchvision.transforms import v2

    if isinstance(images, TensorImages) and images.images.shape[-2:] == (image_px, image_px):
        return None
    resize = v2.Resize(
        round(image_px / augmentation.eval_crop), interpolation=_interpolation(augmentation)
    )
    frame: _Module = v2.Compose([resize, v2.CenterCrop(image_px)])
    return frame


def _colour(augmentation: Augmentation) -> _Module | None:
    from torchvision.transforms import v2

    parts: list[nn.Module] = []
    if augmentation.rand_augment:
        parts.append(
            v2.RandAugment(
                magnitude=augmentation.rand_augment,
                num_magnitude_bins=_MAGNITUDES,
                interpolation=v2.InterpolationMode.BILINEAR,  # of tensors, it has no bicubic
            )
        )
    if augmentation.color_jitter:
        strength = augmentation.color_jitter
        parts.append(v2.ColorJitter(strength, strength, strength))
    return nn.Sequential(*parts) if parts else None


def _interpolation(augmentation: Augmentation) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(augmentation.interpolation)


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value} is not {' or '.join(known)}.")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
        raise ValueError(f"{name}={value} is not {bounds}.")
