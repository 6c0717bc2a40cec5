"""A trial that is killed, however often and whenever, ends as if nothing had happened."""

import os
import random
import signal
from pathlib import Path

import pytest

from ctxbench.ablate import checkpoint
from ctxbench.ablate.train import train
from tests.ablate.tiny import in_a_process, run, trial

EXACT = (
    "trial", "top1_error", "top5_error", "loss", "train_loss", "train_top1_error", "epochs",
    "steps", "params", "macs", "weights", "curve", "broken_images",
)  # fmt: skip


def long(seed):
    """A trial that takes long enough to be killed in."""
    return trial(seed, epochs=12)


def train_here(seed, folder):
    return train(long(seed), Path(folder), run(), stop=lambda: False, tell=lambda progress: None)


def train_and_die(seed, folder, moment):
    """Train until `moment`, a name of a step in writing a file, has come the given times."""
    name, times = moment
    real, left = getattr(os, name), [times]

    def deadly(*arguments, **keywords):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **keywords)

    setattr(os, name, deadly)
    train_here(seed, folder)


def exact(row):
    return {key: getattr(row, key) for key in EXACT}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folders = {seed: tmp_path_factory.mktemp("undisturbed") for seed in (0, 1)}
    return {
        seed: (exact(train_here(seed, folder)), (folder / checkpoint.WEIGHTS).read_bytes())
        for seed, folder in folders.items()
    }


def finish(seed, folder, undisturbed, *, kills):
    row = train_here(seed, folder)
    expected, weights = undisturbed[seed]
    assert exact(row) == expected
    assert (folder / checkpoint.WEIGHTS).read_bytes() == weights
    assert row.resumed <= kills + 1  # one may have ended before it was killed
    return row


def train_and_say(seed, folder, begun):
    """Train, and say when the first step is over."""

    def stop():
        begun.set()
        return False

    train(long(seed), Path(folder), run(), stop=stop, tell=lambda progress: None)


def kill_at_random(seed, folder, kills, draw):
    """Kill the trial again and again: while it starts, or at any moment of what it then does."""
    done = 0
    while done < kills and not (folder / checkpoint.WEIGHTS).exists():
        begun = in_a_process.context.Event()
        process = in_a_process(train_and_say, seed, folder, begun)
        if draw.random() < 0.8:
            begun.wait(30)
        process.join(draw.uniform(0, 0.15))
        process.kill()
        process.join()
        done += process.exitcode == -signal.SIGKILL
    return done


def kill_and_compare(folder, undisturbed, *, turns, kills, draw):
    """Return how often trials were killed, and how often they had something to go on with."""
    found = []
    for turn in range(turns):
        seed, place = turn % 2, folder / str(turn)
        done = kill_at_random(seed, place, kills, draw)
        found.append((done, finish(seed, place, undisturbed, kills=done).resumed))
    return [sum(column) for column in zip(*found, strict=True)]


def test_killed_at_random_moments(tmp_path, undisturbed):
    kills, resumed = kill_and_compare(
        tmp_path, undisturbed, turns=8, kills=5, draw=random.Random(0)
    )
    assert kills >= 20
    assert resumed >= 5  # some were killed in the middle, not only at the start


@pytest.mark.slow
def test_killed_at_two_hundred_random_moments(tmp_path, undisturbed):
    kills, _ = kill_and_compare(tmp_path, undisturbed, turns=70, kills=5, draw=random.Random(1))
    assert kills >= 200


@pytest.mark.parametrize("times", [1, 5, 9])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_while_writing_a_checkpoint(tmp_path, undisturbed, moment, times):
    process = in_a_process(train_and_die, 0, tmp_path, (moment, times))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    row = finish(0, tmp_path, undisturbed, kills=1)
    assert row.resumed == (0 if (moment, times) in (("fsync", 1), ("replace", 1)) else 1)
