"""The learning rate by hand, epoch by epoch, and what a recipe refuses."""

import dataclasses
from math import sqrt

import pytest

from ctxbench.ablate.recipe import Recipe
from ctxbench.ablate.step import step_lr

COCONV = Recipe(epochs=90, lr=0.1, schedule="step", milestones=(30, 60, 80))
OVERLOCK = Recipe(
    epochs=300, lr=2e-3, warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=10
)


def at(epoch, **settings):
    return step_lr(Recipe(**settings), epoch, 0.0)


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(0, 1.0), (2, (1 + sqrt(0.5)) / 2), (4, 0.5), (6, (1 - sqrt(0.5)) / 2), (8, 0.0), (9, 0.0)],
)
def test_cosine_goes_down_to_nothing(epoch, lr):
    assert at(epoch, epochs=8, lr=1.0) == pytest.approx(lr, abs=1e-12)


@pytest.mark.parametrize(("epoch", "lr"), [(0, 1.0), (4, 0.6), (8, 0.2), (8.5, 0.2), (10, 0.2)])
def test_cosine_goes_down_to_min_lr_and_stays_there(epoch, lr):
    given = {"epochs": 8, "lr": 1.0, "min_lr": 0.2, "cooldown_epochs": 2}
    assert at(epoch, **given) == pytest.approx(lr)


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 1.0), (1.99, 1.0), (2, 0.5), (4.9, 0.5), (5, 0.25), (9.9, 0.25)]
)
def test_step_multiplies_from_a_milestone_on(epoch, lr):
    given = {"schedule": "step", "milestones": (2, 5), "decay": 0.5}
    assert at(epoch, lr=1.0, **given) == pytest.approx(lr)


def test_step_stops_at_min_lr():
    given = {"schedule": "step", "milestones": (1, 2), "min_lr": 0.05}
    assert at(3, lr=1.0, **given) == 0.05


@pytest.mark.parametrize("epoch", [0, 3.7, 9.9, 12])
def test_constant_stays(epoch):
    assert at(epoch, lr=0.3, schedule="constant", cooldown_epochs=3) == 0.3


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.1), (0.5, 0.2), (1.5, 0.4)])
def test_warm_up_is_a_straight_line_whatever_follows(schedule, epoch, lr):
    given = {"schedule": schedule, "warmup_epochs": 2, "warmup_lr": 0.1}
    assert at(epoch, lr=0.5, **given) == pytest.approx(lr)


def test_after_the_warm_up_the_cosine_is_where_it_would_be_without():
    assert at(2, epochs=4, lr=1.0, warmup_epochs=2) == pytest.approx(0.5)


@pytest.mark.parametrize(("seconds", "lr"), [(0, 1.0), (30, 0.5), (60, 0.0), (70, 0.0)])
def test_minutes_drive_the_cosine_whatever_the_epoch(seconds, lr):
    recipe = Recipe(minutes=1, lr=1.0, epochs=3)
    assert step_lr(recipe, 200, seconds) == pytest.approx(lr, abs=1e-12)


def test_warm_up_counts_epochs_also_under_minutes():
    recipe = Recipe(minutes=1, epochs=1, lr=1.0, warmup_epochs=4)
    assert step_lr(recipe, 3, 30.0) == pytest.approx(0.75)


def test_all_epochs_hold_the_cool_down():
    assert OVERLOCK.all_epochs == 310
    assert COCONV.all_epochs == 90


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(0, 0.1), (29.9, 0.1), (30, 0.01), (59.9, 0.01), (60, 1e-3), (80, 1e-4), (89.9, 1e-4)],
)
def test_the_schedule_of_coconv(epoch, lr):
    assert step_lr(COCONV, epoch, 0.0) == pytest.approx(lr)


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 1e-6),
        (2.5, (1e-6 + 2e-3) / 2),
        (100, 1e-5 + (2e-3 - 1e-5) * 0.75),  # cos(pi / 3) = 1 / 2
        (150, (1e-5 + 2e-3) / 2),
        (200, 1e-5 + (2e-3 - 1e-5) * 0.25),
        (300, 1e-5),
        (309.9, 1e-5),
    ],
)
def test_the_schedule_of_overlock(epoch, lr):
    assert step_lr(OVERLOCK, epoch, 0.0) == pytest.approx(lr)


def test_no_lr_is_higher_than_that_of_the_recipe():
    rates = [step_lr(OVERLOCK, epoch / 10, 0.0) for epoch in range(3100)]
    assert max(rates) <= OVERLOCK.lr
    assert rates[50:] == sorted(rates[50:], reverse=True)


RANGES = {
    "epochs": (0, 10**6 + 1), "minutes": (0.0, 2e6), "evaluations": (0, 10**7),
    "batch": (0, 10**7), "accumulate": (0, 10**7), "lr": (-0.1, 1001.0),
    "momentum": (-0.1, 1.1), "weight_decay": (-1e-4, 1001.0), "decay": (-0.1, 1.1),
    "warmup_epochs": (-1.0, 2e6), "warmup_lr": (-1e-6, 1001.0), "min_lr": (-1e-6, 1001.0),
    "cooldown_epochs": (-1, 10**7), "clip": (-1.0, 2e6), "label_smoothing": (-0.1, 1.0),
    "ema": (-0.1, 1.0),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, both in RANGES.items() for v in both])
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value} is out of range. Give "):
        Recipe(**{name: value})


@pytest.mark.parametrize("name", ["lr", "weight_decay", "clip", "minutes"])
def test_what_is_no_number_is_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name}=nan is out of range"):
        Recipe(**{name: float("nan")})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 10, "accumulate": 4}, "batch=10 cannot be cut into accumulate=4 equal parts."),
        ({"batch": 2, "accumulate": 4}, "batch=2 cannot be cut into accumulate=4 equal parts."),
        ({"schedule": "step", "minutes": 1}, "counts epochs, not minutes. Use schedule=cosine."),
        ({"milestones": (3,)}, "milestones need schedule=step; this is schedule=cosine."),
        ({"epochs": 2, "warmup_epochs": 3}, "warmup_epochs=3 is longer than epochs=2."),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="nesterov"):
        Recipe(nesterov=True, momentum=0.0)


def test_no_default_changes():
    """What a recipe leaves out has no part in the id of a trial, so it must stay what it was."""
    assert dataclasses.asdict(Recipe()) == {
        "epochs": 10, "minutes": None, "evaluations": 1, "batch": 128, "accumulate": 1,
        "optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
        "decay_vectors": True, "schedule": "cosine", "milestones": (), "decay": 0.1,
        "warmup_epochs": 0.0, "warmup_lr": 0.0, "min_lr": 0.0, "cooldown_epochs": 0, "clip": 0.0,
        "label_smoothing": 0.0, "ema": 0.0, "amp": "none", "channels_last": False,
        "compile": False, "sync_norm": False,
    }  # fmt: skip


def test_limits_themselves_are_allowed():
    assert Recipe(lr=0, ema=0.9999999, label_smoothing=0.999, epochs=1, warmup_epochs=1).lr == 0
