"""`imagefolder:PATH`: image files on disk, one folder a class, as ImageNet is laid out."""

from pathlib import Path

import torch
from torch import Tensor

from ctxbench.data._spec import BrokenImageError, Data
from ctxbench.errors import DataError

# of ImageNet, pixels as 0..1: what the published networks were trained with
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHOWN = 3


def imagefolder(path: str, *, image_px: int = 224) -> Data:
    """Return the images below PATH/train and PATH/val (or PATH/validation).

    They are found here and decoded when they are asked for, to RGB, each in the size it has.
    """
    if image_px < 1:
        raise ValueError(f"image_px={image_px} is not 1 or more.")
    root = Path(path).expanduser()
    folders = (root / "train", _validation(root))
    (names, train), (others, validation) = (_found(folder) for folder in folders)
    if names != others:
        raise DataError(f"imagefolder {path}: {_difference(folders, names, others)}")
    if len(names) == 1:
        raise DataError(
            f"imagefolder {path}: {names[0]} is its only class, so there is nothing to tell "
            f"apart. Give a folder for each of two classes or more."
        )
    return Data(train, validation, len(names), 3, image_px, mean=_MEAN, std=_STD)


class FileImages:
    """Image files, decoded when they are asked for.

    Raises: BrokenImageError by an item whose file cannot be read.
    """

    def __init__(self, files: list[tuple[str, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image, (3, H, W) in uint8, and its label."""
        path, label = self.files[index]
        return decoded(path), label


def decoded(path: Path | str) -> Tensor:
    """Return the image in a file, (3, H, W) in uint8.

    Raises: BrokenImageError.
    """
    import numpy as np
    from PIL import Image

    # PIL says SyntaxError and ValueError of some damaged files, and refuses to decode huge ones
    damaged = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
    try:
        with Image.open(path) as image:
            # of a palette with transparent colours, RGB alone would warn
            opaque = image.convert("RGBA") if image.mode == "P" else image
            pixels_HWC = np.array(opaque.convert("RGB"))
    except damaged as error:
        raise BrokenImageError(path, " ".join(str(error).split()).rstrip(".") + ".") from None
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)  # v2 is faster with this order in memory


def _validation(root: Path) -> Path:
    known = [root / "val", root / "validation"]
    there = [folder for folder in known if folder.is_dir()]
    if len(there) > 1:
        raise DataError(f"imagefolder: both {there[0]} and {there[1]} are there. Keep one.")
    return there[0] if there else known[0]


def _found(folder: Path) -> tuple[list[str], FileImages]:
    """Return the class names and the images of one part."""
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise DataError(
            f"imagefolder: there is no folder {str(folder)!r}. Put the images into "
            f"PATH/train/CLASS/ and PATH/val/CLASS/."
        )
    try:
        part = ImageFolder(folder)
    except FileNotFoundError as error:  # it names the classes without images
        raise DataError(
            f"imagefolder: {str(folder)!r}: {error} Put the images into a folder for each class."
        ) from None
    return part.classes, FileImages(part.samples)


def _difference(folders: tuple[Path, Path], names: list[str], others: list[str]) -> str:
    lone = [
        f"only in {folder.name}: {', '.join(only[:_SHOWN])}"
        + (f" and {len(only) - _SHOWN} more" if len(only) > _SHOWN else "")
        for folder, only in zip(
            folders,
            (sorted(set(names) - set(others)), sorted(set(others) - set(names))),
            strict=True,
        )
        if only
    ]
    return f"the parts have different classes ({'; '.join(lone)}). Give both the same folders."
