"""What the registries of operators hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
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


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator as a spec names it, at any shape: `op/coconv:channels=128:levels=3`.

    `build` takes the options of the spec: keywords of plain types, all with defaults. What it finds
    wrong with their values is a ValueError.
    `inputs(options, batch, height, width)` returns the tensors that forward takes; `options` holds
    all of them, those left out with their defaults.
    """

    build: Callable[..., nn.Module]
    inputs: Callable[[Mapping[str, Any], int, int, int], tuple[Tensor, ...]]


def one_map(options: Mapping[str, Any], batch: int, height: int, width: int) -> tuple[Tensor]:
    """Return the input of an operator that takes one map of `channels` channels."""
    return (torch.randn(batch, options["channels"], height, width),)


def or_same(out_channels: int | None, channels: int) -> int:
    """Return the output channels of a layer, as many as come in if a spec gives none."""
    return channels if out_channels is None else out_channels


def check_numbers(**numbers: int) -> None:
    """Raise ValueError naming the first option that is less than 1, for classes that do not."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}={number} is out of range. Give whole numbers from 1.")
