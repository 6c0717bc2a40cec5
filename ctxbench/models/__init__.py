"""Networks: one family a file; a spec string names one network.

`name[:key=value]...` for ours, of which `backend=` says what computes their operators;
`torchvision/NAME`, `timm/NAME`, `PATH.py:FUNCTION` for others; with
`:replace=OPERATOR[:key=value]...` behind it, that operator stands in for its convolutions.
`op/NAME[:key=value]...` is one operator alone, at the shape that its options give.
`prepared=true` makes any of them ready for inference, see `prepare`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ctxbench.errors import SpecError, UnknownNameError
from ctxbench.kernels import check_backend
from ctxbench.models import foreign
from ctxbench.models._spec import ModelSpec, Network, alone
from ctxbench.models.checkpoint import load_checkpoint
from ctxbench.models.preparing import OPTION as PREPARED
from ctxbench.models.preparing import fold, prepare, split_prepared
from ctxbench.models.replace import Replaced, Replacement, replace_conv, split_replacement
from ctxbench.models.saving import save_checkpoint
from ctxbench.ops import LAYERS, set_backend
from ctxbench.spec import bind, defaults_of, read_options, split_spec

__all__ = [
    "MODELS",
    "ModelSpec",
    "Network",
    "Replaced",
    "create_model",
    "list_models",
    "load_checkpoint",
    "prepare",
    "replace_conv",
    "replaced_in",
    "resolve",
    "save_checkpoint",
    "without_weights",
]

T = TypeVar("T")

OPERATOR = "op/"  # what the name of an operator alone begins with
# the option that chooses what computes the operators of a network, and its value that does not
BACKEND, NO_BACKEND = "backend", "none"
_OPERATOR_PX = 56  # the side of the maps that a ResNet's first stage sees at 224 px

# A family file holds SPECS, name -> ModelSpec; add it here.
_FAMILIES = (
    "resnet",
    "coresnet",
    "cgc_resnet",
    "preact_resnet",
    "se_resnet",
    "nonlocal_resnet",
    "convnext",
    "ctx_resnet",
    "ctx_convnext",
    "overlock",
    "ssd",
    "progan",
)

MODELS: dict[str, ModelSpec] = {
    name: spec
    for family in _FAMILIES
    for name, spec in import_module(f"ctxbench.models.{family}").SPECS.items()
}


def list_models() -> list[str]:
    """Return the names of all registered networks, sorted."""
    return sorted(MODELS)


def create_model(spec: str) -> nn.Module:
    """Build the network, or operator, that a spec string names, with fresh weights.

    Raises: UnknownNameError or SpecError for a name, key or value that does not exist.
    """
    return resolve(spec).build()


def resolve(spec: str) -> Network:
    """Check a spec string and return the network it names, not yet built."""
    unprepared, prepares = split_prepared(spec)
    if prepares:
        network = resolve(unprepared)
        return dataclasses.replace(network, spec=spec.strip(), build=partial(_prepared, network))
    plain, operator = _split(unprepared)
    network = _resolve(plain)
    if operator is None:
        return network
    replacement = Replacement.read(operator)
    build = partial(_with_replacement, network.build, replacement)
    return dataclasses.replace(network, spec=spec.strip(), build=build)


def replaced_in(spec: str) -> Replaced | None:
    """Return what the replacement in a spec does to its network; None if the spec has none."""
    plain, operator = _split(split_prepared(spec)[0])
    if operator is None:
        return None
    return Replacement.read(operator).apply(without_weights(resolve(plain)))


def _prepared(network: Network) -> nn.Module:
    model = network.build()
    with torch.random.fork_rng(devices=[]):  # operators draw their inputs
        fold(model, *network.inputs(1, network.image_px, network.image_px))
    return model


def _split(spec: str) -> tuple[str, str | None]:
    """Return the spec of the network and that of its replacement, which an operator has not."""
    plain, operator = split_replacement(spec)
    if operator is not None and _is_operator(plain):
        raise SpecError(
            f"{plain} is one operator, with no network around it to replace convolutions in. "
            f"Leave replace={operator} out, or name the other operator: {OPERATOR}{operator}."
        )
    return plain, operator


def _with_replacement(build: Callable[[], nn.Module], replacement: Replacement) -> nn.Module:
    model = build()
    replacement.apply(model)
    return model


def _resolve(spec: str) -> Network:
    name, given = split_spec(spec)
    if foreign.is_foreign(name):
        return foreign.resolve(spec, name, given)
    if _is_operator(name):
        return _resolve_operator(spec, name, given)
    if name not in MODELS:
        raise UnknownNameError("network", name, MODELS)
    known = MODELS[name]
    backend = given.pop(BACKEND, NO_BACKEND)
    options = {**known.preset, **given}
    besides = (BACKEND, PREPARED, "replace")
    build = partial(_checked, name, bind(name, known.build, options, besides=besides))
    if backend != NO_BACKEND:
        build = partial(_with_backend, name, build, check_backend(backend))
    return Network(
        spec=spec,
        build=build,
        inputs=partial(_checked, name, partial(alone, known.inputs, options)),
        image_px=known.image_px,
        loss=known.loss,
    )


def _with_backend(name: str, build: Callable[[], nn.Module], backend: str) -> nn.Module:
    model = build()
    if not set_backend(model, backend):
        raise SpecError(
            f"{name} holds no operator that {BACKEND}={backend} could compute. Leave it out, or "
            f"replace convolutions: {name}:replace=coconv:{BACKEND}={backend}."
        )
    return model


def _is_operator(name: str) -> bool:
    return name.startswith(OPERATOR) and not foreign.is_foreign(name)  # op/nets.py is a file


def _resolve_operator(spec: str, name: str, given: Mapping[str, str]) -> Network:
    operator = name.removeprefix(OPERATOR)
    if operator not in LAYERS:
        raise UnknownNameError("operator", operator, LAYERS)
    layer = LAYERS[operator]
    options = {
        **defaults_of(layer.build),
        **read_options(name, layer.build, given, besides=[PREPARED]),
    }
    return Network(
        spec=spec,
        build=partial(_checked, name, partial(layer.build, **options)),
        inputs=partial(_checked, name, partial(layer.inputs, options)),
        image_px=_OPERATOR_PX,
    )


def without_weights(network: Network) -> nn.Module:
    """Build a network whose parameters are zeros that share one number: shapes, and no memory.

    It can be run, for counting; it cannot be trained. Foreign networks are built as they are,
    since their constructors may compute with their weights.
    """
    if foreign.is_foreign(network.spec):
        with torch.random.fork_rng(devices=[]):  # nobody will see its weights
            return network.build()
    with torch.device("meta"), _Unfilled():
        model = network.build()
    model._apply(_zeros)  # type: ignore[no-untyped-call]
    return model


class _Unfilled(TorchFunctionMode):
    """Skips the initialisation of weights, which have no values yet."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.__name__ in _FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_FILLS = ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "trunc_normal_", "fill_")


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=like.dtype).expand(like.shape)


def _checked(name: str, make: Callable[..., T], *arguments: int) -> T:
    """Call a builder; what it says of a value that does not fit is told of the network."""
    try:
        return make(*arguments)
    except ValueError as error:
        raise SpecError(f"{name}: {error}") from error
