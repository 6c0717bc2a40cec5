"""Kernels: how operators compute, apart from what they are made of; one operator a folder.

Every folder offers its operator as one function, and computes it in three ways, its backends:

    reference  plain operations that autograd differentiates: to read, to export, to compare with
    torch      the fastest formulation in torch, with a backward pass of its own; the default
    triton     kernels for NVIDIA GPUs, compiled when they are first called

`backend=` of an operator or a spec chooses one; `use_backend` chooses for all that runs inside it.
Nothing is chosen by what happens to be installed, and all of them count the same MACs.

torch's FlopCounterMode is told what operators cost if it is loaded before this room is; it loads
much, so this room does not. Later, importing `ctxbench.kernels.flops` tells it.
"""

import sys

from ctxbench.kernels._backend import (
    BACKENDS,
    Backend,
    Formulation,
    check_backend,
    choose,
    inside,
    told,
    use_backend,
    why_not_here,
)
from ctxbench.kernels.cgc import FORMULATIONS as _CGC
from ctxbench.kernels.coconv import FORMULATIONS as _COCONV
from ctxbench.kernels.contmix import FORMULATIONS as _CONTMIX
from ctxbench.kernels.ctxconv import FORMULATIONS as _CTXCONV
from ctxbench.kernels.depthwise import FORMULATIONS as _DEPTHWISE

__all__ = [
    "BACKENDS",
    "KERNELS",
    "Backend",
    "Formulation",
    "check_backend",
    "choose",
    "inside",
    "told",
    "use_backend",
    "why_not_here",
]

# operator -> backend -> how it computes; operators that are not here are made of plain layers
KERNELS: dict[str, dict[Backend, Formulation]] = {
    "coconv": _COCONV,
    "ctxconv": _CTXCONV,
    "cgc": _CGC,
    "dilated_reparam": _DEPTHWISE,
    "repconv": _DEPTHWISE,
    "contmix": _CONTMIX,
    "dynamic_block": _CONTMIX,
}

if "torch.utils.flop_counter" in sys.modules:
    from ctxbench.kernels import flops  # noqa: F401 - tells it
