"""Two networks, layer by layer: where their parameters and multiply-accumulates differ."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ctxbench.measure.flops import Count, ModuleCount

NumberT = TypeVar("NumberT", int, float)


@dataclass(frozen=True, slots=True)
class LayerPair:
    """One layer of a network beside the layer of the same name in another; None where absent."""

    layer: str
    kind: str | None
    params: int | None
    macs: int | None
    against_kind: str | None = None
    against_params: int | None = None
    against_macs: int | None = None

    @property
    def equal(self) -> bool:
        """Whether both networks have the layer, at the same cost."""
        return (self.params, self.macs) == (self.against_params, self.against_macs)


@dataclass(frozen=True, slots=True)
class Parity:
    """Whether two networks cost the same, down to the layer.

    `other_work` names kinds of work beside MACs of which they do different amounts.
    """

    params_difference: int
    macs_difference: int
    layers: int
    unequal: tuple[str, ...]
    other_work: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether totals and every layer are equal."""
        return not (self.params_difference or self.macs_difference or self.unequal)


def layers(counted: Count) -> dict[str, ModuleCount]:
    """Return the modules that hold parameters, or compute MACs, outside their children."""
    modules = counted.modules.items()
    return {name: module for name, module in modules if module.own_params or module.own.macs}


def pair_layers(counted: Count, against: Count | None = None) -> list[LayerPair]:
    """Pair the layers of two networks by name, in the order of the first; rows sum to the total.

    A layer that one of them builds from several (a convolution made of branches) is paired as a
    whole with the single layer of the other, and what one holds in a `backbone` with the network
    that the other is.
    """
    if against:
        counted, against = _bare(counted, against), _bare(against, counted)
    names = _outermost(layers(counted), layers(against) if against else {})
    mine = _costs(counted, names)
    theirs = _costs(against, names) if against else {}
    absent = (None, None, None)
    return [LayerPair(name, *mine.get(name, absent), *theirs.get(name, absent)) for name in names]


def compare(counted: Count, against: Count) -> Parity:
    """Compare two networks in total and layer by layer."""
    rows = pair_layers(counted, against)
    return Parity(
        counted.params - against.params,
        counted.macs - against.macs,
        len(rows),
        tuple(row.layer for row in rows if not row.equal),
        _different(counted.work.elements, against.work.elements),
    )


def _different(mine: Mapping[str, int], theirs: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(kind for kind in {**mine, **theirs} if mine.get(kind) != theirs.get(kind))


def backbone_prefix(counted: Count, other: Count) -> str:
    """Return what pairing drops from names: the prefix of a backbone if only one network has it."""
    alone = "backbone" in counted.modules and "backbone" not in other.modules
    return "backbone." if alone else ""


def sum_by_layer(
    values: Mapping[str, NumberT], layers: Collection[str]
) -> dict[str | None, NumberT]:
    """Add up values of modules by the layer that each lies in, the innermost; None: in no layer."""
    totals: dict[str | None, NumberT] = {}
    for name, value in values.items():
        layer = name if name in layers else _holder(name, layers)
        totals[layer] = totals[layer] + value if layer in totals else value
    return totals


def _bare(counted: Count, other: Count) -> Count:
    """Drop the prefix of a backbone if the other network has none."""
    prefix = backbone_prefix(counted, other)
    if not prefix:
        return counted
    modules = {name.removeprefix(prefix): m for name, m in counted.modules.items()}
    return replace(counted, modules=modules)


def _outermost(mine: Iterable[str], theirs: Iterable[str]) -> list[str]:
    """Merge two lists of layers; inside a single layer of one, those of the other are left out."""
    mine, theirs = list(mine), list(theirs)
    inside_mine, inside_theirs = _leaves(mine), _leaves(theirs)
    kept = [name for name in mine if not _holder(name, inside_theirs)]
    new = [name for name in theirs if name not in set(mine)]
    return kept + [name for name in new if not _holder(name, inside_mine)]


def _leaves(names: list[str]) -> set[str]:
    holders = {holder for name in names if (holder := _holder(name, set(names)))}
    return set(names) - holders - {""}


def _holder(name: str, names: Collection[str]) -> str | None:
    """Return the innermost of `names` that has `name` inside it."""
    while name:
        name = name.rpartition(".")[0]
        if name in names:
            return name
    return None


def _costs(counted: Count, names: list[str]) -> dict[str, tuple[str, int, int]]:
    """Return kind, parameters and MACs of each layer, without the layers listed inside it."""
    modules = counted.modules
    listed = {name for name in names if name in modules}
    params = sum_by_layer({name: m.own_params for name, m in modules.items()}, listed)
    macs = sum_by_layer({name: m.own.macs for name, m in modules.items()}, listed)
    return {name: (modules[name].kind, params[name], macs[name]) for name in listed}
