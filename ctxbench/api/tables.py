"""What was saved, read again: `ctxbench report` as functions."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from pandas import DataFrame

from ctxbench import records
from ctxbench.api._rows import frame_of, raw_of, typed
from ctxbench.errors import RecordsError, UnknownNameError
from ctxbench.records import Row
from ctxbench.report import build
from ctxbench.report.build import COMMANDS, ReportSummary
from ctxbench.report.tables import TABLES, heading


def list_tables() -> list[str]:
    """Return the names of the tables that `read_table` makes.

    >>> "costs" in list_tables()
    True
    """
    return sorted(TABLES)


def read_table(name: str, *, results: str | Path = "results", headings: bool = False) -> DataFrame:
    """Make a table of the report from saved rows, running no network.

    Columns are named as in the CSV file of the table, or with `headings` as for readers.

    >>> count_costs("resnet50", out="mine")["params"].item()
    25557032
    >>> read_table("costs", results="mine", headings=True)[["network", "MACs"]]
        network        MACs
    0  resnet50  4089184256

    Raises: UnknownNameError for another name, RecordsError without rows. Warns of torn lines.
    """
    if name not in TABLES:
        raise UnknownNameError("table", name, TABLES)
    known = TABLES[name]
    rows = [row for kind in (known.kind, *known.also) for row in _read(kind, results)]
    table = known.make(rows)
    if not rows:
        raise _absent(known.kind, results)
    read = typed(table)
    return read.rename(columns=heading) if headings else read


def read_rows(kind: str, *, results: str | Path = "results") -> DataFrame:
    """Return the saved rows of a kind as they are, oldest first, with a column a stamp's entry.

    >>> count_costs("resnet50", out="mine")["params"].item()
    25557032
    >>> read_rows("costs", results="mine")[["model", "stamp.seed"]].iloc[-1].to_dict()
    {'model': 'resnet50', 'stamp.seed': None}

    Raises: UnknownNameError for a kind of which there are no rows. Warns of torn lines.
    """
    rows = _read(kind, results)
    if not rows:
        raise _absent(kind, results)
    return frame_of([_flat(row) for row in rows])


def build_report(
    results: str | Path | Sequence[str | Path] = "results",
    *,
    out: str | Path | None = None,
    documents: Sequence[str | Path] = (),
) -> ReportSummary:
    """Write every table and figure from saved rows; returns the files, and what to note.

    `results` is a folder with `raw/`, or several, the oldest first; `out` is where tables and
    figures go, by default beside the first `raw/`. In `documents`, Markdown files, the tables
    between marks are filled.

    >>> count_costs("resnet50", out="mine")["params"].item()
    25557032
    >>> [path.name for path in build_report("mine").written if path.suffix == ".csv"]
    ['costs.csv']

    Raises: RecordsError if there are no rows.
    """
    several = [results] if isinstance(results, str | Path) else list(results)
    if not several:
        raise RecordsError("No folder of results is named. Give one that holds raw/.")
    return build.build_report(
        [raw_of(folder) for folder in several],
        Path(out if out is not None else several[0]).expanduser(),
        documents=[Path(path).expanduser() for path in documents],
    )


def _read(kind: str, results: str | Path) -> list[Row]:
    found = records.read_rows(kind, raw=raw_of(results))
    for note in found.notes:
        warnings.warn(note, stacklevel=3)
    return found.rows


def _absent(kind: str, results: str | Path) -> Exception:
    raw = raw_of(results)
    there = sorted(path.stem for path in raw.glob("*.jsonl"))
    if kind not in COMMANDS:
        return UnknownNameError("kind of row", kind, {*there, *COMMANDS})
    has = f"It has {', '.join(there)}." if there else "It has none of any kind."
    return RecordsError(f"There are no rows of {kind} in {raw}. {has} Make some: {COMMANDS[kind]}")


def _flat(row: Row) -> Row:
    stamped = {f"stamp.{key}": value for key, value in (row.get("stamp") or {}).items()}
    return {**{key: value for key, value in row.items() if key != "stamp"}, **stamped}
