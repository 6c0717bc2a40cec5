"""Networks and images to be drawn, from what a caller names: specs, runs, modules, files, data."""

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ctxbench.ablate.device import device_of
from ctxbench.ablate.plan import load
from ctxbench.api._networks import Network, Networks, channels_of, named
from ctxbench.data import TensorImages
from ctxbench.data import resolve as resolve_data
from ctxbench.errors import SpecError, VisualizeError
from ctxbench.visualize.class_names import class_names_of
from ctxbench.visualize.load import (
    data_of_run,
    expanded,
    images_of,
    images_of_data,
    photographs,
    some_images,
    subject_of,
)
from ctxbench.visualize.preprocess import Preprocess
from ctxbench.visualize.subject import Image, Subject

Picturable = str | Path | Image
# how many images of data are drawn if nobody says which: more by what says something on average
_COUNT, _COUNTS = 4, {"erf": 64, "cues": 256}
# of networks in memory, which do not say how they were trained
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIDE, _SHORTER = 224, 256

_warn = partial(warnings.warn, stacklevel=2)


@dataclass(frozen=True, slots=True)
class Loading:
    """How networks are loaded: what `subject_of` takes; `data` are those that are shown."""

    results: Path
    data: str | None
    checkpoint: Path | None
    class_names: Path | None
    size: tuple[int, int] | None
    dtype: Literal["fp32", "bf16"]
    device: str
    seed: int

    def subject(self, title: str, network: Network) -> Subject:
        """Load a network by spec, or copy one in memory, and make it ready to be drawn."""
        if not isinstance(network, str):
            return self._in_memory(title, network)
        loaded = subject_of(
            network, checkpoint=self.checkpoint, seed=self.seed, out=self.results,
            device=self.device, dtype=self.dtype, size=self.size, class_names=self.class_names,
        )  # fmt: skip
        return loaded if title == network else replace(loaded, title=title)

    def _in_memory(self, name: str, model: nn.Module) -> Subject:
        if self.checkpoint is not None:
            raise SpecError(
                f"{name} is in memory and has its weights. Leave checkpoint out, or load it first: "
                f"ctxbench.load_checkpoint(model, {str(self.checkpoint)!r})."
            )
        names = None
        if self.class_names is not None:
            names = class_names_of(self.class_names, getattr(model, "num_classes", None))
        weights = torch.bfloat16 if self.dtype == "bf16" else torch.float32
        return Subject(
            spec=re.sub(r"[:=]", " ", name),
            title=name,
            # it may be in training, elsewhere and in another type
            model=copy.deepcopy(model).eval().to(device_of(self.device), weights),
            weights="weights in memory",
            trained=True,  # as far as we know
            preprocess=_preprocess(self.data, channels_of(model)).sized(self.size),
            class_names=names,
        )


def titled(networks: Networks, results: Path) -> dict[str, Network]:
    """Return networks by title; a run that names several trials is all of them."""
    found: dict[str, str | nn.Module] = {}
    for name, network in named(networks).items():
        if not isinstance(network, str):
            found[name] = network
            continue
        if network.startswith("op/"):
            raise SpecError(f"{network} is one operator, without images. Name a network.")
        several = expanded(network, results)
        for number, (spec, label) in enumerate(several.items(), start=1):
            title = name if name != network else label or spec
            taken = title in found or (len(several) > 1 and name != network)
            found[f"{title} ({number})" if taken else title] = spec
    return found


def data_of_runs(networks: Iterable[Network], results: Path) -> str | None:
    """Return what the first run among the networks was trained on; None if there is no run."""
    runs = [spec for spec in networks if isinstance(spec, str) and spec.startswith("run:")]
    return data_of_run(runs[0], results) if runs else None


def images_for(
    kind: str,
    images: Picturable | Sequence[Picturable] | None,
    data: str | None,
    index: int | Iterable[int] | None,
    *,
    on_broken: Callable[[str], None] = _warn,
) -> Iterator[Image]:
    """Return the images asked for; else those of the data; else two photographs.

    Of a file that cannot be read `on_broken` gets a line.
    """
    if images is not None and index is not None:
        raise SpecError("index is of images of data. Give either images, or data and index.")
    if images is not None:
        return _given(list(images) if isinstance(images, list | tuple) else [images], on_broken)
    if data is None:
        if index is not None:
            raise SpecError("index is of images of data, which is not given.")
        return photographs()
    if index is not None:
        return images_of_data(data, [index] if isinstance(index, int) else list(index))
    return some_images(data, _COUNTS.get(kind, _COUNT))


def _given(images: Sequence[Any], on_broken: Callable[[str], None]) -> Iterator[Image]:
    """Return images as they are, and those of files and folders."""
    for image in images:
        if not isinstance(image, str | Path | Image):
            raise SpecError(f"{type(image).__name__} is no image. Give a path, or an Image.")
    groups = groupby(images, key=lambda image: isinstance(image, Image))
    return chain.from_iterable(
        [
            list(group) if decoded else images_of(list(group), on_broken=on_broken)
            for decoded, group in groups
        ]
    )


def _preprocess(data: str | None, channels: int) -> Preprocess:
    """Return how images are shown to a network in memory: as those of the data, or of ImageNet."""
    if channels not in (1, 3):
        raise VisualizeError(f"The network takes {channels} channels; images have 1 or 3.")
    if data:
        known = load(resolve_data(data).spec)
        px, images = known.image_px, known.validation
        whole = isinstance(images, TensorImages) and images.images.shape[-2:] == (px, px)
        shorter = None if whole else round(px * _SHORTER / _SIDE)
        mean, std = known.mean, known.std
        height = width = px
    else:
        (mean, std), shorter = _IMAGENET, _SHORTER
        height = width = _SIDE
    if len(mean) != channels:
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    return Preprocess(height, width, mean, std, shorter)
