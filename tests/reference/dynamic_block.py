"""OverLoCK's dynamic block, step by step."""

import torch

from tests.reference.contmix import contmix, gated, residual_mix
from tests.reference.dilated_reparam import depthwise
from tests.reference.repconv import conv1x1, gelu, grn, norm, scaled


def dynamic_block(x, context, reference, p, *, kernel_sizes, groups, first=False):
    """x (B, C, H, W), context and reference (B, P, H, W) -> (B, C + P, H, W).

    `p` maps the names of the block's entries to tensors.
    """
    channels = x.shape[1]
    if not first:
        context = scaled(context, p, "context_scale") + scaled(reference, p, "reference_scale")

    def mixer(features):
        fused = _fused(features, p, "block.mixer.features")
        mixed = contmix(
            fused, features[:, :channels], features[:, channels:], p, "block.mixer.contmix",
            kernel_sizes=kernel_sizes, groups=groups,
        )  # fmt: skip
        return gated(fused, mixed, p, "block.mixer")

    return residual_mix(torch.cat([x, context], dim=1), mixer, p)


def _fused(features, p, name):
    y = depthwise(features, p[f"{name}.0.weight"], bias=p[f"{name}.0.bias"])
    return grn(conv1x1(gelu(norm(y, p, f"{name}.1")), p, f"{name}.3"), p, f"{name}.4")
