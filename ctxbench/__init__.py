"""Context-aware convolution: built as published, counted, and held against its claims.

The public names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ctxbench.errors import CtxbenchError
    from ctxbench.measure.flops import Count, count
    from ctxbench.models import create_model, list_models, load_checkpoint, replace_conv
    from ctxbench.ops import (
        CGConv2d,
        CoConv2d,
        ContextualConv2d,
        ContMixBlock,
        DilatedReparam,
        DynamicBlock,
        RepConvBlock,
    )

__all__ = [
    "CGConv2d",
    "CoConv2d",
    "ContMixBlock",
    "ContextualConv2d",
    "Count",
    "CtxbenchError",
    "DilatedReparam",
    "DynamicBlock",
    "RepConvBlock",
    "count",
    "create_model",
    "list_models",
    "load_checkpoint",
    "replace_conv",
]

_HOMES = {
    "CGConv2d": "ctxbench.ops",
    "CoConv2d": "ctxbench.ops",
    "ContMixBlock": "ctxbench.ops",
    "ContextualConv2d": "ctxbench.ops",
    "DilatedReparam": "ctxbench.ops",
    "DynamicBlock": "ctxbench.ops",
    "RepConvBlock": "ctxbench.ops",
    "CtxbenchError": "ctxbench.errors",
    "Count": "ctxbench.measure.flops",
    "count": "ctxbench.measure.flops",
    "create_model": "ctxbench.models",
    "list_models": "ctxbench.models",
    "load_checkpoint": "ctxbench.models",
    "replace_conv": "ctxbench.models",
}
_ROOMS = ("claims", "errors", "measure", "models", "ops", "report")


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"ctxbench.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'ctxbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS, "__version__"]
