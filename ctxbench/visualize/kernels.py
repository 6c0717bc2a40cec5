"""Which layers of a network hold kernels worth a look, and the row that a picture of them gets."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from ctxbench.errors import VisualizeError
from ctxbench.ops import CGConv2d, CoConv2d, ContMix, DilatedReparam
from ctxbench.visualize.inside import layers_of_type, unwrapped

# in the order of the pages
OPERATORS: dict[str, type[nn.Module]] = {
    "ContMix": ContMix,
    "CGC": CGConv2d,
    "CoConv": CoConv2d,
    "DilatedReparam": DilatedReparam,
}
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsRow:
    """What a picture says of one layer; the names of the statistics hold their units.

    `image` is empty where the kernels depend on none, or were seen in several `images`.
    """

    picture: str = ""
    model: str
    weights: str
    trained: bool
    operator: str
    layer: str
    image: str
    images: int
    statistics: dict[str, float] = field(default_factory=dict)


def kernel_layers(model: nn.Module) -> dict[str, list[str]]:
    """Return the layers of each operator, in the order of the network; none has an empty list.

    Raises: VisualizeError for a network without any.
    """
    model = unwrapped(model)
    found = {name: layers_of_type(model, kind) for name, kind in OPERATORS.items()}
    # a 1x1 CGC is a plain convolution
    found["CGC"] = [name for name in found["CGC"] if model.get_submodule(name).gate is not None]
    if not any(found.values()):
        raise VisualizeError(
            f"{type(model).__name__} has no layer of {', '.join(OPERATORS)}, so there are no "
            f"kernels to draw. Choose overlock_* (ContMix, DilatedReparam), cgc_resnet* (CGC), "
            f"coresnet* (CoConv), or put one into a network: torchvision/resnet18:replace=coconv."
        )
    return found


def chosen_layers(
    model: nn.Module, layers: Sequence[str] | None, operators: Sequence[str] = tuple(OPERATORS)
) -> dict[str, list[str]]:
    """Return the layers of some operators that were asked for; without `layers` all.

    A name stands for itself and everything inside: `focus3` for all of a stage.
    Raises: VisualizeError for a network without these operators, and for a name without a layer
            of them.
    """
    found = kernel_layers(model)
    there = [layer for operator in operators for layer in found[operator]]
    if not there:
        others = ", ".join(name for name, names in found.items() if names)
        raise VisualizeError(
            f"{type(unwrapped(model)).__name__} has no layer of {', '.join(operators)}; "
            f"it has {others}."
        )
    for wanted in layers or ():
        if not any(_inside(layer, wanted) for layer in there):
            raise VisualizeError(
                f"{type(unwrapped(model)).__name__} has no layer of {', '.join(operators)} at "
                f"{wanted!r}. There are {_few(there)}."
            )
    return {
        operator: [
            layer
            for layer in found[operator]
            if not layers or any(_inside(layer, wanted) for wanted in layers)
        ]
        for operator in operators
    }


def stage_ends(layers: Sequence[str], most: int) -> list[str]:
    """Return the last layer of each stage, of the last `most` stages.

    Stages are what the names differ in first: `layer1` and `layer2`, `stages.0` and `stages.1`.
    """
    paths = [layer.split(".") for layer in layers]
    shared = 0
    while all(len(path) > shared + 1 for path in paths) and len({p[shared] for p in paths}) == 1:
        shared += 1
    last = {path[shared]: layer for path, layer in zip(paths, layers, strict=True)}
    return list(last.values())[-most:]


def _inside(layer: str, wanted: str) -> bool:
    return layer == wanted or layer.startswith(f"{wanted}.")


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + rest
