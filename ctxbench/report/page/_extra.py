"""Tables that the page has and no file: layers, their times, ceilings, and the runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from pandas import DataFrame

from ctxbench.records import Row, latest
from ctxbench.report._frames import frame, made_of
from ctxbench.report.machines import placed
from ctxbench.report.page._origins import describe
from ctxbench.report.sources import Sources

_LAYERS = (
    "layer", "model", "against", "input_shape", "kind", "params", "macs", "against_kind",
    "against_params", "against_macs", "params_more", "macs_more",
)  # fmt: skip
_TIMES = (
    "layer", "model", "against", "place", "batch", "image_size", "dtype", "layout", "kind",
    "against_kind", "macs", "against_macs", "ms", "against_ms", "ms_more",
)  # fmt: skip
_CEILINGS = ("place", "dtype", "gflops_s", "gb_s", "matmul_side", "copy_mib")
_RUNS = ("command", "rows", "kinds", "first", "last", "machine", "device", "versions", "commit")
_SAME = ("command", "machine", "device", "versions", "commit")


def layers(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each layer of two networks, as it was counted last."""
    found = latest(rows, "model", "against", "input_shape", "layer")
    lines = [
        {
            **row,
            "params_more": _less(row, "params"),
            "macs_more": _less(row, "macs"),
        }
        for row in found
    ]
    return frame(lines, _LAYERS)


def layer_times(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each layer of two networks, as it was timed last."""
    keys = ("model", "against", "place", "batch", "image_size", "dtype", "layout", "layer")
    found = latest(placed(rows), *keys)
    return frame([{**row, "ms_more": _less(row, "ms")} for row in found], _TIMES)


def ceilings(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each device and data type: what it can do at most, as measured last."""
    found = latest(placed(rows), "place", "dtype")
    return frame(found, _CEILINGS)


def runs(found: Sources) -> DataFrame:
    """Make a row for each command on one machine at one commit, with all the rows it made."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for kind, rows in found.rows.items():
        for row in rows:
            origin = found.origins[row["made_of"][0]]
            said: dict[str, Any] = {**describe(origin, row), "kind": kind, **made_of([row])}
            groups.setdefault(tuple(said[key] for key in _SAME), []).append(said)
    lines = [_run(group) for group in groups.values()]
    return frame(sorted(lines, key=lambda line: str(line["last"]), reverse=True), _RUNS)


def _run(group: list[dict[str, Any]]) -> Row:
    times = sorted(said["time"] for said in group)
    kinds = dict.fromkeys(str(said["kind"]) for said in group)
    made = {"rows": len(group), "kinds": ", ".join(kinds), **made_of(group)}
    return {**group[0], **made, "first": _minute(times[0]), "last": _minute(times[-1])}


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _less(row: Mapping[str, Any], key: str) -> Any:
    """Return by how much ours is more than the other's; a layer that one lacks has none of it.

    Beside no other network it is None.
    """
    if not row.get("against"):
        return None
    return (row.get(key) or 0) - (row.get(f"against_{key}") or 0)
