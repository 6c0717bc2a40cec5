"""The command line: one command a file; it parses, calls the library, prints and saves.

Exit code 0: fine; 1: the answer is no; 2: a mistake in the request; 70: a bug, with its traceback.
"""

import sys
import traceback
from typing import Annotated

import typer
from typer.core import TyperGroup

from ctxbench import __version__
from ctxbench.cli import (
    ablate,
    claims,
    doctor,
    flops,
    latency,
    models,
    new,
    report,
    visualize,
)
from ctxbench.cli._complete import whole_words
from ctxbench.errors import CtxbenchError

_CRASHED = 70  # EX_SOFTWARE
_ORDER = (
    "doctor", "models", "flops", "claims", "latency", "ablate", "visualize", "report", "new",
)  # fmt: skip


class _InOrder(TyperGroup):
    """Lists commands in the order in which a user needs them; new ones go to the end."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        known = super().list_commands(ctx)
        return [name for name in _ORDER if name in known] + [
            name for name in known if name not in _ORDER
        ]


app = typer.Typer(
    name="ctxbench",
    cls=_InOrder,
    help="Count, check, measure and report context-aware convolutions.\n\n"
    "Example: ctxbench flops coresnet50 --against resnet50",
    rich_markup_mode=None,  # plain help: rich costs more than the 0.1 s that --help may take
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.command()(doctor.doctor)
app.command()(models.models)
app.command()(flops.flops)
app.command()(claims.claims)
app.command()(latency.latency)
app.command()(ablate.ablate)
app.add_typer(visualize.app, name="visualize")
app.command()(report.report)
app.add_typer(new.app, name="new")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ctxbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line; a deliberate error is one line, any other keeps its traceback."""
    try:
        with whole_words():
            app()
    except CtxbenchError as error:
        typer.echo(f"ctxbench: {error}", err=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001 - told in full; only the exit code must not say "no"
        typer.echo(traceback.format_exc(), err=True)
        sys.exit(_CRASHED)
