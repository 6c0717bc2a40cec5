"""Where the lines of a table come from, in few bytes: runs said once, lines as ranges."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from ctxbench.records import Row
from ctxbench.report._frames import MADE_OF
from ctxbench.report.sources import Origin, Sources

# what the page says of a run, in this order
FIELDS = ("file", "command", "time", "machine", "device", "versions", "commit", "seed")
# a line that is made by more runs names the first ones, and counts the rows of the others
MOST_RUNS = 60
# what the words of runs may take of the page, in bytes, each with its place in them
_BUDGET, _WORD = 300_000, 30


class Origins:
    """The runs that lines of the page were made by, gathered while tables are written.

    A run is a file, a stamp, the device and the seed; it is told once, as places in `words`.
    """

    def __init__(self, found: Sources) -> None:
        self._found = found
        # a number of an origin -> its row, for what the stamp does not hold
        self._rows: dict[int, tuple[str, Row]] = {
            row[MADE_OF][0]: (kind, row) for kind, rows in found.rows.items() for row in rows
        }
        self._words: dict[str, int] = {}
        self._runs: dict[tuple[int, ...], int] = {}
        self._known: dict[int, int | None] = {}
        self._used = 0

    def told(self, made_of: Iterable[int]) -> str:
        """Return `run:lines;run:lines`, like `0:1-182,190;4:7;+3`.

        Counted are the rows past the 60th run, or past the room that the page has for runs.
        """
        by_run: dict[int, list[int]] = {}
        beyond = 0
        for number in made_of:
            run = self._run(number)
            if run is None or (run not in by_run and len(by_run) == MOST_RUNS):
                beyond += 1
            else:
                by_run.setdefault(run, []).append(self._found.origins[number].line)
        said = [f"{run}:{_ranges(lines)}" for run, lines in by_run.items()]
        return ";".join([*said, *([f"+{beyond}"] if beyond else [])])

    def data(self) -> dict[str, Any]:
        """Return what the page's script reads: fields, words, and the runs as places in words."""
        return {"fields": FIELDS, "words": list(self._words), "runs": list(self._runs)}

    def _run(self, number: int) -> int | None:
        """Return the number of a row's run, None if the page has no room to tell of it."""
        if number not in self._known:
            said = describe(self._found.origins[number], self._rows.get(number, ("", {}))[1])
            words = [said[field] for field in FIELDS]
            new = sum(
                _WORD + len(word.encode(errors="replace"))
                for word in words
                if word not in self._words
            )
            if self._used + new > _BUDGET:
                self._known[number] = None
                return None
            self._used += new
            run = tuple(self._words.setdefault(word, len(self._words)) for word in words)
            self._known[number] = self._runs.setdefault(run, len(self._runs))
        return self._known[number]


def describe(origin: Origin, row: Row) -> dict[str, str]:
    """Say of a row all that the page tells of its run; what is not known is empty."""
    stamp = origin.stamp
    seed = stamp.get("seed") if stamp.get("seed") is not None else row.get("seed")
    return {
        "file": str(origin.path),
        "command": _text(stamp.get("command")),
        "time": _text(stamp.get("time")),
        "machine": machine(stamp),
        "device": _device(row),
        "versions": versions(stamp),
        "commit": _text(stamp.get("commit")),
        "seed": _text(seed),
    }


def machine(stamp: Mapping[str, Any]) -> str:
    """Say a machine in words: `Abacus 3000, 2 cores, Linux`."""
    told = _mapping(stamp.get("machine"))
    cores = told.get("cores")
    said = [told.get("cpu"), f"{cores} cores" if cores else None, told.get("system")]
    return ", ".join(str(part) for part in said if part)


def versions(stamp: Mapping[str, Any]) -> str:
    """Say versions in words: `python 3.11.7, torch 2.14.1`."""
    told = _mapping(stamp.get("versions"))
    return ", ".join(f"{name} {version}" for name, version in told.items())


def _device(row: Row) -> str:
    threads = row.get("threads")
    said = [row.get("device_name") or row.get("device")]
    said += [f"{threads} thread{'s' * (threads != 1)}" if threads else None]
    return ", ".join(str(part) for part in said if part)


def _ranges(lines: Sequence[int]) -> str:
    """Write numbers as `1-4,9`."""
    runs = groupby(enumerate(sorted(set(lines))), key=lambda pair: pair[1] - pair[0])
    parts = []
    for _, run in runs:
        members = [line for _, line in run]
        parts.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else str(members[0]))
    return ",".join(parts)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)
