"""Counting, listing and claims: `ctxbench flops`, `models` and `claims` as functions."""

import warnings
from pathlib import Path
from typing import Any

from pandas import DataFrame

from ctxbench.api._networks import (
    Network,
    Networks,
    Size,
    beside,
    count_network,
    named,
    side_of,
    size_of,
)
from ctxbench.api._rows import frame_of, raw_of
from ctxbench.claims import load_claims
from ctxbench.claims.verdict import check_verdict, judge
from ctxbench.errors import SpecError
from ctxbench.measure.conventions import convention as look_up
from ctxbench.measure.costs import (
    Setting,
    cost_row,
    count_spec,
    layer_rows,
    warnings_of,
)
from ctxbench.models.listing import listing
from ctxbench.records import append_rows, as_row

_COSTS = ("model", "input_shape", "params", "macs", "flops")
_LAYERS = ("model", "layer", "kind", "params", "macs", "flops")
_BESIDE = ("against", "params_difference", "macs_difference")
_LAYERS_BESIDE = ("against", "against_params", "against_macs", "equal")


def describe_models(pattern: str = "*") -> DataFrame:
    """List operators and networks whose names match, with parameters, options and source.

    >>> describe_models("coresnet50")[["model", "params", "baseline"]]
            model    params  baseline
    0  coresnet50  25557032  resnet50

    Raises: UnknownNameError if nothing matches.
    """
    return frame_of(listing(pattern))


def count_costs(  # noqa: PLR0913 - the options of `ctxbench flops`
    networks: Networks,
    *,
    against: Network | None = None,
    per_layer: bool = False,
    image_size: Size | None = None,
    batch: int = 1,
    convention: str = "macs",
    cross_check: bool = False,
    allow_uncounted: bool = False,
    out: str | Path | None = None,
) -> DataFrame:
    """Count parameters, MACs and FLOPs (2 x MACs) of networks, in total or by layer.

    `networks` is a spec, a pattern, an `nn.Module`, a list of them, or a dict by name; `against`
    is what they are compared with: a spec, a module, or a name of that dict. A network in memory is
    left as it is, and counted at 224 px unless `image_size` says otherwise. `convention` adds a
    column with the total counted that way, `cross_check` one with torch's own count. With `out`,
    a folder of results, the rows are saved there.

    >>> count_costs(["coresnet50", "resnet50"], against="resnet50")[["params", "macs_difference"]]
         params  macs_difference
    0  25557032                0
    1  25557032                0

    Raises: CtxbenchError for what cannot be named or counted. Warns where a number is too low.
    """
    look_up(convention)
    if per_layer and convention not in ("macs", "flops"):
        raise SpecError("convention is of whole networks. Leave it or per_layer out.")
    if batch < 1:
        raise SpecError(f"batch={batch} is no batch. Give 1 or more.")
    found = named(networks)
    other = beside(against, found)
    costs: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for name, network in found.items():
        side = side_of(network)
        size = size_of(image_size) or (side, side)  # the other one is counted at it, too
        setting = Setting(batch, size, allow_uncounted, cross_check)
        counted, shape = count_network(name, network, setting)
        pair: dict[str, Any] = {}
        if other:
            pair = {"against": other[0], "other": count_network(*other, setting)[0]}
        cost = cost_row(name, counted, shape, **pair)
        for text in warnings_of(cost):
            warnings.warn(text, stacklevel=2)
        costs.append(as_row(cost))
        layers += map(as_row, layer_rows(name, counted, shape, **pair) if per_layer else [])
    if out is not None:
        append_rows("costs", costs, raw=raw_of(out))
        append_rows("layers", layers, raw=raw_of(out))
    return _layers(layers, other) if per_layer else _costs(costs, convention)


def _costs(rows: list[dict[str, Any]], convention: str) -> DataFrame:
    columns = [*_COSTS]
    columns += [convention] if convention not in ("macs", "flops") else []
    columns += [key for key in ("torch_macs", "uncounted") if any(row[key] for row in rows)]
    columns += _BESIDE if any(row["against"] for row in rows) else ()
    return frame_of([{**row["conventions"], **row} for row in rows], columns)


def _layers(rows: list[dict[str, Any]], other: object) -> DataFrame:
    lines = [{**row, "flops": row["macs"] and 2 * row["macs"]} for row in rows]
    return frame_of(lines, [*_LAYERS, *(_LAYERS_BESIDE if other else ())])


def check_claims(
    paper: str | None = None,
    *,
    verdict: str | None = None,
    out: str | Path | None = None,
) -> DataFrame:
    """Put every published figure beside ours, with a verdict; of one paper, or of all.

    `verdict` keeps the claims with that one. All of them take about half a minute on one core.
    With `out`, a folder of results, the rows of all claims that were judged are saved there.

    >>> claims = check_claims("cgc")
    >>> claims[["row", "published", "ours", "verdict"]]
                               row published   ours     verdict
    0              CGC-ResNet-50     32919  32919  reproduced
    1  CGC-ResNet-50, plain stem     28912  28912  reproduced

    Raises: UnknownNameError for a paper or verdict that does not exist.
    """
    check_verdict(verdict)
    rows = [
        as_row(
            judge(
                claim,
                lambda spec, px: count_spec(spec, Setting(image_size=(px, px) if px else None))[0],
            )
        )
        for claim in load_claims(paper)
    ]
    if out is not None:
        append_rows("claims", rows, raw=raw_of(out))
    columns = list(rows[0])
    return frame_of([row for row in rows if verdict in (None, row["verdict"])], columns)
