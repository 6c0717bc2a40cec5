"""Counting, listing and claims: `ctxbench flops`, `models` and `claims` as functions."""

import warnings
from pathlib import Path

from pandas import DataFrame

from ctxbench.api._counting import count_all, lines_of
from ctxbench.api._networks import Network, Networks, Size, beside, named, size_of
from ctxbench.api._rows import frame_of, saved_in
from ctxbench.claims import load_claims
from ctxbench.claims.verdict import check_verdict, judge_all
from ctxbench.errors import SpecError
from ctxbench.measure.conventions import convention as look_up
from ctxbench.measure.costs import LayerRow, Setting, warnings_of
from ctxbench.models.listing import backends, listing
from ctxbench.records import Row, as_row

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


def describe_backends(pattern: str = "*") -> DataFrame:
    """List what computes each operator, how, where it applies, and whether it can here.

    `here` is "yes", or why not. A network or an operator is given one by `backend=` in its spec;
    `use_backend` chooses for all that runs inside it.

    >>> describe_backends("op/coconv")[["backend", "here"]].head(2)
         backend here
    0  reference  yes
    1      torch  yes

    Raises: UnknownNameError if nothing matches.
    """
    return frame_of(backends(pattern))


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
    setting = Setting(batch, size_of(image_size), allow_uncounted, cross_check)
    costs: list[Row] = []
    layers: list[LayerRow] = []
    for cost, made in count_all(
        found.items(), against=other, setting=setting, per_layer=per_layer, raw=saved_in(out)
    ):
        for text in warnings_of(cost):
            warnings.warn(text, stacklevel=2)
        costs.append(as_row(cost))
        layers += made
    if per_layer:
        return frame_of(lines_of(layers), [*_LAYERS, *(_LAYERS_BESIDE if other else ())])
    return _costs(costs, convention)


def _costs(rows: list[Row], convention: str) -> DataFrame:
    columns = [*_COSTS]
    columns += [convention] if convention not in ("macs", "flops") else []
    columns += [key for key in ("torch_macs", "uncounted") if any(row[key] for row in rows)]
    columns += _BESIDE if any(row["against"] for row in rows) else ()
    return frame_of([{**row["conventions"], **row} for row in rows], columns)


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
    rows = judge_all(load_claims(paper), raw=saved_in(out))
    columns = list(rows[0])
    return frame_of([row for row in rows if verdict in (None, row["verdict"])], columns)
