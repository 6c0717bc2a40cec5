"""`ctxbench models`."""

from typing import Annotated

import typer

from ctxbench.cli._options import FormatOption


def models(
    pattern: Annotated[str, typer.Argument(help="Names to list, like 'coresnet*'.")] = "*",
    long: Annotated[
        bool, typer.Option("--long", help="Show the options and their values.")
    ] = False,
    form: FormatOption = "table",
) -> None:
    """List operators and networks: parameters, baseline, the paper.

    Example: ctxbench models coresnet50 --long
    """
    from ctxbench.models.listing import listing
    from ctxbench.render import render

    columns = {
        "kind": "kind",
        "model": "name",
        "params": "params",
        "image_px": "image px",
        "baseline": "baseline",
        "source": "source",
    }
    if long:
        columns["options"] = "options"
    typer.echo(render(listing(pattern), columns, form))
