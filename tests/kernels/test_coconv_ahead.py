"""The Triton kernels of CoConv compile for both GPUs, in every type, without one."""

import pytest

pytest.importorskip("triton")

from ctxbench.kernels._backend import interprets
from ctxbench.kernels.coconv import _triton
from tests.kernels.tools import GPUS, compile_ahead

pytestmark = pytest.mark.skipif(interprets(), reason="interpreted kernels are not compiled")

LEVELS = [(16, 1), (16, 2), (16, 3), (16, 4)]  # of 64 maps of 56x56
WIDE = [(172, 1), (170, 2), (170, 3)]


def _compiled(kernel, levels, kind, architecture):
    widths = [width for width, _ in levels]
    blocks = _triton.choose_blocks(25088, widths, 64, 4 if kind == "fp32" else 2)
    table = _triton.make_table(levels, blocks.channels)
    constants = {
        **table, "TALL": 3, "WIDE": 3, "DOWN": 1, "ACROSS": 1,
        "PIXELS": blocks.pixels, "CHANNELS": blocks.channels, "DEPTH": blocks.depth,
        "HALF": kind != "fp32", "HAS_BIAS": True, "HAS_SCALE": True, "RELU": True,
    }  # fmt: skip
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    maps = ("x", "weight", "bias", "scale", "shift", "y", "grad", "grad_x")
    types = {name: f"*{kind}" if name in maps else "i32" for name in kernel.arg_names}
    made = compile_ahead(
        kernel, types, constants, architecture, num_warps=_triton.count_warps(blocks), num_stages=3
    )
    return made.metadata.shared, made.asm["ptx"]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize(
    ("kind", "levels"), [("fp32", LEVELS), ("fp16", LEVELS), ("bf16", LEVELS), ("bf16", WIDE)]
)
@pytest.mark.parametrize("name", ["forward_kernel", "input_kernel"])
def test_compiles_within_the_shared_memory(name, kind, levels, gpu):
    architecture, limit = GPUS[gpu]
    shared, code = _compiled(getattr(_triton, name), levels, kind, architecture)
    assert shared <= limit
    assert ".local" not in code  # nothing on a stack, where registers that spill go


@pytest.mark.parametrize(("kind", "name"), [("bf16", "bf16"), ("fp16", "f16")])
def test_halves_meet_on_tensor_cores(kind, name):
    _, code = _compiled(_triton.forward_kernel, LEVELS, kind, 80)
    assert f"mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32" in code


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ((16,) * 4, 16),
        ((64, 32, 32), 32),
        ((128, 128), 128),
        ((172, 170, 170), 64),
        ((10, 9, 9, 9), 16),
    ],
)
def test_a_tile_fits_the_levels(widths, expected):
    assert _triton.choose_blocks(25088, widths, 64, 2).channels == expected
