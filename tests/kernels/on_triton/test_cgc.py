"""CGC in Triton against its definition."""

import pytest
import torch

pytest.importorskip("triton")

from ctxbench.errors import BackendError
from ctxbench.kernels.cgc import _triton, gated_conv2d
from tests.kernels.test_cgc_torch import CASES, compare, defined, draw
from tests.kernels.tools import gradients, mutant

SINGLE = {"dtype": torch.float32, "rtol": 1e-4, "atol": 1e-4}
# more than a block of positions, channels and outputs each
LARGE = (36, 68, (9, 9), (1, 3), (1, 1), (1, 1), 1)


@pytest.mark.parametrize("case", [*CASES.values(), LARGE], ids=[*CASES, "large"])
def test_equals_its_definition(case, device):
    compare(_triton, case, batch=2, move=lambda tensor: tensor.to(device), **SINGLE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_close(dtype, device):
    compare(
        _triton, CASES["strided"], dtype=dtype, rtol=0.02, atol=0.05, batch=2,
        move=lambda tensor: tensor.to(device),
    )  # fmt: skip


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_differentiates_through_the_contract(form, device):
    tensors, geometry = draw(CASES["plain"], dtype=torch.float32, batch=2)
    leaves = [tensor.detach().to(device).requires_grad_() for tensor in tensors]
    x = leaves[0].contiguous(memory_format=form)
    y = gated_conv2d(x, *leaves[1:], **geometry, backend="triton")
    assert y.is_contiguous(memory_format=form)
    expected = defined(*tensors, **geometry)
    torch.testing.assert_close(y.cpu(), expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients(y, leaves), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)


def test_takes_what_is_not_contiguous_and_a_batch_of_none(device):
    (x, *others), geometry = draw(CASES["plain"], dtype=torch.float32, batch=2)
    others = [tensor.detach().to(device) for tensor in others]
    turned = x.detach().transpose(2, 3).contiguous().to(device).transpose(2, 3)
    y = gated_conv2d(turned, *others, **geometry, backend="triton")
    expected = gated_conv2d(x.detach().to(device), *others, **geometry, backend="triton")
    torch.testing.assert_close(y, expected)
    none = gated_conv2d(
        turned[:0], others[0], *(half[:0] for half in others[1:]), **geometry, backend="triton"
    )
    assert none.shape == (0, *y.shape[1:])


def test_is_a_proper_operator(device):
    tensors, geometry = draw(CASES["small"], dtype=torch.float32, batch=1)
    leaves = [tensor.detach().to(device).requires_grad_() for tensor in tensors]
    torch.library.opcheck(
        torch.ops.ctxbench.gated_conv2d.default, (*leaves, *geometry.values(), "triton"),
        test_utils=["test_schema", "test_faketensor", "test_autograd_registration"],
    )  # fmt: skip


def test_double_precision_is_refused(device):
    tensors, geometry = draw(CASES["plain"])
    with pytest.raises(BackendError, match="got float64. Use backend='torch'"):
        gated_conv2d(*(t.to(device) for t in tensors), **geometry, backend="triton")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("for tap in range(KH * KW)", "for tap in range(1, KH * KW)"),
        ("(tap % KW - KW // 2)", "(tap % KW - KW // 2 + 1)"),
        ("y = n // across * STRIDE_Y + (tap // KW", "y = n // across * STRIDE_Y + (tap % KW"),
        ("y = n // width - (tap // KW", "y = n // width - (tap % KW"),
        ("y = n // width - (", "y = n // width + ("),
        (" & (x < width)", ""),
        ("valid & (y < rows) & (x < across)", "valid & (y < rows)"),
        (" & (y % STRIDE_Y == 0)", ""),
        ("(weight_CO * gate_CO).to(DOT)", "weight_CO.to(DOT)"),
        ("tl.sigmoid(input_C", "tl.sigmoid(-input_C"),
        ("    inputs += sample * KH * KW * groups * channels +", "    inputs +="),
        ("sums *= gate_CO", "sums *= 1"),
        ("(1 - gate_CO)", "(1 + gate_CO)"),
        ("tl.atomic_add(of_weight", "tl.store(of_weight"),
        ("tl.sum(sums, 1)", "tl.max(sums, 1)"),
        ("tl.sum(sums, 0)", "tl.max(sums, 0)"),
    ],
)
def test_a_wrong_kernel_is_caught(old, new, device, tmp_path):
    wrong = mutant(_triton, old, new, tmp_path)
    with pytest.raises(AssertionError, match="not close"):
        _compare_two(wrong, device)


def _compare_two(module, device):
    for case in ("strided", "plain"):  # the second reads beyond both borders
        compare(module, CASES[case], batch=2, move=lambda tensor: tensor.to(device), **SINGLE)
