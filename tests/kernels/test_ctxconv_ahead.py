"""The Triton kernels of the contextual convolution compile for the GPUs that they are meant for."""

import pytest

pytest.importorskip("triton")

import triton.language as tl

from ctxbench.kernels._backend import interprets
from ctxbench.kernels.ctxconv import _triton, _triton_backward
from tests.kernels.tools import GPUS, compile_ahead

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
every_gpu = pytest.mark.parametrize(("architecture", "shared"), GPUS.values(), ids=GPUS)


def _compile(name, number, sizes, architecture, **wanted):
    """Compile a kernel whose maps hold one type of numbers."""
    kernel, _, warps = KERNELS[name]
    blocks = dict(zip(("BLOCK_N", "BLOCK_C", "BLOCK_O"), sizes, strict=True))
    constants = {
        "KERNEL": 3, "STRIDE": 1, "DILATION": 1, "MOVED": True, "PRODUCT": TYPES[number],
        **blocks, **wanted,
    }  # fmt: skip
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names, "i32")
    types |= dict.fromkeys(SUMS, "*fp32") | dict.fromkeys(MAPS, f"*{number}")
    return compile_ahead(kernel, types, constants, architecture, num_warps=warps)


@every_gpu
@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_large_blocks_fit_into_shared_memory(name, number, architecture, shared):
    sizes = KERNELS[name][1]
    if number == "fp32":
        sizes = LARGE_FP32.get(name, sizes)
    made = _compile(name, number, sizes, architecture)
    assert made.metadata.shared <= shared
    # half precision goes through the tensor cores, float32 is exact
    assert ("mma" in made.asm["ptx"]) == (number != "fp32" and "dense" in name)


@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_small_blocks_compile(name, number):
    architecture, shared = GPUS["A100"]
    assert _compile(name, number, SMALL, architecture).metadata.shared <= shared


@pytest.mark.parametrize("name", ["dense inputs", "depthwise backward"])
def test_x_alone_is_added_up_by_atomics(name):
    unwanted = dict.fromkeys(("offset_grad", "mask_grad"))
    assert "atom.global" in _compile(name, "bf16", SMALL, 80, **unwanted).asm["ptx"]
    unwanted = dict.fromkeys(("x_grad", "kernel_parts"))
    assert "atom.global" not in _compile(name, "bf16", SMALL, 80, **unwanted).asm["ptx"]
