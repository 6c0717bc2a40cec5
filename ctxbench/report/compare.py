"""What changed between two commits: counts, verdicts, times and errors, with statistics."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pandas import DataFrame

from ctxbench.errors import RecordsError
from ctxbench.records import Row, latest
from ctxbench.report import _error_changes, _time_changes, sources
from ctxbench.report._error_changes import EQUAL
from ctxbench.report._frames import frame
from ctxbench.report.commits import Side, side
from ctxbench.report.machines import PLACE, machine, place
from ctxbench.report.networks import CLAIM
from ctxbench.report.schema import NEEDED
from ctxbench.report.timings import CONDITION, asked_backend, words

CHANGED = "changed"
ONLY_OLD, ONLY_NEW = "only in old", "only in new"
_CLAIMS = "claims"
_SAME = (EQUAL, _time_changes.SAME, _error_changes.SAME)
_UNDECIDED = (_time_changes.UNSURE, _error_changes.FEW)
# kinds of times that one process measured
_ONE_PROCESS = ("operators", "counting")
_COLUMNS = (
    "kind", "name", "measure", "place", "old", "new", "change", "change_low", "change_high", "p",
    "verdict",
)  # fmt: skip

Key = tuple[str, ...]


class _Timed(NamedTuple):
    """A kind of times: what tells two of its rows apart, and where its numbers stand."""

    name: Callable[[Row], str]
    key: tuple[str, ...]
    median: str
    samples: str
    ratio: str
    against: Callable[[Row], str]


_TIMES = {
    "latency": _Timed(
        lambda row: f"{row['model']}: {', '.join(words(row))}",
        ("model", "against", *CONDITION, "op_backend"), "median_ms", "samples_ms", "ratio",
        lambda row: str(row["against"]),
    ),
    "operators": _Timed(
        lambda row: f"{row['operator']}, {row['case']}, {row['formulation']}: {row['task']}",
        (PLACE, "operator", "case", "device", "dtype", "layout", "formulation", "form", "task"),
        "median_ms", "seconds",
        "ratio_to_obvious", lambda row: "the obvious formulation",
    ),
    "counting": _Timed(
        lambda row: f"{row['model']} by {row['counter']}",
        (PLACE, "model", "counter"), "median_s", "seconds", "ratio_to_fvcore",
        lambda row: "fvcore",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every comparison of two sides, and what is in one of them only."""

    old: Side
    new: Side
    lines: tuple[Row, ...]

    def table(self, *, everything: bool = False) -> DataFrame:
        """Return what changed, and in a line a kind what one side lacks; or all there is."""
        if everything:
            return _told(self.lines)
        told = [line for line in self.lines if line["verdict"] not in (*_SAME, ONLY_OLD, ONLY_NEW)]
        return _told([*told, *self._lacking()])

    def summary(self) -> str:
        """Count what was compared, and how it came out."""
        found = Counter(line["verdict"] for line in self.lines)
        only = f"{found[ONLY_OLD]} only in {self.old.name}, {found[ONLY_NEW]} in {self.new.name}"
        compared = len(self.lines) - found[ONLY_OLD] - found[ONLY_NEW]
        same, undecided = (
            sum(found[verdict] for verdict in verdicts) for verdicts in (_SAME, _UNDECIDED)
        )
        return (
            f"Compared {compared}: {compared - same - undecided} changed, {same} unchanged or "
            f"without a difference to be seen, {undecided} with too little to tell; {only}."
            f"{self._caution()}"
        )

    def _caution(self) -> str:
        """Say how far the verdicts on times are to be trusted."""
        judged = [line["kind"] for line in self.lines if line.get("change_low") is not None]
        times = [kind for kind in judged if kind in _TIMES]
        if not times:
            return ""
        said = (
            " Times of two commits were not measured in turns, and their intervals, each of 95 %, "
            f"are not corrected for being {len(times)}."
        )
        if any(kind in _ONE_PROCESS for kind in times):
            said += (
                " Those of operators and counters are of one process a side, and hold nothing of "
                "what differs from process to process."
            )
        return said

    def _lacking(self) -> list[Row]:
        groups: dict[tuple[str, str], list[str]] = {}
        for line in self.lines:
            if line["verdict"] in (ONLY_OLD, ONLY_NEW):
                groups.setdefault((line["kind"], line["verdict"]), []).append(line["name"])
        return [
            {"kind": kind, "name": _few(names), "verdict": verdict}
            for (kind, verdict), names in groups.items()
        ]


def _told(lines: Sequence[Row]) -> DataFrame:
    """Make the table of the columns that any line fills."""
    filled = {key for line in lines for key, value in line.items() if value is not None}
    return frame(lines, [column for column in _COLUMNS if column in filled])


def compare(raw: Sequence[Path], old: str, new: str) -> Comparison:
    """Compare the rows of two commits, git refs or folders of results; `raw` are read for commits.

    Compared is what has the same name under the same condition on the same machine and device.
    Counts and claims are compared exactly. A time is compared by its ratio to its baseline where
    both sides have one, else by its medians; an error by its seeds. Each interval is one of 95 %;
    p of errors are corrected over all of them by Holm.
    Raises RecordsError if a side has no rows, or both are the same.
    """
    found = sources.read(raw, NEEDED).rows
    before, after = side(old, found), side(new, found)
    if before.name == after.name:
        raise RecordsError(f"--compare: {old!r} and {new!r} are both {before.name}. Name two.")
    lines = [
        *_counts("costs", before, after, ("model", "input_shape"), _costs),
        *_counts("layers", before, after, ("model", "against", "input_shape", "layer"), _layer),
        *_counts(_CLAIMS, before, after, CLAIM, _verdict),
        *(line for kind in _TIMES for line in _times(kind, before, after)),
        *_error_changes.compare(before.rows, after.rows, found),
    ]
    return Comparison(before, after, tuple(lines))


def _counts(
    kind: str, old: Side, new: Side, key: Sequence[str], values: Callable[[Row], Row]
) -> Iterable[Row]:
    """Compare what has no spread: each value of a row is equal or changed."""
    for was, now in _both(*(_keyed(each.rows[kind], key) for each in (old, new))):
        row = now or was or {}
        line = {"kind": kind, "name": ", ".join(_spoken(row[name]) for name in key if row[name])}
        if was is None or now is None:
            yield {**line, "verdict": ONLY_NEW if was is None else ONLY_OLD}
            continue
        before, after = values(was), values(now)
        for name in dict.fromkeys((*before, *after)):
            ends = before.get(name), after.get(name)
            verdict = EQUAL if ends[0] == ends[1] else CHANGED
            if kind != _CLAIMS and None in ends and verdict == CHANGED:
                verdict = ONLY_NEW if ends[0] is None else ONLY_OLD  # no count of that sort
            yield {
                **line, "measure": name, "old": ends[0], "new": ends[1], "change": _more(*ends),
                "verdict": verdict,
            }  # fmt: skip


def _costs(row: Row) -> Row:
    counts = {"params": row["params"], "MACs": row["macs"], "MACs by torch": row["torch_macs"]}
    ways = {f"as {way}": count for way, count in (row["conventions"] or {}).items()}
    return {**counts, **ways, "not counted": ", ".join(row["uncounted"] or ()) or None}


def _layer(row: Row) -> Row:
    return {"params": row["params"], "MACs": row["macs"]}


def _verdict(row: Row) -> Row:
    return {"verdict": row["verdict"], "ours": row["ours"]}


def _times(kind: str, old: Side, new: Side) -> Iterable[Row]:
    timed = _TIMES[kind]
    sides = [_keyed(_on_machines(kind, each.rows[kind]), timed.key) for each in (old, new)]
    for was, now in _both(*sides):
        row = now or was or {}
        line = {"kind": kind, "name": timed.name(row), "place": row[PLACE]}
        if was is None or now is None:
            yield {**line, "verdict": ONLY_NEW if was is None else ONLY_OLD}
            continue
        against = timed.against(row)
        ratio = _time_changes.ratio_of_ratios(was, now, key=timed.ratio, against=against)
        ratio = ratio or _time_changes.ratio_of_medians(
            was, now, key=timed.median, samples=timed.samples
        )
        if ratio is None:
            status = [str(row.get("status")) for row in (was, now)]
            same = EQUAL if status[0] == status[1] else CHANGED
            yield {**line, "measure": "status", "old": status[0], "new": status[1], "verdict": same}
            continue
        yield {
            **line, "measure": ratio.of, "old": ratio.old, "new": ratio.new, "change": ratio.value,
            "change_low": ratio.low, "change_high": ratio.high, "verdict": ratio.verdict,
        }  # fmt: skip


def _on_machines(kind: str, rows: Iterable[Row]) -> list[Row]:
    # always with the whole machine in the name, whether or not others are on that side: or rows of
    # one machine would have two names on two sides
    if kind != "latency":
        return [{**row, PLACE: machine(row)} for row in rows]
    return [
        {**row, PLACE: f"{place(row)} ({machine(row)})", "op_backend": asked_backend(row)}
        for row in rows
    ]


def _keyed(rows: Iterable[Row], key: Sequence[str]) -> dict[Key, Row]:
    return {tuple(json.dumps(row[name]) for name in key): row for row in latest(rows, *key)}


def _both(
    old: Mapping[Key, Row], new: Mapping[Key, Row]
) -> Iterable[tuple[Row | None, Row | None]]:
    for key in dict.fromkeys((*old, *new)):
        yield old.get(key), new.get(key)


def _more(old: Any, new: Any) -> Any:
    """Return the difference of two counts."""
    counts = all(isinstance(each, int | float) for each in (old, new))
    return new - old if counts and new != old else None


def _spoken(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _few(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} rows, such as {names[0]}"
