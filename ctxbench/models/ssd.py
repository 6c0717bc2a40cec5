"""SSD300: a detector whose backbone is a ResNet, or CoResNet, cut after its third stage."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec, at_least_one
from ctxbench.models.coresnet import Levels, coconv3x3
from ctxbench.models.resnet import (
    Conv3x3,
    Place,
    ResNet,
    ResNetConfig,
    conv1x1,
    plain_conv3x3,
    resnet,
)

# (bottleneck width, output width, stride) of the five extra blocks; stride 1 goes without padding
_EXTRAS = ((256, 512, 2), (256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1))
# default boxes per position of the six maps
_BOXES = (4, 6, 6, 6, 4, 4)
# smaller images leave no position on the last map
_SMALLEST_PX = 257


@dataclass(frozen=True, slots=True)
class SSDConfig:
    """The shape of a detector; `num_classes` counts the background, too."""

    blocks: tuple[int, ...] = (3, 4, 6)
    width: int = 64
    num_classes: int = 81
    in_channels: int = 3

    def __post_init__(self) -> None:
        at_least_one(self, "blocks", "width", "num_classes", "in_channels")
        if len(self.blocks) != 3:
            shown = ",".join(map(str, self.blocks))
            raise ValueError(f"blocks={shown} should be three: SSD300 cuts after the third stage.")


class SSD(nn.Module):
    """Box offsets and class scores from the backbone's map and from five smaller ones.

    The boxes come map by map, largest first, within a map row by row, position by position.

    Shape:  (B, C, H, W) -> (B, boxes, 4 + classes), offsets first; 8732 boxes at 300 x 300.
    Raises: ValueError for images that leave no position on the last map.
    Source: arXiv:1512.02325; arXiv:2108.07387, Table 6.
    """

    def __init__(self, backbone: ResNet, classes: int) -> None:
        super().__init__()
        self.backbone, self.classes = backbone, classes
        channels = [backbone.out_channels, *(width for _, width, _ in _EXTRAS)]
        self.extras = nn.ModuleList(map(_extra_block, channels, _EXTRAS))
        self.location = _heads(channels, values=4)
        self.scores = _heads(channels, values=classes)
        for part in (self.extras, self.location, self.scores):
            _initialise(part)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the six maps on which boxes are predicted, largest first."""
        x = self.backbone.features(x)[-1]
        yield x
        for extra in self.extras:
            x = extra(x)
            yield x

    def forward(self, x: Tensor) -> Tensor:
        """Return offsets and class scores of every default box."""
        if min(x.shape[-2:]) < _SMALLEST_PX:
            raise ValueError(
                f"SSD300 needs images of at least {_SMALLEST_PX} px for its six maps; "
                f"got {tuple(x.shape[-2:])}."
            )
        heads = zip(self.maps(x), self.location, self.scores, strict=True)
        rows = [
            torch.cat([_per_box(location(y), 4), _per_box(scores(y), self.classes)], dim=2)
            for y, location, scores in heads
        ]
        return torch.cat(rows, dim=1)


def ssd300(config: SSDConfig, *, conv3x3: Conv3x3 = plain_conv3x3) -> SSD:
    """Build the detector; `conv3x3` is that of the backbone's blocks."""
    # Output stride 8 sets the stride of the third stage to 1, and that is all the paper says of it:
    # what the option dilates besides is undone.
    shape = ResNetConfig(
        blocks=config.blocks,
        width=config.width,
        output_stride=8,
        in_channels=config.in_channels,
        num_classes=1,
    )
    backbone = resnet(shape, conv3x3=_undilated(conv3x3))
    backbone.set_submodule("fc", nn.Identity())
    return SSD(backbone, config.num_classes)


def ssd300_coresnet(config: SSDConfig, *, levels: Levels = (4, 3, 2)) -> SSD:
    """Build the detector on a CoResNet; differs from `ssd300` in the backbone's 3x3 convolutions.

    `levels` is one per stage of the backbone.
    """
    return ssd300(config, conv3x3=coconv3x3(levels, stages=len(config.blocks)))


def _undilated(conv3x3: Conv3x3) -> Conv3x3:
    def build(channels: int, width: int, *, stride: int, dilation: int, place: Place) -> nn.Module:
        del dilation
        return conv3x3(channels, width, stride=stride, dilation=1, place=place)

    return build


def _extra_block(channels: int, sizes: tuple[int, int, int]) -> nn.Module:
    middle, width, stride = sizes
    return nn.Sequential(
        conv1x1(channels, middle),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, width, 3, stride, padding=stride - 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _heads(channels: list[int], *, values: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Conv2d(width, boxes * values, 3, padding=1)
        for width, boxes in zip(channels, _BOXES, strict=True)
    )


def _per_box(x: Tensor, values: int) -> Tensor:
    boxes = x.shape[1] // values * x.shape[2] * x.shape[3]
    return x.permute(0, 2, 3, 1).reshape(len(x), boxes, values)


def _initialise(part: nn.Module) -> None:
    for parameter in part.parameters():
        if parameter.ndim == 4:
            nn.init.xavier_uniform_(parameter)


def _flavour(
    build: Callable[..., SSD], blocks: tuple[int, ...], *, baseline: str | None = None
) -> ModelSpec:
    source = "arXiv:1512.02325; arXiv:2108.07387, Table 6"
    return ModelSpec(build, source, preset={"blocks": blocks}, baseline=baseline, image_px=300)


SPECS = {
    "ssd300_resnet50": _flavour(ssd300, (3, 4, 6)),
    "ssd300_resnet101": _flavour(ssd300, (3, 4, 23)),
    "ssd300_coresnet50": _flavour(ssd300_coresnet, (3, 4, 6), baseline="ssd300_resnet50"),
    "ssd300_coresnet101": _flavour(ssd300_coresnet, (3, 4, 23), baseline="ssd300_resnet101"),
}
