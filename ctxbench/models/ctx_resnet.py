"""Contextual ResNet: a prior of the likeliest classes bends 3x3 convolutions of its bottlenecks."""

from dataclasses import replace
from functools import partial

from torch import nn

from ctxbench.models._spec import ModelSpec
from ctxbench.models.contextual import (
    SMALL_PRIOR,
    SOURCE,
    ContextualNetwork,
    PriorConfig,
    contextual_loss,
)
from ctxbench.models.resnet import DEPTHS, TINY, Place, ResNetConfig, plain_conv3x3, resnet


def ctx_resnet(config: ResNetConfig, prior: PriorConfig) -> ContextualNetwork:
    """Build a Contextual ResNet; differs from `resnet` in 3x3 convolutions and the classifier."""
    if config.block != "bottleneck":
        raise ValueError(
            "block=basic has two 3x3 convolutions of unequal inputs, for which the paper has no "
            "context vector. Use block=bottleneck."
        )
    backbone = resnet(replace(config, num_classes=1), conv3x3=partial(_conv3x3, prior))
    backbone.set_submodule("fc", nn.Identity())
    widths = [config.width << stage for stage in range(len(config.blocks))]
    return ContextualNetwork(
        backbone, prior, widths=widths, expansion=4, classes=config.num_classes, norm="batch"
    )


def _conv3x3(
    prior: PriorConfig, channels: int, width: int, *, stride: int, dilation: int, place: Place
) -> nn.Module:
    if not prior.is_contextual(place.stage, place.index):
        return plain_conv3x3(channels, width, stride=stride, dilation=dilation, place=place)
    return prior.convolution(width, 3, stride=stride, dilation=dilation, groups=1, norm="batch")


SPECS = {
    **{
        f"ctx_resnet{depth}": ModelSpec(
            ctx_resnet,
            source=SOURCE,
            preset=DEPTHS[depth],
            baseline=f"resnet{depth}",
            loss=contextual_loss,
        )
        for depth in (50, 101, 152)
    },
    "ctx_resnet_tiny": ModelSpec(
        ctx_resnet,
        source=SOURCE,
        preset={**TINY, **SMALL_PRIOR},
        baseline="resnet_tiny",
        image_px=32,
        loss=contextual_loss,
    ),
}
