"""Operators: one file each, registered here by hand."""

from ctxbench.ops import coconv
from ctxbench.ops._spec import OpSpec
from ctxbench.ops.coconv import CoConv2d

__all__ = ["OPS", "CoConv2d", "OpSpec"]

OPS: dict[str, OpSpec] = {
    "coconv": coconv.SPEC,
}
