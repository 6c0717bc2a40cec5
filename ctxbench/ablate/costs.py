"""What a network costs on one image of the data that it is trained on."""

from functools import cache

import torch

from ctxbench.errors import CountingError, UncountedOpError
from ctxbench.measure.flops import count
from ctxbench.models import resolve, without_weights


@cache
def costs_of(model: str, image_shape: tuple[int, int, int] | None) -> tuple[int, int | None]:
    """Return parameters and MACs; None for the MACs where an operation has no rule.

    `image_shape` is (C, H, W); without it the network's own is taken.
    Raises: CountingError for a network that cannot take images of this shape.
    """
    network = resolve(model)
    fresh = without_weights(network)
    params = sum(parameter.numel() for parameter in fresh.parameters())
    side = network.image_px
    x = torch.zeros(1, *image_shape) if image_shape else network.inputs(1, side, side)[0]
    try:
        return params, count(fresh, x).macs
    except UncountedOpError:
        return params, None
    except CountingError:
        if image_shape:  # of its data: it could not be trained either
            raise
        return params, None


@cache
def answers_of(model: str, image_shape: tuple[int, int, int]) -> int:
    """Return how many classes a network tells apart."""
    with torch.no_grad():
        logits = without_weights(resolve(model)).eval()(torch.zeros(1, *image_shape))
    return int(logits.shape[-1])
