"""OverLoCK: an overview of the image first, then a closer look that it guides."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ctxbench.models._common import initialise, rising_rates
from ctxbench.models._overlock_names import from_authors
from ctxbench.models._spec import ModelSpec, at_least_one
from ctxbench.ops import DilatedReparam, DynamicBlock, RepConvBlock
from ctxbench.ops.reparam import BRANCHES

__all__ = ["SPECS", "OverLoCK", "OverLoCKConfig", "from_authors", "overlock", "overlock_loss"]

_HEAD_WIDTH = 1024


@dataclass(frozen=True, slots=True)
class OverLoCKConfig:
    """The shape of a network; every field is an option of the spec string.

    `channels` and `kernels` are those of the four stages, `blocks` of the base stages 1 to 3 and
    the overview; `focus_blocks` and `heads` belong to the two focus stages. The prior has a quarter
    of the last channels. `stem=small` halves the image once instead of twice, for small images.
    `drop_path` is the rate of the last block; it rises from 0 over the blocks in the order in which
    they run. `reparam` builds the form in which every operator is `folded`; it has no auxiliary
    head. `checkpointing` computes each block a second time in training instead of keeping what is
    inside; its batch norms then see every batch twice in their running statistics.
    """

    channels: tuple[int, ...] = (56, 112, 256, 336)
    blocks: tuple[int, ...] = (2, 2, 3, 2)
    focus_blocks: tuple[int, ...] = (6, 2)
    kernels: tuple[int, ...] = (17, 15, 13, 7)
    small_kernel: int = 5
    heads: tuple[int, ...] = (4, 6)
    stem: Literal["imagenet", "small"] = "imagenet"
    num_classes: int = 1000
    in_channels: int = 3
    drop_path: float = 0.0
    reparam: bool = False
    aux_head: bool = True
    checkpointing: bool = False

    def __post_init__(self) -> None:
        at_least_one(self, "channels", "blocks", "focus_blocks", "kernels", "small_kernel", "heads")
        at_least_one(self, "num_classes", "in_channels")
        lengths = {"channels": 4, "blocks": 4, "kernels": 4, "focus_blocks": 2, "heads": 2}
        for name, length in lengths.items():
            value = getattr(self, name)
            if len(value) != length:
                raise ValueError(f"{name}={_list(value)} is no list of {length}. Give one a stage.")
        if self.channels[0] < 2 or self.channels[3] < 4:
            raise ValueError(
                f"channels={_list(self.channels)} is out of range. Give at least 2 first, of which "
                f"the stem takes half, and at least 4 last, of which the prior takes a quarter."
            )
        unknown = [size for size in self.kernels if size not in BRANCHES]
        if unknown:
            raise ValueError(
                f"kernels={_list(self.kernels)}: {unknown[0]} is unknown. Give "
                f"{', '.join(map(str, sorted(BRANCHES)))}."
            )


class OverLoCK(nn.Module):
    """Base stages, an overview that makes the context prior, and the focus stages that it guides.

    Shape:  (B, in_channels, H, W) -> (B, num_classes) logits, of the focus stages alone.
    Raises: ValueError for channels that the heads do not divide, and unknown kernel sizes.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b.
    """

    def __init__(self, config: OverLoCKConfig) -> None:
        super().__init__()
        self.checkpointing = config.checkpointing
        self.reparameterized = config.reparam
        first, second, third, last = config.channels
        context = last // 4
        base = _repconvs(config, _rates(config))
        self.stem = _stem(config.in_channels, first, strides=_STEM_STRIDES[config.stem])
        self.stage1 = next(base)
        self.down2 = _halve(first, second)
        self.stage2 = next(base)
        self.down3 = _halve(second, third)
        self.stage3 = next(base)
        self.down4 = _halve(third, last)
        self.overview = next(base)
        self.context = nn.Conv2d(last, context, 1)
        focus = _dynamics(config, _rates(config)[sum(config.blocks) :])
        self.focus3 = next(focus)
        self.focus_down = _halve(third, last)
        self.context_down = _halve(context, context)
        self.focus4 = next(focus)
        self.head = nn.Sequential(
            nn.Conv2d(last + context, _HEAD_WIDTH, 1, bias=False),
            nn.BatchNorm2d(_HEAD_WIDTH),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(_HEAD_WIDTH, config.num_classes)
        auxiliary = config.aux_head and not config.reparam
        self.auxiliary_head = _auxiliary_head(last, config.num_classes) if auxiliary else None
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits."""
        base = self._base(x)
        return self._focus(base, self.context(self._overview(base)))

    def logits_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the focus stages and those of the overview, which guides them.

        Raises: ValueError for a network without an auxiliary head.
        """
        if self.auxiliary_head is None:
            raise ValueError("This OverLoCK has no auxiliary head. Build it with aux_head=true.")
        base = self._base(x)
        overview = self._overview(base)
        return self._focus(base, self.context(overview)), self.auxiliary_head(overview)

    def reparameterize(self) -> Self:
        """Fold every large kernel into one convolution and drop the auxiliary head, in place."""
        for module in list(self.modules()):
            if isinstance(module, DilatedReparam):
                module.fold()
        self.auxiliary_head = None
        self.reparameterized = True
        return self

    def _base(self, x: Tensor) -> Tensor:
        x = self._run(self.stage1, self.stem(x))
        x = self._run(self.stage2, self.down2(x))
        return self._run(self.stage3, self.down3(x))

    def _overview(self, base: Tensor) -> Tensor:
        return self._run(self.overview, self.down4(base))

    def _focus(self, base: Tensor, prior: Tensor) -> Tensor:
        upsampled = F.interpolate(prior, base.shape[-2:], mode="bilinear", align_corners=False)
        features, context = self._look(self.focus3, base, upsampled, reference=upsampled)
        features, context = self.focus_down(features), self.context_down(context)
        both = torch.cat(self._look(self.focus4, features, context, reference=prior), dim=1)
        return self.fc(self.head(both))  # type: ignore[no-any-return]

    def _look(
        self, blocks: nn.ModuleList, features: Tensor, context: Tensor, *, reference: Tensor
    ) -> tuple[Tensor, Tensor]:
        for block in blocks:
            both = self._call(block, features, context, reference)
            features, context = torch.split(both, [features.shape[1], context.shape[1]], dim=1)
        return features, context

    def _run(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        for block in blocks:
            x = self._call(block, x)
        return x

    def _call(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return block(*inputs)  # type: ignore[no-any-return]


def overlock(config: OverLoCKConfig) -> OverLoCK:
    """Build an OverLoCK."""
    return OverLoCK(config)


def overlock_loss(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    auxiliary_weight: float = 0.4,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the cross entropy of the logits plus a share of that of the overview's.

    `target` holds class indices (B,) or shares (B, classes). A network without an auxiliary head
    is trained with the first term alone.
    """
    entropy = partial(F.cross_entropy, target=target, label_smoothing=smoothing)
    if getattr(model, "auxiliary_head", None) is None:
        return entropy(model(x))
    logits, auxiliary = model.logits_with_auxiliary(x)  # type: ignore[operator]
    return entropy(logits) + auxiliary_weight * entropy(auxiliary)


def _rates(config: OverLoCKConfig) -> list[float]:
    return rising_rates(config.drop_path, sum(config.blocks) + sum(config.focus_blocks))


def _repconvs(config: OverLoCKConfig, rates: list[float]) -> Iterator[nn.ModuleList]:
    """Yield the blocks of the base stages and of the overview."""
    left = iter(rates)
    stages = zip(config.channels, config.kernels, config.blocks, strict=True)
    for stage, (channels, kernel_size, blocks) in enumerate(stages):
        build = partial(
            RepConvBlock, channels, kernel_size, scaled=stage >= 2, folded=config.reparam
        )
        yield nn.ModuleList(build(drop_path_rate=next(left)) for _ in range(blocks))


def _dynamics(config: OverLoCKConfig, rates: list[float]) -> Iterator[nn.ModuleList]:
    """Yield the blocks of the focus stages."""
    left = iter(rates)
    stages = zip(
        config.channels[2:], config.kernels[2:], config.heads, config.focus_blocks, strict=True
    )
    for stage, (channels, kernel_size, heads, blocks) in enumerate(stages):
        build = partial(
            DynamicBlock,
            channels,
            config.channels[3] // 4,
            kernel_size,
            small_kernel_size=config.small_kernel,
            heads=heads,
            folded=config.reparam,
        )
        yield nn.ModuleList(
            build(first=stage == index == 0, drop_path_rate=next(left)) for index in range(blocks)
        )


# of the four 3x3 convolutions
_STEM_STRIDES = {"imagenet": (2, 1, 2, 1), "small": (2, 1, 1, 1)}


def _stem(channels: int, width: int, *, strides: tuple[int, ...]) -> nn.Sequential:
    widths = (channels, width // 2, width // 2, width, width)
    layers: list[nn.Module] = []
    for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        layers += [*_conv3x3(before, after, stride), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _halve(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(*_conv3x3(channels, width, stride=2))


def _conv3x3(channels: int, width: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)


def _auxiliary_head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


# the published flavours
_FLAVOURS: dict[str, dict[str, object]] = {
    "xt": {},
    "t": {
        "channels": (64, 128, 256, 512),
        "blocks": (4, 4, 6, 2),
        "focus_blocks": (12, 2),
        "heads": (4, 8),
    },
    "s": {
        "channels": (64, 128, 320, 512),
        "blocks": (6, 6, 8, 3),
        "focus_blocks": (16, 3),
        "heads": (8, 16),
    },
    "b": {
        "channels": (80, 160, 384, 576),
        "blocks": (8, 8, 10, 4),
        "focus_blocks": (20, 4),
        "heads": (6, 9),
    },
}
# for 32x32 images: maps of 16, 8, 4 and 2 positions a side
_TINY: dict[str, object] = {
    "channels": (16, 32, 32, 64),
    "blocks": (1, 1, 1, 1),
    "focus_blocks": (1, 1),
    "kernels": (7, 7, 7, 7),
    "heads": (2, 2),
    "stem": "small",
    "num_classes": 10,
}
# of about the same size
_BASELINES = {"t": "convnext_tiny", "s": "convnext_small", "b": "convnext_base"}
_SOURCE = "arXiv:2502.20087; LMMMEng/OverLoCK@2c8ab3b"

SPECS = {
    **{
        f"overlock_{size}": ModelSpec(
            overlock,
            source=_SOURCE,
            preset=preset,
            baseline=_BASELINES.get(size),
            loss=overlock_loss,
        )
        for size, preset in _FLAVOURS.items()
    },
    "overlock_tiny": ModelSpec(
        overlock,
        source=_SOURCE,
        preset=_TINY,
        baseline="convnext_nano",
        image_px=32,
        loss=overlock_loss,
    ),
}
