"""The figure `parity`: the MACs of CoResNet-50 and ResNet-50, layer by layer."""

from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from ctxbench.records import Row, latest
from ctxbench.report._stages import (
    PAIR,
    draw_difference,
    draw_pair,
    legend,
    mark_stages,
    with_stages,
    within,
)
from ctxbench.style import WIDTH_IN, style

_NAMED = 120  # layers that have room for a name
_COLUMNS = ("layer", "kind", "params", "macs", "against_kind", "against_params", "against_macs")


def select(rows: Iterable[Row]) -> DataFrame:
    """Keep the layers of the pair as the last run counted them."""
    found = [row for row in rows if (row.get("model"), row.get("against")) == PAIR]
    run = [row for row in found if _run(row) == _run(found[-1])]
    layers = DataFrame(latest(run, "layer"), columns=[*_COLUMNS, "input_shape"])
    counts = ["params", "macs", "against_params", "against_macs"]
    # a layer that one of the two lacks costs it nothing
    layers[counts] = layers[counts].fillna(0).astype("int64")
    return with_stages(layers).assign(
        difference=layers["macs"] - layers["against_macs"],
        params_difference=layers["params"] - layers["against_params"],
    )


def draw(layers: DataFrame) -> Figure:
    """Draw the MACs of both in each layer that has any, and beneath them the difference."""
    shown = layers[(layers["macs"] > 0) | (layers["against_macs"] > 0)].reset_index(drop=True)
    with style():
        figure = Figure(figsize=(WIDTH_IN, 4.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        draw_pair(top, shown, shown["macs"] / 1e6, shown["against_macs"] / 1e6)
        top.set_ylabel("MACs of the layer (millions)")
        mark_stages(top, shown)
        _draw_difference(bottom, shown)
        named = shown[:: -(-len(shown) // _NAMED)] if len(shown) else shown
        bottom.set_xticks(named.index, [within(layer) for layer in named["layer"]], rotation=90)
        bottom.set_xlim(-1, len(shown))
        figure.suptitle(_title(layers), fontsize=8.5, weight="bold")
        figure.legend(
            handles=legend(shown, *PAIR), loc="outside lower center", ncols=3, frameon=False
        )
    return figure


def _draw_difference(axis: Any, shown: DataFrame) -> None:
    draw_difference(axis, shown, shown["difference"])
    reach = max(1, shown["difference"].abs().max()) * 1.4
    axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    label = f"layer (the {len(shown)} with MACs)"
    axis.set(ylabel="difference\n(MACs)", xlabel=label, ylim=(-reach, reach))
    mark_stages(axis, shown, named=False)


def _title(layers: DataFrame) -> str:
    ours, theirs = PAIR
    size = "x".join(str(side) for side in layers["input_shape"].iloc[0])
    macs, params = (int((layers[key] != 0).sum()) for key in ("difference", "params_difference"))
    if not macs and not params:
        return f"{ours} costs what {theirs} does in each of {len(layers)} layers, at {size}"
    return (
        f"{ours} against {theirs} at {size}: of {len(layers)} layers, {macs} differ in MACs "
        f"and {params} in parameters"
    )


def _run(row: Row) -> tuple[object, object]:
    return row.get("stamp"), row.get("input_shape")
