"""CoConv in Triton against the definition, and wrong kernels that the comparison catches."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxbench.errors import BackendError
from ctxbench.kernels.coconv import _triton, coconv2d, coconv2d_norm_relu
from ctxbench.ops import CoConv2d
from tests.kernels.tools import gradients, mutant
from tests.reference.coconv import coconv

# a level of more than one tile, one that no power of two divides, and a dilation beyond the map
LEVELS = [(17, 1), (5, 3), (2, 9)]
NEAR = {"rtol": 1e-4, "atol": 1e-4}


def _drawn(device, *, levels=LEVELS, batch=2, channels=18, size=(5, 6), kernel=(3, 3)):
    torch.manual_seed(0)
    outputs = sum(width for width, _ in levels)
    shapes = (batch, channels, *size), (outputs, channels, *kernel), (outputs,)
    return [torch.randn(shape, device=device, requires_grad=True) for shape in shapes]


def _exact(leaves):
    return [leaf.detach().cpu().double().requires_grad_() for leaf in leaves]


def _assert_near(actual, expected, leaves, exact, near=NEAR):
    torch.testing.assert_close(actual.cpu().double(), expected, **near)
    found = [one.cpu().double() for one in gradients(actual, leaves)]
    torch.testing.assert_close(found, list(gradients(expected, exact)), **near)


def _run(leaves, **options):
    return coconv2d(*leaves, **{"levels": LEVELS, **options}, backend="triton")


@pytest.mark.parametrize(
    ("kernel", "stride"), [((3, 3), (1, 1)), ((3, 3), (2, 1)), ((1, 5), (3, 2))]
)
def test_equals_the_definition(device, kernel, stride):
    leaves = _drawn(device, kernel=kernel)
    exact = _exact(leaves)
    expected = coconv(*exact, LEVELS, stride=stride)
    _assert_near(_run(leaves, stride=stride), expected, leaves, exact)


@st.composite
def _cases(draw):
    levels = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=3))
    odd = st.sampled_from([1, 3])
    shape = {
        "levels": levels, "batch": draw(st.integers(1, 2)), "channels": draw(st.integers(1, 5)),
        "size": draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        "kernel": draw(st.tuples(odd, odd)),
    }  # fmt: skip
    return shape, draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))


@settings(
    max_examples=8, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the device is the same
)  # fmt: skip
@given(_cases())
def test_equals_the_definition_at_any_shape(device, case):
    shape, stride = case
    leaves = _drawn(device, **shape)
    exact = _exact(leaves)
    y = _run(leaves, levels=shape["levels"], stride=stride)
    _assert_near(y, coconv(*exact, shape["levels"], stride=stride), leaves, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_summed_in_float32(device, dtype):
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in _drawn(device)]
    exact = _exact(leaves)
    y = _run(leaves)
    assert y.dtype == dtype
    step = torch.finfo(dtype).eps
    _assert_near(y, coconv(*exact, LEVELS), leaves, exact, {"rtol": 2 * step, "atol": 8 * step})


def test_a_channels_last_map_stays_one(device):
    x, weight, bias = _drawn(device)
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    y = _run((x, weight, bias))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, coconv(x, weight, bias, LEVELS), **NEAR)
    found, wanted = gradients(y, [x]), gradients(coconv(x, weight, bias, LEVELS), [x])
    torch.testing.assert_close(found, wanted, **NEAR)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_a_part_of_another_map_is_an_input_too(device):
    x, weight, bias = _drawn(device, channels=6)
    leaves = (x[:, ::2, 1:, :-1], weight[:, :3], bias)
    exact = _exact(leaves)
    _assert_near(_run(leaves), coconv(*exact, LEVELS), leaves, exact)


def test_a_bias_and_what_comes_after_may_be_parts_of_others_too(device):
    x, weight, bias = _drawn(device)
    parts = [row[:, 0] for row in torch.randn(3, len(bias), 2, device=device)]
    found, wanted = (
        coconv2d_norm_relu(
            x, weight, rows[0], scale=rows[1], shift=rows[2], relu=False, levels=LEVELS,
            backend="triton",
        )
        for rows in (parts, [part.contiguous() for part in parts])
    )  # fmt: skip
    torch.testing.assert_close(found, wanted)


def test_without_a_batch_and_without_a_bias(device):
    x, weight, _ = _drawn(device)
    y = _run((x[0], weight, None))
    torch.testing.assert_close(y, _run((x, weight, None))[0])
    assert _run((x[:0], weight, None)).shape == (0, 24, 5, 6)


def test_a_batch_of_none_has_gradients(device):
    leaves = _drawn(device, batch=0)
    assert [one.abs().sum().item() for one in gradients(_run(leaves), leaves)] == [0, 0, 0]


def test_what_is_no_number_stays_so(device):
    x, weight, bias = _drawn(device)
    x = x.detach().index_fill(3, torch.tensor(0, device=device), torch.nan)
    one = torch.ones_like(bias)
    y = coconv2d_norm_relu(
        x, weight, bias, scale=one, shift=one, relu=True, levels=LEVELS, backend="triton"
    )
    assert y[..., 0].isnan().all()
    assert y[:, :17, :, 2:].isfinite().all()


def test_under_autocast_it_takes_halves(device):
    leaves = _drawn(device)
    with torch.autocast(device, torch.bfloat16):
        y = _run(leaves)
    assert y.dtype == torch.bfloat16
    assert [one.dtype for one in gradients(y, leaves)] == [torch.float32] * 3


def test_it_compiles_without_a_break(device):
    torch._dynamo.reset()
    leaves = _drawn(device)
    y = torch.compile(lambda *t: _run(t), fullgraph=True, backend="aot_eager")(*leaves)
    expected = _run(leaves)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, leaves), gradients(expected, leaves))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at gradients of results
def test_what_autograd_and_a_compiler_ask_of_an_operator_holds(device):
    arguments = (*_drawn(device), None, None, False, [17, 5, 2], [1, 3, 9], (2, 1), "triton")
    torch.library.opcheck(torch.ops.ctxbench.coconv2d.default, arguments, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("relu", [False, True])
def test_normalises_before_it_writes(device, relu):
    x, weight, bias = _drawn(device)
    options = {"scale": torch.randn_like(bias), "shift": torch.randn_like(bias), "relu": relu}
    y, expected = (
        coconv2d_norm_relu(x, weight, bias, **options, levels=LEVELS, backend=name)
        for name in ("triton", "torch")
    )
    torch.testing.assert_close(y, expected, **NEAR)


def test_the_normalised_map_has_no_gradient(device):
    x, weight, bias = _drawn(device)
    y = coconv2d_norm_relu(
        x, weight, bias, scale=bias, shift=bias, relu=True, levels=LEVELS, backend="triton"
    )
    with pytest.raises(BackendError, match="normalises for inference alone.*backend='torch'"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 2}, r"computes groups=1; got groups=2\. Use backend='torch'"),
        ({"padding_mode": "circular"}, "padding_mode='zeros'; got padding_mode='circular'"),
    ],
)
def test_what_it_cannot_compute_is_said(device, options, message):
    op = CoConv2d(8, 8, **options, backend="triton", device=device)
    with pytest.raises(BackendError, match=message):
        op(torch.zeros(1, 8, 5, 5, device=device))


def test_two_types_are_refused(device):
    x, weight, bias = _drawn(device)
    with pytest.raises(BackendError, match=r"of one type; got torch\.bfloat16 and torch\.float32"):
        _run((x.bfloat16(), weight, bias))


def _compare(module, device):
    x, weight, bias = leaves = _drawn(device)
    scale, shift = torch.randn_like(bias), torch.randn_like(bias)
    for stride in (1, 1), (2, 1):
        exact = _exact(leaves)
        expected = coconv(*exact, LEVELS, stride=stride)
        grad = torch.randn_like(expected)
        wanted = list(torch.autograd.grad(expected, exact, grad))
        after = module.After(scale, shift, relu=True)
        y = module.forward(x, weight, bias, levels=LEVELS, stride=stride, after=after)
        normed = expected * scale.cpu()[:, None, None] + shift.cpu()[:, None, None]
        torch.testing.assert_close(y.cpu().double(), normed.relu(), **NEAR)
        found = module.backward(
            grad.to(x), x, weight, levels=LEVELS, stride=stride, needs=(True, True, True)
        )
        torch.testing.assert_close([one.cpu().double() for one in found], wanted, **NEAR)


def test_the_right_kernels_pass_the_comparison(device):
    _compare(_triton, device)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("for tap in range(TALL * WIDE)", "for tap in range(1, TALL * WIDE)"),  # a tap is lost
        ("i * weight_h + j * weight_w", "j * weight_h + i * weight_w"),  # rows for columns
        ("(i - TALL // 2) * rate", "(i - TALL // 2 + 1) * rate"),  # the window shifted
        ("row - (i - TALL // 2)", "row + (i - TALL // 2)"),  # a wrong sign
        ("(across < width)", "(across < width + 1)"),  # the next row
        ("(across < columns * ACROSS)", "(across < columns * ACROSS + ACROSS)"),
        ("seen & (down % DOWN == 0)", "seen"),  # results that no stride leads to
        ("STOPS[level], stop)", "STOPS[level] - 1, stop)"),  # a channel is lost
        ("there = output < STOPS[level]", "there = output < STOPS[LEVELS - 1]"),
        ("RATES[level], rate)", "RATES[0], rate)"),  # every level at the first dilation
        ("(tile - TILES[level]) * CHANNELS", "0 * CHANNELS"),  # the first tile again
        ("there = channel < channels", "there = channel < channels - 1"),
        ("tl.where(total < 0, 0.0, total)", "total"),  # no ReLU
        ("total += tl.load(shift", "total -= tl.load(shift"),
    ],
)
def test_a_wrong_kernel_is_caught(device, old, new, tmp_path):
    wrong = mutant(_triton, old, new, tmp_path)
    with pytest.raises(AssertionError):
        _compare(wrong, device)
