"""Context-aware convolution: built as published, counted, and held against its claims.

The public names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ctxbench.api.costs import (
        check_claims,
        count_costs,
        describe_backends,
        describe_models,
    )
    from ctxbench.api.experiments import (
        experiment_status,
        experiment_table,
        plan_experiment,
        run_experiment,
    )
    from ctxbench.api.pictures import Picture, draw_networks
    from ctxbench.api.setup import check_setup
    from ctxbench.api.tables import build_report, list_tables, read_rows, read_table
    from ctxbench.api.timing import time_networks
    from ctxbench.errors import CtxbenchError
    from ctxbench.export import export_onnx
    from ctxbench.kernels import use_backend
    from ctxbench.measure.flops import Count, count
    from ctxbench.models import (
        create_model,
        list_models,
        load_checkpoint,
        prepare,
        replace_conv,
        save_checkpoint,
    )
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
    "Picture",
    "RepConvBlock",
    "build_report",
    "check_claims",
    "check_setup",
    "count",
    "count_costs",
    "create_model",
    "describe_backends",
    "describe_models",
    "draw_networks",
    "experiment_status",
    "experiment_table",
    "export_onnx",
    "list_models",
    "list_tables",
    "load_checkpoint",
    "plan_experiment",
    "prepare",
    "read_rows",
    "read_table",
    "replace_conv",
    "run_experiment",
    "save_checkpoint",
    "time_networks",
    "use_backend",
]

_HOMES = {
    "CGConv2d": "ctxbench.ops",
    "CoConv2d": "ctxbench.ops",
    "ContMixBlock": "ctxbench.ops",
    "ContextualConv2d": "ctxbench.ops",
    "DilatedReparam": "ctxbench.ops",
    "DynamicBlock": "ctxbench.ops",
    "RepConvBlock": "ctxbench.ops",
    "check_claims": "ctxbench.api.costs",
    "count_costs": "ctxbench.api.costs",
    "describe_backends": "ctxbench.api.costs",
    "describe_models": "ctxbench.api.costs",
    "experiment_status": "ctxbench.api.experiments",
    "experiment_table": "ctxbench.api.experiments",
    "plan_experiment": "ctxbench.api.experiments",
    "run_experiment": "ctxbench.api.experiments",
    "Picture": "ctxbench.api.pictures",
    "draw_networks": "ctxbench.api.pictures",
    "check_setup": "ctxbench.api.setup",
    "build_report": "ctxbench.api.tables",
    "list_tables": "ctxbench.api.tables",
    "read_rows": "ctxbench.api.tables",
    "read_table": "ctxbench.api.tables",
    "time_networks": "ctxbench.api.timing",
    "CtxbenchError": "ctxbench.errors",
    "export_onnx": "ctxbench.export",
    "use_backend": "ctxbench.kernels",
    "Count": "ctxbench.measure.flops",
    "count": "ctxbench.measure.flops",
    "create_model": "ctxbench.models",
    "list_models": "ctxbench.models",
    "load_checkpoint": "ctxbench.models",
    "prepare": "ctxbench.models",
    "replace_conv": "ctxbench.models",
    "save_checkpoint": "ctxbench.models",
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
