"""Networks of other people: torchvision, timm, and functions in a Python file."""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from typing import Any

from torch import nn

from ctxbench.errors import MissingPackageError, SpecError, UnknownNameError
from ctxbench.models._spec import Network, alone, images
from ctxbench.spec import literal
from ctxbench.userfile import check_options, function_of

Builder = Callable[..., nn.Module]

# options that would download weights
_DOWNLOADS = ("weights", "weights_backbone", "pretrained")


def is_foreign(name: str) -> bool:
    """Tell `torchvision/...`, `timm/...` and `FILE.py:FUNCTION` from our own names."""
    return name.startswith(("torchvision/", "timm/")) or ".py" in name


def resolve(spec: str, name: str, given: Mapping[str, str]) -> Network:
    """Find the function behind a foreign name; its options go to it as keyword arguments."""
    options = {key: literal(text) for key, text in given.items()}
    library, _, model = name.partition("/")
    if library in ("torchvision", "timm"):
        refused = [key for key in _DOWNLOADS if key in options]
        if refused:
            raise SpecError(
                f"{name}: {refused[0]}= would download weights, which ctxbench never does. Build "
                f"the network without it and load a weight file."
            )
        build, side = _torchvision(model) if library == "torchvision" else _timm(model)
    else:
        build, side = function_of(name), 224
    channels = {"in_channels": options.get("in_channels", options.get("in_chans", 3))}
    return Network(
        spec=spec,
        build=partial(_call, name, build, options),
        inputs=partial(alone, images, channels),
        image_px=side,
    )


def _torchvision(model: str) -> tuple[Builder, int]:
    from torchvision import models

    if model not in models.list_models():
        raise UnknownNameError("torchvision network", model, models.list_models())
    builder = models.get_model_builder(model)
    known = inspect.signature(builder).parameters
    absent = {key: None for key in ("weights", "weights_backbone") if key in known}
    weights = next(iter(models.get_model_weights(model)), None)
    crop = getattr(weights.transforms(), "crop_size", None) if weights else None
    return partial(builder, **absent), crop[0] if isinstance(crop, list) else 224


def _timm(model: str) -> tuple[Builder, int]:
    try:
        import timm
    except ModuleNotFoundError:
        raise MissingPackageError("timm", f"timm/{model}", "timm") from None
    if model.startswith("ctxbench_") and not timm.is_model(model):
        raise SpecError(
            f"timm/{model} is a network of ours. Write {model.removeprefix('ctxbench_')}; in "
            f"Python, `import ctxbench.timm` makes both names work."
        )
    if not timm.is_model(model):
        raise UnknownNameError("timm network", model, timm.list_models())
    try:
        config = timm.get_pretrained_cfg(model)
    except RuntimeError as error:  # a known network, but not that set of weights
        raise SpecError(f"timm/{model}: {error}") from None
    side = config.input_size[-1] if config else 224
    return partial(timm.create_model, model, pretrained=False), side


def _call(name: str, build: Builder, options: dict[str, Any]) -> nn.Module:
    check_options(name, build, options)
    try:
        with redirect_stdout(sys.stderr):
            model = build(**options)
    except (TypeError, ValueError) as error:
        if name.startswith(("torchvision/", "timm/")):  # they hand their options further down
            raise SpecError(f"{name} cannot be built with {options}: {error}") from error
        raise
    if not isinstance(model, nn.Module):
        raise SpecError(f"{name} returned {type(model).__name__}, not a torch.nn.Module.")
    return model
