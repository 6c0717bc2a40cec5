"""The Triton kernels of ContMix are compiled for GPUs that need not be here."""

import re
import subprocess

import pytest

from tests.kernels.tools import GPUS, compile_ahead

triton = pytest.importorskip("triton")

from ctxbench.kernels._backend import interprets  # noqa: E402
from ctxbench.kernels.contmix import _triton  # noqa: E402

pytestmark = pytest.mark.skipif(interprets(), reason="what is interpreted cannot be compiled")

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
POSITIONS = {"forward": 64, "backward": 32}
FLOAT32 = ("bias", "table", "lse", "d_values", "d_weight", "d_bias", "d_table")
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


def _compiled(direction, kernel_size, channels, dtype, gpu):
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
    return compile_ahead(kernel, types, constants, GPUS[gpu][0], num_warps=8)


def _spilled_bytes(compiled, architecture, folder):
    """Return how many bytes a thread puts aside, as the assembler reports it."""
    source = folder / "kernel.ptx"
    source.write_text(compiled.asm["ptx"])
    name = f"sm_{architecture}" + ("a" if architecture == 90 else "")
    command = [triton.knobs.nvidia.ptxas.path, "-v", f"-arch={name}", source, "-o", "/dev/null"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return max(int(count) for count in re.findall(r"(\d+) bytes spill stores", report))


@pytest.mark.parametrize("case", [*SOME, *(pytest.param(c, marks=pytest.mark.slow) for c in REST)])
def test_a_kernel_fits_into_a_gpu(case, tmp_path):
    compiled = _compiled(*case)
    architecture, shared = GPUS[case[-1]]
    assert compiled.metadata.shared <= shared
    assert _spilled_bytes(compiled, architecture, tmp_path) <= 2048
