"""`cifar10` and `cifar100`: read through torchvision, kept in memory."""

import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from ctxbench.data._spec import Data, TensorImages
from ctxbench.errors import DataError

# of the training images, pixels as 0..1
_MEAN10, _STD10 = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_MEAN100, _STD100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def cifar10(download: bool = False, *, root: str = "data") -> Data:
    """Return CIFAR-10: 50 000 and 10 000 photographs of 10 classes, 32x32."""
    from torchvision.datasets import CIFAR10

    train, validation = _parts(CIFAR10, Path(root), download=download)
    return Data(train, validation, 10, 3, 32, mean=_MEAN10, std=_STD10)


def cifar100(download: bool = False, *, root: str = "data") -> Data:
    """Return CIFAR-100: 50 000 and 10 000 photographs of 100 classes, 32x32."""
    from torchvision.datasets import CIFAR100

    train, validation = _parts(CIFAR100, Path(root), download=download)
    return Data(train, validation, 100, 3, 32, mean=_MEAN100, std=_STD100)


def _parts(known: Any, root: Path, *, download: bool) -> tuple[TensorImages, TensorImages]:
    name, folder = known.__name__.lower(), root / known.base_folder
    if download:
        _fetch(name, known, root)
    elif not folder.is_dir():
        raise DataError(
            f"{name}: there is no folder {str(folder)!r}. Unpack {known.filename} in "
            f"{str(root)!r}, name another folder with root=, or let it be fetched with --download."
        )
    try:
        return _images(known, root, train=True), _images(known, root, train=False)
    except (RuntimeError, OSError) as error:  # torchvision compares checksums
        raise DataError(
            f"{name}: a file in {str(folder)!r} is missing or damaged ({_line(error)}). "
            f"Unpack {known.filename} there again, or let it be fetched with --download."
        ) from None


def _fetch(name: str, known: Any, root: Path) -> None:
    try:
        with redirect_stdout(sys.stderr):  # standard output is for data
            _opened(known, root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} cannot be fetched from {known.url} into {str(root)!r}: {_line(error)}. "
            f"Fetch it by hand and unpack it there."
        ) from None


def _images(known: Any, root: Path, *, train: bool) -> TensorImages:
    part = _opened(known, root, train=train)
    pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return TensorImages(pixels, torch.tensor(part.targets, dtype=torch.int64))


def _opened(known: Any, root: Path, *, train: bool = True, download: bool = False) -> Any:
    with warnings.catch_warnings():
        # the files are pickles of Python 2, with dtypes that numpy 2.4.0 to 2.4.4 warns of
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        return known(root, train=train, download=download)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
