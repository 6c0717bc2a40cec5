"""Operators: one file each, registered here by hand."""

from ctxbench.ops import cgc, coconv, contmix, ctxconv, plain, reparam
from ctxbench.ops._backends import backends_in, operators_in, set_backend
from ctxbench.ops._mixing import ContMix
from ctxbench.ops._spec import Layer, OpSpec
from ctxbench.ops.cgc import CGConv2d
from ctxbench.ops.coconv import CoConv2d
from ctxbench.ops.contmix import ContMixBlock, DynamicBlock
from ctxbench.ops.ctxconv import ContextualConv2d
from ctxbench.ops.reparam import DilatedReparam, RepConvBlock

__all__ = [
    "LAYERS",
    "OPS",
    "CGConv2d",
    "CoConv2d",
    "ContMix",
    "ContMixBlock",
    "ContextualConv2d",
    "DilatedReparam",
    "DynamicBlock",
    "Layer",
    "OpSpec",
    "RepConvBlock",
    "backends_in",
    "operators_in",
    "set_backend",
]

OPS: dict[str, OpSpec] = {
    "coconv": coconv.SPEC,
    "ctxconv": ctxconv.SPEC,
    "cgc": cgc.SPEC,
    "dilated_reparam": reparam.DILATED_REPARAM,
    "repconv": reparam.REPCONV,
    "contmix": contmix.CONTMIX,
    "dynamic_block": contmix.DYNAMIC_BLOCK,
}

# what `op/NAME` builds: every operator, and the plain convolution
LAYERS: dict[str, Layer] = {
    "conv": plain.LAYER,
    "coconv": coconv.LAYER,
    "ctxconv": ctxconv.LAYER,
    "cgc": cgc.LAYER,
    "dilated_reparam": reparam.DILATED_REPARAM_LAYER,
    "repconv": reparam.REPCONV_LAYER,
    "contmix": contmix.CONTMIX_LAYER,
    "dynamic_block": contmix.DYNAMIC_BLOCK_LAYER,
}
