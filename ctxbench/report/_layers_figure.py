"""The figure `layers`: where a network of the same MACs takes longer."""

from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure
from pandas import DataFrame, to_numeric

from ctxbench.records import Row, latest
from ctxbench.report._places import spread
from ctxbench.report._stages import (
    PAIR,
    draw_difference,
    draw_pair,
    legend,
    mark_stages,
    per_layer,
    with_stages,
)
from ctxbench.report.machines import placed
from ctxbench.style import GREY, WIDTH_IN, style, wrap

_COLUMNS = ["layer", "kind", "macs", "ms", "against_kind", "against_macs", "against_ms"]
_COLUMNS += ["model", "against", "place", "batch", "image_size", "dtype", "layout"]
_NUMBERS = ["macs", "ms", "against_macs", "against_ms"]
_NAMED = 12
_LABEL_PT = 9.0
_REST = "(rest)"


def select(rows: Iterable[Row]) -> DataFrame:
    """Keep the layers of the pair, or of the last pair there is, as they were timed last."""
    found = placed(row for row in rows if row.get("against"))
    found = [row for row in found if _pair(row) == PAIR] or found
    last = [row for row in found if _run(row) == _run(found[-1])]
    layers = DataFrame(latest(last, "layer"), columns=_COLUMNS)
    # a layer that one of the two lacks takes it no time
    layers[_NUMBERS] = layers[_NUMBERS].apply(to_numeric).fillna(0)
    return with_stages(layers).assign(difference=layers["ms"] - layers["against_ms"])


def draw(layers: DataFrame) -> Figure:
    """Draw the MACs of both in each layer, the time of both, and the difference in time.

    What no layer holds takes more than any of them, and is written instead.
    """
    title, rest = _title(layers), layers[layers["layer"] == _REST]
    if len(rest) < len(layers):
        layers = layers.drop(rest.index).reset_index(drop=True)
    ours, theirs = layers[["model", "against"]].iloc[0]
    with style():
        figure = Figure(figsize=(WIDTH_IN, 5.6), layout="constrained")
        macs, times, difference = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 2))
        millions = layers[["macs", "against_macs"]] / 1e6
        millions = millions[millions.any(axis=1)].reindex(layers.index)
        draw_pair(macs, layers, millions["macs"], millions["against_macs"])
        macs.set_ylabel("MACs (millions)")
        draw_pair(times, layers, layers["ms"], layers["against_ms"])
        times.set_ylabel("time (ms)")
        draw_difference(difference, layers, layers["difference"])
        difference.set_ylabel("difference (ms)")
        for axis in (macs, times, difference):
            mark_stages(axis, layers, named=axis is macs)
        _name_the_largest(difference, layers)
        for ms, against_ms in rest[["ms", "against_ms"]].to_numpy():
            outside = f"outside of them: {ms:.3g} and {against_ms:.3g} ms"
            difference.set_xlabel(f"{difference.get_xlabel()}\n{outside}")
        figure.suptitle(title, fontsize=8.5, weight="bold")
        figure.legend(
            handles=legend(layers, ours, theirs), loc="outside lower center", ncols=3, frameon=False
        )
    return figure


def _name_the_largest(axis: Any, layers: DataFrame) -> None:
    """Name the layers that take most of the difference, side by side where they lie close."""
    sizes = layers["difference"].abs()
    chosen = sorted(sizes[sizes > 0].sort_values(ascending=False, kind="stable").index[:_NAMED])
    axis.set_xlim(-1, len(layers))
    at = spread([float(i) for i in chosen], per_layer(layers, _LABEL_PT), 0, len(layers) - 1)
    axis.set_xticks(at, layers.loc[chosen, "layer"], rotation=90)
    axis.tick_params(axis="x", length=0, pad=10)
    for index, x in zip(chosen, at, strict=True):
        axis.plot([index, x], [0, -0.09], transform=axis.get_xaxis_transform(), clip_on=False,
                  color=GREY, linewidth=0.5)  # fmt: skip
    named = f"; the {len(chosen)} that differ most are named" if len(chosen) < len(layers) else ""
    where, batch, size, dtype = layers[["place", "batch", "image_size", "dtype"]].iloc[0]
    condition = f"{where}: batch {batch}, {'x'.join(map(str, size))}, {dtype}"
    lines = [f"{len(layers)} layers, each with its own time{named}", *wrap(condition, 100)]
    axis.set_xlabel("\n".join(lines))


def _title(layers: DataFrame) -> str:
    ours, theirs = layers[["model", "against"]].iloc[0]
    macs, time = (
        _times(layers[key].sum(), layers[f"against_{key}"].sum()) for key in ("macs", "ms")
    )
    return "\n".join(wrap(f"{ours} against {theirs}: {macs} the MACs, {time} the time", 80))


def _times(mine: float, theirs: float) -> str:
    return f"{mine / theirs:.2f} times" if theirs else "no ratio of"


def _pair(row: Row) -> tuple[str, str]:
    return row["model"], row["against"]


def _run(row: Row) -> tuple[object, ...]:
    return (*_pair(row), row["group"], row["place"], row["batch"], row["image_size"], row["dtype"])
