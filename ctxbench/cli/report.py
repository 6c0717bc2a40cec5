"""`ctxbench report`."""

from pathlib import Path
from typing import Annotated

import typer

from ctxbench.cli._options import RESULTS, QuietOption, note


def report(
    out: Annotated[
        Path, typer.Option("--out", help="Folder with raw/; tables/ and figures/ go beside it.")
    ] = RESULTS,
    readme: Annotated[
        list[Path] | None,
        typer.Option("--readme", help="Also fill the tables between its <!-- ctxbench:NAME -->."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write tables and figures from the rows that other commands saved, running no network.

    Example: ctxbench report --readme README.md
    """
    from ctxbench.report.build import build_report

    summary = build_report([out / "raw"], out, documents=readme or [])
    for path in summary.written:
        typer.echo(path)
    for text in summary.notes:
        note(text, quiet=quiet)
