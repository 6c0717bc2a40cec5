"""The figure `parity`: the MACs of CoResNet-50 and ResNet-50, layer by layer."""

from collections.abc import Iterable
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from ctxbench.records import Row, latest
from ctxbench.report._style import GREY, RING, WIDTH_IN, mark_key, ring_key, style

PAIR = ("coresnet50", "resnet50")
_COLUMNS = ("layer", "kind", "params", "macs", "against_kind", "against_params", "against_macs")
# whether a layer stands for one of another kind -> marker
_MARKERS = {False: "o", True: "D"}


def select(rows: Iterable[Row]) -> DataFrame:
    """Keep the layers of the pair as the last run counted them."""
    found = [row for row in rows if (row.get("model"), row.get("against")) == PAIR]
    run = [row for row in found if _run(row) == _run(found[-1])]
    layers = DataFrame(latest(run, "layer"), columns=[*_COLUMNS, "input_shape"])
    counts = ["params", "macs", "against_params", "against_macs"]
    # a layer that one of the two lacks costs it nothing
    layers[counts] = layers[counts].fillna(0).astype("int64")
    return layers.assign(
        difference=layers["macs"] - layers["against_macs"],
        params_difference=layers["params"] - layers["against_params"],
        stage=[layer.partition(".")[0] for layer in layers["layer"]],
        replaced=layers["kind"] != layers["against_kind"],
    )


def draw(layers: DataFrame) -> Figure:
    """Draw the MACs of both in each layer that has any, and beneath them the difference."""
    shown = layers[(layers["macs"] > 0) | (layers["against_macs"] > 0)].reset_index(drop=True)
    with style():
        figure = Figure(figsize=(WIDTH_IN, 4.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_macs(top, shown)
        _draw_difference(bottom, shown)
        bottom.set_xticks(shown.index, [_within(layer) for layer in shown["layer"]], rotation=90)
        bottom.set_xlim(-1, len(shown))
        figure.suptitle(_title(layers), fontsize=8.5, weight="bold")
        figure.legend(handles=_legend(shown), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_macs(axis: Any, shown: DataFrame) -> None:
    millions = shown[["macs", "against_macs"]] / 1e6
    axis.scatter(shown.index, millions["against_macs"], s=34, **RING)
    sns.scatterplot(
        x=shown.index, y=millions["macs"], hue=shown["stage"], style=shown["replaced"],
        markers=_MARKERS, palette=_palette(shown), s=13, linewidth=0, ax=axis, legend=False,
        zorder=3,
    )  # fmt: skip
    highest = millions.to_numpy().max()
    axis.set(ylabel="MACs of the layer (millions)", ylim=(-0.05 * highest, 1.1 * highest))
    _mark_stages(axis, shown)


def _draw_difference(axis: Any, shown: DataFrame) -> None:
    sns.scatterplot(
        x=shown.index, y=shown["difference"], hue=shown["stage"], style=shown["replaced"],
        markers=_MARKERS, palette=_palette(shown), s=13, linewidth=0, ax=axis, legend=False,
        zorder=3,
    )  # fmt: skip
    axis.vlines(shown.index, 0, shown["difference"], color=GREY, linewidth=1)
    axis.axhline(0, color=GREY, linewidth=0.8)
    reach = max(1, shown["difference"].abs().max()) * 1.4
    axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    label = f"layer (the {len(shown)} with MACs)"
    axis.set(ylabel="difference\n(MACs)", xlabel=label, ylim=(-reach, reach))
    _mark_stages(axis, shown, named=False)


def _mark_stages(axis: Any, shown: DataFrame, *, named: bool = True) -> None:
    axis.grid(visible=False, axis="x")
    for stage, layers in shown.groupby("stage", sort=False):
        first, last = layers.index[0], layers.index[-1]
        if first:
            axis.axvline(first - 0.5, color=GREY, linewidth=0.5, linestyle=":")
        if named:
            axis.annotate(stage, ((first + last) / 2, 1), xycoords=axis.get_xaxis_transform(),
                          xytext=(0, 2), textcoords="offset points", ha="center")  # fmt: skip


def _palette(shown: DataFrame) -> dict[str, Any]:
    stages = list(shown["stage"].unique())
    return dict(zip(stages, sns.color_palette("colorblind", len(stages)), strict=True))


def _within(layer: str) -> str:
    """Name a layer inside its stage."""
    return layer.partition(".")[2] or layer


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


def _legend(shown: DataFrame) -> list[Line2D]:
    ours, theirs = PAIR
    keys = [ring_key(theirs), mark_key(f"{ours}, same kind of layer", _MARKERS[False])]
    kinds = shown.loc[shown["replaced"], "kind"].dropna().unique()
    return keys + [mark_key(f"{ours}, {kind} instead", _MARKERS[True]) for kind in kinds]


def _run(row: Row) -> tuple[object, object]:
    return row.get("stamp"), row.get("input_shape")
