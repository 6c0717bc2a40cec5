"""Grad-CAM and its relatives: which positions of a layer's map speak for a class.

The formulas are those of the package grad-cam. How a map and its gradient come to them is ours: the
package lets layers that work in place change the map, goes back through the whole network where
behind the layer is enough, scales each map to 0..1, and leaves gradients behind.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.errors import VisualizeError
from ctxbench.kernels import use_backend
from ctxbench.visualize._cam_methods import METHODS, Method, Target, method_of, quiet
from ctxbench.visualize._full_gradient import ALL_BIASES, full_gradient
from ctxbench.visualize.inside import (
    at_rest,
    is_map,
    layer_of,
    outcome,
    prepared,
    probabilities_of,
    scores_of,
    target_layer,
    unwrapped,
)

__all__ = ["METHODS", "Cams", "gradcam", "shares", "upsampled"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cams:
    """Class activation maps of some images.

    `maps` (B, Y, X) is what speaks for the class, 0 or more, at the layer's own resolution and in
    the method's own unit. `scores` (B) is the network's score of the class `classes` (B), and
    `probabilities` (B) its share after softmax, NaN for detections.
    """

    maps: Array
    classes: npt.NDArray[np.int64]
    scores: Array
    probabilities: Array
    layer: str
    method: str


def gradcam(
    model: nn.Module,
    x: Tensor,
    *,
    layer: str | None = None,
    method: str = "gradcam",
    classes: Sequence[int] | None = None,
) -> Cams:
    """Return the maps of images `x` (B, C, H, W), by one of `METHODS`.

    `layer` is by default the last that returns a map, and `classes`, one an image, what the
    network predicts. The network comes back as it was. fullgrad has no layer, and its maps are of
    the images' size.

    Cost:   the network once (twice if it has to look for the layer), and back to the layer; of
            scorecam and ablationcam once for each channel of the layer.
    Raises: UnknownNameError for a method or layer that does not exist; VisualizeError for a layer
            without one map, a class or image that does not fit, a network without class scores.
    """
    chosen = method_of(method)
    model = unwrapped(model)
    with at_rest(model):
        x = prepared(model, x.detach())
        if not chosen.layered:
            return _without_layer(model, x, layer, method, classes)
        name = target_layer(model, x[:1]) if layer is None else layer
        explained = _Explained(model, name, x, chosen)
        with torch.set_grad_enabled(explained.cam.uses_gradients):
            map_BCYX, output = explained.run()
            scores_BK = scores_of(output).float()
            picked = _checked(classes, scores_BK, len(x))
            targets = [
                chosen.target(scores_K, index)
                for scores_K, index in zip(scores_BK, picked, strict=True)
            ]
            maps = explained.maps(map_BCYX, scores_BK, targets)
    return _cams(maps, output, picked, layer=name, method=method)


def _without_layer(
    model: nn.Module, x: Tensor, layer: str | None, method: str, classes: Sequence[int] | None
) -> Cams:
    if layer is not None:
        raise VisualizeError(f"{method} has no layer; got {layer!r}. Leave the layer out.")
    scores = _Scores(model, x)
    with full_gradient(scores, x) as (run, maps_of):
        scores_BK = run()
        picked = _checked(classes, scores_BK, len(x))
        maps = maps_of(scores_BK.gather(1, scores_BK.new_tensor(picked).long()[:, None]).sum())
    with torch.no_grad():
        output = outcome(model, x.clone())
    return _cams(maps, output, picked, layer=ALL_BIASES, method=method)


def _cams(maps: Any, output: Any, picked: Sequence[int], *, layer: str, method: str) -> Cams:
    index = torch.tensor(picked)[:, None]
    scores, probabilities = (
        table.detach().float().cpu().gather(1, index)[:, 0].numpy()
        for table in (scores_of(output), probabilities_of(output))
    )
    positive = np.maximum(np.asarray(maps, np.float32), 0)
    if not np.isfinite(positive).all():
        raise VisualizeError(
            f"{method} of layer {layer!r} gives numbers that are infinite or none (NaN). Look at "
            f"the weights, or choose another method."
        )
    return Cams(positive, np.array(picked), scores, probabilities, layer, method)


class _Explained:
    """A network at rest, a layer of it, and images."""

    def __init__(self, model: nn.Module, name: str, x: Tensor, method: Method) -> None:
        self.name, self.x, self.method = name, x, method
        self.layer = layer_of(model, name)
        self.scores = _Scores(model, x)
        self.cam = method.kind(self.scores, [self.layer])
        self.cam.activations_and_grads.release()  # its hooks: ours collect

    def run(self) -> tuple[Tensor, Any]:
        """Return the layer's map, a leaf of the graph, and what the network makes of it."""
        maps: list[Tensor] = []

        def hook(_: nn.Module, __: Any, output: Any) -> Tensor:
            if not is_map(output, self.x):
                told = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise VisualizeError(
                    f"Layer {self.name!r} returns {told}, and not a map (B, C, H, W) of more than "
                    f"one position for these {len(self.x)} images. Choose another layer."
                )
            # numpy knows no bfloat16, and half numbers are too coarse for second derivatives
            wide = torch.promote_types(output.dtype, torch.float32)
            maps.append(output.detach().to(wide, copy=True).requires_grad_())
            return maps[-1].to(output.dtype, copy=True)  # for later layers, in place or not

        # hand-written backward passes have no derivative of their own
        plain = use_backend("reference") if self.method.second else nullcontext()
        handle = self.layer.register_forward_hook(hook)
        try:
            with plain:
                output = outcome(self.scores.model, self.x.clone())
        finally:
            handle.remove()
        if len(maps) != 1:
            times = f"is called {len(maps)} times" if maps else "is not called by this network"
            raise VisualizeError(
                f"Layer {self.name!r} {times}, so there is not one map to show. "
                f"Choose another layer."
            )
        return maps[0], output

    def maps(self, map_BCYX: Tensor, scores_BK: Tensor, targets: Sequence[Target]) -> Any:
        """Return the maps (B, Y, X) of what `targets` make of the scores."""
        if self.cam.uses_gradients:
            return self._with_gradients(map_BCYX, scores_BK, targets)
        return self._without_gradients(map_BCYX.detach(), targets)

    def _with_gradients(
        self, map_BCYX: Tensor, scores_BK: Tensor, targets: Sequence[Target]
    ) -> Any:
        told = sum(target(scores) for target, scores in zip(targets, scores_BK, strict=True))
        second = self.method.second
        gradient = (
            torch.autograd.grad(told, map_BCYX, create_graph=second, allow_unused=True)[0]
            if isinstance(told, Tensor) and told.requires_grad
            else None
        )
        if gradient is None:
            raise VisualizeError(
                f"The class scores do not depend on layer {self.name!r}. Choose another layer."
            )
        if second:
            # behind a network that is linear from here on there is no second derivative: 0
            given: tuple[Any, Any] = (map_BCYX, gradient + 0 * map_BCYX)
        else:
            given = (map_BCYX.detach().cpu().numpy(), gradient.cpu().numpy())
        return self.cam.get_cam_image(self.x, self.layer, targets, *given, False)

    def _without_gradients(self, map_BCYX: Tensor, targets: Sequence[Target]) -> Any:
        """Go image by image: what masks the image holds one of it for each channel."""
        values = map_BCYX.cpu().numpy()
        with quiet():
            return np.concatenate(
                [
                    self.cam.get_cam_image(
                        self.x[i : i + 1], self.layer, targets[i : i + 1], values[i : i + 1], None,
                        False,
                    )
                    for i in range(len(targets))
                ]
            )  # fmt: skip


class _Scores(nn.Module):
    """The network as grad-cam takes it: images to class scores, never changing the images."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        # grad-cam asks the first parameter for its device; a network may have none
        self.place = nn.Parameter(x.new_empty(0), requires_grad=False)
        self.training = False
        self.model = model

    def train(self, mode: bool = True) -> "_Scores":
        """Do nothing: grad-cam asks for eval mode, in which the network is."""
        del mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (B, classes)."""
        return scores_of(outcome(self.model, x.to(self.place, copy=True))).float()


def _checked(classes: Sequence[int] | None, scores_BK: Tensor, images: int) -> list[int]:
    """Return the class of each image."""
    if len(scores_BK) != images:
        raise VisualizeError(
            f"The network returns scores {tuple(scores_BK.shape)} for {images} images. "
            f"Choose a classifier."
        )
    if classes is None:
        predicted: list[int] = scores_BK.argmax(1).tolist()
        return predicted
    count = scores_BK.shape[1]
    if len(classes) != images:
        raise VisualizeError(f"{images} images need as many classes; got {len(classes)}.")
    for index in classes:
        if not 0 <= index < count:
            raise VisualizeError(
                f"There is no class {index}: the network's classes are 0 to {count - 1}."
            )
    return [int(index) for index in classes]


def upsampled(maps_BYX: Array, size: tuple[int, int]) -> Array:
    """Return maps at the size of the images, between the layer's positions bilinear."""
    maps = torch.from_numpy(maps_BYX)[:, None]
    large = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return np.asarray(large[:, 0])


def shares(maps_BYX: Array) -> Array:
    """Return each map over its maximum, 0 to 1; a map with nothing positive in it is all 0."""
    largest = maps_BYX.max((1, 2), keepdims=True)
    return np.asarray(np.divide(maps_BYX, largest, out=np.zeros_like(maps_BYX), where=largest > 0))
