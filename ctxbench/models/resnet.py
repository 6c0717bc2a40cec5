"""ResNet: the baseline, with open slots that the other families fill.

The parts are named as in torchvision, so that everybody's weights load.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from torch import Tensor, nn

from ctxbench.models._spec import ModelSpec, at_least_one

# (channels) -> module of the same shape
Slot = Callable[[int], nn.Module]


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """The shape of a residual network; every field is an option of the spec string.

    `output_stride` below 32 removes the stride of the last stages and dilates what follows, so
    that the network computes the same function on a finer grid; a stage beyond 32, too, is dilated.
    It counts from the imagenet stem: behind the small one the true stride is a quarter. `end_norm`
    moves the last batch norm of each stage behind the addition, as iduta/coconv does and its paper
    does not say.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    block: Literal["basic", "bottleneck"] = "bottleneck"
    stem: Literal["imagenet", "small"] = "imagenet"
    output_stride: Literal[32, 16, 8] = 32
    end_norm: bool = False
    num_classes: int = 1000
    in_channels: int = 3

    def __post_init__(self) -> None:
        at_least_one(self, "blocks", "width", "num_classes", "in_channels")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block stands: its stage and its index there (both from 0), strides and dilations.

    `entry_dilation` is that of the convolution which carries the stride; `last` ends the stage.
    """

    stage: int
    index: int
    stride: int
    entry_dilation: int
    dilation: int
    last: bool


class Conv3x3(Protocol):
    """The slot of the 3x3 convolution; `place` is that of its block."""

    def __call__(
        self, channels: int, width: int, *, stride: int, dilation: int, place: Place
    ) -> nn.Module:
        """Return a module (B, channels, H, W) -> (B, width, ceil(H / stride), ...)."""
        ...


class Block(Protocol):
    """The slot of the block, which has an attribute `out_channels`."""

    def __call__(self, channels: int, width: int, place: Place) -> nn.Module:
        """Return a module (B, channels, H, W) -> (B, out_channels, ceil(H / stride), ...)."""
        ...


class StemConv(Protocol):
    """The slot of the network's first convolution."""

    def __call__(self, channels: int, width: int, kernel_size: int, *, stride: int) -> nn.Module:
        """Return a module (B, channels, H, W) -> (B, width, ceil(H / stride), ...)."""
        ...


def plain_conv3x3(
    channels: int, width: int, *, stride: int, dilation: int, place: Place
) -> nn.Module:
    """Return the 3x3 convolution of the plain ResNet, the same in every place."""
    del place
    return nn.Conv2d(channels, width, 3, stride, dilation, dilation, bias=False)


def plain_stem(channels: int, width: int, kernel_size: int, *, stride: int) -> nn.Module:
    """Return the first convolution of the plain ResNet."""
    return nn.Conv2d(channels, width, kernel_size, stride, kernel_size // 2, bias=False)


def conv1x1(channels: int, width: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a bias-free 1x1 convolution."""
    return nn.Conv2d(channels, width, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(
        self, channels: int, width: int, place: Place, *, end_norm: bool,
        conv3x3: Conv3x3, attention: Slot,
    ) -> None:  # fmt: skip
        super().__init__()
        self.out_channels = width
        entry = {"stride": place.stride, "dilation": place.entry_dilation}
        self.conv1 = conv3x3(channels, width, **entry, place=place)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride=1, dilation=place.dilation, place=place)
        self.bn2, self.end_norm = _last_norms(width, moved=end_norm and place.last)
        self.attention = attention(width)
        self.downsample = _projection(channels, width, place.stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return ReLU(residual + identity)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.attention(self.bn2(self.conv2(y)))
        return self.relu(self.end_norm(y + self.downsample(x)))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, beside the identity.

    What is given besides `x` goes to the 3x3 convolution: a contextual one takes a prior.
    """

    def __init__(
        self, channels: int, width: int, place: Place, *, end_norm: bool,
        conv3x3: Conv3x3, attention: Slot,
    ) -> None:  # fmt: skip
        super().__init__()
        self.out_channels = 4 * width
        entry = {"stride": place.stride, "dilation": place.entry_dilation}
        self.conv1 = conv1x1(channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, **entry, place=place)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, self.out_channels)
        self.bn3, self.end_norm = _last_norms(self.out_channels, moved=end_norm and place.last)
        self.attention = attention(self.out_channels)
        self.downsample = _projection(channels, self.out_channels, place.stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return ReLU(residual + identity)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y, *context)))
        y = self.attention(self.bn3(self.conv3(y)))
        return self.relu(self.end_norm(y + self.downsample(x)))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stem, stages of residual blocks, average pooling and a linear classifier.

    Shape:  (B, in_channels, H, W) -> (B, num_classes) logits.
    Source: arXiv:1512.03385; the stride sits in the 3x3 convolution, as in torchvision.
    """

    def __init__(
        self, config: ResNetConfig, block: Block, *,
        stage_end: Slot = nn.Identity, neck: Slot = nn.Identity, stem: StemConv = plain_stem,
    ) -> None:  # fmt: skip
        super().__init__()
        self.out_channels = config.width
        large = config.stem == "imagenet"
        kernel_size, stride = (7, 2) if large else (3, 1)
        self.conv1 = stem(config.in_channels, config.width, kernel_size, stride=stride)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        self.stages = [f"layer{stage + 1}" for stage in range(len(config.blocks))]
        for stage, (name, places) in enumerate(zip(self.stages, places_of(config), strict=True)):
            self.add_module(name, self._stage(block, config.width << stage, places, stage_end))
        self.neck = neck(self.out_channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.out_channels, config.num_classes)
        initialise(self)

    def _stage(
        self, block: Block, width: int, places: Sequence[Place], stage_end: Slot
    ) -> nn.Sequential:
        blocks = []
        for place in places:
            blocks.append(block(self.out_channels, width, place))
            self.out_channels = int(blocks[-1].out_channels)  # type: ignore[arg-type]
        end = stage_end(self.out_channels)
        return nn.Sequential(*blocks, *([] if isinstance(end, nn.Identity) else [end]))

    def stem(self, x: Tensor) -> Tensor:
        """Return what the first stage takes."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]

    def parts(self) -> list[list[nn.Module]]:
        """Return what each stage applies in turn."""
        return [list(self.get_submodule(name).children()) for name in self.stages]

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the output of every stage, (B, C_s, H_s, W_s)."""
        x = self.stem(x)
        maps = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits."""
        x = self.neck(self.features(x)[-1])
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]


def resnet(
    config: ResNetConfig,
    *,
    conv3x3: Conv3x3 = plain_conv3x3,
    attention: Slot = nn.Identity,
    stage_end: Slot = nn.Identity,
    stem: StemConv = plain_stem,
) -> ResNet:
    """Build a residual network; `attention` ends each residual branch, `stage_end` each stage."""
    kind = Bottleneck if config.block == "bottleneck" else BasicBlock
    block = partial(kind, end_norm=config.end_norm, conv3x3=conv3x3, attention=attention)
    return ResNet(config, block, stage_end=stage_end, stem=stem)


def places_of(config: ResNetConfig) -> list[list[Place]]:
    """Return where each block of each stage stands, with its stride and dilations.

    A stage whose stride would exceed `output_stride` keeps its resolution, and every later
    convolution is dilated by the stride that was left out (the "à trous" rule).
    """
    stride = 4 if config.stem == "imagenet" else 1
    limit = config.output_stride * stride // 4
    dilation, stages = 1, []
    for stage, count in enumerate(config.blocks):
        wanted = 1 if stage == 0 else 2
        entry_stride = wanted if stride * wanted <= limit else 1
        entry_dilation, dilation = dilation, dilation * wanted // entry_stride
        stride *= entry_stride
        places = [
            Place(
                stage,
                index,
                stride=1 if index else entry_stride,
                entry_dilation=dilation if index else entry_dilation,
                dilation=dilation,
                last=index == count - 1,
            )
            for index in range(count)
        ]
        stages.append(places)
    return stages


def initialise(network: nn.Module) -> None:
    """Draw every convolution kernel from N(0, 2 / fan_out), as the ResNet papers do."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")


def _last_norms(channels: int, *, moved: bool) -> tuple[nn.Module, nn.Module]:
    norm = nn.BatchNorm2d(channels)
    return (nn.Identity(), norm) if moved else (norm, nn.Identity())


def _projection(channels: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(conv1x1(channels, width, stride=stride), nn.BatchNorm2d(width))


# depth -> block and blocks per stage
DEPTHS: dict[int, dict[str, object]] = {
    18: {"block": "basic", "blocks": (2, 2, 2, 2)},
    34: {"block": "basic", "blocks": (3, 4, 6, 3)},
    50: {"block": "bottleneck", "blocks": (3, 4, 6, 3)},
    101: {"block": "bottleneck", "blocks": (3, 4, 23, 3)},
    152: {"block": "bottleneck", "blocks": (3, 8, 36, 3)},
}
# for 32x32 images: trains in about a minute on two cores
TINY = {"blocks": (1, 1, 1, 1), "width": 16, "stem": "small", "num_classes": 10}
_SOURCE = "arXiv:1512.03385"

SPECS = {
    **{
        f"resnet{depth}": ModelSpec(resnet, source=_SOURCE, preset=preset)
        for depth, preset in DEPTHS.items()
    },
    "resnet_tiny": ModelSpec(resnet, source=_SOURCE, preset=TINY, image_px=32),
}
