"""The Triton kernels of CoConv compile for both GPUs, in every type, without one."""

import pytest

pytest.importorskip("triton")

from ctxbench.kernels._backend import interprets
from ctxbench.kernels.coconv import _triton
from tests.kernels.tools import GPUS, compile_ahead, every_gpu, of_one, spilled_bytes

pytestmark = pytest.mark.skipif(interprets(), reason="interpreted kernels are not compiled")

LEVELS = [(16, 1), (16, 4)]  # the tiles of 64 maps of 56x56
WIDE = [(64, 1), (64, 2)]


# of maps of 56x56 that lie as networks have them: what is 1, what is no multiple of 16
ONES = ("x_w", "y_w", "grad_w", "weight_w")
ODD = ("x_h", "y_h", "grad_h", "height", "width", "rows", "columns", "weight_c", "weight_h")
every_kernel = pytest.mark.parametrize("name", ["forward_kernel", "input_kernel"])


def _compiled(name, levels, kind, architecture, *, one=False):
    kernel = getattr(_triton, name)
    widths = [width for width, _ in levels]
    blocks = _triton.choose_blocks(25088, widths, 64, 4 if kind == "fp32" else 2)
    table = _triton.make_table(levels, blocks.channels)
    constants = {
        **table, "TALL": 3, "WIDE": 3, "DOWN": 1, "ACROSS": 1,
        "PIXELS": blocks.pixels, "CHANNELS": blocks.channels, "DEPTH": blocks.depth,
        "HALF": kind != "fp32", "HAS_BIAS": True, "HAS_SCALE": True, "RELU": True,
        **dict.fromkeys(ONES, 1),
    }  # fmt: skip
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    maps = ("x", "weight", "bias", "scale", "shift", "y", "grad", "grad_x")
    types = {name: f"*{kind}" if name in maps else "i32" for name in kernel.arg_names}
    if one:
        constants = of_one(kernel, types, constants)
    return compile_ahead(
        kernel, types, constants, architecture, num_warps=_triton.count_warps(blocks),
        num_stages=3, aligned=[name for name in kernel.arg_names if name not in ODD],
    )  # fmt: skip


@every_gpu
@pytest.mark.parametrize("levels", [LEVELS, WIDE], ids=["narrow", "wide"])
@every_kernel
def test_fits_into_shared_memory_and_registers(name, levels, kind, gpu, tmp_path):
    architecture, limit = GPUS[gpu]
    made = _compiled(name, levels, kind, architecture)
    assert 0 < made.metadata.shared <= limit
    assert spilled_bytes(made, architecture, tmp_path) <= 128
    # half precision meets on tensor cores, float32 is exact
    assert ("mma" in made.asm["ptx"]) == (kind != "fp32")


@every_kernel
def test_compiles_for_maps_of_one_number(name):
    assert _compiled(name, [(1, 1)], "bf16", 90, one=True).asm["ptx"]


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
