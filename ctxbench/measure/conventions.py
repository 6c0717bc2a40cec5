"""Published "FLOPs" are conventions on top of multiply-accumulates; each has a name here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ctxbench.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Work:
    """What a network, or a part of it, computes for one input.

    `macs_by_kind` are multiply-accumulates by kind of operation (conv, linear, matmul, ...);
    `elements` are output elements of other work (batch_norm, relu, interpolation, sampling, ...);
    `fvcore_extra` is what fvcore adds to the MACs for that other work, in eval mode.
    """

    macs_by_kind: Mapping[str, int]
    elements: Mapping[str, int]
    fvcore_extra: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all kinds."""
        return sum(self.macs_by_kind.values())


def _fvcore(work: Work) -> int:
    return work.macs + work.fvcore_extra


def _fvcore_train(work: Work) -> int:
    return _fvcore(work) + 3 * work.elements.get("batch_norm", 0)


def _mac_bn_relu(work: Work) -> int:
    return work.macs + 4 * work.elements.get("batch_norm", 0) + work.elements.get("relu", 0)


def _layers(work: Work) -> int:
    return sum(work.macs_by_kind.get(kind, 0) for kind in ("conv", "linear", "deform_conv"))


def _flops(work: Work) -> int:
    return 2 * work.macs


@dataclass(frozen=True, slots=True)
class Convention:
    """A way to turn work into one number, its unit, and what it means."""

    count: Callable[[Work], int]
    unit: str
    meaning: str


CONVENTIONS: dict[str, Convention] = {
    "macs": Convention(
        lambda work: work.macs,
        "MACs",
        "multiply-accumulates of convolutions, matrix products and contractions",
    ),
    "flops": Convention(_flops, "FLOPs", "two operations for each multiply-accumulate"),
    "layers": Convention(
        _layers,
        "MACs of layers",
        "MACs of convolution and linear calls alone, all that a counter of layers sees",
    ),
    "fvcore": Convention(
        _fvcore, "fvcore FLOPs", "what fvcore adds up in eval mode: MACs, 2 a batch-norm element"
    ),
    "fvcore-train": Convention(
        _fvcore_train, "fvcore FLOPs", "fvcore on a network left in train mode: 5 a batch-norm one"
    ),
    "mac-bn-relu": Convention(
        _mac_bn_relu, "MACs + 4 BN + ReLU", "MACs, 4 a batch-norm element and 1 a ReLU element"
    ),
}


def convention(name: str) -> Convention:
    """Look up a convention; UnknownNameError names the known ones."""
    if name not in CONVENTIONS:
        raise UnknownNameError("convention", name, CONVENTIONS)
    return CONVENTIONS[name]
