"""Published figures against our counts: a verdict on each.

A printed figure is judged by its digits: ours must round to them, or be cut off at them, which
is then said. Nothing is reproduced by being near, except that "about a third" is what no other of
1/2, 1/3, 1/4, ... is nearer to.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from ctxbench.claims import (
    CLOSE,
    COUNTED,
    DIFFERS,
    EXTRA_PARAMS,
    GFLOPS_SHARE,
    NEEDS_TRAINING,
    NOT_BUILDABLE,
    PARAMS,
    PARAMS_SHARE,
    PARITY,
    PROVED_EQUAL,
    REFUTED,
    REPRODUCED,
    VERDICTS,
    Claim,
)
from ctxbench.errors import UnknownNameError
from ctxbench.measure.conventions import CONVENTIONS
from ctxbench.measure.costs import Setting, count_spec
from ctxbench.measure.flops import Count
from ctxbench.measure.parity import compare
from ctxbench.records import append_rows, as_row

_CLOSE = 0.02

# (spec, image side in pixels, None for the network's own) -> count
CountSpec = Callable[[str, int | None], Count]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim and what came of it; `difference` is relative, (ours - published) / published."""

    paper: str
    table: str
    row: str
    metric: str
    published: str
    ours: str | None
    difference: float | None
    convention: str | None
    verdict: str
    note: str
    model: str
    condition: str
    source: str
    against: str | None = None


def judge_all(claims: Iterable[Claim], *, raw: Path | None = None) -> list[Row]:
    """Judge claims by counting their networks; the rows are saved in `raw`, once all are judged."""
    rows = [as_row(judge(claim, _count)) for claim in claims]
    if raw is not None:
        append_rows("claims", rows, raw=raw)
    return rows


def _count(spec: str, image_px: int | None) -> Count:
    return count_spec(spec, Setting(image_size=(image_px, image_px) if image_px else None))[0]


def judge(claim: Claim, count: CountSpec) -> ClaimRow:
    """Judge one claim; `count` is asked for the networks that it is about.

    Where the definition misses the printed figure, the note says what the other reading gives.
    """
    judged = _judge(claim, count)
    if claim.reading is None or judged.verdict not in (CLOSE, DIFFERS):
        return judged
    other = _judge(replace(claim, model=claim.reading), count)
    aside = f"{claim.reading}: {other.ours} as {other.convention}, {other.verdict}"
    return replace(judged, note=f"{aside}; {judged.note}" if judged.note else aside)


def _judge(claim: Claim, count: CountSpec) -> ClaimRow:
    if claim.metric not in COUNTED:
        return _row(claim, NEEDS_TRAINING, note=claim.recipe or "")
    try:
        counted = count(claim.model, claim.image_px)
        if claim.metric == PARITY:
            return _judge_parity(claim, counted, count(claim.published, claim.image_px))
        if claim.metric in _COMPARED:
            against = count(claim.against or "", claim.image_px)
            return _COMPARED[claim.metric](claim, counted, against)
    except UnknownNameError as error:
        if error.kind != "network":
            raise  # a mistake in the published data, not a network to come
        return _row(claim, NOT_BUILDABLE, note=str(error))
    if claim.metric == PARAMS:
        return _judge_figure(claim, {"parameters": counted.params / 1e6}, "parameters")
    readings = {name: counted.total(name) / 1e9 for name in CONVENTIONS}
    return _judge_figure(claim, readings, claim.convention)


def check_verdict(verdict: str | None) -> None:
    """Raise UnknownNameError, naming the verdicts there are, for any other."""
    if verdict is not None and verdict not in VERDICTS:
        raise UnknownNameError("verdict", verdict, VERDICTS)


def tally(rows: Iterable[Row]) -> str:
    """Say how many claims there are of each verdict."""
    found = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])


def digits_match(value: float, printed: str) -> str | None:
    """Tell whether a value is printed so when `rounded`, or else when `truncated`."""
    target = Decimal(printed)
    step = Decimal(1).scaleb(int(target.as_tuple().exponent))
    exact = Decimal(repr(value))
    if exact.quantize(step, ROUND_HALF_UP) == target:
        return "rounded"
    return "truncated" if exact.quantize(step, ROUND_DOWN) == target else None


def _judge_figure(claim: Claim, readings: dict[str, float], preferred: str) -> ClaimRow:
    """Name the reading that gives the printed digits, the preferred one if it does."""
    fits = {
        name: how
        for name, value in readings.items()
        if (how := digits_match(value, claim.published))
    }
    ranked = sorted(fits, key=lambda name: (fits[name] != "rounded", name != preferred))
    chosen = ranked[0] if ranked else preferred
    difference = readings[chosen] / float(claim.published) - 1
    if ranked:
        verdict = REPRODUCED
        notes = [f"{name} fits too, {fits[name]}" for name in ranked[1:]]
        notes = ["truncated, not rounded"] * (fits[chosen] == "truncated") + notes
    else:
        verdict = CLOSE if abs(difference) <= _CLOSE else DIFFERS
        notes = [f"{name}: {readings[name]:.4f}" for name in readings if name != chosen]
    return _row(
        claim,
        verdict,
        ours=f"{readings[chosen]:.6f}",
        difference=difference,
        convention=chosen,
        note="; ".join(notes),
    )


def _judge_extra(claim: Claim, counted: Count, against: Count) -> ClaimRow:
    """Judge a difference of parameters, which is printed to the last digit."""
    extra, published = counted.params - against.params, int(claim.published)
    near = CLOSE if abs(extra / published - 1) <= _CLOSE else DIFFERS
    return _row(
        claim,
        REPRODUCED if extra == published else near,
        ours=str(extra),
        difference=extra / published - 1,
        convention="parameters",
    )


def _judge_share(claim: Claim, counted: Count, against: Count) -> ClaimRow:
    """Judge a share like "1/3": the nearest of 1/2, 1/3, 1/4, ... must be that."""
    name = "parameters" if claim.metric == PARAMS_SHARE else claim.convention
    share = _total(counted, name) / _total(against, name)
    nearest = max(1, round(1 / share))
    return _row(
        claim,
        REPRODUCED if claim.published == f"1/{nearest}" else DIFFERS,
        ours=f"{share:.6f}",
        difference=share * int(claim.published.removeprefix("1/")) - 1,
        convention=name,
        note=f"of 1/2, 1/3, 1/4, ... the nearest is 1/{nearest}",
    )


def _total(counted: Count, name: str) -> int:
    return counted.params if name == "parameters" else counted.total(name)


_COMPARED = {
    EXTRA_PARAMS: _judge_extra,
    PARAMS_SHARE: _judge_share,
    GFLOPS_SHARE: _judge_share,
}


def _judge_parity(claim: Claim, counted: Count, against: Count) -> ClaimRow:
    parity = compare(counted, against)
    same = parity.layers - len(parity.unequal)
    note = f"{same} of {parity.layers} layers equal"
    note += f"; first other: {parity.unequal[0]}" if parity.unequal else ""
    note += f"; other work differs: {', '.join(parity.other_work)}" if parity.other_work else ""
    return _row(
        claim,
        PROVED_EQUAL if parity.equal else REFUTED,
        ours=f"{parity.params_difference:+d} parameters, {parity.macs_difference:+d} MACs",
        difference=max(counted.macs / against.macs, counted.params / against.params) - 1,
        convention="macs",
        note=note,
    )


def _row(
    claim: Claim,
    verdict: str,
    *,
    ours: str | None = None,
    difference: float | None = None,
    convention: str | None = None,
    note: str = "",
) -> ClaimRow:
    return ClaimRow(
        claim.paper,
        claim.table,
        claim.row,
        claim.metric,
        claim.published,
        ours,
        difference,
        convention,
        verdict,
        note,
        claim.model,
        claim.condition,
        claim.source,
        claim.against,
    )
