"""The Triton kernels of the contextual convolution compile for the GPUs that they are meant for."""

import pytest

pytest.importorskip("triton")

import triton.language as tl

from ctxbench.kernels._backend import interprets
from ctxbench.kernels.ctxconv import _triton, _triton_backward
from tests.kernels.tools import GPUS, compile_ahead, every_gpu, of_one, spilled_bytes

pytestmark = pytest.mark.skipif(interprets(), reason="interpreted kernels are not compiled")

TYPES = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}
SUMS = ("x_grad", "weight_parts", "change_parts", "kernel_parts")  # float32 always
MAPS = ("x", "weight", "change", "offset", "mask", "y", "grad", "offset_grad", "mask_grad")
# kernel -> the largest blocks of positions, channels and outputs in half precision, and its warps
KERNELS = {
    "dense": (_triton._dense, (64, 32, 128), 4),
    "depthwise": (_triton._depthwise, (64, 32, None), 4),
    "dense inputs": (_triton_backward._dense_inputs, (64, 32, 64), 8),
    "dense kernels": (_triton_backward._dense_kernels, (32, 64, 64), 4),
    "depthwise backward": (_triton_backward._depthwise, (64, 32, None), 8),
}
LARGE_FP32 = {
    "dense": (64, 16, 64),
    "dense inputs": (64, 16, 64),
    "dense kernels": (16, 64, 32),
}
SMALL = (16, 16, 16)
# of maps of 28x28 that lie as networks have them: what is 1, what is no multiple of 16
ONES = ("offset_n", "mask_n")
ODD = ("height", "width", "out_width")
every_kernel = pytest.mark.parametrize("name", KERNELS)


def _compile(name, kind, sizes, architecture, *, one=False, **wanted):
    """Compile a kernel whose maps hold one type of numbers."""
    kernel, _, warps = KERNELS[name]
    blocks = dict(zip(("BLOCK_N", "BLOCK_C", "BLOCK_O"), sizes, strict=True))
    constants = {
        "KERNEL": 3, "STRIDE": 1, "DILATION": 1, "MOVED": True, "PRODUCT": TYPES[kind],
        **blocks, **wanted, **dict.fromkeys(ONES, 1),
    }  # fmt: skip
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names, "i32")
    types |= dict.fromkeys(SUMS, "*fp32") | dict.fromkeys(MAPS, f"*{kind}")
    if one:
        constants = of_one(kernel, types, constants)
    aligned = [name for name in kernel.arg_names if name not in ODD]
    return compile_ahead(kernel, types, constants, architecture, aligned=aligned, num_warps=warps)


@every_gpu
@every_kernel
def test_large_blocks_fit_into_shared_memory_and_registers(name, kind, gpu, tmp_path):
    architecture, shared = GPUS[gpu]
    sizes = KERNELS[name][1]
    if kind == "fp32":
        sizes = LARGE_FP32.get(name, sizes)
    made = _compile(name, kind, sizes, architecture)
    assert made.metadata.shared <= shared
    assert spilled_bytes(made, architecture, tmp_path) <= 32
    # half precision goes through the tensor cores, float32 is exact
    assert ("mma" in made.asm["ptx"]) == (kind != "fp32" and "dense" in name)


@every_kernel
def test_compiles_for_maps_of_one_number(name):
    assert _compile(name, "bf16", SMALL, 90, one=True).asm["ptx"]


@pytest.mark.parametrize("name", ["dense inputs", "depthwise backward"])
def test_x_alone_is_added_up_by_atomics(name):
    unwanted = dict.fromkeys(("offset_grad", "mask_grad"))
    assert "atom.global" in _compile(name, "bf16", SMALL, 80, **unwanted).asm["ptx"]
    unwanted = dict.fromkeys(("x_grad", "kernel_parts"))
    assert "atom.global" not in _compile(name, "bf16", SMALL, 80, **unwanted).asm["ptx"]
