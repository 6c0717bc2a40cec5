"""The rows that a report is made of, and where each of them comes from."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctxbench.errors import RecordsError
from ctxbench.records import Row, Rows, listed, read_rows
from ctxbench.report._frames import MADE_OF
from ctxbench.report.schema import fault

_RAW = "raw"
# what a stamp holds, and what that is
_STAMP: dict[str, type] = {
    "time": str, "command": str, "commit": str, "versions": dict, "machine": dict,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """The file and line of a row, and its stamp: command, time, machine, versions, commit."""

    path: Path
    line: int
    stamp: Row


@dataclass(frozen=True, slots=True)
class Sources:
    """The rows of each kind; `made_of` in a row is the place of its origin in `origins`."""

    rows: dict[str, list[Row]]
    origins: list[Origin]
    notes: list[str]


def folder_of_rows(folder: Path, kinds: Iterable[str]) -> Path:
    """Return the folder of the rows: that of results with a `raw` in it, or that `raw` itself.

    Raises RecordsError if it is missing, or has no file of these kinds.
    """
    if not folder.is_dir():
        raise RecordsError(f"--rows {folder}: no such folder. Name one of results, or its raw/.")
    kinds = list(kinds)
    for raw in (folder / _RAW, folder):
        if any((raw / f"{kind}.jsonl").is_file() for kind in kinds):
            return raw
    raise RecordsError(
        f"--rows {folder}: no rows in it or in its raw/. Copy the raw/ of a results folder there."
    )


def read(folders: Sequence[Path], kinds: Iterable[str]) -> Sources:
    """Read the rows of these kinds from folders like `results/raw`, and note what is not read.

    Of several folders rows are put in the order in which they were made, and what is the same in
    two of them counts once; so does a folder.
    """
    kinds = list(kinds)
    folders = list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]
    found = Sources({kind: [] for kind in kinds}, [], [])
    for kind in kinds:
        _add(found, kind, folders)
    for folder in folders:
        found.notes.extend(_others(folder, kinds))
    return found


def _add(found: Sources, kind: str, folders: Sequence[Path]) -> None:
    kept: list[tuple[float, tuple[Row, Origin]]] = []
    seen: set[str] = set()
    for folder in folders:
        rows = read_rows(kind, raw=folder)
        found.notes.extend(rows.notes)
        fit = _fit(found.notes, kind, folder, rows, seen if len(folders) > 1 else None)
        kept += zip(_moments(origin for _, origin in fit), fit, strict=True)
    if len(folders) > 1:
        # sorted keeps the order of what is of the same second
        kept.sort(key=lambda each: each[0])
    for _, (row, origin) in kept:
        found.rows[kind].append({**row, MADE_OF: (len(found.origins),)})
        found.origins.append(origin)


def _fit(
    notes: list[str], kind: str, folder: Path, rows: Rows, seen: set[str] | None
) -> list[tuple[Row, Origin]]:
    """Keep the rows that can be shown, and note the others by what is wrong with them."""
    path = folder / f"{kind}.jsonl"
    kept = []
    wrong: dict[str, list[int]] = {}
    for row, line in zip(rows.rows, rows.lines, strict=True):
        if seen is not None:
            text = json.dumps(row, sort_keys=True)
            if text in seen:
                continue
            seen.add(text)
        row["stamp"] = _stamp(row.get("stamp"))
        why = fault(kind, row)
        if why:
            wrong.setdefault(why, []).append(line)
        else:
            kept.append((row, Origin(path, line, row["stamp"])))
    notes += [_skipped(path, why, lines) for why, lines in wrong.items()]
    return kept


def _moments(origins: Iterable[Origin]) -> list[float]:
    """Return when the rows of a file were made, in seconds since 1970.

    Rows are appended, so one of an unknown time was made with the one before it.
    """
    moments: list[float] = []
    for origin in origins:
        before = moments[-1] if moments else -math.inf
        moments.append(_seconds(origin.stamp.get("time"), unknown=before))
    return moments


def _seconds(time: str | None, *, unknown: float) -> float:
    try:
        found = datetime.fromisoformat(time or "")
    except ValueError:
        return unknown
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _stamp(stamp: Any) -> Row:
    """Return a stamp without what another version may have written in another form."""
    told = stamp if isinstance(stamp, dict) else {}
    return {
        key: value
        for key, value in told.items()
        if value is None or isinstance(value, _STAMP.get(key, object))
    }


def _skipped(path: Path, why: str, lines: Sequence[int]) -> str:
    if len(lines) == 1:
        one = why.replace("that lack ", "that lacks ")
        return f"{path}: skipped a row {one} (line {lines[0]})."
    return f"{path}: skipped {len(lines)} rows {why} (lines {listed(lines)})."


def _others(folder: Path, kinds: Sequence[str]) -> list[str]:
    """Note the files of a folder that hold no rows of these kinds."""
    known = {f"{kind}.jsonl" for kind in kinds}
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name not in known]
    if not others:
        return []
    count = f"{len(others)} files" if len(others) > 1 else "one file"
    return [f"{folder}: {count} in it not shown: {', '.join(others)}."]
