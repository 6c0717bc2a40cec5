"""Contextual ConvNeXt: a prior of the likeliest classes bends depthwise 7x7 convolutions."""

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
from ctxbench.models.convnext import NANO, SIZES, ConvNeXtConfig, convnext, plain_depthwise


def ctx_convnext(config: ConvNeXtConfig, prior: PriorConfig) -> ContextualNetwork:
    """Build a Contextual ConvNeXt; differs from `convnext` in 7x7 convolutions and the classifier.

    The last features meet the class embeddings as they are, without the layer norm of `convnext`.
    """
    backbone = convnext(replace(config, num_classes=1), depthwise=partial(_depthwise, prior))
    backbone.set_submodule("norm", nn.Identity())
    backbone.set_submodule("head", nn.Identity())
    widths = [config.width << stage for stage in range(len(config.blocks))]
    return ContextualNetwork(
        backbone, prior, widths=widths, expansion=1, classes=config.num_classes, norm="layer"
    )


def _depthwise(prior: PriorConfig, channels: int, *, stage: int, index: int) -> nn.Module:
    if not prior.is_contextual(stage, index):
        return plain_depthwise(channels, stage=stage, index=index)
    return prior.convolution(channels, 7, stride=1, dilation=1, groups=channels, norm="layer")


SPECS = {
    **{
        f"ctx_convnext_{size}": ModelSpec(
            ctx_convnext,
            source=SOURCE,
            preset={**preset, "contextual_every": 3},
            baseline=f"convnext_{size}",
            loss=contextual_loss,
        )
        for size, preset in SIZES.items()
    },
    "ctx_convnext_nano": ModelSpec(
        ctx_convnext,
        source=SOURCE,
        preset={**NANO, **SMALL_PRIOR},
        baseline="convnext_nano",
        image_px=32,
        loss=contextual_loss,
    ),
}
