"""Experiments as they were run last: their variants, each with the trials of its seeds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame

from ctxbench.records import Row, counting, latest
from ctxbench.report._frames import MADE_OF, made_of

OK, FAILED, MISSING = "ok", "failed", "missing"
_TRIAL = ("top1_error", "top5_error", "images_s", "seconds", "curve")


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment: its row, its variants' names, and a line for each trial they should have.

    `trials` holds `variant` (its number), `seed`, `trial`, `status` ("ok", "failed", "missing"),
    `reason` and what was measured. Its other functions give their answers by variant's number.
    """

    row: Row
    names: tuple[str, ...]
    trials: DataFrame

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.row["experiment"])

    @property
    def variants(self) -> list[Row]:
        """The variants as their experiment planned them."""
        return list(self.row["variants"])

    def values(self, key: str = "top1_error") -> DataFrame:
        """Return what was measured: seeds down, variants across, NaN where nothing was."""
        wide = self.trials.pivot(index="seed", columns="variant", values=key)
        return wide.reindex(columns=range(len(self.names))).astype("float64")

    def baseline(self, variant: int) -> int | None:
        """Return the variant with the baseline's labels on its axes, and its own on the others."""
        labels = self.row.get("baseline")
        found = self.chosen({**self.variants[variant]["labels"], **labels}) if labels else []
        return found[0] if found else None

    def chosen(self, labels: Mapping[str, Any]) -> list[int]:
        """Return the variants that have all these labels."""
        wanted = {axis: str(label) for axis, label in labels.items()}
        return [
            number
            for number, variant in enumerate(self.variants)
            if wanted.items() <= {axis: str(v) for axis, v in variant["labels"].items()}.items()
        ]

    def chance(self, variant: int) -> float | None:
        """Return the error of guessing, in %."""
        classes = self.variants[variant].get("classes")
        return 100 * (1 - 1 / classes) if classes else None

    def origins(self, variants: Iterable[int]) -> dict[str, tuple[int, ...]]:
        """Return what a line about these variants is made of."""
        used = self.trials[self.trials["variant"].isin(list(variants))]
        return made_of([self.row, *({MADE_OF: found} for found in used[MADE_OF])])

    def axes(self) -> list[str]:
        """Return the axes along which the variants differ."""
        return [axis for axis, labels in self.row["axes"].items() if len(labels) > 1]


def studies(rows: Iterable[Row]) -> list[Study]:
    """Join the last row of each experiment with the row that counts of each of its trials.

    `rows` are those of the kinds "experiments" and "trials" in one; trials that no experiment
    names any longer are left out.
    """
    kept = list(rows)
    trials = counting(row for row in kept if "trial" in row)
    found = latest([row for row in kept if "variants" in row], "experiment")
    return [_study(row, trials) for row in found]


def variant_name(study_axes: Iterable[str], variant: Row) -> str:
    """Name a variant by its labels: `levels 4,3,2,1, distance 8`."""
    labels = variant["labels"]
    said = [f"{axis.replace('_', ' ')} {labels[axis]}" for axis in study_axes if axis in labels]
    return ", ".join(said) or str(variant["model"])


def _study(row: Row, trials: Mapping[str, Row]) -> Study:
    axes = [axis for axis, labels in row["axes"].items() if len(labels) > 1]
    names = tuple(variant_name(axes, variant) for variant in row["variants"])
    lines = [
        {"variant": number, "seed": seed, "trial": trial, **_measured(trials.get(trial))}
        for number, variant in enumerate(row["variants"])
        for seed, trial in zip(row["seeds"], variant["trials"], strict=True)
    ]
    columns = ["variant", "seed", "trial", "status", "reason", MADE_OF, *_TRIAL]
    return Study(row, names, DataFrame(lines, columns=columns, dtype=object))


def _measured(trial: Row | None) -> Row:
    """Tell what a trial gave; one whose error is no number has failed, whatever it says."""
    if trial is None:
        return {"status": MISSING, MADE_OF: ()}
    origin = {MADE_OF: trial.get(MADE_OF, ())}
    if trial["status"] != OK:
        return {"status": FAILED, "reason": trial.get("reason") or "no reason told", **origin}
    if trial.get("top1_error") is None or not math.isfinite(trial["top1_error"]):
        return {"status": FAILED, "reason": "its error is no number", **origin}
    return {"status": OK, **{key: trial.get(key) for key in _TRIAL}, **origin}
