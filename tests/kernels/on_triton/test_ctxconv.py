"""The Triton kernels of the contextual convolution against its plain formulation in float64."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ctxbench
from ctxbench.errors import BackendError
from ctxbench.kernels.ctxconv import (
    _reference,
    _triton,
    _triton_backward,
    _triton_places,
    contextual_conv2d,
)
from ctxbench.kernels.ctxconv._reference import Window
from ctxbench.ops import ContextualConv2d
from tests.kernels.tools import gradients, mutant

ALL = [True] * 5
CLOSE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float16: {"rtol": 0.01, "atol": 0.02},
    torch.bfloat16: {"rtol": 0.05, "atol": 0.15},
}


def _drawn(*, batch=2, channels=3, outputs=4, size=(4, 5), window=(3, 1, 1), groups=1, without=()):
    """Return x, weight, change, offset and mask in float32; None for what is `without`."""
    generator = torch.Generator().manual_seed(1)
    kernel_size, stride, _ = window
    outputs = outputs if groups == 1 else channels
    out = [(s - 1) // stride + 1 for s in size]
    shapes = {
        "x": (batch, channels, *size),
        "weight": (outputs, channels // groups, kernel_size, kernel_size),
        "change": (batch, channels, kernel_size**2),
        "offset": (batch, 2 * kernel_size**2, *out),
        "mask": (batch, kernel_size**2, *out),
    }
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return [None if name in without else tensor for name, tensor in drawn.items()]


def _expected(tensors, window, groups, wanted=ALL):
    """Return output, its gradient, and the gradients that are wanted, from the same values."""
    leaves = [None if t is None else t.detach().cpu().double().requires_grad_() for t in tensors]
    y = _reference.contextual_conv2d(*leaves, window=Window(*window), groups=groups)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).double()
    there = [leaf for leaf, want in zip(leaves, wanted, strict=True) if want and leaf is not None]
    found = iter(torch.autograd.grad(y, there, upstream))
    answers = [
        next(found) if want and leaf is not None else None
        for leaf, want in zip(leaves, wanted, strict=True)
    ]
    return y.detach(), upstream, answers


def _compare_forward(module, tensors, window, groups):
    expected, _, _ = _expected(tensors, window, groups)
    y = module.forward(*tensors, Window(*window), groups)
    torch.testing.assert_close(y.cpu().double(), expected, equal_nan=True, **CLOSE[y.dtype])


def _compare_backward(module, tensors, window, groups, wanted=ALL):
    _, upstream, expected = _expected(tensors, window, groups, wanted)
    x, offset = tensors[0], tensors[3]
    grad = upstream.to(x if offset is None else offset)
    found = module.backward(grad, *tensors, Window(*window), groups, wanted)
    for tensor, actual, gradient in zip(tensors, found, expected, strict=True):
        assert (actual is None) == (gradient is None)
        if gradient is not None:
            assert (actual.dtype, actual.shape) == (tensor.dtype, tensor.shape)
            assert actual.is_contiguous()
            torch.testing.assert_close(
                actual.cpu().double(), gradient, equal_nan=True, **CLOSE[grad.dtype]
            )


def _compare(tensors, window, groups):
    _compare_forward(_triton, tensors, window, groups)
    _compare_backward(_triton, tensors, window, groups)


def _on(device, tensors, dtype=torch.float32):
    return [None if tensor is None else tensor.to(device, dtype) for tensor in tensors]


CASES = {
    "dense": {},
    "depthwise": {"groups": 3},
    "dense stride": {"window": (3, 2, 1), "batch": 1, "without": ["mask"]},
    "depthwise dilation": {"window": (3, 1, 2), "batch": 1, "groups": 3, "without": ["change"]},
    "dense in place": {"batch": 1, "without": ["offset", "mask"]},
    "depthwise in place": {"batch": 1, "groups": 3, "without": ["offset", "mask"]},
    "map smaller than kernel": {"size": (1, 1), "window": (3, 1, 1), "batch": 1, "groups": 3},
    "many dense blocks": {
        "size": (9, 8), "window": (1, 1, 1), "batch": 1, "channels": 70, "outputs": 130,
    },
    "many depthwise blocks": {
        "size": (9, 8), "window": (1, 1, 1), "batch": 1, "channels": 35, "groups": 35,
    },
    "no sample": {"batch": 0},
    "no depthwise sample": {"batch": 0, "groups": 3},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_plain_formulation(case, device):
    tensors = _on(device, _drawn(**case))
    _compare(tensors, case.get("window", (3, 1, 1)), case.get("groups", 1))


def test_a_program_sums_several_samples(device, monkeypatch):
    monkeypatch.setattr(_triton_backward, "_PROGRAMS", 2)
    tensors = _on(device, _drawn(batch=5, window=(1, 1, 1)))
    _compare_backward(_triton, tensors, (1, 1, 1), 1, [False, True, True, False, False])


@given(
    batch=st.integers(1, 2),
    channels=st.integers(2, 4),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    window=st.sampled_from([(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 3)]),
    dense=st.booleans(),
    without=st.sets(st.sampled_from(["change", "offset", "mask"])),
)
@settings(
    max_examples=6, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_equals_the_plain_formulation_at_any_shape(
    device, batch, channels, size, window, dense, without
):
    without = without | {"mask"} if "offset" in without else without
    groups = 1 if dense else channels
    tensors = _drawn(
        batch=batch, channels=channels, size=size, window=window, groups=groups, without=without
    )
    _compare(_on(device, tensors), window, groups)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("groups", [1, 3])
def test_half_precision_is_near(dtype, groups, device):
    tensors = _drawn(batch=1, groups=groups, size=(3, 3))
    _compare(_on(device, tensors, dtype), (3, 1, 1), groups)


def test_under_autocast_types_differ(device):
    tensors = _on(device, _drawn(window=(1, 1, 1)))
    tensors[3] = tensors[3].bfloat16()
    _compare(tensors, (1, 1, 1), 1)


def _sliced(tensor):
    """Return the same values, each beside a number that does not count."""
    return torch.stack([tensor, torch.full_like(tensor, 9.0)], dim=-1)[..., 0]


@pytest.mark.parametrize("groups", [1, 3])
def test_any_layout(groups, device):
    x, weight, change, offset, mask = _on(device, _drawn(batch=1, groups=groups, size=(3, 4)))
    maps = [t.contiguous(memory_format=torch.channels_last) for t in (x, offset)]
    tensors = [maps[0], _sliced(weight), _sliced(change), maps[1], _sliced(mask)]
    _compare(tensors, (3, 1, 1), groups)


@pytest.mark.parametrize("groups", [1, 2])
def test_taps_on_pixels_and_on_the_border(groups, device):
    x, weight, change, offset, mask = _drawn(batch=1, channels=2, groups=groups, size=(4, 3))
    _compare(_on(device, [x, weight, change, offset.round() * 2, mask]), (3, 1, 1), groups)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # the interpreter, at inf - inf
@pytest.mark.parametrize("far", [1e4, -3e9, 3e38, float("inf"), float("-inf"), float("nan")])
def test_a_tap_far_away_reads_zeros_and_one_nowhere_no_number(far, device):
    x, weight, change, offset, mask = _drawn(batch=1, window=(1, 1, 1))
    offset[0, 0, 1, 2] = far
    offset[0, 1, 3, 3] = far
    tensors = _on(device, [x, weight, change, offset, mask])
    _compare_forward(_triton, tensors, (1, 1, 1), 1)
    found = _triton.backward(tensors[0].new_ones(1, 4, 4, 5), *tensors, Window(1, 1, 1), 1, ALL)
    for place in (0, 3, 4):  # those of weight and change are sums over all places
        assert found[place].isfinite().any()


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("one", range(5))
def test_one_gradient_alone(one, groups, device):
    wanted = [place == one for place in range(5)]
    tensors = _on(device, _drawn(batch=1, window=(1, 1, 1), groups=groups))
    _compare_backward(_triton, tensors, (1, 1, 1), groups, wanted)


def test_a_sample_beyond_int32_is_refused():
    with pytest.raises(BackendError, match=r"up to 2\^31 numbers; got \(1, 65536, 65536\)"):
        _triton.forward(
            torch.empty(1, 1, 2**16, 2**16, device="meta"),
            torch.empty(1, 1, 1, 1, device="meta"),
            None, None, None, Window(1, 1, 1), 1,
        )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 3])
def test_the_operator_and_its_gradients(groups, device):
    tensors = _on(device, _drawn(batch=1, size=(3, 3), groups=groups))
    leaves = [tensor.requires_grad_() for tensor in tensors]
    found = [
        contextual_conv2d(*leaves, window=Window(3, 1, 1), groups=groups, backend=backend)
        for backend in ("triton", "reference")
    ]
    torch.testing.assert_close(*found, **CLOSE[torch.float32])
    torch.testing.assert_close(*(gradients(y, leaves) for y in found), **CLOSE[torch.float32])


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at gradients of results
@pytest.mark.parametrize("groups", [1, 3])
def test_the_registration_tells_shapes_and_gradients(groups, device):
    tensors = _on(device, _drawn(batch=1, size=(3, 2), window=(1, 1, 1), groups=groups))
    leaves = [tensor.requires_grad_() for tensor in tensors]
    torch.library.opcheck(
        torch.ops.ctxbench.contextual_conv2d.default, (*leaves, 1, 1, 1, groups, "triton")
    )


def test_the_layer_computes_with_it(device):
    torch.manual_seed(0)
    op = ContextualConv2d(4, 3, context_channels=2, norm="layer").to(device)
    for net in (op.offset_net, op.kernel_net):
        torch.nn.init.normal_(net[-1].weight)
    inputs = torch.randn(1, 4, 3, 4, device=device), torch.randn(1, 2, device=device)
    with ctxbench.use_backend("triton"):
        actual = op(*inputs)
    with ctxbench.use_backend("reference"):
        expected = op(*inputs)
    leaves = list(op.parameters())
    torch.testing.assert_close(actual, expected, **CLOSE[torch.float32])
    torch.testing.assert_close(
        *(gradients(y, leaves) for y in (actual, expected)), **CLOSE[torch.float32]
    )


def _guarded(tensors):
    """Put x between other samples of a batch: a mutant that reads beyond it reads their numbers."""
    x, *rest = tensors
    batch = torch.cat([torch.full_like(x, 7.0), x, torch.full_like(x, 7.0)])
    return [batch.contiguous(memory_format=torch.channels_last)[len(x) : -len(x)], *rest]


def _with_places(old, new, folder):
    """Return a forward pass that finds its places with a mutant."""
    made = mutant(_triton_places, old, new, folder)
    return mutant(_triton, _triton_places.__name__, made.__name__, folder)


# in `_triton_places`: what goes wrong -> the piece, and what stands in its place
PLACES = {
    "window shifted": ("tap % KERNEL - KERNEL // 2", "tap % KERNEL - KERNEL // 2 + 1"),
    "dy and dx swapped": ("axis(y, dy, height", "axis(y, dx, height"),
    "taps and axes swapped": ("2 * tap * offset_t", "tap * offset_t"),
    "offset subtracted": ("to(tl.float32) + offset", "to(tl.float32) - offset"),
    "stride forgotten": ("% out_width * STRIDE", "% out_width"),
    "dilation forgotten": ("// 2) * DILATION", "// 2)"),
    "border not checked": ("inside[:, None] & (c <", "(c[None, :] >= 0) & (c <"),
    "border shifted": ("(before < size - 1)", "(before < size - 2)"),
    "wrong border": ("pixel, top & left", "pixel, top & right"),
    "corners swapped": ("pixel + 1, top & right", "pixel + width, bottom & left"),
    "shares swapped": (
        "(1 - share)[:, None] * first + share",
        "share[:, None] * first + (1 - share)",
    ),
    "nearest pixel": ("pixel, place - before", "pixel, 0 * place"),
    "mask forgotten": ("return factor[:, None] * between", "return between"),
    "change forgotten": ("+ added", "+ 0 * added"),
}
FORWARD = {
    "tap dropped": ("in range(KERNEL * KERNEL)", "in range(1, KERNEL * KERNEL)"),
    "offsets of the first sample": ("sample * offset_b", "0 * sample"),
    "changes of the first sample": ("change += sample", "change += 0 * sample"),
    "x of the first sample": ("x += sample", "x += 0 * sample"),
}
HARD = {"batch": 2, "size": (3, 4), "window": (3, 2, 2), "channels": 2}


# where taps stand and what they read is the same for both kinds
@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("change forgotten", 1),
        *((n, 2) for n in PLACES),
        *((n, g) for n in FORWARD for g in (1, 2)),
    ],
)
def test_a_wrong_forward_pass_is_found(name, groups, device, tmp_path):
    if name in PLACES:
        made = _with_places(*PLACES[name], tmp_path)
    else:
        made = mutant(_triton, *FORWARD[name], tmp_path)
    tensors = _guarded(_on(device, _drawn(groups=groups, **HARD)))
    with pytest.raises(AssertionError, match="not close"):
        _compare_forward(made, tensors, HARD["window"], groups)


# in `_triton_backward`: also which gradients show it (x, weight, change, offset, mask)
X, KERNELS, OFFSET, MASK = ((0,), (1, 2), (3,), (4,))
BACKWARD = {
    "wrong sign of dy": ("received * (lower - upper)", "received * (upper - lower)", OFFSET),
    "wrong sign of dx": ("top_right - top_left", "top_left - top_right", OFFSET),
    "dy and dx swapped": ("to, by_dy.to", "to, by_dx.to", OFFSET),
    "mask forgotten": ("(lower - upper), 1) * factor", "(lower - upper), 1)", OFFSET),
    "mask forgotten in x": ("factor * (1 - down), factor", "1 - down, factor", X),
    "corners swapped": ("pixel + 1, top & right", "pixel + width, bottom & left", X),
    "shares swapped": ("upper * across", "upper * (1 - across)", X),
    "a pixel forgotten": ("pixel + width + 1, bottom", "pixel + width + 1, (bottom < 0)", X),
    "rows swapped": ("between(upper, lower, down), 1", "between(lower, upper, down), 1", MASK),
}
EITHER = {
    "places of one tap": ("MOVED, tap, n", "MOVED, 0, n", MASK),
    "offsets of the first sample": ("sample * offset_b", "0 * sample", MASK),
    "gradient of the first sample": ("grad += sample", "grad += 0 * sample", MASK),
}
DENSE = {
    "taps backwards": ("split * taps + tap", "split * taps + taps - 1 - tap", KERNELS),
    "samples forgotten": ("total += own", "total = own", KERNELS),
    "outputs forgotten": ("range(0, outputs, BLOCK_O)", "range(BLOCK_O, outputs, BLOCK_O)", X),
    "gradient of one sample": ("grad + sample * positions", "grad + 0 * sample", KERNELS),
}
DEPTHWISE = {
    "kernel forgotten": ("* depthwise_kernel(weight,", "+ 0 * depthwise_kernel(weight,", X),
    "parts beside each other": ("* KERNEL * KERNEL + tap) *", "+ tap) *", KERNELS),
}


@pytest.mark.parametrize(
    ("groups", "name"),
    [*((1, n) for n in EITHER | DENSE), *((2, n) for n in BACKWARD | EITHER | DEPTHWISE)],
)
def test_a_wrong_backward_pass_is_found(groups, name, device, tmp_path, monkeypatch):
    old, new, shown = (BACKWARD | EITHER | DENSE | DEPTHWISE)[name]
    made = mutant(_triton_backward, old, new, tmp_path)
    monkeypatch.setattr(made, "_PROGRAMS", 9)  # several samples a program
    tensors = _on(device, _drawn(groups=groups, **HARD))
    wanted = [place in shown for place in range(5)]
    with pytest.raises(AssertionError, match="not close"):
        _compare_backward(made, tensors, HARD["window"], groups, wanted)


@pytest.mark.parametrize("groups", [1, 2])
def test_what_the_wrong_ones_are_compared_with_is_right(groups, device, monkeypatch):
    monkeypatch.setattr(_triton_backward, "_PROGRAMS", 9)
    tensors = _guarded(_on(device, _drawn(groups=groups, **HARD)))
    _compare(tensors, HARD["window"], groups)
