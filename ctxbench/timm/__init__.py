"""Our networks among timm's: `import ctxbench.timm`, then `timm.create_model("ctxbench_...")`.

Every network that classifies is registered, with timm's names of arguments and our options beside
them. Its state dict stays as it is, so a weight file fits however the network was built.
"""

from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from torch import nn

from ctxbench.errors import MissingPackageError, SpecError
from ctxbench.models import MODELS, ModelSpec
from ctxbench.spec import bind, defaults_of, options_of
from ctxbench.timm._networks import CLASSIFIERS, Classifier, with_methods

try:
    from timm.models import generate_default_cfgs, register_model
    from timm.models._features import FeatureGetterNet
except ModuleNotFoundError:
    raise MissingPackageError("timm", "ctxbench.timm", "timm") from None

PREFIX = "ctxbench_"

# timm's names of arguments -> ours
_ARGUMENTS = {"in_chans": "in_channels", "drop_path_rate": "drop_path"}
# what timm's programs hand to every network -> the value that asks for nothing
_IDLE = {"drop_rate": 0.0, "drop_path_rate": 0.0, "global_pool": "avg"}
_CROPPED_FROM_PX = 224  # smaller images are evaluated whole


def _classes_of(known: ModelSpec) -> Any:
    """Return which class a network's builder makes."""
    return get_type_hints(known.build)["return"]


def _config(known: ModelSpec) -> dict[str, Any]:
    """Return what timm's programs ask of a network: the images it takes and its classes."""
    options = {**defaults_of(known.build), **known.preset}
    side = known.image_px
    return {
        "input_size": (options["in_channels"], side, side),
        "num_classes": options["num_classes"],
        "crop_pct": 0.875 if side >= _CROPPED_FROM_PX else 1.0,
        "interpolation": "bilinear",
        "classifier": CLASSIFIERS[_classes_of(known)].classifier,
        "notes": (known.source,),
    }


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    """Return the function that timm calls to build a network; it is named as timm names it."""

    def build(pretrained: bool = False, **arguments: Any) -> nn.Module:
        return _build(name, pretrained=pretrained, arguments=arguments)

    build.__name__ = build.__qualname__ = PREFIX + name
    build.__doc__ = f"Build {name!r} ({MODELS[name].source}), with timm's arguments or ours."
    return build


def _build(name: str, *, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    """Build a network, or the one that gives its feature maps.

    Raises: SpecError or UnknownNameError for what the network cannot be given.
    """
    timm_name = PREFIX + name
    if pretrained:
        raise SpecError(
            f"{timm_name}: pretrained=True has nothing to download, since ctxbench publishes no "
            f"weights. Leave it out and load a file of yours: checkpoint_path=PATH."
        )
    arguments.pop("cache_dir", None)
    given = (arguments.pop("pretrained_cfg", None), arguments.pop("pretrained_cfg_overlay", None))
    maps = arguments.pop("features_only", False)
    wanted = {key: arguments.pop(key) for key in ("out_indices", "output_fmt") if key in arguments}
    if wanted and not maps:
        raise SpecError(f"{timm_name}: {next(iter(wanted))} goes with features_only=True.")
    model = _classifier(name, arguments)
    model.default_cfg = model.pretrained_cfg = _settings(name, model, given)
    if not maps:
        return model
    try:
        return FeatureGetterNet(model, **{"out_indices": len(model.stage_ends()), **wanted})  # type: ignore[no-any-return]
    except (AssertionError, ValueError) as error:
        raise SpecError(f"{timm_name}: {error}") from None


def _classifier(name: str, arguments: dict[str, Any]) -> Classifier:
    known = MODELS[name]
    options = _options(name, known, arguments)
    headless = options.get("num_classes") == 0
    if headless:
        options["num_classes"] = 1
    try:
        model = with_methods(bind(PREFIX + name, known.build, {**known.preset, **options})())
        if headless:
            model.reset_classifier(0)
    except ValueError as error:
        raise SpecError(f"{PREFIX}{name}: {error}") from error
    return model


def _options(name: str, known: ModelSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return timm's arguments as options of ours."""
    possible = options_of(known.build)
    options = {}
    for key, value in arguments.items():
        option = _ARGUMENTS.get(key, key)
        if option in possible:
            options[option] = tuple(value) if isinstance(value, list) else value
        elif key not in _IDLE:
            bind(PREFIX + name, known.build, {key: value})  # names the nearest option
        elif value != _IDLE[key]:
            raise SpecError(
                f"{PREFIX}{name} has no {key}={value}: its network is built without. Leave it out."
            )
    return options


def _settings(
    name: str, model: Classifier, given: tuple[Mapping[str, Any] | str | None, ...]
) -> dict[str, Any]:
    """Return the configuration that describes a network as it was built."""
    images = _config(MODELS[name])["input_size"]
    settings: dict[str, Any] = default_cfgs[PREFIX + name].default.to_dict()
    settings |= {
        "architecture": PREFIX + name,
        "input_size": (model.image_channels, *images[1:]),
        "num_classes": model.num_classes,
    }
    if model.image_channels != len(settings["mean"]):
        settings |= {key: _as_grey(settings[key], model.image_channels) for key in ("mean", "std")}
    for more in given:
        if isinstance(more, str):
            raise SpecError(f"{PREFIX}{name} has no weights tagged {more!r}. Leave the tag out.")
        settings |= more or {}
    return settings


def _as_grey(colours: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return (sum(colours) / len(colours),) * channels


_NAMES = [name for name, known in MODELS.items() if _classes_of(known) in CLASSIFIERS]
# timm looks for these in the module of an entry point
default_cfgs = generate_default_cfgs({PREFIX + name: _config(MODELS[name]) for name in _NAMES})
__all__ = [PREFIX + name for name in _NAMES]
globals().update({PREFIX + name: register_model(_entrypoint(name)) for name in _NAMES})
