"""`ctxbench report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxbench.cli._options import RESULTS, FormatOption, QuietOption, note
from ctxbench.errors import CtxbenchError
from ctxbench.render import Format

if TYPE_CHECKING:
    from ctxbench.report.compare import Comparison


def report(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder with raw/; report.html, tables/ and figures/ go beside it."
        ),
    ] = RESULTS,
    rows: Annotated[
        list[Path] | None,
        typer.Option("--rows", help="Results, or their raw/, to merge; again for more."),
    ] = None,
    readme: Annotated[
        list[Path] | None,
        typer.Option("--readme", help="Also fill the tables between its <!-- ctxbench:NAME -->."),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="OLD NEW",
            help="Instead print what changed between two commits, git refs or folders of results.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --compare: also what did not change.")
    ] = False,
    form: FormatOption = "table",
    quiet: QuietOption = False,
) -> None:
    """Write a page, tables and figures from the rows that other commands saved; runs no network.

    Example: ctxbench report --rows laptop/results --rows gpu/results --out merged
    """
    if everything and not compare:
        raise CtxbenchError("--all belongs to --compare OLD NEW. Name what to compare.")
    if readme and compare:
        raise CtxbenchError(
            "--readme fills tables of a report, and --compare makes none. Drop one."
        )
    from ctxbench.report.build import COMMANDS, build_report
    from ctxbench.report.sources import folder_of_rows

    raw = [folder_of_rows(folder, COMMANDS) for folder in rows or []] or [out / "raw"]
    if compare:
        from ctxbench.report import compare as comparing

        chosen = context.get_parameter_source("out").name == "COMMANDLINE"  # type: ignore[union-attr]
        found = comparing.compare(raw, *compare)
        _show(found, form, everything=everything, out=out if chosen else None, quiet=quiet)
        return
    summary = build_report(raw, out, documents=readme or [])
    for path in summary.written:
        typer.echo(path)
    for text in summary.notes:
        note(text, quiet=quiet)


def _show(
    found: "Comparison", form: Format, *, everything: bool, out: Path | None, quiet: bool
) -> None:
    """Print a comparison, and write its table where a folder was named."""
    from ctxbench.report.build import write_table
    from ctxbench.report.tables import text

    table = found.table(everything=everything)
    typer.echo(text(table, form) if len(table) else "Nothing changed.")
    for path in write_table("changes", table, out / "tables") if out else ():
        note(f"wrote {path}", quiet=quiet)
    note(found.summary(), quiet=quiet)
