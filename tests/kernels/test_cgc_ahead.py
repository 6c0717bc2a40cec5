"""The Triton kernels of CGC compile for both GPUs, in every type, without one."""

import pytest
import torch

pytest.importorskip("triton")

from ctxbench.kernels._backend import interprets
from ctxbench.kernels.cgc import _triton
from tests.kernels.tools import GPUS, compile_ahead, every_gpu, of_one, spilled_bytes

pytestmark = pytest.mark.skipif(interprets(), reason="interpreted kernels are not compiled")

MAPS = ("x", "y", "grad", "of_x", "weight", "inputs", "outputs")
SUMS = ("of_weight", "of_inputs", "of_outputs")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# of 64 maps of 56x56 that lie as networks have them: what is 1, what is no multiple of 16
ONES = ("x_x", "y_x", "groups")
ODD = ("x_y", "y_y", "height", "width", "rows", "across")
every_kernel = pytest.mark.parametrize("name", ["forward_kernel", "map_kernel", "weight_kernel"])


def _compiled(name, kind, architecture, *, one=False):
    """Compile a kernel with the blocks of 64 maps of 56x56 or larger ones, or for one number."""
    import triton.language as tl

    kernel = getattr(_triton, name)
    dot = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}[kind]
    most, channels, depth = _triton._POSITIONS, _triton._CHANNELS, _triton._DEPTH
    n, c, out = {
        "forward_kernel": (most, depth, channels),
        "map_kernel": (most, channels, depth),
        "weight_kernel": (depth, channels, channels),
    }[name]
    constants = {
        "STRIDE_Y": 2, "STRIDE_X": 2, "DILATION_Y": 1, "DILATION_X": 1, "KH": 3, "KW": 3,
        "N": n, "C": c, "OUT": out, "DOT": dot, **dict.fromkeys(ONES, 1),
    }  # fmt: skip
    types = dict.fromkeys(kernel.arg_names, "i32")
    types |= dict.fromkeys(MAPS, f"*{kind}") | dict.fromkeys(SUMS, "*fp32")
    aligned = [name for name in kernel.arg_names if name not in ODD]
    if one:
        constants = of_one(kernel, types, constants)
    warps = 4 if name == "weight_kernel" else _triton._warps(torch.empty(0, dtype=TYPES[kind]))
    return compile_ahead(kernel, types, constants, architecture, aligned=aligned, num_warps=warps)


@every_gpu
@every_kernel
def test_fits_into_shared_memory_and_registers(name, kind, gpu, tmp_path):
    architecture, limit = GPUS[gpu]
    made = _compiled(name, kind, architecture)
    assert 0 < made.metadata.shared <= limit
    assert spilled_bytes(made, architecture, tmp_path) <= 32
    # half precision meets on tensor cores, float32 is exact
    assert ("mma" in made.asm["ptx"]) == (kind != "fp32")


@every_kernel
def test_compiles_for_maps_of_one_number(name):
    assert _compiled(name, "bf16", 90, one=True).asm["ptx"]
