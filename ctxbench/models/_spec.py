"""What the registry of networks holds, and what a spec string resolves to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# (options, batch, height, width) -> the tensor that goes into the network
Inputs = Callable[[Mapping[str, Any], int, int, int], Tensor]


class Loss(Protocol):
    """What a network is trained with; the target holds class indices (B,) or shares of classes.

    `smoothing` is that of the labels where they are indices.
    """

    def __call__(self, model: Any, x: Tensor, target: Tensor, *, smoothing: float = ...) -> Tensor:
        """Return a scalar."""
        ...


def images(options: Mapping[str, Any], batch: int, height: int, width: int) -> Tensor:
    """Return zeros in the shape of a batch of images."""
    return torch.zeros(batch, int(options.get("in_channels", 3)), height, width)


def alone(
    make: Inputs, options: Mapping[str, Any], batch: int, height: int, width: int
) -> tuple[Tensor]:
    """Return the only input of a network as the tuple that `Network.inputs` makes."""
    return (make(options, batch, height, width),)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One network: its builder, the options that make this flavour, and where it is published.

    `baseline` names the network that it is compared with. `loss(model, x, target)` is what it is
    trained with, where that is more than the cross entropy of its logits.
    """

    build: Callable[..., nn.Module]
    source: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    image_px: int = 224
    inputs: Inputs = images
    loss: Loss | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A spec string with every name resolved and every option checked, not yet built.

    `inputs(batch, height, width)` makes the tensors that its forward takes: images alone for most,
    and what else it is called with where it is an operator with a second input. `loss` is that of
    its ModelSpec.
    """

    spec: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int, int], tuple[Tensor, ...]]
    image_px: int
    loss: Loss | None = None


def at_least_one(config: object, *fields: str) -> None:
    """Raise ValueError naming the first field of a configuration that is, or holds, less than 1."""
    for name in fields:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or min(numbers) < 1:
            shown = ",".join(map(str, numbers))
            raise ValueError(f"{name}={shown} is out of range. Give whole numbers from 1.")
