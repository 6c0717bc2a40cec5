"""Images to look at: files of any kind, photographs that are always there, and those of data."""

import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctxbench.ablate.examples import marks_of
from ctxbench.ablate.plan import load
from ctxbench.data import resolve
from ctxbench.data._spec import BrokenImageError, Data
from ctxbench.data.context import SceneImages
from ctxbench.errors import VisualizeError
from ctxbench.visualize.subject import Image, Mark

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Array = npt.NDArray[Any]

# Pillow knows that these are there, and cannot decode them
_UNDECODED = {"BUFR", "GRIB", "HDF5", "MPEG"}
_GREY = ("1", "L", "LA", "La")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def images_of(paths: Sequence[str | Path], *, on_broken: Callable[[str], None]) -> Iterator[Image]:
    """Yield the images of files and folders, decoded one after the other.

    Of a folder these are all files below it with a suffix of an image, sorted, named by their path
    in it. Of a file that cannot be read `on_broken` gets a line, and the others go on.
    Raises: VisualizeError at once for a path that does not exist and for a folder without images;
            at the end if none could be read.
    """
    return _decoded([file for path in paths for file in _files(Path(path).expanduser())], on_broken)


def photographs() -> Iterator[Image]:
    """Yield two photographs that are there wherever scikit-learn is: a temple, and a flower."""
    from sklearn.datasets import load_sample_image

    for name in _PHOTOGRAPHS:
        pixels = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)
        yield Image(f"{name} (scikit-learn)", pixels)


def images_of_data(spec: str, indices: Sequence[int]) -> Iterator[Image]:
    """Yield validation images of the data that a spec names, with labels.

    Images that say what stands where have marks. Of other than one or three channels, the mean is
    shown.
    Raises: VisualizeError at once for an index that they do not have; as `ctxbench.data.resolve`.
    """
    data = load(resolve(spec).spec)
    there = len(data.validation)
    for index in indices:
        if not 0 <= index < there:
            raise VisualizeError(
                f"{spec} has no validation image {index}. It has {there}: 0 to {there - 1}."
            )
    return (_of_data(data, index) for index in indices)


def pixels_of(path: Path | str) -> Tensor:
    """Return the image in a file as a viewer shows it, (C, H, W) in uint8, C is 1 or 3.

    It is upright, its first frame, and on white where it is transparent. Numbers of more than 8
    bits are scaled by what holds them: 1 (floating point), 255 (floating point), 65535, or else
    the largest of them; what is negative or no number is black.
    Raises: BrokenImageError.
    """
    from PIL import Image as pillow  # noqa: N813 - a module that is named like a class
    from PIL import UnidentifiedImageError

    # plugins stumble over damaged files in many ways
    damaged = (
        OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError,
        OverflowError, NotImplementedError, pillow.DecompressionBombError,
    )  # fmt: skip
    try:
        # of odd metadata, and of sizes that are large and yet allowed
        with (
            warnings.catch_warnings(action="ignore"),
            Path(path).open("rb") as file,
            pillow.open(file) as picture,
        ):
            picture.load()
            pixels = _levels(_upright(picture))
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        reason = "it is empty." if empty else "it is in no format that Pillow knows."
        raise BrokenImageError(path, reason) from None
    except damaged as error:
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(told.split())
        raise BrokenImageError(path, reason.rstrip(".") + ".") from None
    if not pixels.size:
        raise BrokenImageError(path, "it has no pixels.")
    pixels_HWC = pixels if pixels.ndim == 3 else pixels[..., None]
    return torch.from_numpy(np.ascontiguousarray(pixels_HWC)).permute(2, 0, 1)


def _files(path: Path) -> list[tuple[str, Path]]:
    """Return the name and place of a file, or of each image below a folder."""
    if not path.exists():
        raise VisualizeError(f"There is no image or folder {str(path)!r}.")
    if not path.is_dir():
        return [(path.name, path)]
    suffixes = _suffixes()
    found = [
        Path(folder) / name
        for folder, _, names in os.walk(path)
        for name in names
        if Path(name).suffix.lower() in suffixes
    ]
    if not found:
        raise VisualizeError(f"There are no images in the folder {str(path)!r}, nor below it.")
    return [(str(file.relative_to(path)), file) for file in sorted(found)]


def _suffixes() -> set[str]:
    from PIL import Image as pillow  # noqa: N813 - a module that is named like a class

    known = pillow.registered_extensions()
    return {end for end, kind in known.items() if kind in {*pillow.OPEN, "MPO"} - _UNDECODED}


def _decoded(files: list[tuple[str, Path]], on_broken: Callable[[str], None]) -> Iterator[Image]:
    broken = 0
    for name, path in files:
        try:
            pixels = pixels_of(path)
        except BrokenImageError as error:
            broken += 1
            on_broken(" ".join(str(error).split()))
            continue
        yield Image(name, pixels)
    if files and broken == len(files):
        images = f"none of the {broken} images" if broken > 1 else f"the image {files[0][0]!r}"
        can = "can" if broken > 1 else "cannot"
        raise VisualizeError(f"Nothing to draw: {images} {can} be read.")


def _upright(picture: "Picture") -> "Picture":
    """Turn an image as its EXIF data say; damaged ones say nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError, struct.error):
        return picture


def _levels(picture: "Picture") -> Array:
    """Return the pixels, (H, W) for grey and else (H, W, 3), in uint8."""
    if picture.mode in _DEEP:
        return _scaled(np.array(picture))
    if picture.mode == "LAB":
        picture = _from_lab(picture)
    grey = picture.mode in _GREY
    if not picture.has_transparency_data:
        return np.array(picture.convert("L" if grey else "RGB"))
    levels: Array = np.array(picture.convert("RGBA"))
    alpha = levels[..., 3:] / np.float32(255)
    on_white: Array = np.rint(alpha * levels[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return on_white[..., 0] if grey else on_white


def _scaled(values: Array) -> Array:
    """Return numbers of more than 8 bits as 0..255, scaled by what seems to hold them."""
    whole = np.issubdtype(values.dtype, np.integer)
    values = np.nan_to_num(values.astype(np.float64), posinf=np.inf, neginf=0.0)
    finite = values[np.isfinite(values)]
    largest = float(finite.max(initial=0.0))
    full = next(
        (top for top in ((65535,) if whole else (1, 255, 65535)) if largest <= top), largest
    )
    return np.rint(np.clip(values / full, 0, 1) * 255).astype(np.uint8)


def _from_lab(picture: "Picture") -> "Picture":
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB")
    return picture if turned is None else turned


def _of_data(data: Data, index: int) -> Image:
    pixels, label = data.validation[index]
    if len(pixels) not in (1, 3):
        pixels = pixels.float().mean(0, keepdim=True).round().to(torch.uint8)
    known = data.validation if isinstance(data.validation, SceneImages) else None
    marks = tuple(Mark(*mark) for mark in marks_of(known, index, 1.0)) if known else ()
    return Image(f"validation image {index} (class {label})", pixels, label, marks)
