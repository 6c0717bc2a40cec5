"""`ctxbench models`."""

from typing import Annotated

import typer

from ctxbench.cli._complete import complete_name
from ctxbench.cli._options import FormatOption, progress
from ctxbench.errors import SpecError

_COLUMNS = {
    "kind": "kind",
    "model": "name",
    "params": "params",
    "image_px": "image px",
    "baseline": "baseline",
    "source": "source",
}
_BACKENDS = {
    "operator": "operator",
    "backend": "backend",
    "computes": "how it computes",
    "applies": "where it applies",
    "here": "here",
}


def models(
    pattern: Annotated[
        str,
        typer.Argument(help="Names to list, like 'coresnet*'.", autocompletion=complete_name),
    ] = "*",
    long: Annotated[
        bool, typer.Option("--long", help="Show the options and their values.")
    ] = False,
    macs: Annotated[
        bool, typer.Option("--macs", help="Count MACs, too: a second for each network.")
    ] = False,
    with_backends: Annotated[
        bool,
        typer.Option("--backends", help="Show what computes each operator, and if it can here."),
    ] = False,
    form: FormatOption = "table",
) -> None:
    """List operators and networks: parameters, baseline, the paper.

    Example: ctxbench models coresnet50 --long

    Example: ctxbench models 'op/*' --macs

    Example: ctxbench models --backends
    """
    from ctxbench.models.listing import backends, listing
    from ctxbench.render import render

    if with_backends:
        if long or macs:
            raise SpecError("--backends lists no networks. Leave --long and --macs out.")
        typer.echo(render(backends(pattern), _BACKENDS, form))
        return
    columns = dict(_COLUMNS)
    rows = listing(pattern)
    if macs:
        from ctxbench.measure.costs import count_spec

        for row in progress(rows, "counting", quiet=False):
            row["macs"] = count_spec(str(row["model"]))[0].macs
        columns = {key: columns[key] for key in ("kind", "model", "params")}
        columns |= {"macs": "MACs"} | _COLUMNS
    if long:
        columns["options"] = "options"
    typer.echo(render(rows, columns, form))
