"""Errors of trained variants at two commits: paired by seed, else by Welch's test."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, variance

from ctxbench.records import Row
from ctxbench.report._ablation_statistics import LEVEL, Estimate, estimate, holm
from ctxbench.report.machines import host
from ctxbench.report.studies import studies

EQUAL = "unchanged"
BETTER, WORSE, SAME, FEW = "better", "worse", "no difference to be seen", "too few seeds"
_LEAST = 3
# all but the seed that decides the result of a trial
_SPEC = ("model", "data", "recipe", "augmentation", "device")

Seeds = Mapping[int, float]


def compare(
    old: Mapping[str, Sequence[Row]],
    new: Mapping[str, Sequence[Row]],
    known: Mapping[str, Sequence[Row]],
) -> list[Row]:
    """Compare the errors of each variant on each machine, in points; p are Holm's over all.

    `known` are the rows of all commits: an experiment is often older than its trials.
    """
    names = _names([*known["experiments"], *old["experiments"], *new["experiments"]])
    sides = [_variants(each["trials"]) for each in (old, new)]
    lines: list[Row] = []
    found: list[tuple[int, Estimate, bool]] = []
    for key in dict.fromkeys((*sides[0], *sides[1])):
        was, now = (each.get(key, {}) for each in sides)
        rows = [*was.values(), *now.values()]
        line: Row = {"kind": "trials", "name": _name(rows, names), "place": _place(rows[0])}
        if not was or not now:
            lines.append({**line, "verdict": "only in old" if was else "only in new"})
            continue
        before, after = (_errors(each.values()) for each in (was, now))
        difference, how = _difference(before, after)
        # as to seeds that one side lacks, the others tell
        equal = before == after or (difference.mean == 0 and difference.p is None)
        found.append((len(lines), difference, equal))
        lines.append({
            **line, "measure": f"top-1 error (points), {how}", "old": _mean(before),
            "new": _mean(after), "change": difference.mean, "change_low": difference.low,
            "change_high": difference.high,
        })  # fmt: skip
    corrected = holm([difference.p for _, difference, _ in found])
    for (place, difference, equal), p in zip(found, corrected, strict=True):
        lines[place] |= {"p": p, "verdict": EQUAL if equal else _verdict(difference, p)}
    return lines


def _variants(trials: Iterable[Row]) -> dict[str, dict[int, Row]]:
    """Return the trials of each variant on each machine by seed: its last success, or its last."""
    found: dict[str, dict[int, Row]] = {}
    for row in trials:
        key = json.dumps([[row.get(name) for name in _SPEC], host(row)], sort_keys=True)
        seeds = found.setdefault(key, {})
        seed = row.get("seed")
        if isinstance(seed, int) and (row["status"] == "ok" or seed not in seeds):
            seeds[seed] = row
    return {key: seeds for key, seeds in found.items() if seeds}


def _errors(trials: Iterable[Row]) -> dict[int, float]:
    return {
        row["seed"]: float(error)
        for row in trials
        if row["status"] == "ok" and (error := row["top1_error"]) is not None
        if math.isfinite(error)
    }


def _difference(old: Seeds, new: Seeds) -> tuple[Estimate, str]:
    """Estimate new - old, over the seeds that both have, or by Welch where they share too few."""
    common = sorted(old.keys() & new.keys())
    fewest = min(len(old), len(new))
    if len(common) >= min(fewest, _LEAST) or fewest < 2:
        return estimate(new[seed] - old[seed] for seed in common), f"{len(common)} paired seeds"
    return _welch(list(old.values()), list(new.values())), f"{len(old)} and {len(new)} seeds"


def _welch(old: Sequence[float], new: Sequence[float]) -> Estimate:
    """Estimate the difference of means of unequal variances (Welch, 1947)."""
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # it has no types

    parts = [variance(side) / len(side) for side in (old, new)]
    mean, error = fmean(new) - fmean(old), math.sqrt(sum(parts))
    count = min(len(old), len(new))
    if error <= 1e-9:  # no spread was seen, which does not show that there is none
        return Estimate(count, mean)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (old, new), strict=True)
    )
    reach = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    return Estimate(count, mean, mean - reach, mean + reach, p)


def _verdict(difference: Estimate, p: float | None) -> str:
    if p is None or difference.mean is None or difference.n < _LEAST:
        return FEW
    if p >= LEVEL:
        return SAME
    return WORSE if difference.mean > 0 else BETTER


def _names(experiments: Sequence[Row]) -> dict[str, str]:
    """Name trials by their experiment and variant; the last experiment that has one names it."""
    return {
        trial: f"{study.name}: {name}"
        for study in studies(experiments)
        for name, variant in zip(study.names, study.variants, strict=True)
        for trial in variant["trials"]
    }


def _name(trials: Sequence[Row], names: Mapping[str, str]) -> str:
    told = [names[row["trial"]] for row in trials if row["trial"] in names]
    return told[-1] if told else f"{trials[-1].get('model')} on {trials[-1].get('data')}"


def _place(trial: Row) -> str:
    return f"{trial.get('device') or 'unknown device'} of {host(trial)}"


def _mean(errors: Seeds) -> float | None:
    return fmean(errors.values()) if errors else None
