"""Kernels are launched on the GPU that holds their tensors, which need not be the current one."""

from contextlib import contextmanager

import pytest
import torch

from ctxbench import CGConv2d, CoConv2d, ContextualConv2d, ContMixBlock, use_backend

OPERATORS = {
    "coconv": lambda: CoConv2d(4, 4),
    "cgc": lambda: CGConv2d(4, 4),
    "ctxconv": lambda: ContextualConv2d(4, 4),
    "ctxconv depthwise": lambda: ContextualConv2d(4, 4, groups=4),
    "contmix": lambda: ContMixBlock(4, 7, small_kernel_size=3, heads=1),
}
every_operator = pytest.mark.parametrize("build", OPERATORS.values(), ids=OPERATORS)


def _train(op, device):
    x = torch.randn(2, 4, 7, 7, device=device, requires_grad=True)
    with use_backend("triton"):
        op.to(device)(x).sum().backward()
    return x.grad


@every_operator
def test_each_direction_goes_to_the_device_of_its_tensors(build, device, monkeypatch):
    seen = []

    @contextmanager
    def device_of(tensor):
        seen.append(tensor.device.type)
        yield

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    _train(build(), device)
    # one entry a direction; the block has a small and a large window
    assert len(seen) in (2, 4)
    assert set(seen) == {device}


@pytest.mark.gpu
@every_operator
def test_a_gpu_that_is_not_the_current_one(build):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    torch.manual_seed(0)
    op = build()
    torch.manual_seed(1)
    first = _train(op, "cuda:0")
    torch.manual_seed(1)
    torch.testing.assert_close(_train(op, "cuda:1").to("cuda:0"), first, rtol=1e-3, atol=1e-3)
