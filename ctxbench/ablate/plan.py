"""From an experiment to its trials: names checked, networks bound to their data, costs counted."""

import random
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from ctxbench.ablate import distributed
from ctxbench.ablate.costs import answers_of, costs_of
from ctxbench.ablate.device import device_of
from ctxbench.ablate.experiment import Experiment, ExperimentError, Published, Variant, with_option
from ctxbench.ablate.identity import beyond_defaults, contents_of, trial_id
from ctxbench.ablate.rows import ExperimentRow
from ctxbench.ablate.step import Stepper, set_seed
from ctxbench.ablate.train import probed
from ctxbench.ablate.trial import Run, Trial
from ctxbench.claims import load_claims
from ctxbench.data import augment, batches
from ctxbench.data import resolve as resolve_data
from ctxbench.data._spec import Data
from ctxbench.data.batches import Reading
from ctxbench.errors import CountingError, DataError, SpecError, UnknownNameError
from ctxbench.models import MODELS, resolve
from ctxbench.models.preparing import split_prepared
from ctxbench.models.replace import split_replacement
from ctxbench.records import Row
from ctxbench.spec import options_of, split_spec

_TRIED = 16  # images, at most, of the steps that an estimate is made of
_EVALUATION = 1 / 3  # a forward pass alone, beside a step


@dataclass(frozen=True, slots=True)
class Planned:
    """A variant with the trials of its seeds, and what its network costs on one image.

    `absent` is why its data could not be loaded, None if they were.
    """

    variant: Variant
    model: str
    trials: tuple[Trial, ...]
    classes: int | None
    params: int
    macs: int | None
    absent: str | None = None

    def told(self) -> dict[str, Any]:
        """Return what a reader needs to tell it from the others."""
        return {
            "variant": ", ".join(f"{axis} {label}" for axis, label in self.variant.labels.items())
            or self.model,
            "model": self.model,
            "data": self.variant.data,
            "seeds": len(self.trials),
            "params": self.params,
            "macs": self.macs,
        }


def plan(experiment: Experiment, *, download: bool = False, absent: bool = False) -> list[Planned]:
    """Check every variant of an experiment and return its trials.

    With `absent`, data that are not there are no error: the networks keep their own classes.
    Raises: what the names, options and data are not, as ExperimentError naming the variant.
    """
    _figures(experiment.published)  # a table that is not there is told before anything is trained
    return [_planned(experiment, v, download, absent) for v in experiment.variants()]


def plan_rows(planned: Iterable[Planned], run: Run | None = None) -> list[Row]:
    """Return a row for each variant; with `run`, how many seconds a trial takes there.

    That is not known of data that are not there.
    """
    rows = []
    for each in planned:
        row = each.told()
        if run is not None:
            row["trial_s"] = estimate_s(each, run) if each.classes is not None else None
        rows.append(row)
    return rows


def _planned(experiment: Experiment, variant: Variant, download: bool, absent: bool) -> Planned:
    try:
        source = resolve_data(variant.data, download=download)
        data, reason = _found(source.spec, download, absent)
        if data:
            _check_batch(data, variant.recipe.batch)  # or each trial would say so
        model = bound(variant.model, data)
        params, macs = costs_of(model, data.image_shape if data else None)
        if data and answers_of(model, data.image_shape) < data.classes:
            raise SpecError(f"{model} has fewer classes than its data, which have {data.classes}.")
    except (SpecError, UnknownNameError, CountingError, DataError) as error:
        labels = [f"{axis} {label}" for axis, label in variant.labels.items()]
        raise ExperimentError(f"{', '.join([experiment.name, *labels])}: {error}") from None
    contents = contents_of(data) if data else None
    trials = [
        Trial(
            trial_id(model, source, variant.recipe, variant.augmentation, seed, contents),
            model,
            source.spec,
            variant.recipe,
            variant.augmentation,
            seed,
        )
        for seed in experiment.seeds
    ]
    classes = data.classes if data else None
    return Planned(variant, model, tuple(trials), classes, params, macs if data else None, reason)


def _check_batch(data: Data, batch: int) -> None:
    batches.steps(data.train, batch)
    processes = distributed.world()[1]
    if batch % processes:
        raise DataError(f"recipe.batch={batch} cannot be shared evenly by {processes} processes.")


def _found(spec: str, download: bool, absent: bool) -> tuple[Data | None, str | None]:
    """Return the data; with `absent`, if they cannot be loaded, nothing and the reason."""
    try:
        return load(spec, download), None
    except DataError as error:
        if not absent:
            raise
        return None, str(error)


@cache
def load(spec: str, download: bool = False) -> Data:
    """Load data once."""
    return resolve_data(spec, download=download).load()


def bound(spec: str, data: Data | None) -> str:
    """Return the spec of a network with the classes and channels of its data, unless it has them.

    Raises: UnknownNameError or SpecError as `resolve` does; SpecError for fewer classes, and for
            a network that is prepared for inference.
    """
    resolve(spec)
    unprepared, prepares = split_prepared(spec)
    if prepares:
        raise SpecError(f"{spec} is prepared for inference. Train {unprepared}.")
    if data is None:
        return spec
    plain, _ = split_replacement(spec)
    name, given = split_spec(plain)
    for key, value in (("num_classes", data.classes), ("in_channels", data.channels)):
        if name in MODELS and key in options_of(MODELS[name].build) and key not in given:
            spec = with_option(spec, key, str(value))
        elif name.startswith(("torchvision/", "timm/")) and key == "num_classes":
            spec = spec if key in given else with_option(spec, key, str(value))
    if given.get("num_classes", "").isdecimal() and int(given["num_classes"]) < data.classes:
        raise SpecError(
            f"{spec} has fewer classes than its data, which have {data.classes}. Leave "
            f"num_classes out."
        )
    resolve(spec)
    return spec


def row_of(experiment: Experiment, planned: list[Planned]) -> ExperimentRow:
    """Return what the report needs to know of an experiment, besides the rows of its trials."""
    figures = _figures(experiment.published)
    return ExperimentRow(
        experiment=experiment.name,
        title=experiment.title,
        axes={axis.name: list(axis.choices) for axis in experiment.axes},
        baseline=dict(experiment.baseline),
        expects=[
            {"words": e.words, "better": e.better, "than": e.than, "at_least": e.at_least}
            for e in experiment.expects
        ],
        seeds=list(experiment.seeds),
        variants=[
            {
                "labels": dict(each.variant.labels),
                "model": each.model,
                "data": each.variant.data,
                "recipe": beyond_defaults(each.variant.recipe),
                "classes": each.classes,
                "params": each.params,
                "macs": each.macs,
                "published": figures.get(_label(experiment.published, each.variant)),
                "trials": [trial.id for trial in each.trials],
            }
            for each in planned
        ],
    )


def _label(published: Published | None, variant: Variant) -> str | None:
    return variant.labels[published.axis] if published else None


def _figures(published: Published | None) -> Mapping[str | None, dict[str, Any]]:
    """Return the printed errors of a paper's table by the name of their row."""
    if published is None:
        return {}
    names = {"top-1 error (%)": "top1_error", "top-5 error (%)": "top5_error"}
    found: dict[str | None, dict[str, Any]] = {}
    for claim in load_claims(published.paper):
        if claim.table == published.table and claim.metric in names:
            figure = found.setdefault(
                claim.row, {"data": "ImageNet", "source": f"{claim.source}, {claim.table}"}
            )
            figure[names[claim.metric]] = float(claim.published)
    if not found:
        tables = {claim.table for claim in load_claims(published.paper) if claim.metric in names}
        raise ExperimentError(
            f"[published]: {published.paper} prints no errors in {published.table!r}, but in "
            f"{', '.join(sorted(tables)) or 'no table'}."
        )
    return found


def estimate_s(planned: Planned, run: Run) -> float:
    """Return how long one trial of a variant takes here, in seconds, from three of its steps."""
    trial = planned.trials[0]
    recipe = trial.recipe
    if recipe.minutes:
        return 60 * recipe.minutes
    data = load(trial.data, run.download)
    image_s = _image_s(trial, data, run)
    evaluated = len(data.validation) + probed(data)
    epoch = len(data.train) + _EVALUATION * recipe.evaluations * evaluated
    return image_s * recipe.all_epochs * epoch


def _image_s(trial: Trial, data: Data, run: Run) -> float:
    """Return how long a step takes for each of its images: the shortest of three."""
    recipe, device = trial.recipe, device_of(run.device)
    tried = replace(recipe, batch=min(recipe.batch, _TRIED), accumulate=1, compile=False)
    with _put_back(device):
        torch.set_num_threads(run.threads)
        set_seed(0)
        network = resolve(trial.model)
        stepper = Stepper(network.build(), network.loss, tried, device)
        times = list(_step_times(stepper, trial, data, tried.batch))
    return min(times) / tried.batch


def _step_times(stepper: Stepper, trial: Trial, data: Data, batch: int) -> Iterator[float]:
    loader = batches.training_batches(
        data.train,
        Reading(batch),
        augment.training(data, trial.augmentation),
        augment.mixing(data, trial.augmentation),
        epoch=0,
    )
    for seed, images in zip(range(3), loader, strict=False):
        began = time.monotonic()
        float(stepper.step(images, lr=0.0, seed=seed))
        yield time.monotonic() - began + images.seconds


@contextmanager
def _put_back(device: torch.device) -> Iterator[None]:
    """Put back random states and threads: steps are tried in the program that asks for them."""
    python, numpy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_num_threads(threads)
