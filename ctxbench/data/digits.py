"""`digits`: the handwritten digits that come with scikit-learn, so nothing is downloaded."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ctxbench.data._spec import Data, TensorImages
from ctxbench.errors import MissingPackageError

_SIDE = 8
_DARKEST = 16  # of the grey levels 0..16 that the set has
_VALIDATION = 360  # a fifth of 1 797


def digits(*, image_px: int = 32, channels: Literal[1, 3] = 1, seed: int = 0) -> Data:
    """Return 1 437 and 360 images of the digits 0 to 9, as many of each digit in both parts.

    They are 8x8, enlarged to `image_px`; `seed` decides which of them are for validation.
    """
    if image_px < _SIDE:
        raise ValueError(f"image_px={image_px} is less than the {_SIDE} that the images have.")
    if seed < 0:
        raise ValueError(f"seed={seed} is not 0 or more.")
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError:
        raise MissingPackageError("scikit-learn", "digits") from None

    images, labels = load_digits(return_X_y=True)
    train, validation = train_test_split(
        range(len(labels)), test_size=_VALIDATION, stratify=labels, random_state=seed
    )
    pixels = _enlarged(torch.from_numpy(images).float(), image_px).expand(-1, channels, -1, -1)
    targets = torch.from_numpy(labels).long()
    share = pixels[train, 0].double() / 255
    return Data(
        train=TensorImages(pixels[train], targets[train]),
        validation=TensorImages(pixels[validation], targets[validation]),
        classes=10,
        channels=channels,
        image_px=image_px,
        mean=(float(share.mean()),) * channels,
        std=(float(share.std()),) * channels,
    )


def _enlarged(levels: Tensor, image_px: int) -> Tensor:
    """Return (N, 1, image_px, image_px) in uint8 for (N, 64) grey levels."""
    x = levels.view(-1, 1, _SIDE, _SIDE) * (255 / _DARKEST)
    x = F.interpolate(x, size=(image_px, image_px), mode="bilinear", align_corners=False)
    return x.round().to(torch.uint8)
