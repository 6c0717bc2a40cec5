"""CoConv in torch: every formulation, and the operator, against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import ctxbench
from ctxbench.kernels.coconv import _torch, _whole, coconv2d, coconv2d_norm_relu
from ctxbench.ops import CoConv2d
from tests.kernels.tools import gradients, mutant
from tests.reference.coconv import coconv

LEVELS = [(3, 1), (2, 2), (2, 3), (1, 4)]
EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def converting(monkeypatch):
    """Convert the input of maps as small as those of a test."""
    monkeypatch.setattr(_torch, "WORTH_CONVERTING", 0)
    monkeypatch.setattr(_torch, "_PIXELS", 0)


def _drawn(levels=LEVELS, *, batch=2, size=(6, 8), kernel=(3, 3), dtype=torch.float64, channels=3):
    torch.manual_seed(0)
    outputs = sum(width for width, _ in levels)
    shapes = (batch, channels, *size), (outputs, channels, *kernel), (outputs,)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _assert_same(function, leaves, levels, stride):
    expected = coconv(*leaves, levels, stride=stride)
    actual = function(*leaves, levels=levels, stride=stride)
    torch.testing.assert_close(actual, expected, **EXACT)
    torch.testing.assert_close(gradients(actual, leaves), gradients(expected, leaves), **EXACT)


@st.composite
def _cases(draw):
    levels = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), min_size=1, max_size=4))
    odd = st.sampled_from([1, 3, 5])
    sizes = {"size": draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))}
    leaves = _drawn(
        levels, **sizes, batch=draw(st.integers(1, 2)), kernel=draw(st.tuples(odd, odd))
    )
    return leaves, levels, draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))


@pytest.mark.parametrize("form", _torch.FORMS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(_cases())
def test_every_formulation_equals_the_definition(form, case):
    _assert_same(_torch.FORMS[form], *case)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(_cases())
def test_the_operator_equals_the_definition(case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_torch, "WORTH_CONVERTING", 0)
        patch.setattr(_torch, "_PIXELS", 0)
        _assert_same(coconv2d, *case)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (4, 6)])
@pytest.mark.usefixtures("converting")
def test_the_gradients_of_the_operator_are_its_derivatives(stride):
    leaves = _drawn(batch=1, size=(4, 5), channels=1)
    torch.autograd.gradcheck(lambda *t: coconv2d(*t, levels=LEVELS, stride=stride), leaves)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at gradients of results
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.usefixtures("converting")
def test_what_autograd_and_a_compiler_ask_of_an_operator_holds(stride):
    widths, rates = zip(*LEVELS, strict=True)
    arguments = (*_drawn(), None, None, False, widths, rates, stride, "torch")
    torch.library.opcheck(torch.ops.ctxbench.coconv2d.default, arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2, "channels": 4},
        {"padding_mode": "circular", "channels": 3},
        {"padding_mode": "reflect", "channels": 3, "stride": (2, 1)},
    ],
)
def test_what_it_has_no_formulation_for_is_the_reference(options):
    x, weight, bias = _drawn(channels=options.pop("channels"))
    weight = weight[:, : x.shape[1] // options.get("groups", 1)]
    y, expected = (
        coconv2d(x, weight, bias, levels=LEVELS, **options, backend=backend)
        for backend in ("torch", "reference")
    )
    torch.testing.assert_close(y, expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("converting")
def test_smaller_types_are_close(dtype):
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in _drawn()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    actual, expected = coconv2d(*leaves, levels=LEVELS), coconv(*exact, LEVELS)
    assert actual.dtype == dtype
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(actual.double(), expected, **near)
    found = [one.double() for one in gradients(actual, leaves)]
    torch.testing.assert_close(found, list(gradients(expected, exact)), **near)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("threshold", [0, 10**9])
def test_the_layout_is_that_of_a_plain_convolution(last, threshold, monkeypatch):
    monkeypatch.setattr(_torch, "WORTH_CONVERTING", threshold)
    monkeypatch.setattr(_torch, "_PIXELS", 0)
    x, weight, bias = _drawn()
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    y = coconv2d(x, weight, bias, levels=LEVELS)
    assert y.stride() == F.conv2d(x, weight, bias, padding=1).stride()
    (grad_x,) = gradients(y, [x])
    assert grad_x.stride() == x.stride()


@pytest.mark.usefixtures("converting")
def test_a_part_of_another_map_is_an_input_too():
    whole, weight, bias = _drawn(channels=6)
    _assert_same(coconv2d, (whole[:, ::2, 1:, :-1], weight[:, :3], bias), LEVELS, (1, 1))


@pytest.mark.parametrize("threshold", [0, 10**9])
def test_a_batch_of_none_has_gradients(threshold, monkeypatch):
    monkeypatch.setattr(_torch, "WORTH_CONVERTING", threshold)
    monkeypatch.setattr(_torch, "_PIXELS", 0)
    leaves = _drawn(batch=0)
    y = coconv2d(*leaves, levels=LEVELS, stride=(2, 2))
    assert y.shape == (0, 8, 3, 4)
    assert [found.abs().sum().item() for found in gradients(y, leaves)] == [0, 0, 0]


@pytest.mark.usefixtures("converting")
def test_what_is_no_number_stays_so():
    x, weight, bias = _drawn()
    x = x.detach().index_fill(3, torch.tensor(0), torch.nan)
    y = coconv2d(x, weight, bias, levels=LEVELS)
    assert y[..., 0].isnan().all()
    assert y[:, :3, :, 2:].isfinite().all()


@pytest.mark.parametrize("threshold", [0, 10**9])
def test_autocast_computes_as_a_plain_convolution_does(threshold, monkeypatch):
    monkeypatch.setattr(_torch, "WORTH_CONVERTING", threshold)
    monkeypatch.setattr(_torch, "_PIXELS", 0)
    leaves = _drawn(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = (
            coconv2d(*leaves, levels=LEVELS, backend=name) for name in ("torch", "reference")
        )
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)
    assert [found.dtype for found in gradients(y, leaves)] == [torch.float32] * 3


@pytest.mark.parametrize("threshold", [0, 10**9])
def test_it_compiles_without_a_break(threshold, monkeypatch):
    monkeypatch.setattr(_torch, "WORTH_CONVERTING", threshold)
    monkeypatch.setattr(_torch, "_PIXELS", 0)
    torch._dynamo.reset()
    leaves = _drawn()

    def computed(*tensors):
        return coconv2d(*tensors, levels=LEVELS, stride=(2, 2))

    y = torch.compile(computed, fullgraph=True, backend="aot_eager")(*leaves)
    expected = computed(*leaves)
    torch.testing.assert_close(y, expected, **EXACT)
    torch.testing.assert_close(gradients(y, leaves), gradients(expected, leaves), **EXACT)


@pytest.mark.parametrize("size", [(8, 16), (64, 64)])  # separately, and converted once
@pytest.mark.parametrize("stride", [1, 2])
def test_counts_what_the_plain_convolution_does(size, stride):
    x = torch.zeros(8, 8, *size)
    plain = nn.Conv2d(8, 16, 3, stride, padding=1)
    assert ctxbench.count(CoConv2d(8, 16, stride=stride), x).macs == ctxbench.count(plain, x).macs


def test_one_large_map_of_the_default_layout_is_converted_and_others_are_not():
    x, weight = torch.empty(2, 64, 64, 64, device="cpu"), torch.empty(8, 64, 3, 3)
    last = x.contiguous(memory_format=torch.channels_last)
    assert _torch.converts(x, weight, LEVELS, (1, 1))
    assert not _torch.converts(last, weight, LEVELS, (1, 1))
    assert not _torch.converts(x, weight, [(4, 1), (4, 2)], (1, 1))
    assert not _torch.converts(x[:, :, :8, :8].contiguous(), weight, LEVELS, (1, 1))
    assert not _torch.converts(x.reshape(128, 64, 8, 8), weight, LEVELS, (1, 1))


def test_wide_levels_are_converted_where_they_stride():
    x, weight = torch.empty(2, 64, 64, 64, device="cpu"), torch.empty(64, 64, 3, 3)
    levels = [(32, 1), (16, 2), (16, 3)]
    assert not _torch.converts(x, weight, levels, (1, 1))
    assert _torch.converts(x, weight, levels, (2, 1))


def test_it_runs_on_meta_tensors():
    op, x = CoConv2d(64, 64, device="meta"), torch.empty(2, 64, 64, 64, device="meta")
    assert op(x).shape == x.shape
    weight = torch.empty(8, 64, 3, 3, device="meta")
    y = _whole(x, weight, None, None, None, False, levels=LEVELS, stride=(2, 2), chosen="torch")
    assert y.shape == (2, 8, 32, 32)


def test_neighbours_of_one_dilation_are_one_convolution():
    assert _torch.merge([(2, 1), (3, 1), (1, 2), (1, 1)]) == [(5, 1), (1, 2), (1, 1)]


@pytest.mark.parametrize("relu", [False, True])
def test_normalises_as_batch_norm_in_eval_mode(relu):
    x, weight, bias = _drawn()
    norm = nn.BatchNorm2d(8).double().eval()
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.weight)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    expected = norm(coconv(x, weight, bias, LEVELS))
    y = coconv2d_norm_relu(
        x, weight, bias, scale=scale, shift=shift, relu=relu, levels=LEVELS, backend="torch"
    )
    torch.testing.assert_close(y, expected.relu() if relu else expected, **EXACT)


def _compare(module):
    leaves = _drawn()
    for stride in (1, 1), (2, 1):
        _assert_same(module.separate, leaves, LEVELS, stride)
        expected = coconv(*leaves, LEVELS, stride=stride)
        actual = module.forward(*leaves, levels=LEVELS, stride=stride)
        torch.testing.assert_close(actual, expected, **EXACT)
        grad = torch.randn_like(expected)
        found = module.backward(
            grad, *leaves[:2], levels=LEVELS, stride=stride, needs=(True, True, True)
        )
        wanted = torch.autograd.grad(expected, leaves, grad)
        torch.testing.assert_close(found, wanted, **EXACT)


def test_the_right_module_passes_the_comparison():
    _compare(_torch)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dilation = (rate // tall, rate // wide)", "dilation = (rate, rate)"),
        ("slice(start, start + width)", "slice(start, start + width - 1)"),
        ("start += width", "start += 1"),
        ("x[..., ::down, ::across]", "x[..., 1::down, ::across]"),
        ("whole[..., ::down, ::across] += part", "whole[..., 1::down, ::across] += part"),
        ("[level.step].add_(of_seen)", "[level.step].sub_(of_seen)"),
        ("parts[level.step].add_(of_seen) if level.step in parts else of_seen", "of_seen"),
        ("grad_weight[level.outputs] = of_own", "grad_weight[level.outputs] = -of_own"),
        ("else bias[level.outputs]", "else bias[level.outputs].flip(0)"),
        ("grad.sum((0, 2, 3))", "grad.mean((0, 2, 3))"),
    ],
)
def test_a_wrong_copy_is_caught(old, new, tmp_path):
    wrong = mutant(_torch, old, new, tmp_path)
    with pytest.raises((AssertionError, RuntimeError)):  # some do not even run
        _compare(wrong)
