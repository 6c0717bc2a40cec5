"""Rows of results: appended to `raw/<kind>.jsonl` as they are made, stamped, never edited."""

import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ctxbench.errors import RecordsError

RAW = Path("results/raw")
_NAMED = 8  # lines of a file that a note names
_VERSIONED = ("ctxbench", "torch", "torchvision", "fvcore")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one kind, the line that each stands in, and what could not be read."""

    rows: list[Row]
    lines: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def append_rows(
    kind: str, rows: Iterable[Mapping[str, Any]], *, raw: Path = RAW, seed: int | None = None
) -> Path:
    """Append one JSON line a row to `raw/<kind>.jsonl`, stamped, and return the file's path.

    All lines are written at once under a lock, so that processes which append together lose
    nothing, and behind a line that a crash tore off they begin a new one.
    """
    stamped = stamp(seed)
    lines = "".join(f"{json.dumps({**row, 'stamp': stamped})}\n" for row in rows).encode()
    path = raw / f"{kind}.jsonl"
    if not lines:
        return path
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write((b"\n" if _torn(path) else b"") + lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RecordsError(f"Cannot append to {path}: {error.strerror}. Choose --out.") from None
    return path


def prepare(raw: Path) -> None:
    """Make the folder of the rows; RecordsError if none can be written there.

    For what takes long: to learn of it before, not after.
    """
    try:
        raw.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordsError(f"Cannot write to {raw}: {error.strerror}. Choose --out.") from None
    if not os.access(raw, os.W_OK):
        raise RecordsError(f"Cannot write to {raw}: it is read-only. Choose --out.")


def read_rows(kind: str, *, raw: Path = RAW) -> Rows:
    """Read the rows of a kind, oldest first; lines that are no row are skipped and noted."""
    path = raw / f"{kind}.jsonl"
    if not path.is_file():
        return Rows([])
    rows: list[Row] = []
    lines, torn = [], []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordsError(f"Cannot read {path}: {error.strerror}.") from None
    for number, line in enumerate(content.splitlines(), start=1):
        row = _parsed(line)
        if isinstance(row, dict):
            rows.append(row)
            lines.append(number)
        elif line.strip():
            torn.append(number)
    return Rows(rows, lines, [_not_read(path, torn)] if torn else [])


def listed(lines: Sequence[int]) -> str:
    """Name lines of a file, the first of them where there are many."""
    more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
    return f"{', '.join(map(str, lines[:_NAMED]))}{more}"


def latest(rows: Iterable[Row], *key: str) -> list[Row]:
    """Keep the last row for each value of the key columns, in the order they first came."""
    kept: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        kept[tuple(_distinct(row.get(name)) for name in key)] = row
    return list(kept.values())


def _distinct(value: Any) -> Any:
    """Return what tells a value apart, 1 from True and from "1" too."""
    return value if isinstance(value, str) else (json.dumps(value),)


def counting(rows: Iterable[Row]) -> dict[str, Row]:
    """Return by trial the row that counts: that of the last success, else the last.

    A success stays when its trial is run again, for weights that are not here, and fails.
    """
    kept: dict[str, Row] = {}
    for row in rows:
        known = kept.get(str(row["trial"]))
        if known is None or row.get("status") == "ok" or known.get("status") != "ok":
            kept[str(row["trial"])] = row
    return kept


def as_row(record: Any) -> Row:
    """Turn a frozen dataclass of plain values into a row."""
    return asdict(record)


def stamp(seed: int | None = None) -> Row:
    """Say what made a row: time, command, seed, versions, machine and commit."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        **_surroundings(),
    }


@cache
def _surroundings() -> Row:
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"system": platform.system(), "cpu": _cpu(), "cores": os.cpu_count()},
    }


def _parsed(line: bytes) -> Any:
    """Parse a line; None if it is torn, and a lone half of a character becomes a `?`."""
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():  # a name of a file that is no text is escaped so
            plain = json.dumps(row, ensure_ascii=False).encode(errors="replace")
            row = json.loads(plain)
    except (ValueError, RecursionError):
        return None
    return row


def _not_read(path: Path, torn: Sequence[int]) -> str:
    if len(torn) == 1:
        return f"{path}: skipped line {torn[0]}, which is no complete row."
    return f"{path}: skipped {len(torn)} lines, which are no complete rows ({listed(torn)})."


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    """Return the commit that last changed the package, marked if its files differ from it."""
    commit = _git("log", "-1", "--format=%h", "--abbrev=12", "--", ".")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain", "--", ".") else commit


def commit_of(ref: str) -> str | None:
    """Return the commit that rows made at a git ref are stamped with; None if git knows none."""
    if ref.startswith("-"):
        return None
    return _git("log", "-1", "--format=%h", "--abbrev=12", ref, "--", ".")


def _git(*words: str) -> str | None:
    home = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "-C", home, *words], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None
