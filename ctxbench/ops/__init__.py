"""Operators: one file each, registered here by hand."""

from ctxbench.ops import cgc, coconv, contmix, ctxconv, reparam
from ctxbench.ops._spec import OpSpec
from ctxbench.ops.cgc import CGConv2d
from ctxbench.ops.coconv import CoConv2d
from ctxbench.ops.contmix import ContMix, ContMixBlock, DynamicBlock
from ctxbench.ops.ctxconv import ContextualConv2d
from ctxbench.ops.reparam import DilatedReparam, RepConvBlock

__all__ = [
    "OPS",
    "CGConv2d",
    "CoConv2d",
    "ContMix",
    "ContMixBlock",
    "ContextualConv2d",
    "DilatedReparam",
    "DynamicBlock",
    "OpSpec",
    "RepConvBlock",
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
