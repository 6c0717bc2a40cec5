"""`ctxbench new KIND`: files of a new part, which work and pass the tests."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()  # without one, a group of a single command would be that command
def _new() -> None:
    """Write the files of a new part, which work and pass the tests.

    Example: ctxbench new operator mean_gate
    """


@app.command()
def operator(
    name: Annotated[str, typer.Argument(help="Of the operator: lower case, like mean_gate.")],
    root: Annotated[
        Path, typer.Option("--root", help="Of the checkout; default: where you are.")
    ] = Path(),
) -> None:
    """Write an operator, its definition, their test and an experiment, and register it.

    Example: ctxbench new operator mean_gate
    """
    from ctxbench.scaffold import new_operator

    for path in new_operator(name, root):
        typer.echo(path)
    typer.echo(
        f"\nNext, in the checkout:\n"
        f"  pytest -k {name} tests/ops\n"
        f"  ctxbench flops op/{name} --against op/conv\n"
        f"  ctxbench flops resnet50:replace={name} --against resnet50\n"
        f"  ctxbench ablate experiments/{name}.toml --dry-run\n"
        f"Last, its section in docs/operators.md: pytest tests/docs says what it lacks.",
        err=True,
    )
