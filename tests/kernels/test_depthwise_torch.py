"""The depthwise convolution of the torch backend against the plain one, and wrong copies of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ctxbench.kernels import use_backend
from ctxbench.kernels.depthwise import _torch, depthwise_conv2d
from ctxbench.ops import DilatedReparam
from tests.kernels.tools import mutant

# wide paddings, dilated kernels of many taps and of few, maps smaller than the kernel
SHAPES = [(1, 1, 9, 9), (3, 1, 5, 8), (5, 2, 12, 7), (5, 4, 9, 11), (3, 7, 10, 16), (17, 1, 6, 9)]


def _drawn(size, height, width, dtype=torch.float64, batch=2, channels=3):
    torch.manual_seed(0)
    x = torch.randn(batch, channels, height, width, dtype=dtype)
    weight, bias = torch.randn(channels, 1, size, size, dtype=dtype), torch.randn(channels)
    return x, weight, bias.to(dtype), torch.randn_like(x)


def _expected(x, weight, bias, grad, dilation):
    """Return the output and all gradients of the plain convolution."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    padding = dilation * (weight.shape[-1] // 2)
    y = F.conv2d(*leaves, 1, padding, dilation, len(weight))
    return y, *torch.autograd.grad(y, leaves, grad)


def _compare(module, shape):
    """Hold forward and backward against the plain convolution in float64."""
    size, dilation, height, width = shape
    x, weight, bias, grad = _drawn(size, height, width)
    found = (
        module.forward(x, weight, bias, dilation),
        *module.backward(grad, x, weight, dilation, [True] * 3),
    )
    expected = _expected(x, weight, bias, grad, dilation)
    for mine, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


def _compare_all(module):
    for shape in SHAPES:
        _compare(module, shape)


def test_equals_the_plain_convolution():
    _compare_all(_torch)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from([1, 3, 5, 7, 13, 15]), st.integers(1, 5), st.integers(1, 20),
    st.integers(1, 20),
)  # fmt: skip
def test_equals_it_at_any_size(size, dilation, height, width):
    _compare(_torch, (size, dilation, height, width))


WRONG = {
    "kernel not turned": ("weight.flip(2, 3)", "weight"),
    "rows alone turned": ("weight.flip(2, 3)", "weight.flip(2)"),
    "window moved": ("(reach,) * 4)", "(reach + 1, reach - 1, reach, reach))"),
    "samples not added": (".sum(0, dtype=_exact(x))", "[0].to(_exact(x))"),
    "a tap dropped": ("weight = weight.to(x.dtype)", "weight = weight.to(x.dtype).tril()"),
    "no dilation": ("_stuffed(weight, dilation), 1", "weight, 1"),
    "no bias": ("F.conv2d(x, weight, bias,", "F.conv2d(x, weight, None,"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_copy_is_caught(wrong, tmp_path):
    copy = mutant(_torch, *WRONG[wrong], tmp_path)
    with pytest.raises(AssertionError):
        _compare_all(copy)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_use_it_is_close_and_keeps_type_and_layout(shape, dtype, tolerance, layout):
    size, dilation, height, width = shape
    x, weight, bias, grad = _drawn(size, height, width)
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias)]
    x_used = leaves[0].contiguous(memory_format=layout)
    y = depthwise_conv2d(x_used, *leaves[1:], dilation=dilation)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    found = (y, *torch.autograd.grad(y, leaves, grad.to(dtype)))
    for mine, wanted in zip(found, _expected(x, weight, bias, grad, dilation), strict=True):
        atol = tolerance * float(wanted.detach().abs().max())
        torch.testing.assert_close(mine.double(), wanted, rtol=tolerance, atol=atol)


def test_the_custom_operator_is_registered_as_it_should_be():
    x, weight, bias, _ = _drawn(3, 6, 7, dtype=torch.float32)
    leaves = (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    torch.library.opcheck(
        torch.ops.ctxbench.depthwise_conv2d.default, (*leaves, 2),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )  # fmt: skip


def test_under_autocast_it_is_what_a_convolution_is():
    x, weight, _, _ = _drawn(15, 9, 9, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv2d(x, weight)
        expected = F.conv2d(x, weight, padding=7, groups=3)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_empty_batch_and_tensors_without_numbers_have_shapes(device):
    x, weight = torch.zeros(0, 3, 5, 6, device=device), torch.zeros(3, 1, 3, 3, device=device)
    assert depthwise_conv2d(x, weight).shape == (0, 3, 5, 6)


def test_both_backends_train_the_branches_alike():
    torch.manual_seed(0)
    op, x = DilatedReparam(4, 17), torch.randn(2, 4, 20, 18)
    found = []
    for backend in ("reference", "torch"):
        op.zero_grad()
        with use_backend(backend):
            op(x).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in op.parameters()])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
