"""What the registry of operators holds."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One operator: how to build an example of it, what to feed it, where it is published.

    `inputs(batch, height, width)` returns a tuple, so that operators with a second input
    (a context vector, a guide map) fit the same tests and commands.
    `from_conv(conv, **options)` makes what stands in for a convolution of somebody's network, with
    its weights where they can be kept; ValueError says why it cannot. None: nothing stands in.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int, int, int], tuple[Tensor, ...]]
    source: str
    from_conv: Callable[..., nn.Module] | None = None
