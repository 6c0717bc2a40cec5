"""The methods of grad-cam: each one's formula, and what it needs to be told."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytorch_grad_cam as library
from pytorch_grad_cam import ablation_cam, score_cam
from pytorch_grad_cam.utils.find_layers import replace_layer_recursive
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

from ctxbench.errors import UnknownNameError

_COMPARED = 3  # FinerCAM: the classes nearest in score, as many as its authors take

# the scores of an image (classes,) -> the number that is explained
Target = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Method:
    """A class of grad-cam; `target(scores, index)` is what a method explains of a class.

    `second` says that it takes a second derivative.
    """

    kind: Callable[..., Any]
    target: Callable[[Tensor, int], Target] = lambda _, index: ClassifierOutputTarget(index)
    second: bool = False
    layered: bool = True


class _Random(library.RandomCAM):  # type: ignore[misc]
    """Weights by chance: a control. The same for each image, so that a batch changes nothing."""

    def get_cam_weights(self, *given: Any) -> Any:
        """Return weights (B, C) between -1 and 1."""
        images, channels = given[-1].shape[:2]
        return np.tile(np.random.default_rng(0).uniform(-1, 1, channels), (images, 1))


class _Ablation(ablation_cam.AblationCAM):  # type: ignore[misc]
    """Keeps a copy of the map, which later layers may change in place."""

    def save_activation(self, module: nn.Module, given: Any, output: Tensor) -> None:
        """Keep what the layer returns."""
        del module, given
        self.activations = output.clone()

    def get_cam_weights(self, *given: Any) -> Any:
        """Return the weights, and put the layer back after an error, too."""
        try:
            return super().get_cam_weights(*given)
        finally:
            replace_layer_recursive(self.model, self.ablation_layer, given[1])


class _AblationLayer(library.AblationLayer):  # type: ignore[misc]
    """Stands in for a layer, whatever else that takes besides a map."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        """Return the map it has been told, with a channel switched off in each image."""
        del given, options
        return super().__call__(None)


def _ablation(model: nn.Module, layers: list[nn.Module]) -> Any:
    # one made for all calls, as is the default, would hold the maps of the last
    return _Ablation(model, layers, ablation_layer=_AblationLayer())


def _finer_target(scores: Tensor, index: int) -> Target:
    """Return a class against the classes that are nearest in score."""
    nearest = (scores.detach() - scores.detach()[index]).abs()
    nearest[index] = -1  # itself comes first
    others = nearest.argsort()[1 : _COMPARED + 1].tolist()
    return FinerWeightedTarget(index, others, 1)  # type: ignore[no-any-return]


# Not here: SESS, which cuts the image into pieces, and RefineCAM, which takes several layers: both
# go on with maps of these methods.
METHODS = {
    "gradcam": Method(library.GradCAM),
    "gradcam++": Method(library.GradCAMPlusPlus),
    "hirescam": Method(library.HiResCAM),
    "xgradcam": Method(library.XGradCAM),
    "layercam": Method(library.LayerCAM),
    "gradcamelementwise": Method(library.GradCAMElementWise),
    "eigencam": Method(library.EigenCAM),
    "eigengradcam": Method(library.EigenGradCAM),
    "segeigencam": Method(library.SegEigenCAM),
    "kpcacam": Method(library.KPCA_CAM),
    "fem": Method(library.FEM),
    "shapleycam": Method(library.ShapleyCAM, second=True),
    "finercam": Method(library.GradCAM, target=_finer_target),
    "scorecam": Method(library.ScoreCAM),
    "ablationcam": Method(_ablation),
    "randomcam": Method(_Random),
    "fullgrad": Method(library.FullGrad, layered=False),
}


def method_of(name: str) -> Method:
    """Return a method by its name.

    Raises: UnknownNameError with the names that there are.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return METHODS[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Draw no bar of progress for each image, unless somebody sits in front of a terminal."""
    if sys.stderr.isatty():
        yield
        return
    modules = (ablation_cam, score_cam)
    bars = [module.tqdm for module in modules]
    try:
        for module in modules:
            module.tqdm = SimpleNamespace(tqdm=iter)
        yield
    finally:
        for module, bar in zip(modules, bars, strict=True):
            module.tqdm = bar
