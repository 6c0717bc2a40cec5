"""The rows that a report is made of, and where each of them comes from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxbench.records import Row, read_rows
from ctxbench.report._frames import MADE_OF


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


def read(folders: Sequence[Path], kinds: Iterable[str]) -> Sources:
    """Read the rows of these kinds from folders like `results/raw`, and note what is not read."""
    kinds = list(kinds)
    sources = Sources({kind: [] for kind in kinds}, [], [])
    for folder in folders:
        for kind in kinds:
            _add(sources, kind, folder)
        sources.notes.extend(_others(folder, kinds))
    return sources


def _add(sources: Sources, kind: str, folder: Path) -> None:
    found = read_rows(kind, raw=folder)
    for row, line in zip(found.rows, found.lines, strict=True):
        sources.rows[kind].append({**row, MADE_OF: (len(sources.origins),)})
        sources.origins.append(Origin(folder / f"{kind}.jsonl", line, row.get("stamp") or {}))
    sources.notes.extend(found.notes)


def _others(folder: Path, kinds: Sequence[str]) -> list[str]:
    """Note the files of a folder that hold no rows of these kinds."""
    known = {f"{kind}.jsonl" for kind in kinds}
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name not in known]
    if not others:
        return []
    return [f"{folder}: {len(others)} of its files are not shown: {', '.join(others)}."]
