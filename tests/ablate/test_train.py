"""A trial: what it returns, what it leaves, how it stops, and how it fails."""

import dataclasses
import errno

import pytest
import torch
from safetensors.torch import load_file

from ctxbench.ablate import checkpoint
from ctxbench.ablate.device import device_of
from ctxbench.ablate.step import Stepper
from ctxbench.ablate.train import _Training, train
from ctxbench.ablate.trial import InterruptedTrial
from ctxbench.data._keys import key
from ctxbench.data.augment import Augmentation
from ctxbench.errors import CtxbenchError, RecordsError
from tests.ablate.tiny import DATA, folder_state, images, net, run, trial


def finished(folder, of=None, **settings):
    return train(
        of or trial(), folder, run(**settings), stop=lambda: False, tell=lambda progress: None
    )


def test_a_row_says_what_came_out(tmp_path):
    row = finished(tmp_path)
    assert (row.status, row.epochs, row.steps, row.resumed) == ("ok", 3, 12, 0)
    assert row.top1_error <= 100
    assert row.top5_error is None  # of three classes
    assert row.params == 4 * 10 + 8 + 16 * 3 + 3
    assert row.macs == 8 * 8 * 4 * 9 + 16 * 3
    assert row.images_s > 0
    assert row.loader_images_s > row.images_s
    assert [len(values) for values in row.curve.values()] == [3] * 6
    assert row.curve["top1_error"][-1] == row.top1_error


def test_it_learns(tmp_path):
    plain = trial(augmentation=Augmentation(), epochs=30, ema=0.0, lr=0.2)
    row = finished(tmp_path, plain)
    assert row.top1_error < 10
    assert row.curve["train_loss"][-1] < 0.5 * row.curve["train_loss"][0]


def test_it_leaves_weights_that_give_its_error(tmp_path):
    plain = trial(augmentation=Augmentation(), epochs=8, accumulate=1)
    row = finished(tmp_path, plain)
    assert checkpoint.WEIGHTS in folder_state(tmp_path)
    model = net().eval()
    model.load_state_dict(load_file(tmp_path / checkpoint.WEIGHTS))
    data = images()
    x = (data.validation.images / 255 - data.mean[0]) / data.std[0]
    wrong = (model(x).argmax(1) != data.validation.labels).float().mean().item()
    assert row.top1_error == pytest.approx(100 * wrong)


def test_the_same_trial_has_the_same_weights_and_another_seed_has_others(tmp_path):
    first, again = finished(tmp_path / "a"), finished(tmp_path / "b")
    other = finished(tmp_path / "c", trial(seed=1))
    assert first.weights == again.weights != other.weights
    assert first.curve == again.curve


def test_how_batches_are_read_changes_nothing(tmp_path):
    first, again = finished(tmp_path / "a"), finished(tmp_path / "b", workers=2)
    assert first.weights == again.weights


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_asked_to_stop_it_finishes_the_step_and_saves(tmp_path, step):
    whole = finished(tmp_path / "whole")
    seen = []

    def stop():
        seen.append(1)
        return len(seen) == step

    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedTrial, match="stopped and saved"):
        train(trial(), folder, run(checkpoint_s=1e9), stop=stop, tell=lambda progress: None)
    assert {*folder_state(folder)} == {checkpoint.CHECKPOINT}
    row = finished(folder)
    assert row.weights == whole.weights
    assert row.curve == whole.curve
    assert row.resumed == 1


@pytest.mark.parametrize(("evaluations", "epochs"), [(2, [0.5, 1, 1.5, 2, 2.5, 3]), (9, None)])
def test_an_epoch_is_evaluated_as_often_as_asked(tmp_path, evaluations, epochs):
    row = finished(tmp_path, trial(evaluations=evaluations))
    assert row.curve["epoch"] == (epochs or [step / 4 for step in range(1, 13)])
    once = finished(tmp_path / "once")
    assert (row.weights, row.top1_error) == (once.weights, once.top1_error)


def test_minutes_end_a_training(tmp_path):
    row = finished(tmp_path, trial(minutes=0.01, epochs=1, ema=0.0), checkpoint_s=1e9)
    assert 0.6 <= row.seconds < 3
    assert row.epochs != round(row.epochs) or row.epochs > 3
    assert row.curve["lr"][-1] < 0.01  # the schedule has followed the minutes


def test_stopped_in_its_last_evaluation_it_is_noted_once(tmp_path, monkeypatch):
    over = []
    real = _Training._evaluate

    def watched(self, images):
        over.append(self.at.over)
        return real(self, images)

    monkeypatch.setattr(_Training, "_evaluate", watched)
    short = trial(minutes=0.01, epochs=1, ema=0.0)
    with pytest.raises(InterruptedTrial):
        train(short, tmp_path, run(), stop=lambda: any(over), tell=lambda progress: None)
    row = finished(tmp_path, short)
    assert row.epochs == row.curve["epoch"][-1] == row.steps / 4
    assert len(set(row.curve["epoch"])) == len(row.curve["epoch"])


def test_a_loss_that_is_no_number_fails_the_trial(tmp_path):
    row = finished(tmp_path, trial(lr=1000.0, clip=0.0, epochs=40))
    assert row.status == "failed"
    assert "step" in row.reason
    assert "Lower lr, clip the gradient" in row.reason
    assert row.top1_error is None


def test_out_of_memory_fails_the_trial(tmp_path, monkeypatch):
    def full(self, batch, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")

    monkeypatch.setattr("ctxbench.ablate.step.Stepper.step", full)
    row = finished(tmp_path)
    assert row.status == "failed"
    assert row.reason == "out of memory: CUDA out of memory. Tried to allocate 2 GiB"


def test_a_full_disk_leaves_what_was_saved(tmp_path, monkeypatch):
    with pytest.raises(InterruptedTrial):
        train(trial(), tmp_path, run(), stop=lambda: True, tell=lambda progress: None)
    before = folder_state(tmp_path)

    def full(state, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(RecordsError, match="No space left on device.*run the same command again"):
        finished(tmp_path)
    assert folder_state(tmp_path) == before


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / checkpoint.CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(CtxbenchError, match=r"Cannot read .*checkpoint.pt.*Remove it"):
        finished(tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimiser": "adamw", "lr": 0.01},
        {"amp": "bf16"},
        {"channels_last": True},
        {"schedule": "step", "milestones": (1, 2)},
        {"schedule": "constant", "nesterov": True},
        {"label_smoothing": 0.1, "decay_vectors": False},
        {"cooldown_epochs": 1},
        {"evaluations": 3},
    ],
    ids=str,
)
def test_every_recipe_trains_and_resumes(tmp_path, recipe):
    whole = finished(tmp_path / "whole", trial(**recipe))
    seen = []

    def stop():
        seen.append(1)
        return len(seen) == 7

    with pytest.raises(InterruptedTrial):
        train(trial(**recipe), tmp_path / "cut", run(), stop=stop, tell=lambda progress: None)
    assert finished(tmp_path / "cut", trial(**recipe)).weights == whole.weights
    assert whole.status == "ok"


def test_progress_reaches_all_steps(tmp_path):
    told = []
    train(trial(), tmp_path, run(), stop=lambda: False, tell=told.append)
    assert (told[-1].step, told[-1].steps, told[-1].epochs) == (12, 12, 3)
    assert [at.step for at in told] == sorted(at.step for at in told)


@pytest.mark.parametrize(("name", "said"), [("gpu", "'gpu'"), ("cuda", "no device|cuda")])
def test_a_device_that_is_not_there(name, said):
    if name == "cuda" and torch.cuda.is_available():
        assert device_of(name).type == "cuda"
        return
    with pytest.raises(CtxbenchError, match=said):
        device_of(name)


def test_run_settings_are_plain():
    assert dataclasses.asdict(run())["device"] == "cpu"
    assert DATA.endswith(":images")


def test_the_numbers_that_train_decides_are_those_of_this_loop(tmp_path, monkeypatch):
    """If this fails, `identity._LOOP` has to be raised: the same trial has other results now."""
    asked = []
    real = Stepper.step

    def noted(self, batch, *, lr, seed):
        asked.append((round(lr, 6), seed))
        return real(self, batch, lr=lr, seed=seed)

    monkeypatch.setattr(Stepper, "step", noted)
    weights = []
    monkeypatch.setattr("ctxbench.ablate.train.set_seed", weights.append)
    finished(tmp_path, trial(epochs=1, warmup_epochs=0.5))
    assert weights == [key(0, 0, 0, 0)]
    assert asked == [
        (rate, key(0, 0, step, 0)) for step, rate in enumerate([0.0, 0.025, 0.025, 0.007322])
    ]
