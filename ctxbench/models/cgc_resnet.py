"""CGC-ResNet: ResNet with a context-gated convolution in the place of every 3x3 and of the stem."""

import re

from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec
from ctxbench.models.resnet import (
    DEPTHS,
    TINY,
    Place,
    ResNet,
    ResNetConfig,
    plain_stem,
    resnet,
)
from ctxbench.ops import CGConv2d


def cgc_resnet(config: ResNetConfig, *, gated_stem: bool = True) -> ResNet:
    """Build a CGC-ResNet; differs from `resnet` in the 3x3 convolutions and in the stem's.

    The kernels are drawn like those of `resnet`; as the gates begin near 1/2, what the gated
    convolutions return is about half as large. `gated_stem=False` leaves the stem plain.
    """
    return resnet(config, conv3x3=_conv3x3, stem=_stem if gated_stem else plain_stem)


def _conv3x3(channels: int, width: int, *, stride: int, dilation: int, place: Place) -> nn.Module:
    del place
    return CGConv2d(channels, width, 3, stride=stride, dilation=dilation, bias=False)


def _stem(channels: int, width: int, kernel_size: int, *, stride: int) -> nn.Module:
    return CGConv2d(channels, width, kernel_size, stride=stride, bias=False)


def from_authors(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Translate the entries of a file by the authors; other files pass unchanged."""
    gated = {
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if isinstance(module, CGConv2d)
    }

    def ours(key: str) -> str:
        match = _PART.fullmatch(key)
        if not match or match["conv"] not in gated:
            return key
        return f"{match['conv']}gate.{_NAMES[match['part']]}.{match['entry']}"

    return {ours(key): value for key, value in state.items()}


# the authors' names of a gate's parts -> ours
_NAMES = {
    "ce": "encode",
    "ce_bn": "input_norm",
    "gd": "input_decode",
    "ci_bn2": "interact_norm",
    "ci": "interact",
    "ci_bn": "output_norm",
    "gd2": "output_decode",
}
_PART = re.compile(rf"(?P<conv>(?:.+\.)?)(?P<part>{'|'.join(_NAMES)})\.(?P<entry>\w+)")

_SOURCE = "arXiv:1910.05577; XudongLinthu/context-gated-convolution@920557e"

SPECS = {
    **{
        f"cgc_resnet{depth}": ModelSpec(
            cgc_resnet, source=_SOURCE, preset=preset, baseline=f"resnet{depth}"
        )
        for depth, preset in DEPTHS.items()
    },
    "cgc_resnet_tiny": ModelSpec(
        cgc_resnet, source=_SOURCE, preset=TINY, baseline="resnet_tiny", image_px=32
    ),
}
