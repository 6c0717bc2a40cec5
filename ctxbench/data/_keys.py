"""Random numbers that depend on where they are used, and on nothing else.

An image's numbers are a function of (seed, epoch, index): they need no generator that is passed on
from image to image, and those of a whole batch are made at once. The function is that of
splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a counter, and a mixer of its 64 bits.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Keys = npt.NDArray[np.uint64]  # one for each image

_STEP = 0x9E3779B97F4A7C15
_BITS = (1 << 64) - 1


def key(*numbers: int) -> int:
    """Return a number of 64 bits that stands for these, in this order."""
    value = 0
    for number in numbers:
        value = int(_mixed(_array([(value + _STEP + number) & _BITS]))[0])
    return value


def keys(base: int, indices: Tensor) -> Keys:
    """Return a key for each index; the same as `key` gives with the index as its last number."""
    return _after(base, indices.numpy().astype(np.uint64))


def derived(base: Keys, use: int) -> Keys:
    """Return other keys, for another use of the same images."""
    return _mixed(base + _array([_STEP * (use + 1) & _BITS]))


def uniform(base: Keys, use: int) -> Tensor:
    """Return a number in [0, 1) for each key, (B,) in float64."""
    return torch.from_numpy((derived(base, use) >> np.uint64(11)).astype(np.float64) / 2**53)


def whole(base: Keys, use: int, count: int) -> Tensor:
    """Return a number out of 0 .. count - 1 for each key, (B,) in int64."""
    return (uniform(base, use) * count).long()


def _after(base: int, numbers: Keys) -> Keys:
    return _mixed(numbers + _array([(base + _STEP) & _BITS]))


def _mixed(z: Keys) -> Keys:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _array(values: list[int]) -> Keys:
    # arrays wrap around at 64 bits; numpy's single numbers warn of it
    return np.array(values, dtype=np.uint64)
