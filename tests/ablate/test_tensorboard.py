"""TensorBoard logs say what the rows and checkpoints of trials say, each point once."""

import struct
import subprocess
import sys
import threading
import time

import pytest

from ctxbench.ablate.checkpoint import CHECKPOINT, remove_checkpoint
from ctxbench.ablate.event_file import append_events
from ctxbench.ablate.experiment_file import read
from ctxbench.ablate.folder import folder_of
from ctxbench.ablate.plan import plan
from ctxbench.ablate.rows import TRIALS
from ctxbench.ablate.status import Watch
from ctxbench.ablate.tensorboard import FILE, Logs, safe_name
from ctxbench.ablate.tensorboard_events import (
    TAGS,
    Head,
    found_in_position,
    found_in_row,
    missing,
)
from ctxbench.ablate.train import train
from ctxbench.ablate.trial import InterruptedTrial
from ctxbench.records import append_rows, as_row
from tests.ablate import tiny
from tests.ablate.logs import scalars, settings, text
from tests.ablate.tiny import DATA, NET

HEAD = Head("group", {"width": 2.0}, "a network")
STEPS = 4  # of an epoch: 64 images by 16
FILE_TEXT = f"""
model = "{NET}"
data = "{DATA}"
seeds = [0, 1]
[recipe]
epochs = 3
batch = 16
lr = 0.05
[augmentation]
crop = "pad"
[grid]
model.width = [2, 4]
[grid.training]
"a/b" = {{ "recipe.clip" = 1.0 }}
"""


def expected(curve):
    """Return a curve by tag, as float32 and by steps."""
    steps = [round(epoch * STEPS) for epoch in curve["epoch"]]
    return {
        TAGS.get(key, key): list(zip(steps, map(single, values), strict=True))
        for key, values in curve.items()
    }


def single(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def curve(epochs=3, error=50.0):
    """Return a curve that nothing was trained for."""
    falling = [error / (n + 1) for n in range(epochs)]
    return {"epoch": [n + 1.0 for n in range(epochs)], "loss": falling, "top1_error": falling}


def done(points):
    row = {"curve": points, "images_s": 10.0, "stamp": {"time": "2026-01-01T00:00:00+00:00"}}
    return found_in_row(row, STEPS)


def under_way(points):
    return found_in_position({"curve": points, "images": 10, "step_s": 2.0}, STEPS, 1.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / FILE


def write(path, found):
    append_events(path, lambda events: missing(events, HEAD, found))


def curve_in(path):
    found = scalars(path.parent)
    found.pop("images_s")
    return found


@pytest.fixture
def prepared(tmp_path):
    """An experiment of two variants, its first trial and the folder of that."""
    file = tmp_path / "tiny.toml"
    file.write_text(FILE_TEXT)
    experiment = read(file)
    planned = plan(experiment)

    def look():
        """Do what a command does with logs: each has its own, and finds what others left."""
        logs = Logs(experiment, planned, out=tmp_path, download=False)
        logs.update(Watch(tmp_path, [t.id for each in planned for t in each.trials]).look())
        assert logs.trouble is None

    first = planned[0].trials[0]
    return first, look, tmp_path / "tensorboard" / "tiny" / "width=2+training=a%2Fb" / "0"


def do(trial, out, steps=10**6):
    """Train so many steps, or to the end, as the process of a trial does."""
    folder = folder_of(out, trial.id)
    left = iter(range(steps))
    try:
        row = train(
            trial, folder, tiny.run(), stop=lambda: next(left, None) is None, tell=lambda _: None
        )
    except InterruptedTrial:
        return None
    append_rows(TRIALS, [as_row(row)], raw=out / "raw")
    remove_checkpoint(folder)
    return row


def test_a_finished_trial_has_its_curve(prepared, tmp_path):
    trial, look, folder = prepared
    row = do(trial, tmp_path)
    look()
    found = scalars(folder)
    assert found.pop("images_s") == [(12, single(row.images_s))]
    assert found == expected(row.curve)
    assert set(found) == {*TAGS.values(), "lr", "epoch"} - {TAGS["top5_error"]}


@pytest.mark.parametrize("pauses", [(7,), (4, 1, 1, 7), (9, 2)])
def test_a_resumed_trial_goes_on_in_its_curve(prepared, tmp_path, pauses):
    trial, look, folder = prepared
    before = 0
    for steps in pauses:
        do(trial, tmp_path, steps)
        look()
        if (folder / FILE).exists():
            points = scalars(folder)["train/loss"]
            assert before <= len(points)
            before = len(points)
    row = do(trial, tmp_path)
    assert 0 < before < 3  # so there was something to go on with
    assert row.resumed == len(pauses)
    look()
    assert curve_in(folder / FILE) == expected(row.curve)


def test_a_point_is_there_before_its_trial_is_done(prepared, tmp_path):
    trial, look, folder = prepared
    do(trial, tmp_path, 9)
    look()
    assert scalars(folder)["epoch"][0] == (4, 1.0)
    assert (folder_of(tmp_path, trial.id) / CHECKPOINT).exists()


def test_a_checkpoint_that_cannot_be_read_is_left_to_its_trial(prepared, tmp_path):
    trial, look, folder = prepared
    folder_of(tmp_path, trial.id).mkdir(parents=True)
    (folder_of(tmp_path, trial.id) / CHECKPOINT).write_text("torn")
    look()
    assert not folder.exists()


def test_seeds_are_a_group_and_labels_are_settings(prepared, tmp_path):
    trial, look, folder = prepared
    for seed in (0, 1):
        do(plan(read(tmp_path / "tiny.toml"))[0].trials[seed], tmp_path)
    look()
    groups = {settings(folder.parent / str(seed))[0] for seed in (0, 1)}
    assert groups == {"tiny/width=2+training=a%2Fb"}
    found = settings(folder)[1]
    assert found == {"experiment": "tiny", "width": 2.0, "training": "a/b"}
    told = text(folder, "trial")
    assert f"- network: `{trial.model}`" in told
    assert "- recipe: `epochs=3, batch=16, lr=0.05, clip=1.0`" in told


def test_nothing_is_written_of_what_has_not_begun(prepared, tmp_path):
    _, look, folder = prepared
    look()
    assert list(folder.parent.parent.iterdir()) == []


def test_written_again_the_file_stays_as_it_is(path):
    write(path, done(curve()))
    before = path.read_bytes()
    write(path, done(curve()))
    assert path.read_bytes() == before


def test_each_point_comes_once_however_often_one_looks(path):
    for epochs in (1, 1, 2, 3, 3):
        write(path, under_way(curve(epochs)))
    write(path, done(curve(4)))
    assert curve_in(path) == expected(curve(4))
    assert [step for step, _ in scalars(path.parent)["images_s"]] == [4, 8, 12, 16]


def test_a_trial_that_was_set_back_writes_nothing_again(path):
    write(path, under_way(curve(3)))
    before = path.read_bytes()
    write(path, under_way(curve(2)))
    assert path.read_bytes() == before
    write(path, done(curve(4)))
    assert curve_in(path) == expected(curve(4))


@pytest.mark.parametrize("epochs", [2, 3, 4])
def test_another_curve_takes_the_place_of_the_one_before(path, epochs):
    write(path, done(curve(3)))
    other = curve(epochs, error=49.0)
    other["loss"][0], other["top1_error"][0] = curve()["loss"][0], curve()["top1_error"][0]
    write(path, done(other))
    assert curve_in(path) == expected(other)


def test_a_shorter_curve_takes_the_place_of_the_one_before(path):
    write(path, under_way(curve(3)))
    write(path, done(curve(2)))
    assert curve_in(path) == expected(curve(2))


@pytest.mark.parametrize("tail", [b"\x20\0\0", b"\0" * 64, b"x" * 40])
def test_what_a_crash_tore_off_is_cut_away(path, tail):
    write(path, under_way(curve(2)))
    path.write_bytes(path.read_bytes()[:-5])
    write(path, under_way(curve(2)))
    path.write_bytes(path.read_bytes() + tail)
    write(path, done(curve(3)))
    assert curve_in(path) == expected(curve(3))


def test_commands_that_write_at_the_same_time(path):
    """The second waits for the first, which would cut away what it has not seen."""
    looking = threading.Event()

    def slow(events):
        looking.set()
        time.sleep(0.3)
        return missing(events, HEAD, under_way(curve(2)))

    first = threading.Thread(target=append_events, args=(path, slow))
    first.start()
    looking.wait()
    write(path, under_way(curve(3)))
    first.join()
    assert curve_in(path) == expected(curve(3))


def test_a_curve_whose_version_knew_no_top5_has_the_last(path):
    row = {"curve": curve(2), "top5_error": 3.0, "stamp": {"time": "2026-01-01T00:00:00+00:00"}}
    write(path, found_in_row(row, STEPS))
    assert scalars(path.parent)["validation/top5_error"] == [(8, 3.0)]


def test_the_curve_has_top5_where_there_are_more_than_five_classes(tmp_path):
    many = {"model": f"{NET}:classes=8", "data": f"{DATA}:classes=8"}
    row = do(tiny.trial(**many), tmp_path)
    assert row.curve["top5_error"][-1] == row.top5_error
    assert len(row.curve["top5_error"]) == 3


def test_names_are_of_one_text_each_and_safe():
    texts = ["a", "a/b", "a:b", "a b", "a%2Fb", ".", "..", "../a", "\n", "ä", "4,3,2,1", "x" * 300]
    texts += ["x" * 301, "ü" * 100]
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(name.isascii() and len(name) < 140 and "/" not in name for name in names)
    assert not {".", ".."} & set(names)
    assert safe_name("4,3,2,1") == "4,3,2,1"


def test_without_the_option_nothing_of_tensorboard_is_loaded():
    program = "import sys, ctxbench.ablate.tensorboard; print('tensorboard' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
