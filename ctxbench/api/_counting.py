"""Networks counted one after the other, by spec or in memory, and saved as they are."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ctxbench.api._networks import SIDE, Network, channels_of, side_of
from ctxbench.errors import CountingError
from ctxbench.measure.costs import CostRow, LayerRow, Setting, cost_row, count_spec, layer_rows
from ctxbench.measure.flops import Count, count
from ctxbench.records import Row, append_rows, as_row


def count_all(
    networks: Iterable[tuple[str, Network]],
    *,
    against: tuple[str, Network] | None,
    setting: Setting,
    per_layer: bool,
    raw: Path | None,
) -> Iterator[tuple[CostRow, list[LayerRow]]]:
    """Count networks beside the one they are compared with, at their own size if none is set.

    Yields the costs of each, and of its layers if asked; before, they are saved in `raw`, if any.
    """
    for name, network in networks:
        side = side_of(network)
        sized = replace(setting, image_size=setting.image_size or (side, side))
        counted, shape = _count(name, network, sized)
        pair: dict[str, Any] = {}
        if against:  # at the same size
            pair = {"against": against[0], "other": _count(*against, sized)[0]}
        cost = cost_row(name, counted, shape, **pair)
        layers = layer_rows(name, counted, shape, **pair) if per_layer else []
        if raw is not None:
            append_rows("costs", [as_row(cost)], raw=raw)
            append_rows("layers", map(as_row, layers), raw=raw)
        yield cost, layers


def lines_of(layers: Iterable[LayerRow]) -> list[Row]:
    """Return the rows of layers with their FLOPs, which are not saved."""
    rows = map(as_row, layers)
    return [{**row, "flops": row["macs"] and 2 * row["macs"]} for row in rows]


def _count(name: str, network: Network, setting: Setting) -> tuple[Count, tuple[int, ...]]:
    """Count a network; returns the shape of its input too."""
    if isinstance(network, str):
        return count_spec(network, setting)
    x = _example(network, setting.batch, setting.image_size or (SIDE, SIDE))
    try:
        found = count(
            network, x, allow_uncounted=setting.allow_uncounted, cross_check=setting.cross_check
        )
    except CountingError as error:
        raise CountingError(
            f"{name}: {error} Choose image_size, or count it on tensors of your own with "
            f"ctxbench.count(model, *tensors)."
        ) from None
    return found, tuple(x.shape)


def _example(model: nn.Module, batch: int, size: tuple[int, int]) -> Tensor:
    """Return zeros as a network in memory takes them, on its device and in its type."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    like = weights[0] if weights else torch.empty(0)
    return like.new_zeros(batch, channels_of(model), *size)
