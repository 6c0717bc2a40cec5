"""`ctxbench claims`."""

from typing import Annotated

import typer

from ctxbench.cli._complete import complete_paper
from ctxbench.cli._options import RESULTS, FormatOption, OutOption, QuietOption, note, progress

_COLUMNS = {
    "table": "table",
    "row": "row",
    "metric": "metric",
    "against": "against",
    "published": "published",
    "ours": "ours",
    "difference": "difference",
    "convention": "counted as",
    "verdict": "verdict",
}


def claims(
    paper: Annotated[
        str | None,
        typer.Option(
            "--paper",
            help="One paper only, like coconv; default: all.",
            autocompletion=complete_paper,
        ),
    ] = None,
    verdict: Annotated[
        str | None, typer.Option("--verdict", help="Print only the claims with this verdict.")
    ] = None,
    form: FormatOption = "table",
    out: OutOption = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Put every published figure beside ours, with a verdict; exit code 1 if parity fails.

    Example: ctxbench claims --paper coconv --verdict differs
    """
    from ctxbench.claims import REFUTED, load_claims
    from ctxbench.claims.verdict import check_verdict, judge_all, tally
    from ctxbench.render import render

    check_verdict(verdict)
    rows = judge_all(progress(load_claims(paper), "counting", quiet=quiet), raw=out / "raw")
    shown = [row for row in rows if verdict in (None, row["verdict"])]
    typer.echo(render(shown, {"paper": "paper", **_COLUMNS}, form))
    note(tally(rows), quiet=quiet)
    if any(row["verdict"] == REFUTED for row in rows):
        raise typer.Exit(1)
