"""FullGrad, which has no layer: the input's gradient, and that of every bias."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_grad_cam import FullGrad
from torch import Tensor, nn

from ctxbench.errors import VisualizeError

ALL_BIASES = "all biases"


@contextmanager
def full_gradient(
    scores: nn.Module, x: Tensor
) -> Iterator[tuple[Callable[[], Tensor], Callable[[Tensor], Any]]]:
    """Give two functions: the scores of `x`, and then maps (B, H, W) of a sum of some of them.

    grad-cam takes the biases in the order in which layers are registered, and the gradients in the
    order in which layers are called. Here the biases follow the calls. It leaves out what is
    neither nn.Conv2d nor nn.BatchNorm2d, as layer norms and linear layers, though they have biases.
    Source: arXiv:1905.00780.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise VisualizeError(
            f"fullgrad needs weights in float32; these are {str(x.dtype).removeprefix('torch.')}. "
            f"Choose another method."
        )
    cam = FullGrad(scores, [])
    image = x.clone().requires_grad_()
    called: list[nn.Module] = []
    handles = [
        layer.register_forward_hook(lambda layer, *_: called.append(layer))
        for layer in cam.target_layers
    ]

    def run() -> Tensor:
        result: Tensor = cam.activations_and_grads(image)
        return result

    def maps(told: Tensor) -> Any:
        torch.autograd.backward(told, inputs=[image])
        gradients = cam.activations_and_grads.gradients
        odd = any(gradient.ndim != 4 or len(gradient) != len(x) for gradient in gradients)
        if odd or len({*called}) < len(called) or len(gradients) != len(called):
            raise VisualizeError(
                f"fullgrad needs layers that are called once, on maps (B, C, H, W) that bear on "
                f"the class: {len({*called})} layers with biases make {len(called)} calls, of "
                f"which {len(gradients)} bear on it. Choose another method."
            )
        bias = dict(zip(cam.target_layers, cam.bias_data, strict=True))
        cam.bias_data = [bias[layer] for layer in called]
        return cam.compute_cam_per_layer(image, None, False)[:, 0]

    try:
        yield run, maps
    finally:
        for handle in handles:
            handle.remove()
        cam.activations_and_grads.release()
