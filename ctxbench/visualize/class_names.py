"""What the classes of a network are called, and which class a text means."""

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from ctxbench.errors import VisualizeError
from ctxbench.models import MODELS
from ctxbench.models.foreign import is_foreign
from ctxbench.models.replace import split_replacement
from ctxbench.spec import defaults_of, literal, split_spec

_IMAGENET = 1000
_SHOWN = 5


def classes_of(spec: str, model: nn.Module) -> int | None:
    """Return how many classes a network has, from its spec alone; None where that does not tell."""
    name, given = split_spec(split_replacement(spec)[0])
    if "num_classes" in given:
        return _whole(literal(given["num_classes"]))
    if name in MODELS:
        known = MODELS[name]
        return _whole(known.preset.get("num_classes", defaults_of(known.build).get("num_classes")))
    if name.startswith("torchvision/"):
        return len(_categories(name)) or None
    return _whole(getattr(model, "num_classes", None))


def known_names(spec: str, model: nn.Module) -> tuple[str, ...] | None:
    """Return the names that networks with so many classes are published with; None for others.

    Those of ImageNet are for networks of 1000 classes, but not for those in anybody's own file.
    """
    name, _ = split_spec(split_replacement(spec)[0])
    classes = classes_of(spec, model)
    names = _categories(name) if name.startswith("torchvision/") else ()
    if names and len(names) == classes:
        return names
    if classes == _IMAGENET and (not is_foreign(name) or ".py" not in name):
        return _imagenet()
    return None


def names_of_folders(data: str) -> tuple[str, ...] | None:
    """Return the names of the folders of `imagefolder:PATH`, which are its classes.

    Those of ImageNet, n01440764 and so on, are told in words. None for other data.
    """
    kind, _, rest = data.partition(":")
    folder = Path(rest.partition(":")[0]).expanduser() / "train"
    if kind != "imagefolder" or not folder.is_dir():
        return None
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    coded = all(name[:1] == "n" and name[1:].isdecimal() for name in names)
    return _imagenet() if coded and len(names) == _IMAGENET else names


def class_names_of(path: Path, classes: int | None) -> tuple[str, ...]:
    """Read the names of classes: a line each, a JSON list, or JSON by number.

    By number is `{"0": "tench", ...}` or `{"0": ["n01440764", "tench"], ...}`.
    Raises: VisualizeError for a file that cannot be read so, or that has another number of names
            than there are classes.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise VisualizeError(f"Cannot read the class names in {str(path)!r}: {reason}.") from None
    names = _listed(text, path) if text.lstrip()[:1] in ("[", "{") else _lines(text)
    if classes is not None and len(names) != classes:
        raise VisualizeError(
            f"{path} has {len(names)} class names for a network of {classes} classes. Give one for "
            f"each."
        )
    if not names:
        raise VisualizeError(f"{path} has no class names. Give one on each line.")
    return names


def class_index(text: str, names: Sequence[str] | None, classes: int | None) -> int:
    """Return the class that a number or a name means.

    The name may be written in any case, and a part of it is enough if only one has that part.
    Raises: VisualizeError for a class that does not exist, and for what could be several.
    """
    wanted = text.strip()
    count = classes if classes is not None else len(names) if names else None
    if re.fullmatch(r"[+-]?\d+", wanted):
        index = int(wanted)
        if index < 0 or (count is not None and index >= count):
            there = f"0 to {count - 1}" if count is not None else "0 and more"
            raise VisualizeError(f"There is no class {index}: they are {there}.")
        return index
    if not names:
        raise VisualizeError(
            f"Class {text!r} is no number, and the names of the classes are not known. Give a "
            f"number, or a file of names with --class-names."
        )
    plain = [name.casefold() for name in names]
    found = [index for index, name in enumerate(plain) if name == wanted.casefold()]
    if not found and wanted:
        found = [index for index, name in enumerate(plain) if wanted.casefold() in name]
    if len(found) == 1:
        return found[0]
    raise VisualizeError(_which(text, names, found))


def _which(text: str, names: Sequence[str], found: Sequence[int]) -> str:
    if found:
        shown = ", ".join(f"{index} {names[index]!r}" for index in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"Class {text!r} could be {shown}{more}. Give the number."
    by_name = {name.casefold(): name for name in names}
    near = get_close_matches(text.strip().casefold(), by_name, n=3, cutoff=0.5)
    hint = " or ".join(repr(by_name[name]) for name in near)
    first = ", ".join(map(repr, names[:_SHOWN]))
    there = f"Did you mean {hint}?" if near else f"There are {len(names)}: {first}, ..."
    return f"There is no class {text!r}. {there}"


@cache
def _categories(name: str) -> tuple[str, ...]:
    """Return the names that come with a torchvision network's published weights."""
    from torchvision import models

    known = list(models.get_model_weights(name.removeprefix("torchvision/")))
    return tuple(type(known[0]).DEFAULT.meta.get("categories", ())) if known else ()


def _imagenet() -> tuple[str, ...]:
    return _categories("torchvision/resnet50")


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | str) and str(value).isdecimal() else None


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _listed(text: str, path: Path) -> tuple[str, ...]:
    """Return the names in JSON, in the order of their numbers."""
    try:
        told: Any = json.loads(text)
    except ValueError as error:
        raise VisualizeError(f"{path} is no JSON: {error}.") from None
    if isinstance(told, dict):
        numbers = [str(number) for number in range(len(told))]
        if set(told) != set(numbers):
            odd = next(iter(sorted(set(told) - set(numbers))))
            raise VisualizeError(
                f"{path} names classes by {odd!r}; they are numbered from '0' to {numbers[-1]!r}."
            )
        told = [told[number] for number in numbers]
    # of ["n01440764", "tench"] the last is the one to be read
    names = [item[-1] if isinstance(item, list) and item else item for item in told]
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise VisualizeError(f"{path} holds {wrong!r} where the name of a class should be.")
    return tuple(names)
