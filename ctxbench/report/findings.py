"""What was found, in tables short enough to be read beside a text: rows -> DataFrame."""

from collections import Counter
from collections.abc import Iterable

from pandas import DataFrame

from ctxbench.claims import CLOSE, DIFFERS, REFUTED, VERDICTS
from ctxbench.records import Row, latest
from ctxbench.report._frames import frame, made_of
from ctxbench.report._operator_rows import OBVIOUS, at_largest_batch
from ctxbench.report.machines import PLACE, last_of_each, with_place
from ctxbench.report.networks import CLAIM
from ctxbench.report.timings import with_interval

_MISSED = (CLOSE, DIFFERS, REFUTED)
_SAME = ("paper", "metric", "published", "ours", "verdict")
_DIFFERENCES = (
    "paper", "table", "rows", "metric", "published", "ours", "apart (%)", "convention", "verdict",
    "tried besides",
)  # fmt: skip
_OPERATOR_CASE = ("operator", "case", "device", "dtype", "layout", "task")
_OPERATOR_COSTS = (
    "operator", "case", "task", "backend", "time / plain convolution [95 %]",
    "time / obvious formulation [95 %]", "memory / obvious formulation", "of the roof",
)  # fmt: skip
_OPERATOR_PRICES = (
    "operator", "backend", "forward / plain", "training / plain", "obvious / ours, forward",
    "obvious / ours, training",
)  # fmt: skip
# the forms of an operator that are ours and meant to be fast
_BACKENDS = ("torch", "triton")
_OURS = "ctxbench"
_AGREE = 0.05


def differences(rows: Iterable[Row]) -> DataFrame:
    """Put what is not reproduced to the digit beside what was counted; equal cells share a line."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in latest(rows, *CLAIM):
        if row["verdict"] in _MISSED:
            groups.setdefault(tuple(row[key] for key in _SAME), []).append(row)
    lines = [
        {
            **group[0],
            **made_of(group),
            "table": _listed(row["table"].removeprefix("Table ") for row in group),
            "rows": _listed(row["row"] for row in group),
            "apart (%)": None if apart is None else round(100 * apart, 2),
            "tried besides": group[0]["note"],
        }
        for group in groups.values()
        for apart in [group[0]["difference"]]
    ]
    return frame(lines, _DIFFERENCES)


def verdicts_by_paper(rows: Iterable[Row]) -> DataFrame:
    """Count the claims of each verdict, by paper."""
    groups: dict[str, list[Row]] = {}
    for row in latest(rows, *CLAIM):
        groups.setdefault(row["paper"], []).append(row)
    total = Counter(row["verdict"] for group in groups.values() for row in group)
    order = [verdict for verdict in VERDICTS if total[verdict]]
    order += sorted(set(total) - set(VERDICTS))
    lines = []
    for paper, group in groups.items():
        count = Counter(row["verdict"] for row in group)
        told = {verdict: count[verdict] for verdict in order}
        lines.append({"paper": paper, "claims": len(group), **told, **made_of(group)})
    return frame(lines, ["paper", "claims", *order])


def operator_costs(rows: Iterable[Row]) -> DataFrame:
    """Put our backends of each operator beside the plain convolution and the obvious formulation.

    Of each operator and shape, at the largest batch that has an obvious form, in float32 and the
    default layout. Where there are several obvious ones, the first is meant, which all ratios are
    to.
    """
    lines = [line for group in _shown(rows) for line in _backends(group)]
    return frame(lines, with_place(lines, _OPERATOR_COSTS))


def operator_prices(rows: Iterable[Row]) -> DataFrame:
    """Say of each operator what it costs in time: from the least to the most over its shapes.

    By our backends, at the largest batch that has an obvious form, in float32 and the default
    layout: the time over that of the plain convolution, and how many times the obvious form takes.
    """
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for group in _shown(rows):
        for row in group:
            if row["form"] in _BACKENDS:
                key = (row[PLACE], row["operator"], row["form"])
                groups.setdefault(key, {}).setdefault(row["task"], []).append(row)
    lines = []
    for (where, operator, form), by_task in groups.items():
        line: Row = {PLACE: where, "operator": operator, "backend": form}
        for task, found in by_task.items():
            line[f"{task} / plain"] = _span(row["ratio_to_plain"] for row in found)
            gains = (row["ratio_to_obvious"] and 1 / row["ratio_to_obvious"] for row in found)
            line[f"obvious / ours, {task}"] = _span(gains)
        made = [row for found in by_task.values() for row in found]
        lines.append({**line, **made_of(made)})
    return frame(lines, with_place(lines, _OPERATOR_PRICES))


def counters(rows: Iterable[Row]) -> DataFrame:
    """Divide what each counter says of a network by the MACs that we count.

    Networks that all counters agree on, to 5 %, are left out.
    """
    networks: dict[str, dict[str, Row]] = {}
    for row in latest(rows, "model", "counter"):
        networks.setdefault(row["model"], {})[row["counter"]] = row
    lines = []
    for model, found in networks.items():
        ours = (found.get(_OURS) or {}).get("macs")
        told = {name: row["macs"] for name, row in found.items() if name != _OURS}
        shares = {name: macs / ours for name, macs in told.items() if macs and ours}
        if any(abs(share - 1) > _AGREE for share in shares.values()):
            cells = {name: f"{share:.3f}" for name, share in shares.items()}
            lines.append({"model": model, "macs": ours, **cells, **made_of(found.values())})
    others = dict.fromkeys(name for found in networks.values() for name in found if name != _OURS)
    return frame(lines, ["model", "macs", *others])


def _shown(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the forms of each operator, shape and task that are compared before readers."""
    found = [
        row
        for row in last_of_each(rows, *_OPERATOR_CASE, "formulation", "form")
        if (row["dtype"], row["layout"]) == ("fp32", "contiguous")
    ]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in at_largest_batch(found):
        groups.setdefault(tuple(row[key] for key in (PLACE, *_OPERATOR_CASE)), []).append(row)
    return list(groups.values())


def _span(ratios: Iterable[float | None]) -> str | None:
    """Write the least and the most of some ratios, once if they look the same."""
    known = sorted(ratio for ratio in ratios if ratio)
    if not known:
        return None
    ends = [with_interval(ratio, None, None) for ratio in (known[0], known[-1])]
    return " to ".join(dict.fromkeys(ends))


def _backends(group: list[Row]) -> list[Row]:
    """Make a line for each of our backends in a group, but for the one that is there to read."""
    obvious = next(row for row in group if row["form"] == OBVIOUS)
    return [
        {
            **row,
            **made_of([row, obvious]),
            "backend": row["form"],
            "time / plain convolution [95 %]": _told(row, "ratio_to_plain", "plain"),
            "time / obvious formulation [95 %]": _told(row, "ratio_to_obvious", "ratio"),
            "memory / obvious formulation": _ratio(row, obvious, "peak_mib"),
            "of the roof": f"{row['roof_share']:.0%}",
        }
        for row in group
        if row["form"] in _BACKENDS
    ]


def _told(row: Row, ratio: str, prefix: str) -> str | None:
    known = row[ratio] is not None
    return with_interval(row[ratio], row[f"{prefix}_low"], row[f"{prefix}_high"]) if known else None


def _ratio(row: Row, other: Row, key: str) -> str | None:
    known = other[key] and row[key]
    return with_interval(row[key] / other[key], None, None) if known else None


def _listed(words: Iterable[str]) -> str:
    """Join words in the order they come, each once."""
    return ", ".join(dict.fromkeys(word for word in words if word))
