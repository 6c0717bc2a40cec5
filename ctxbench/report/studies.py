"""Experiments as they were run last: their variants, each with the trials of its seeds."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame

from ctxbench.records import Row, counting, latest
from ctxbench.report._frames import MADE_OF, made_of
from ctxbench.report.machines import PLACE, machine

OK, FAILED, MISSING = "ok", "failed", "missing"
_TRIAL = ("top1_error", "top5_error", "images_s", "seconds", "curve")
_ERRORS = ("train_top1_error", "top1_error")


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment: its row, its variants' names, and a line for each trial they should have.

    `trials` holds `variant` (its number), `seed`, `trial`, `status` ("ok", "failed", "missing"),
    `reason`, `place` and what was measured. Its other functions give their answers by variant's
    number.
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

    def lines(self) -> list[list[Row]]:
        """Return the trials of each variant."""
        found: list[list[Row]] = [[] for _ in self.names]
        for line in self.trials.to_dict("records"):
            found[line["variant"]].append({str(key): value for key, value in line.items()})
        return found

    def timed_in(self, key: str) -> str | None:
        """Return the place where most trials have this measure of time."""
        timed = self.trials[(self.trials["status"] == OK) & self.trials[key].notna()]
        places = Counter(timed[PLACE])
        return max(places, key=places.__getitem__, default=None)

    def baseline(self, variant: int) -> int | None:
        """Return the variant with the baseline's labels on its axes, and its own on the others."""
        labels = self.row.get("baseline")
        found = self.chosen({**self.variants[variant]["labels"], **labels}) if labels else []
        return found[0] if found else None

    def chosen(self, labels: Mapping[str, Any]) -> list[int]:
        """Return the variants that have all these labels."""
        wanted = {axis: str(label) for axis, label in labels.items()}
        told = [variant["labels"] for variant in self.variants]
        return [
            number
            for number, has in enumerate(told)
            if all(axis in has and str(has[axis]) == label for axis, label in wanted.items())
        ]

    def chance(self, variant: int) -> float | None:
        """Return the error of guessing, in %."""
        classes = self.variants[variant].get("classes")
        return 100 * (1 - 1 / classes) if classes else None

    def origins(self, variants: Iterable[int]) -> dict[str, tuple[int, ...]]:
        """Return what a line about these variants is made of."""
        used = set(variants)
        places = zip(self.trials["variant"], self.trials[MADE_OF], strict=True)
        return made_of(
            [self.row, *({MADE_OF: found} for number, found in places if number in used)]
        )

    def axes(self) -> list[str]:
        """Return the axes along which the variants differ."""
        return [axis for axis, labels in self.row["axes"].items() if len(labels) > 1]


def studies(rows: Iterable[Row]) -> list[Study]:
    """Join the last row of each experiment with the row that counts of each of its trials.

    `rows` are those of the kinds "experiments" and "trials" in one; trials that no experiment
    names any longer are left out. An experiment of which trials ran on CPU and on GPU makes a
    study of each, with the device in its name: their errors are not averaged, nor compared.
    """
    kept = list(rows)
    devices: dict[str, list[Row]] = {}
    for row in kept:
        if "trial" in row:
            devices.setdefault(_device(row), []).append(row)
    trials = {device: counting(of) for device, of in devices.items()}
    found = latest([row for row in kept if "variants" in row], "experiment")
    return [study for row in found for study in _by_device(row, trials)]


def variant_name(study_axes: Iterable[str], variant: Row) -> str:
    """Name a variant by its labels: `levels 4,3,2,1, distance 8`."""
    labels = variant["labels"]
    said = [f"{axis.replace('_', ' ')} {labels[axis]}" for axis in study_axes if axis in labels]
    return ", ".join(said) or str(variant["model"])


def _by_device(row: Row, trials: Mapping[str, Mapping[str, Row]]) -> list[Study]:
    """Make a study for each device that trials of an experiment ran on, or one without any."""
    named = {trial for variant in row["variants"] for trial in variant["trials"]}
    used = sorted(device for device, of in trials.items() if not named.isdisjoint(of))
    if len(used) < 2:
        return [_study(row, trials[used[0]] if used else {})]
    names = {device: f"{row['experiment']} ({device or 'unknown device'})" for device in used}
    return [_study({**row, "experiment": names[device]}, trials[device]) for device in used]


def _device(trial: Row) -> str:
    return str(trial.get("device") or "")


def _study(row: Row, trials: Mapping[str, Row]) -> Study:
    axes = [axis for axis, labels in row["axes"].items() if len(labels) > 1]
    names = tuple(variant_name(axes, variant) for variant in row["variants"])
    lines = [
        {"variant": number, "seed": seed, "trial": trial, **_measured(trials.get(trial))}
        for number, variant in enumerate(row["variants"])
        for seed, trial in zip(row["seeds"], variant["trials"], strict=True)
    ]
    columns = ["variant", "seed", "trial", "status", "reason", MADE_OF, PLACE, *_TRIAL]
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
    measured = {key: _finite(trial.get(key)) for key in _TRIAL if key != "curve"}
    told = {"curve": _drawable(trial.get("curve")), PLACE: _place(trial)}
    return {"status": OK, **measured, **told, **origin}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _place(trial: Row) -> str:
    """Name where a trial ran, and with how many processes: its speed is another elsewhere."""
    return f"{machine(trial)}, {trial.get('world')}"


def _drawable(curve: Any) -> Any:
    """Return a curve without errors that are no numbers."""
    if not isinstance(curve, dict):
        return curve
    errors = {key: [_finite(error) for error in curve[key]] for key in _ERRORS if key in curve}
    return {**curve, **errors}
