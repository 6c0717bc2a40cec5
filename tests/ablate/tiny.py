"""A network and a data set that train in milliseconds, named as a user names theirs."""

import dataclasses
import multiprocessing
from pathlib import Path

import torch
from torch import nn

from ctxbench.ablate.recipe import Recipe
from ctxbench.ablate.trial import Run, Trial
from ctxbench.data import Data, TensorImages
from ctxbench.data.augment import Augmentation

DATA = f"{__file__}:images"
NET = f"{__file__}:net"
# everything that has a state: momentum, averages, dropout, two parts a batch, mixed labels
RECIPE = Recipe(epochs=3, batch=16, accumulate=2, lr=0.05, ema=0.9, clip=1.0, warmup_epochs=0.5)
AUGMENTATION = Augmentation(crop="pad", flip=0.5, mixup=0.2)


def images(train=64, validation=40, px=8, classes=3):
    """Return images whose class is the quarter that is bright."""
    generator = torch.Generator().manual_seed(0)

    def part(count):
        labels = torch.arange(count) % classes
        pixels = torch.randint(0, 120, (count, 1, px, px), generator=generator)
        half = px // 2
        for index, label in enumerate(labels.tolist()):
            y, x = divmod(label, 2)
            pixels[index, :, y * half : (y + 1) * half, x * half : (x + 1) * half] += 100
        return TensorImages(pixels.to(torch.uint8), labels)

    return Data(part(train), part(validation), classes, 1, px, (0.3,), (0.2,))


def net(width=4, classes=3, dropout=0.2):
    """Return a network with running statistics and something random in it."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def trial(seed=0, *, model=NET, data=DATA, augmentation=AUGMENTATION, name="tiny", **recipe):
    """Return a trial of the tiny network, with what the recipe is to have else."""
    return Trial(name, model, data, dataclasses.replace(RECIPE, **recipe), augmentation, seed)


def run(**settings):
    """Return the settings of a run on the CPU that saves after each step."""
    return Run(**{"device": "cpu", "checkpoint_s": 0.0, **settings})


def in_a_process(function, *arguments):
    """Start a function in a process of its own, which begins as quickly as a fork."""
    in_a_process.context.set_forkserver_preload(["tests.ablate.tiny", "ctxbench.ablate.train"])
    process = in_a_process.context.Process(target=function, args=arguments)
    process.start()
    return process


in_a_process.context = multiprocessing.get_context("forkserver")


def folder_state(folder):
    """Return the names and bytes of what a trial has left."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
