"""Data sets: one builder a file; a spec string names one.

`name[:key=value]...` for ours, `imagefolder:PATH[:key=value]...` for a folder of images,
`FILE.py:FUNCTION[:key=value]...` for anything else.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from ctxbench.data._spec import BrokenImageError, Data, DataSource, Images, TensorImages
from ctxbench.data.cifar import cifar10, cifar100
from ctxbench.data.context import context
from ctxbench.data.digits import digits
from ctxbench.data.folder import imagefolder
from ctxbench.errors import DataError, SpecError, UnknownNameError
from ctxbench.spec import literal, read_options, split_spec
from ctxbench.userfile import check_options, function_of

__all__ = [
    "DATA",
    "BrokenImageError",
    "Data",
    "DataSource",
    "Images",
    "TensorImages",
    "resolve",
]

# A builder's keyword-only parameters are its options. What else it needs it takes by position:
# `path`, the part behind the first colon, and `download`, which no spec string can ask for.
DATA: dict[str, Callable[..., Data]] = {
    "context": context,
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagefolder": imagefolder,
}


def resolve(spec: str, *, download: bool = False) -> DataSource:
    """Check a spec string and return the data set it names, not yet loaded.

    `download` lets it be fetched if it is missing. A user's file is run here, to know its function.
    Raises: UnknownNameError or SpecError for a name, key or value that does not exist.
    """
    if not spec.partition(":")[0].strip():
        raise SpecError(f"Data spec {spec!r} has no name. Known: {', '.join(sorted(DATA))}.")
    name, path, given = _split(spec)
    if ".py" in name and path is None:
        return _from_file(name, given)
    if name not in DATA:
        raise UnknownNameError("data set", name, [*DATA, "FILE.py:FUNCTION"])
    builder = DATA[name]
    options = read_options(name, builder, given)
    by_position = {"path": path, "download": download}
    wanted = [key for key in by_position if key in inspect.signature(builder).parameters]
    build = partial(builder, *(by_position[key] for key in wanted), **options)
    return DataSource(
        spec=_canonical(name if path is None else f"{name}:{path}", options),
        files=(Path(inspect.getfile(builder)),),
        load=partial(_checked, name, build),
    )


def _split(spec: str) -> tuple[str, str | None, dict[str, str]]:
    """Return the name, the path where the data set is a folder, and the options as text."""
    name, _, rest = spec.strip().partition(":")
    if name.strip() != "imagefolder":
        plain, given = split_spec(spec)
        return plain, None, given
    path, colon, options = rest.partition(":")
    if not path.strip():
        raise SpecError(f"{spec!r} names no folder. Write imagefolder:PATH[:key=value]...")
    name, given = split_spec(f"imagefolder{colon}{options}")
    return name, str(Path(path.strip())), given


def _canonical(name: str, options: Mapping[str, Any]) -> str:
    return ":".join([name, *(f"{key}={_text(options[key])}" for key in sorted(options))])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_text(item) for item in value)
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def _checked(name: str, build: Callable[[], Data]) -> Data:
    """Build a data set of ours; what it says of a value that does not fit is told of it."""
    try:
        return build()
    except ValueError as error:
        raise SpecError(f"{name}: {error}") from error


def _from_file(name: str, given: Mapping[str, str]) -> DataSource:
    options = {key: literal(text) for key, text in given.items()}
    function = function_of(name)
    check_options(name, function, options)
    return DataSource(
        spec=_canonical(name, options),
        files=(Path(name.rpartition(":")[0]).resolve(),),
        load=partial(_called, name, function, options),
    )


def _called(name: str, function: Callable[..., object], options: dict[str, Any]) -> Data:
    with redirect_stdout(sys.stderr):  # standard output is for data
        data = function(**options)
    if not isinstance(data, Data):
        raise DataError(f"{name} returned {type(data).__name__}, not a ctxbench.data.Data.")
    for part, images in (("train", data.train), ("validation", data.validation)):
        if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
            raise DataError(
                f"{name} returned {type(images).__name__} as {part}; it needs a length and items "
                f"(uint8 (C, H, W), label), as ctxbench.data.TensorImages has."
            )
        if not len(images):
            raise DataError(f"{name} returned no images as {part}.")
    if not data.channels == len(data.mean) == len(data.std):
        raise DataError(
            f"{name} returned {data.channels} channels, {len(data.mean)} mean and "
            f"{len(data.std)} std; it needs one of each for a channel."
        )
    return data
