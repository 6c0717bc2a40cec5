"""The Triton kernels of CGC compile for both GPUs, in every type, without one."""

import pytest

pytest.importorskip("triton")

from ctxbench.kernels._backend import interprets
from ctxbench.kernels.cgc import _triton
from tests.kernels.tools import GPUS, compile_ahead

pytestmark = pytest.mark.skipif(interprets(), reason="interpreted kernels are not compiled")

MAPS = ("x", "y", "grad", "of_x", "weight", "inputs", "outputs")
SUMS = ("of_weight", "of_inputs", "of_outputs")


def _compiled(name, kind, architecture):
    """Compile a kernel with the blocks of 64 maps of 56x56 or larger ones."""
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
        "N": n, "C": c, "OUT": out, "DOT": dot,
    }  # fmt: skip
    types = dict.fromkeys(kernel.arg_names, "i32")
    types |= dict.fromkeys(MAPS, f"*{kind}") | dict.fromkeys(SUMS, "*fp32")
    return compile_ahead(kernel, types, constants, architecture)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["forward_kernel", "map_kernel", "weight_kernel"])
def test_compiles_within_the_shared_memory(name, kind, gpu):
    architecture, limit = GPUS[gpu]
    made = _compiled(name, kind, architecture)
    assert 0 < made.metadata.shared <= limit
    assert ".local" not in made.asm["ptx"]  # nothing on a stack, where registers that spill go


@pytest.mark.parametrize(("kind", "word"), [("bf16", "bf16"), ("fp16", "f16")])
def test_halves_meet_on_tensor_cores(kind, word):
    code = _compiled("forward_kernel", kind, 80).asm["ptx"]
    assert f"mma.sync.aligned.m16n8k16.row.col.f32.{word}.{word}.f32" in code
