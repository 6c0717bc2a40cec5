"""Context-aware convolution: built, counted, measured and explained.

The public names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ctxbench.measure.flops import Count, count
    from ctxbench.models import create_model, list_models, load_checkpoint

__all__ = ["Count", "count", "create_model", "list_models", "load_checkpoint"]

_HOMES = {
    "Count": "ctxbench.measure.flops",
    "count": "ctxbench.measure.flops",
    "create_model": "ctxbench.models",
    "list_models": "ctxbench.models",
    "load_checkpoint": "ctxbench.models",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ctxbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
