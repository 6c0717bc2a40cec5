"""Ablations: the error of each variant over its seeds, and what became of what was expected."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pandas import DataFrame, Series

from ctxbench.records import Row
from ctxbench.report._ablation_statistics import LEVEL, Estimate, estimate, estimate_error, holm
from ctxbench.report._frames import frame
from ctxbench.report.machines import PLACE
from ctxbench.report.studies import FAILED, MISSING, OK, Study, studies

_LEAST_SEEDS = 3  # of fewer, the spread itself is chance
CONFIRMED, NOT_CONFIRMED = "confirmed", "not confirmed"
INCONCLUSIVE = "inconclusive (n too small)"

_ABLATIONS = (
    "experiment", "variant", "n", "failed", "missing", "top1_error", "top1_low", "top1_high",
    "top5_error", "top5_low", "top5_high", "baseline", "pairs", "difference_points",
    "difference_low", "difference_high", "p", "imagenet_top1_error", "imagenet_top5_error",
    "published_in", "params", "macs", "images_s", "seconds", "chance_error", "reasons",
)  # fmt: skip
_EXPECTATIONS = (
    "experiment", "words", "n", "difference_points", "difference_low", "difference_high",
    "at_least", "p", "verdict", "against", "seeds",
)  # fmt: skip
_SPEEDS = ("images_s", "seconds")
_FINDINGS = ("experiment", "words", "verdict", "difference_interval", "n")
_ERRORS = (
    "experiment", "variant", "n", "failed", "error_interval", "difference_interval", "p",
    "imagenet_top1_error",
)  # fmt: skip


def ablations(rows: Iterable[Row]) -> DataFrame:
    """Make a row for each variant: its error over seeds, and beside that of its baseline.

    A difference pairs the seeds that both have; its p is corrected over the experiment's variants.
    """
    return frame(_compared(rows), _ABLATIONS)


def judge(rows: Iterable[Row]) -> DataFrame:
    """Judge each expectation by its seeds; the difference is `better` minus `than`, in points.

    An axis that `better` or `than` does not name is averaged over, seed by seed, and only seeds
    that all variants of both have count. Confirmed: p, corrected over the experiment's
    expectations, is below 0.05, for an improvement that may be as large as `at_least`, the least
    that matters. Not confirmed: p is, the other way round; or an improvement of `at_least` lies
    outside the interval. `against` says which. All else is inconclusive, fewer than three
    seeds and seeds that are all equal too.
    """
    return frame(_expectations(rows), _EXPECTATIONS)


def ablation_findings(rows: Iterable[Row]) -> DataFrame:
    """Put what was expected beside its verdict, for a README."""
    lines = [
        {
            **line,
            "words": _told(line),
            "verdict": ": ".join(filter(None, (line["verdict"], line["against"]))),
            "difference_interval": _gap(line),
        }
        for line in _expectations(rows)
    ]
    return frame(lines, _FINDINGS)


def ablation_errors(rows: Iterable[Row]) -> DataFrame:
    """Put the error of each variant beside what it is better or worse, for a README."""
    lines = [
        {
            **line,
            "error_interval": points(line["top1_error"], line["top1_low"], line["top1_high"])
            or _unfinished(line),
            "difference_interval": "baseline"
            if line["baseline"] == line["variant"]
            else _gap(line),
        }
        for line in _compared(rows)
    ]
    return frame(lines, _ERRORS)


def _told(line: Row) -> str:
    """Say what was expected, and how much of it would matter."""
    least = line["at_least"]
    return f"{line['words']} (by {_spoken(least)})" if least else str(line["words"])


def _spoken(count: float) -> str:
    return f"{count:g} {'point' if count == 1 else 'points'}"


def points(
    mean: float | None, low: float | None, high: float | None, *, signed: bool = False
) -> str:
    """Write `12.30 [11.10, 13.50]`, or the mean alone where no interval is known."""
    if mean is None:
        return ""
    said = f"{mean:{'+' if signed else ''}.2f}"
    if low is not None and high is not None:
        said += f" [{low:.2f}, {high:.2f}]"
    return said.replace("-", "\N{MINUS SIGN}")


def published_error(variant: Row, key: str) -> float | str | None:
    """Return a published error; one that was not measured on ImageNet says on what."""
    published = variant.get("published") or {}
    value, data = published.get(key), published.get("data", "ImageNet")
    return value if value is None or data == "ImageNet" else f"{value:g} ({data})"


def _compared(rows: Iterable[Row]) -> list[Row]:
    return [line for study in studies(rows) for line in _variants(study)]


def _expectations(rows: Iterable[Row]) -> list[Row]:
    lines: list[Row] = []
    for study in studies(rows):
        expected = study.row.get("expects") or []
        found = [_difference(study, expectation) for expectation in expected]
        corrected = holm([difference.p for difference in found])
        lines += [
            {
                "experiment": study.name,
                **study.origins(_used(study, expectation)),
                "words": expectation.get("words"),
                "at_least": expectation.get("at_least") or None,
                **_columns(difference, "difference_points", "difference"),
                "n": difference.n,
                "p": _short(p),
                **_judged(difference, p, expectation.get("at_least") or 0),
                "seeds": _seeds(study, expectation, difference),
            }
            for expectation, difference, p in zip(expected, found, corrected, strict=True)
        ]
    return lines


def _variants(study: Study) -> list[Row]:
    top1, top5 = study.values(), study.values("top5_error")
    trials = study.lines()
    places = {key: study.timed_in(key) for key in _SPEEDS}
    baselines = [study.baseline(number) for number in range(len(study.names))]
    differences = [
        estimate(top1[number] - top1[baseline])
        if baseline is not None and baseline != number
        else None
        for number, baseline in enumerate(baselines)
    ]
    compared = [number for number, found in enumerate(differences) if found]
    corrected = holm([found.p for found in differences if found])
    p_values = dict(zip(compared, corrected, strict=True))
    return [
        {
            "experiment": study.name,
            **study.origins([n for n in (number, baselines[number]) if n is not None]),
            "variant": name,
            **_counts(trials[number], places),
            **_columns(estimate_error(top1[number]), "top1_error", "top1"),
            **_columns(estimate_error(top5[number]), "top5_error", "top5"),
            "baseline": None if (of := baselines[number]) is None else study.names[of],
            "pairs": found.n if (found := differences[number]) else None,
            **_columns(found or Estimate(0), "difference_points", "difference"),
            "p": _short(p_values.get(number)),
            **_costs(study.variants[number]),
            "chance_error": _rounded(study.chance(number)),
        }
        for number, name in enumerate(study.names)
    ]


def _counts(trials: Sequence[Row], places: Mapping[str, str | None]) -> Row:
    status = Counter(trial["status"] for trial in trials)
    done = [trial for trial in trials if trial["status"] == OK]
    measured = {
        key: _rounded(estimate(_known(trial[key] for trial in done if trial[PLACE] == where)).mean)
        for key, where in places.items()
    }
    reasons = Counter(str(trial["reason"]) for trial in trials if trial["status"] == FAILED)
    said = [why if count == 1 else f"{count} x {why}" for why, count in reasons.items()]
    counts = {"n": status[OK], "failed": status[FAILED], "missing": status[MISSING]}
    return {**counts, **measured, "reasons": "; ".join(said) or None}


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def _costs(variant: Row) -> Row:
    return {
        "imagenet_top1_error": published_error(variant, "top1_error"),
        "imagenet_top5_error": published_error(variant, "top5_error"),
        "published_in": (variant.get("published") or {}).get("source"),
        "params": variant.get("params"),
        "macs": variant.get("macs"),
    }


def _difference(study: Study, expectation: Row) -> Estimate:
    than = expectation["than"]
    ours = _mean(study, expectation["better"])
    theirs = _mean(study, than) if isinstance(than, Mapping) else than
    return estimate(ours - theirs)


def _mean(study: Study, labels: Mapping[str, Any]) -> "Series[float]":
    """Average over the variants with these labels, in each seed that all of them have."""
    chosen = study.chosen(labels)
    # skipna: or the mean of a seed would be that of other variants than the next one's
    return study.values()[chosen].mean(axis=1, skipna=False)


def _judged(difference: Estimate, p: float | None, at_least: float) -> Row:
    mean, low = difference.mean, difference.low
    if mean is None or low is None or p is None or difference.n < _LEAST_SEEDS:
        return {"verdict": INCONCLUSIVE, "against": None}
    if p < LEVEL and mean > 0:
        against = f"the other way round, by {mean:.2f} points"
        return {"verdict": NOT_CONFIRMED, "against": against}
    if at_least > 0 and low > -at_least:
        against = f"an improvement of {_spoken(at_least)} is outside the interval"
        if p < LEVEL:
            against = f"better, but by less than {_spoken(at_least)}"
        return {"verdict": NOT_CONFIRMED, "against": against}
    return {"verdict": CONFIRMED if p < LEVEL else INCONCLUSIVE, "against": None}


def _seeds(study: Study, expectation: Row, difference: Estimate) -> str:
    """Say how many seeds are paired, and how many trials they lack."""
    for side in _sides(expectation):
        if not study.chosen(side):
            return f"no variant has {', '.join(f'{axis} {label}' for axis, label in side.items())}"
    used = study.trials["variant"].isin(_used(study, expectation))
    status = Counter(study.trials.loc[used, "status"])
    lacking = [f"{status[why]} {why}" for why in (FAILED, MISSING) if status[why]]
    equal = ["all equal"] if difference.n > 1 and difference.low is None else []
    return ", ".join([f"{difference.n} of {len(study.row['seeds'])}", *lacking, *equal])


def _sides(expectation: Row) -> list[Mapping[str, Any]]:
    """Return the labels of what is compared; `than` may be a number instead."""
    sides = [expectation["better"], expectation["than"]]
    return [side for side in sides if isinstance(side, Mapping)]


def _used(study: Study, expectation: Row) -> list[int]:
    return [number for side in _sides(expectation) for number in study.chosen(side)]


def _columns(of: Estimate, mean: str, prefix: str) -> Row:
    ends = {f"{prefix}_low": _rounded(of.low), f"{prefix}_high": _rounded(of.high)}
    return {mean: _rounded(of.mean), **ends}


def _gap(line: Row) -> str:
    ends = line["difference_low"], line["difference_high"]
    return points(line["difference_points"], *ends, signed=True)


def _unfinished(line: Row) -> str:
    said = [f"{line[why]} {why}" for why in (FAILED, MISSING) if line[why]]
    return ", ".join(said)


def _rounded(value: float | None) -> float | None:
    """Round off the last bits, in which machines differ."""
    return None if value is None else round(value, 6)


def _short(p: float | None) -> float | None:
    return None if p is None else float(f"{p:.4g}")
