"""The Triton kernels of ContMix are compiled for GPUs that need not be here."""

import pytest

from tests.kernels.tools import GPUS, compile_ahead, of_one, spilled_bytes

triton = pytest.importorskip("triton")

from ctxbench.kernels._backend import interprets  # noqa: E402
from ctxbench.kernels.contmix import _triton  # noqa: E402

pytestmark = pytest.mark.skipif(interprets(), reason="what is interpreted cannot be compiled")

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
POSITIONS = {"forward": 64, "backward": 32}
FLOAT32 = ("bias", "table", "lse", "d_values", "d_weight", "d_bias", "d_table")
# of maps of 14x14: what is no multiple of 16
ODD = ("height", "width", "regions", "values_y", "affinity_y", "grad_y", "values_c", "affinity_l")
# OverLoCK's windows and channels of a group, each with every kernel; all of them are slow
SOME = [
    ("forward", 5, 16, "fp16", "H100"),
    ("forward", 13, 16, "bf16", "A100"),
    ("forward", 7, 14, "fp32", "A100"),
    ("forward", 17, 64, "bf16", "H100"),
    ("backward", 5, 16, "fp32", "A100"),
    ("backward", 7, 14, "fp16", "A100"),
    ("backward", 13, 16, "bf16", "H100"),
]
REST = [
    case
    for direction in POSITIONS
    for kernel_size in (5, 7, 13, 15, 17)
    for channels in (16, 64)
    for dtype in BYTES
    for gpu in GPUS
    if (kernel_size, dtype) != (17, "fp32")  # which is refused
    if (case := (direction, kernel_size, channels, dtype, gpu)) not in SOME
]


def _compiled(direction, kernel_size, channels, dtype, gpu, *, one=False):
    kernel = getattr(_triton, f"{direction}_kernel")
    tile = (POSITIONS[direction], BYTES[dtype])
    constants = _triton.blocks_of(kernel_size, channels, 49, 14, tile)
    constants |= {"values_x": 1, "affinity_x": 1}  # as Triton does with strides of one
    if direction == "backward":
        constants["NEEDS_VALUES"] = True
    types = dict.fromkeys(kernel.arg_names, "i32")
    types |= dict.fromkeys(
        ("values", "affinity", "weight", "grad", "out", "d_affinity"), f"*{dtype}"
    )
    types |= dict.fromkeys(FLOAT32, "*fp32")
    if one:
        constants = of_one(kernel, types, constants)
    aligned = [name for name in kernel.arg_names if name not in ODD]
    return compile_ahead(kernel, types, constants, GPUS[gpu][0], aligned=aligned, num_warps=8)


@pytest.mark.parametrize("case", [*SOME, *(pytest.param(c, marks=pytest.mark.slow) for c in REST)])
def test_a_kernel_fits_into_a_gpu(case, tmp_path):
    compiled = _compiled(*case)
    architecture, shared = GPUS[case[-1]]
    assert compiled.metadata.shared <= shared
    assert spilled_bytes(compiled, architecture, tmp_path) <= 2048


@pytest.mark.parametrize("direction", POSITIONS)
def test_compiles_for_a_map_of_one_number(direction):
    assert _compiled(direction, 1, 1, "bf16", "H100", one=True).asm["ptx"]
