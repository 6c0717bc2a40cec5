"""Images of nothing, in memory: a data set for `_synthetic.py:images:image_px=32:train=640`."""

import torch

from ctxbench.data import Data, TensorImages


def images(*, image_px=32, train=640, classes=10, seed=0):
    """Return noise in three channels with labels at random."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        256, (train, 3, image_px, image_px), dtype=torch.uint8, generator=generator
    )
    labels = torch.randint(classes, (train,), generator=generator)
    return Data(
        train=TensorImages(pixels, labels),
        validation=TensorImages(pixels[:1], labels[:1]),
        classes=classes,
        channels=3,
        image_px=image_px,
        mean=(0.5,) * 3,
        std=(0.289,) * 3,  # of even noise
    )
