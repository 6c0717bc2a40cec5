"""What a network named by a spec costs, as a row."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import torch

from ctxbench.errors import CountingError
from ctxbench.measure.conventions import CONVENTIONS
from ctxbench.measure.flops import Count, count
from ctxbench.measure.parity import pair_layers
from ctxbench.models import resolve, without_weights


@dataclass(frozen=True, slots=True)
class CostRow:
    """Parameters and work of one forward pass; `conventions` holds the total in each of them.

    `torch_macs` is what torch's own counter makes of it and `comparable_macs` what we count of the
    kinds it knows; the differences are to the network `against`, if one was named.
    """

    model: str
    input_shape: tuple[int, ...]
    params: int
    macs: int
    flops: int
    conventions: Mapping[str, int]
    macs_by_kind: Mapping[str, int]
    elements: Mapping[str, int]
    uncounted: tuple[str, ...]
    comparable_macs: int
    torch_macs: int | None = None
    against: str | None = None
    params_difference: int | None = None
    macs_difference: int | None = None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of a network beside that of the same name in `against`; None where absent."""

    model: str
    against: str | None
    input_shape: tuple[int, ...]
    layer: str
    kind: str | None
    params: int | None
    macs: int | None
    against_kind: str | None
    against_params: int | None
    against_macs: int | None
    equal: bool | None


@dataclass(frozen=True, slots=True)
class Setting:
    """What networks are counted on; `image_size` is (height, width), None each network's own."""

    batch: int = 1
    image_size: tuple[int, int] | None = None
    allow_uncounted: bool = False
    cross_check: bool = False


@cache
def count_spec(spec: str, setting: Setting = Setting()) -> tuple[Count, tuple[int, ...]]:
    """Count the network of a spec, without allocating its weights; asked again, it remembers.

    Returns the count and the shape of the first input.
    """
    network = resolve(spec)
    model = without_weights(network)
    height, width = setting.image_size or (network.image_px, network.image_px)
    try:
        with torch.random.fork_rng(devices=[]):  # operators draw theirs
            inputs = network.inputs(setting.batch, height, width)
    except RuntimeError as error:  # more memory than there is
        raise CountingError(
            f"{spec} cannot run on inputs of {setting.batch} x {height}x{width} px: {error}"
        ) from None
    counted = count(
        model,
        *inputs,
        allow_uncounted=setting.allow_uncounted,
        cross_check=setting.cross_check,
    )
    return counted, tuple(inputs[0].shape)


def cost_row(
    name: str,
    counted: Count,
    shape: tuple[int, ...],
    *,
    against: str | None = None,
    other: Count | None = None,
) -> CostRow:
    """Make the row of a network that was counted on an input of `shape`, and `other` too."""
    return CostRow(
        model=name,
        input_shape=shape,
        params=counted.params,
        macs=counted.macs,
        flops=counted.flops,
        conventions={each: counted.total(each) for each in CONVENTIONS},
        macs_by_kind=dict(counted.work.macs_by_kind),
        elements=dict(counted.work.elements),
        uncounted=counted.uncounted,
        comparable_macs=counted.comparable_macs,
        torch_macs=counted.torch_macs,
        against=against,
        params_difference=counted.params - other.params if other else None,
        macs_difference=counted.macs - other.macs if other else None,
    )


def layer_rows(
    name: str,
    counted: Count,
    shape: tuple[int, ...],
    *,
    against: str | None = None,
    other: Count | None = None,
) -> list[LayerRow]:
    """Make a row for each layer of a network, beside that of the same name in `other`."""
    return [
        LayerRow(name, against, shape, **asdict(pair), equal=pair.equal if other else None)
        for pair in pair_layers(counted, other)
    ]


def warnings_of(cost: CostRow) -> list[str]:
    """Say where a count is too low, or disagrees with torch's."""
    found = [
        f"NOT COUNTED in {cost.model}: {operation}. The numbers are too low."
        for operation in cost.uncounted
    ]
    if cost.torch_macs not in (None, cost.comparable_macs):
        found.append(
            f"DISAGREEMENT on {cost.model}: torch's counter finds {cost.torch_macs:,} MACs where "
            f"ours finds {cost.comparable_macs:,} in the operations that both know."
        )
    return found


def parity_of(cost: CostRow, layers: Sequence[LayerRow]) -> str:
    """Say in how many layers a network costs what the one it is compared with does."""
    unequal = sum(not layer.equal for layer in layers)
    if not unequal:
        return f"{cost.model} costs what {cost.against} does, in each of {len(layers)} layers."
    return f"{cost.model} differs from {cost.against} in {unequal} of {len(layers)} layers."
