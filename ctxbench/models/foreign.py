"""Networks of other people: torchvision, timm, and functions in a Python file."""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ctxbench.errors import MissingPackageError, SpecError, UnknownNameError
from ctxbench.models._spec import Network, images
from ctxbench.spec import literal


def is_foreign(name: str) -> bool:
    """Tell `torchvision/...`, `timm/...` and `FILE.py:FUNCTION` from our own names."""
    return name.startswith(("torchvision/", "timm/")) or ".py" in name


def resolve(spec: str, name: str, given: Mapping[str, str]) -> Network:
    """Find the function behind a foreign name; its options go to it as keyword arguments."""
    options = {key: literal(text) for key, text in given.items()}
    library, _, model = name.partition("/")
    if library == "torchvision":
        build = _torchvision(model)
    elif library == "timm":
        build = _timm(model)
    else:
        build = _from_file(name)
    channels = {"in_channels": options.get("in_channels", options.get("in_chans", 3))}
    return Network(
        spec=spec,
        build=partial(_call, name, build, options),
        source=name,
        inputs=partial(images, channels),
        image_px=224,
    )


def _torchvision(model: str) -> Callable[..., nn.Module]:
    from torchvision import models

    if model not in models.list_models():
        raise UnknownNameError("torchvision network", model, models.list_models())
    return partial(models.get_model, model, weights=None)


def _timm(model: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ModuleNotFoundError:
        raise MissingPackageError("timm", f"timm/{model}", "timm") from None
    if not timm.is_model(model):
        raise UnknownNameError("timm network", model, timm.list_models())
    build: Callable[..., nn.Module] = partial(timm.create_model, model, pretrained=False)
    return build


def _from_file(name: str) -> Callable[..., nn.Module]:
    file, _, function = name.rpartition(":")
    if not file or not function:
        raise SpecError(f"{name!r} names no function. Write FILE.py:FUNCTION.")
    path = Path(file)
    if not path.is_file():
        raise SpecError(f"{name!r}: there is no file {file!r}.")
    located = importlib.util.spec_from_file_location(path.stem, path)
    if located is None or located.loader is None:
        raise SpecError(f"{name!r}: {file!r} is not a Python file.")
    module = importlib.util.module_from_spec(located)
    located.loader.exec_module(module)
    names = [key for key, value in vars(module).items() if callable(value)]
    if function not in names:
        raise UnknownNameError(f"function of {file}", function, names)
    found: Callable[..., nn.Module] = getattr(module, function)
    return found


def _call(name: str, build: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    try:
        model = build(**options)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{name} cannot be built with {options}: {error}") from error
    if not isinstance(model, nn.Module):
        raise SpecError(f"{name} returned {type(model).__name__}, not a torch.nn.Module.")
    return model
