"""CGC in torch, piece by piece, against its definition."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ctxbench.kernels.cgc import _torch, gated_conv2d
from ctxbench.ops import CGConv2d
from tests.kernels.tools import gradients, mutant
from tests.reference.cgc import _connected, _convolution

# channels, outputs, size, kernel, stride, dilation, groups
CASES = {
    "plain": (5, 7, (6, 5), (3, 3), (1, 1), (1, 1), 1),
    "strided": (4, 6, (7, 8), (3, 3), (2, 3), (1, 1), 2),
    "rectangular": (3, 4, (5, 9), (1, 5), (2, 1), (3, 2), 1),
    "small": (3, 2, (1, 2), (7, 5), (1, 2), (1, 1), 1),
    "depthwise": (4, 8, (5, 4), (3, 3), (1, 1), (2, 1), 4),
}


def draw(case, *, batch=3, dtype=torch.float64, scale=1.0):
    """Return the tensors of a case and how to convolve."""
    channels, outputs, size, kernel, stride, dilation, groups = case
    taps = kernel[0] * kernel[1]
    generator = torch.Generator().manual_seed(2)
    shapes = (
        (batch, channels, *size), (outputs, channels // groups, *kernel),
        (batch, channels, taps), (batch, outputs, taps),
    )  # fmt: skip
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    drawn[2:] = [scale * half for half in drawn[2:]]
    tensors = [tensor.to(dtype).requires_grad_() for tensor in drawn]
    return tensors, {"stride": stride, "dilation": dilation, "groups": groups}


def defined(x, weight, input_BCT, output_BOT, *, stride, dilation, groups):
    """Return the convolution of each image with its own gated weight, one by one."""
    total = input_BCT[:, None] + output_BOT[:, :, None]
    gates = (1 / (1 + torch.exp(-total))).unflatten(3, weight.shape[2:])
    images = zip(x, gates, strict=True)
    return torch.stack([
        _convolution(image, _connected(gate, groups) * weight, stride, dilation, groups)
        for image, gate in images
    ])  # fmt: skip


def compare(module, case, *, rtol=1e-10, atol=1e-11, move=lambda tensor: tensor, **how):
    """Assert that a module computes values and gradients of the definition."""
    tensors, geometry = draw(case, **how)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = defined(*exact, **geometry)
    wanted = gradients(expected, exact)
    given_ = [move(tensor.detach()) for tensor in tensors]
    actual = module.forward(*given_, *geometry.values())
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(actual.shape, generator=generator, dtype=torch.float64).to(actual)
    found = module.backward(upstream, *given_, *geometry.values(), [True] * 4)
    for one, other in zip((actual, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(one.double().cpu(), other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_its_definition(case, batch):
    compare(_torch, case, batch=batch)


@pytest.mark.parametrize(
    ("small", "together"), [(0, 1), (10**9, 1), (10**9, 10**9)],
    ids=["alone", "as a group", "as groups"],
)  # fmt: skip
@pytest.mark.parametrize("numbers", [1, 90, 10**6])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_however_it_is_cut_equals_its_definition(case, numbers, small, together, monkeypatch):
    monkeypatch.setattr(_torch, "_PIECE", numbers)
    monkeypatch.setattr(_torch, "_SMALL", small)
    monkeypatch.setattr(_torch, "_MAP", together)
    compare(_torch, case)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 7])),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)  # fmt: skip
def test_any_shape_equals_its_definition(
    batch, channels, outputs, groups, size, kernel, stride, dilation
):
    case = (channels * groups, outputs * groups, size, kernel, stride, dilation, groups)
    compare(_torch, case, batch=batch)


@pytest.mark.parametrize("scale", [30, 60, 100])
def test_large_logits_are_exact(scale):
    compare(_torch, CASES["plain"], scale=scale)


def test_logits_whose_exponentials_overflow_are_exact_in_float32():
    (x, weight, first, second), geometry = draw(CASES["plain"], dtype=torch.float32)
    first, second = first.detach() + 100, second.detach() - 100
    actual = gated_conv2d(x, weight, first, second, **geometry, backend="torch")
    torch.testing.assert_close(actual, defined(x, weight, first, second, **geometry))


def test_passes_gradcheck():
    tensors, geometry = draw((2, 2, (3, 4), (3, 3), (2, 1), (1, 1), 1), batch=2)
    assert torch.autograd.gradcheck(
        lambda *leaves: gated_conv2d(*leaves, **geometry, backend="torch"), tensors
    )


@pytest.mark.parametrize("needs", range(1, 15))
def test_only_the_gradients_asked_for_are_made(needs):
    tensors, geometry = draw(CASES["plain"])
    leaves = []
    for place, tensor in enumerate(tensors):
        tensor.requires_grad_(bool(needs >> place & 1))
        leaves += [tensor] * tensor.requires_grad
    expected = gradients(defined(*tensors, **geometry), leaves)
    actual = gradients(gated_conv2d(*tensors, **geometry, backend="torch"), leaves)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_reference_in_every_type(dtype):
    tensors, geometry = draw(CASES["strided"], dtype=dtype)
    ys = [
        gated_conv2d(*tensors, **geometry, backend=name).double() for name in ("torch", "reference")
    ]
    found = [gradients(y, tensors) for y in ys]
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(ys[0], ys[1], rtol=tolerance, atol=tolerance)
    for one, other in zip(*found, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=2 * tolerance, atol=2 * tolerance * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("outputs", [8, 80])  # as groups, alone
def test_is_laid_out_as_what_a_plain_convolution_returns(outputs, form, dtype):
    tensors, geometry = draw((8, outputs, (6, 7), (3, 3), (1, 1), (1, 1), 1), dtype=dtype)
    x = tensors[0].detach().contiguous(memory_format=form)
    plain = F.conv2d(x, tensors[1], None, padding=1)
    y = gated_conv2d(x, *tensors[1:], **geometry, backend="torch")
    assert y.stride() == plain.stride()
    contiguous = gated_conv2d(*tensors, **geometry, backend="torch")
    torch.testing.assert_close(y, contiguous, rtol=2e-2, atol=2e-2)


def test_takes_maps_that_are_not_contiguous():
    (x, *others), geometry = draw(CASES["plain"])
    wide = torch.zeros(3, 5, 12, 10, dtype=x.dtype)
    wide[:, :, ::2, ::2] = x.detach()
    seen = wide[:, :, ::2, ::2].requires_grad_()
    y = gated_conv2d(seen, *others, **geometry, backend="torch")
    expected = defined(x, *others, **geometry)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(gradients(y, [seen]), gradients(expected, [x]))


def test_takes_a_batch_of_none():
    tensors, geometry = draw(CASES["strided"], batch=0)
    y = gated_conv2d(*tensors, **geometry, backend="torch")
    assert y.shape == (0, 6, 4, 3)
    assert [g.shape for g in gradients(y, tensors)] == [t.shape for t in tensors]


def test_what_is_no_number_stays_in_its_sample():
    tensors, geometry = draw(CASES["plain"])
    half = tensors[2].detach().clone()
    half[1] = torch.nan
    y = gated_conv2d(*tensors[:2], half, tensors[3], **geometry, backend="torch")
    assert y.isnan().all(dim=(1, 2, 3)).tolist() == [False, True, False]
    assert not y[[0, 2]].isnan().any()


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_autocast_computes_as_a_plain_convolution_does(inside):
    (x, *others), geometry = draw(CASES["plain"], dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gated_conv2d(x, *others, **geometry, backend="torch")
    assert y.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16) if inside else nullcontext():
        found = gradients(y, [x, *others])
    assert {gradient.dtype for gradient in found} == {torch.float32}
    expected = gradients(defined(x, *others, **geometry), [x, *others])
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2])
def test_compiles_without_a_break(groups, dtype):
    tensors, geometry = draw((4, 6, (7, 8), (3, 3), (2, 1), (1, 1), groups), dtype=dtype)

    def op(*leaves):
        return gated_conv2d(*leaves, **geometry, backend="torch")

    actual = torch.compile(op, fullgraph=True, backend="aot_eager")(*tensors)
    torch.testing.assert_close(actual, op(*tensors), rtol=0, atol=0)
    found = gradients(actual, tensors)
    torch.testing.assert_close(found, gradients(op(*tensors), tensors), rtol=0, atol=0)


# opcheck looks at gradients of what are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", ["plain", "depthwise"])
def test_is_a_proper_operator(case, form):
    (x, *others), geometry = draw(CASES[case], dtype=torch.float32)
    x = x.detach().contiguous(memory_format=form).requires_grad_()
    torch.library.opcheck(
        torch.ops.ctxbench.gated_conv2d.default, (x, *others, *geometry.values(), "torch")
    )


class _Largest(TorchDispatchMode):
    """Remembers the largest storage that an operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numbers = max(self.numbers, size)
        return made


def test_never_holds_the_gates_of_all_samples(monkeypatch):
    monkeypatch.setattr(_torch, "_PIECE", 10_000)
    case = (32, 64, (4, 4), (3, 3), (1, 1), (1, 1), 1)
    tensors, geometry = draw(case, batch=16, dtype=torch.float32)
    leaves = [tensor.detach() for tensor in tensors]
    with _Largest() as largest:
        y = _torch.forward(*leaves, *geometry.values())
        _torch.backward(torch.ones_like(y), *leaves, *geometry.values(), [True] * 4)
    # the weight itself, of which there are 16 gated ones
    assert largest.numbers <= tensors[1].numel()


def test_keeps_its_inputs_alone():
    tensors, geometry = draw(CASES["plain"])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        gated_conv2d(*tensors, **geometry, backend="torch")
    assert [each.data_ptr() for each in kept] == [tensor.data_ptr() for tensor in tensors]


def test_runs_on_meta_tensors():
    op, x = CGConv2d(16, 8, device="meta"), torch.empty(2, 16, 6, 5, device="meta")
    assert op(x).shape == (2, 8, 6, 5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_sample_alone_equals_its_definition(case):
    tensors, geometry = draw(case, batch=1)
    y = gated_conv2d(*tensors, **geometry, backend="torch")
    expected = defined(*tensors, **geometry)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(gradients(y, tensors), gradients(expected, tensors))


def test_is_the_default_of_the_layer():
    torch.manual_seed(0)
    op, x = CGConv2d(16, 8), torch.randn(2, 16, 6, 5)
    calls = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    with Names():
        op(x)
    assert "ctxbench.gated_conv2d.default" in calls


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("addcmul(ones, ", "addcmul(2 * ones, "),
        ("half.neg().exp_()", "half.exp()"),
        ("return torch.div(weight, below, out=below)", "return weight / below.fill_(1)"),
        ("gate * gates.weight_GRTC", "gate * 0 + gates.weight_GRTC"),
        ("x[samples], ", "x[samples].roll(1, 3), "),
        ("grad_x[samples] = of_x", "grad_x[samples] = 2 * of_x"),
        ("gated_bGRTC.to(x.dtype)", "gated_bGRTC.to(x.dtype).roll(1, 3)"),
        ("*weight.shape[1:])\n", "*weight.shape[1:]).mT\n"),
        ("self.input_BG1TC[piece.samples]", "self.input_BG1TC.flip(0)[piece.samples]"),
        ("value=-1", "value=1"),
        ("total.mul_(self.weight_GRTC[:, piece.rows])", "total"),
        ("total.sum(2,", "total.mean(2,"),
        ("total.sum(4,", "total.mean(4,"),
        ("else total.sum(0)", "else total[0]"),
    ],
)
def test_a_wrong_copy_is_caught(old, new, tmp_path):
    wrong = mutant(_torch, old, new, tmp_path)
    with pytest.raises(AssertionError, match="not close"):
        compare(wrong, CASES["plain"])
