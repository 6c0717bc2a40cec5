"""What was found, in tables short enough to be read beside a text: rows -> DataFrame."""

from collections import Counter
from collections.abc import Iterable

from pandas import DataFrame

from ctxbench.claims import CLOSE, DIFFERS, REFUTED, VERDICTS
from ctxbench.records import Row, latest
from ctxbench.report._frames import frame, made_of
from ctxbench.report.machines import PLACE, last_of_each, with_place
from ctxbench.report.networks import CLAIM
from ctxbench.report.timings import with_interval

_MISSED = (CLOSE, DIFFERS, REFUTED)
_SAME = ("paper", "metric", "published", "ours", "verdict")
_DIFFERENCES = (
    "paper", "table", "rows", "metric", "published", "ours", "apart (%)", "convention", "verdict",
    "tried besides",
)  # fmt: skip
_OPERATOR_CASE = ("operator", "case", "task")
_OPERATOR_COSTS = (
    "operator", "case", "task", "computed as", "time / plain convolution",
    "time / obvious formulation [95 %]", "memory / obvious formulation",
)  # fmt: skip
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
    """Put our form of each operator beside the plain convolution and the obvious formulation.

    Where there are several obvious ones, the first is meant, which all ratios are to.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in last_of_each(rows, *_OPERATOR_CASE, "formulation", "form"):
        groups.setdefault(tuple(row[key] for key in (PLACE, *_OPERATOR_CASE)), []).append(row)
    lines = [line for group in groups.values() if (line := _operator(group))]
    return frame(lines, with_place(lines, _OPERATOR_COSTS))


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


def _operator(group: list[Row]) -> Row | None:
    """Make the line of one operator, shape and task; None without our form of it."""
    forms: dict[str, Row] = {}
    for row in group:
        forms.setdefault(row["form"], row)
    ours, plain, obvious = (forms.get(form) for form in ("ours", "plain", "obvious"))
    if not ours:
        return None
    ends = (ours["ratio_low"], ours["ratio_high"])
    return {
        **ours,
        **made_of(forms.values()),
        "computed as": ours["formulation"],
        "time / plain convolution": _ratio(ours, plain, "median_ms"),
        "time / obvious formulation [95 %]": with_interval(ours["ratio_to_obvious"], *ends),
        "memory / obvious formulation": _ratio(ours, obvious, "peak_mib"),
    }


def _ratio(row: Row, other: Row | None, key: str) -> str | None:
    known = other and other[key] and row[key]
    return with_interval(row[key] / other[key], None, None) if other and known else None


def _listed(words: Iterable[str]) -> str:
    """Join words in the order they come, each once."""
    return ", ".join(dict.fromkeys(word for word in words if word))
