"""Our training and a bare PyTorch loop over the same network, in turns, in one process."""

import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from ctxbench.ablate.checkpoint import load_checkpoint
from ctxbench.ablate.plan import bound
from ctxbench.ablate.recipe import Recipe
from ctxbench.ablate.step import cross_entropy, set_seed, step_seed
from ctxbench.ablate.train import train
from ctxbench.ablate.trial import InterruptedTrial, Run, Trial
from ctxbench.data import augment, resolve
from ctxbench.data.augment import Augmentation
from ctxbench.data.batches import Reading, training_batches
from ctxbench.errors import CtxbenchError
from ctxbench.latency import machine
from ctxbench.models import resolve as resolve_network

_DATA = Path(__file__).with_name("_synthetic.py")
_WARM = 2  # turns that do not count


class Case(NamedTuple):
    """A network, the batches it is trained on, and how many of them are timed at once."""

    model: str
    image_px: int
    batch: int
    block: int
    classes: int = 10


class Found(NamedTuple):
    """Seconds of each counted block, the largest difference of a weight, and a checkpoint's."""

    ours_s: list[float]
    bare_s: list[float]
    weights_difference: float
    checkpoint_s: float


def in_turns(case, runs, threads):
    """Train a network twice, block by block in the order A B B A, from the same weights.

    Ours is `train` as the command calls it, which asks after each step whether it is to stop: in
    there the bare loop takes its turns.
    """
    machine.keep_freed_memory()  # in both
    torch.set_num_threads(threads)
    turns = runs + _WARM
    trial = _trial(case, steps=turns * case.block)
    turn = _Turns(case.block, turns, _Bare(trial, case.block))
    run = Run("cpu", threads, checkpoint_s=math.inf)
    with TemporaryDirectory() as folder:
        try:
            row = train(trial, Path(folder), run, stop=turn.is_over, tell=lambda _: None)
            raise CtxbenchError(f"{case.model} ended before its turns: {row.reason}")
        except InterruptedTrial:
            saved_s = time.perf_counter() - turn.began
        ours = load_checkpoint(Path(folder), torch.device("cpu"))["stepper"]["model"]
    bare = turn.bare.model.state_dict()
    apart = max((ours[key] - bare[key]).abs().max().item() for key in bare)
    return Found(turn.ours_s[_WARM:], turn.bare_s[_WARM:], apart, saved_s)


def _trial(case, steps):
    data = f"{_DATA}:images:image_px={case.image_px}:classes={case.classes}"
    # one more than is taken, so that no evaluation comes between
    data = f"{data}:train={(steps + 1) * case.batch}"
    recipe = Recipe(batch=case.batch, lr=0.01, schedule="constant")
    model = bound(case.model, resolve(data).load())
    return Trial("benchmark", model, data, recipe, Augmentation(), 0)


class _Bare:
    """Forward, backward and the optimiser on batches that are there, and nothing else."""

    def __init__(self, trial, block):
        data = resolve(trial.data).load()
        made = training_batches(
            data.train, Reading(trial.recipe.batch, trial.seed),
            augment.training(data, trial.augmentation), None, epoch=0,
        )  # fmt: skip
        self.batches = [(batch.images, batch.target) for batch in made]
        self.block = block
        network = resolve_network(trial.model)
        set_seed(step_seed(trial.seed, 0, 0, 0))
        self.model = network.build()
        self.loss = network.loss or cross_entropy
        recipe = trial.recipe
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), lr=recipe.lr, momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip

    def run(self, turn):
        """Take the steps of one turn and return the seconds."""
        began = time.perf_counter()
        for x, target in self.batches[turn * self.block : (turn + 1) * self.block]:
            self.optimiser.zero_grad()
            loss = self.loss(self.model, x, target, smoothing=0.0)
            loss.backward()
            self.optimiser.step()
        return time.perf_counter() - began


class _Turns:
    def __init__(self, block, turns, bare):
        self.block, self.turns, self.bare = block, turns, bare
        self.ours_s, self.bare_s = [], []
        self.steps = 0
        self.began = time.perf_counter()

    def is_over(self):
        """Count a step of ours; between two blocks of ours the bare loop has two turns."""
        self.steps += 1
        if self.steps % self.block:
            return False
        self.ours_s.append(time.perf_counter() - self.began)
        turn = len(self.ours_s) - 1
        if turn % 2 == 0:
            following = range(turn, min(turn + 2, self.turns))
            # ours begins next, with random numbers that it seeds itself
            self.bare_s += [self.bare.run(each) for each in following]
        self.began = time.perf_counter()
        return len(self.ours_s) == self.turns
