"""A whole small experiment as a command, with one trial at a time and with several."""

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ctxbench.ablate.checkpoint import WEIGHTS
from ctxbench.ablate.folder import folder_of
from ctxbench.records import read_rows

MODEL = "coresnet_tiny:width=8:block=basic"
_EXPERIMENT = """
title = "Trials at a time"
model = "{model}"
data = "context:image_px=24:classes=3:train={images}:validation=500"
seeds = {seeds}

[recipe]
epochs = {epochs}
batch = 64
lr = 0.01
"""


class Experiment(NamedTuple):
    """One network with several seeds; `images` and `epochs` say how long a trial takes."""

    trials: int = 4
    images: int = 9600
    epochs: int = 1


class Found(NamedTuple):
    """What one run of the command took, in seconds.

    `training_s` is what each trial says of itself. `besides_s` is what the time from the end of one
    trial to the end of the next has beyond that, where one follows the other: its process, data,
    evaluation and weights. `first_s` is the same for the first one, from the start of the command.
    """

    wall_s: float
    training_s: list[float]
    besides_s: list[float]
    first_s: float


def run(experiment, jobs):
    """Run the experiment in a fresh folder."""
    with TemporaryDirectory() as folder:
        file, out = Path(folder) / "trials.toml", Path(folder) / "results"
        file.write_text(
            _EXPERIMENT.format(
                model=MODEL, images=experiment.images, epochs=experiment.epochs,
                seeds=list(range(experiment.trials)),
            )
        )  # fmt: skip
        words = ["--jobs", str(jobs), "--threads", "1", "--device", "cpu", "--out", out, "--quiet"]
        began, clock = time.time(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "ctxbench", "ablate", file, *words],
            check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        wall_s = time.perf_counter() - clock
        seconds = {
            row["trial"]: row["seconds"] for row in read_rows("trials", raw=out / "raw").rows
        }
        # the last file of a trial is its weights
        weights = {trial: folder_of(out, trial) / WEIGHTS for trial in seconds}
        ended = sorted((path.stat().st_mtime, seconds[trial]) for trial, path in weights.items())
    besides = (
        [end - before - own for (before, _), (end, own) in pairwise(ended)] if jobs == 1 else []
    )
    first, own = ended[0]
    return Found(wall_s, list(seconds.values()), besides, first - began - own)
