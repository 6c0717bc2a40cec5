"""Which rows a side of a comparison means: a commit, a git ref, or a folder of results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctxbench.errors import RecordsError
from ctxbench.records import Row, commit_of
from ctxbench.report import sources
from ctxbench.report.schema import NEEDED

_DIRTY = "-dirty"
_LEAST = 4  # digits, of which git too makes a commit
_SHOWN = 20

Rows = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: what it is called, and its rows by kind."""

    name: str
    rows: Rows


def side(asked: str, found: Rows) -> Side:
    """Return the rows that are meant by a folder, a commit as rows are stamped with, or a git ref.

    Raises RecordsError that lists the commits with rows if there are none of this one.
    """
    folder = Path(asked)
    if folder.is_dir():
        raw = sources.folder_of_rows(folder, NEEDED)
        return Side(asked, sources.read([raw], NEEDED).rows)
    known = commits(found)
    stamped = _match(asked, known)
    resolved = commit_of(asked) if stamped is None else None
    stamped = stamped or (resolved if resolved in known else None)
    if stamped is None:
        if not any(found.values()):
            raise RecordsError(
                f"--compare {asked}: no such folder, and no rows to look for a commit in. Name the "
                f"results with --out or --rows."
            )
        raise RecordsError(_unknown(asked, resolved, known))
    of = {kind: [r for r in rows if _commit(r) == stamped] for kind, rows in found.items()}
    return Side(stamped, of)


def commits(found: Rows) -> dict[str, int]:
    """Count the rows of each commit, the newest rows last."""
    last: dict[str, str] = {}
    count: dict[str, int] = {}
    for rows in found.values():
        for row in rows:
            commit = _commit(row)
            if commit:
                time = str((row.get("stamp") or {}).get("time") or "")
                last[commit] = max(time, last.get(commit, ""))
                count[commit] = count.get(commit, 0) + 1
    return {commit: count[commit] for commit in sorted(last, key=lambda each: (last[each], each))}


def _commit(row: Row) -> str:
    return str((row.get("stamp") or {}).get("commit") or "")


def _match(asked: str, known: Mapping[str, int]) -> str | None:
    """Return the one commit that starts so; a clean one goes before its changed files."""
    if asked in known:
        return asked
    start, dirty = asked.removesuffix(_DIRTY), asked.endswith(_DIRTY)
    fits = [each for each in known if each.startswith(start)] if len(start) >= _LEAST else []
    clean = [each for each in fits if not each.endswith(_DIRTY)]
    fits = [each for each in fits if each.endswith(_DIRTY)] if dirty else clean or fits
    if len(fits) > 1:
        raise RecordsError(
            f"Commit {asked!r} can be {' or '.join(fits)}. Write more of its digits."
        )
    return fits[0] if fits else None


def _unknown(asked: str, resolved: str | None, known: Mapping[str, int]) -> str:
    if not known:
        return f"No rows of {asked!r}: no row tells its commit. Name a folder of results instead."
    meant = f" (commit {resolved})" if resolved else ", and no such folder"
    told = [f"{commit} ({count})" for commit, count in known.items()]
    older = f"{len(told) - _SHOWN} older, " if len(told) > _SHOWN else ""
    return (
        f"No rows of {asked!r}{meant}. Commits with rows, the newest last: "
        f"{older}{', '.join(told[-_SHOWN:])}."
    )
