"""What the registry of operators holds."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One operator: how to build an example of it, what to feed it, where it is published.

    `inputs(batch, height, width)` returns a tuple, so that operators with a second input
    (a context vector, a guide map) fit the same tests and commands.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int, int, int], tuple[Tensor, ...]]
    source: str
