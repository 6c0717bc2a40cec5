"""`ctxbench doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from ctxbench.cli._options import RESULTS, FormatOption, QuietOption, note, ticker

_COLUMNS = {"state": "state", "part": "part", "found": "found", "note": "note"}


def doctor(
    form: FormatOption = "table",
    out: Annotated[Path, typer.Option("--out", help="Folder that rows are to go to.")] = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Check packages, devices and operators, and say what is missing and how to get it.

    What is optional may be missing; exit code 1 if something is wrong.

    Example: ctxbench doctor
    """
    from ctxbench.doctor import examine
    from ctxbench.render import render

    tell = ticker(quiet=quiet)
    found = []
    for each in examine(out):
        found.append(each)
        tell(f"{each['part']}: {each['state']}")
    tell("")
    typer.echo(render(found, _COLUMNS, form))
    wrong = [each["part"] for each in found if each["state"] == "wrong"]
    if wrong:
        note(f"Wrong: {', '.join(wrong)}.", quiet=quiet)
        raise typer.Exit(1)
    note("Nothing is wrong.", quiet=quiet)
