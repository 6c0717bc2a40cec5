"""`ctxbench models`."""

from typing import Annotated

import typer

from ctxbench.cli._options import FormatOption


def models(
    pattern: Annotated[str, typer.Argument(help="Names to list, like 'coresnet*'.")] = "*",
    form: FormatOption = "table",
) -> None:
    """List the networks: parameters, options, the paper.

    Example: ctxbench models 'coresnet*'
    """
    from ctxbench.models.listing import listing
    from ctxbench.render import render

    columns = {
        "model": "network",
        "params": "params",
        "image_px": "image px",
        "baseline": "baseline",
        "options": "options",
        "source": "source",
    }
    typer.echo(render(listing(pattern), columns, form))
