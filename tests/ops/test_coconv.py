"""CoConv2d against its definition, and against the plain convolution it stands in for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ctxbench
from ctxbench.ops import OPS, CoConv2d
from ctxbench.ops.coconv import split_levels
from tests.conformance import vectors
from tests.reference.coconv import coconv

SHAPES = {
    "plain": {"in_channels": 3, "out_channels": 5, "levels": 1},
    "stride": {"in_channels": 4, "out_channels": 8, "levels": 4, "stride": 2},
    "rectangular": {
        "in_channels": 2, "out_channels": 6, "kernel_size": (1, 5), "stride": (2, 1), "levels": 3,
    },
    "pairs": {"in_channels": 3, "out_channels": 4, "levels": [(1, 5), (3, 2)]},
    "groups": {"in_channels": 8, "out_channels": 16, "levels": 4, "groups": 2},
    "groups cut by levels": {"in_channels": 6, "out_channels": 9, "levels": 4, "groups": 3},
    "depthwise": {"in_channels": 8, "out_channels": 8, "levels": 4, "groups": 8},
    "top": {"in_channels": 3, "out_channels": 4, "levels": "top3"},
    "dilated": {"in_channels": 3, "out_channels": 4, "levels": 2, "dilation": 2},
    "circular": {"in_channels": 2, "out_channels": 4, "levels": 2, "padding_mode": "circular"},
    "reflect": {"in_channels": 2, "out_channels": 4, "levels": 2, "padding_mode": "reflect"},
    "replicate": {"in_channels": 2, "out_channels": 4, "levels": 4, "padding_mode": "replicate"},
}  # fmt: skip


@pytest.mark.parametrize("size", [(9, 9), (7, 11), (6, 4)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_its_definition(shape, size):
    torch.manual_seed(0)
    op = CoConv2d(**shape).double()
    x = torch.randn(2, op.in_channels, *size, dtype=torch.float64, requires_grad=True)
    leaves = (x, op.weight, op.bias)

    levels = [(width, rate * op.dilation) for width, rate in op.levels]
    expected = coconv(
        x, op.weight, op.bias, levels,
        stride=op.stride, groups=op.groups, padding_mode=op.padding_mode,
    )  # fmt: skip
    actual = op(x)

    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(actual)
    gradients = [torch.autograd.grad(y, leaves, upstream) for y in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 4), (2, 2), (1, 1)])
def test_maps_smaller_than_the_kernel(size):
    op = CoConv2d(3, 8, levels=4).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(op(x), coconv(x, op.weight, op.bias, op.levels))


@st.composite
def _shapes(draw):
    groups = draw(st.integers(1, 4))
    inputs, per_group = draw(st.integers(1, 5)) * groups, draw(st.integers(1, 8))
    outputs = groups * per_group
    widths = draw(st.lists(st.integers(1, outputs), min_size=1, max_size=5))
    while sum(widths) > outputs:
        widths.pop()
    if sum(widths) < outputs:
        widths.append(outputs - sum(widths))
    levels = [(width, draw(st.integers(1, 4))) for width in widths]
    counts = [count for count in (1, 2, 3, 4, 5) if count <= outputs]
    return {
        "in_channels": inputs,
        "out_channels": outputs,
        "kernel_size": draw(st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5]))),
        "stride": draw(st.integers(1, 3)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }, draw(st.sampled_from([levels, *counts, "top"]))


@settings(max_examples=40, deadline=None)
@given(_shapes(), st.integers(1, 9), st.integers(1, 9))
def test_costs_and_returns_what_the_plain_convolution_does(drawn, height, width):
    shape, levels = drawn
    padding = tuple(size // 2 for size in shape["kernel_size"])
    op, plain = CoConv2d(**shape, levels=levels), nn.Conv2d(**shape, padding=padding)
    x = torch.zeros(2, shape["in_channels"], height, width)

    counted, expected = ctxbench.count(op, x), ctxbench.count(plain, x)

    assert op(x).shape == plain(x).shape
    assert (counted.params, counted.macs) == (expected.params, expected.macs)
    kernel = shape["kernel_size"][0] * shape["kernel_size"][1]
    per_pixel = kernel * op.in_channels * op.out_channels // op.groups  # the formula it documents
    assert counted.macs == per_pixel * op(x)[:, 0].numel()


@settings(max_examples=30, deadline=None)
@given(_shapes())
def test_with_one_dilation_it_is_the_plain_convolution(drawn):
    shape, _ = drawn
    torch.manual_seed(0)
    padding = tuple(size // 2 for size in shape["kernel_size"])
    plain = nn.Conv2d(**shape, padding=padding).double()
    half = max(1, shape["out_channels"] // 2)
    rest = shape["out_channels"] - half
    op = CoConv2d(**shape, levels=[(half, 1), (rest, 1)] if rest else 1).double()
    op.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, shape["in_channels"], 5, 7, dtype=torch.float64)
    torch.testing.assert_close(op(x), plain(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "levels", "expected"),
    [
        (64, 4, ((16, 1), (16, 2), (16, 3), (16, 4))),  # Table 1, stage 1
        (128, 3, ((64, 1), (32, 2), (32, 3))),  # stage 2
        (256, 2, ((128, 1), (128, 2))),  # stage 3
        (512, 1, ((512, 1),)),  # stage 4
        (32, 5, ((8, 1), (8, 2), (8, 3), (4, 4), (4, 5))),  # section 1.7 of the code's CoConv5
        (37, 4, ((10, 1), (9, 2), (9, 3), (9, 4))),
        (5, 5, ((1, 1), (1, 2), (1, 3), (1, 4), (1, 5))),
        (12, "top", ((12, 4),)),
        (12, "top2", ((12, 2),)),
        (512, [(172, 1), (170, 2), (170, 3)], ((172, 1), (170, 2), (170, 3))),  # Table 2
    ],
)
def test_split_of_the_channels(channels, levels, expected):
    assert split_levels(channels, levels) == expected


@given(st.integers(5, 999), st.integers(1, 5))
def test_no_channel_is_lost_in_the_split(channels, levels):
    widths = [width for width, _ in split_levels(channels, levels)]
    assert sum(widths) == channels
    assert min(widths) >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 2}, "odd kernel.*got kernel_size=\\(2, 2\\)"),
        ({"levels": 6}, "1 to 5 levels; got levels=6"),
        ({"levels": 0}, "1 to 5 levels; got levels=0"),
        ({"levels": [(3, 1), (3, 2)]}, "sum to out_channels=8; got .*\\(\\(3, 1\\), \\(3, 2\\)\\)"),
        ({"levels": [(8, 0)]}, "at least one channel and dilation 1"),
        ({"levels": []}, "sum to out_channels=8; got .*\\(\\)"),
        ({"levels": [(4.0, 1), (4, 2)]}, "at least one channel"),
        ({"levels": [4, 4]}, "a count, 'top', or .* got \\[4, 4\\]"),
        ({"levels": 2.0}, "a count, 'top', or .* got 2.0"),
        ({"levels": True}, "1 to 5 levels; got levels=True"),
        ({"dilation": (2, 1)}, "by one number; got dilation=\\(2, 1\\)"),
        ({"dilation": 0}, "dilation of at least 1"),
        ({"stride": 0}, "stride and dilation of at least 1"),
        ({"in_channels": 0}, "channels, groups, stride and dilation of at least 1"),
        ({"stride": (1, 2, 3)}, "a number or a pair; got stride=\\(1, 2, 3\\)"),
        ({"levels": "bottom"}, "levels='top'.*got 'bottom'"),
        ({"levels": "top0"}, "got 'top0'"),
        ({"groups": 3}, "divisible by groups=3; got in_channels=4, out_channels=8"),
        ({"padding_mode": "mirror"}, "got padding_mode='mirror'"),
        ({"out_channels": 2, "levels": 4}, "out_channels=2"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoConv2d(**{"in_channels": 4, "out_channels": 8, **arguments})


def test_weights_of_other_levels_are_refused():
    state = CoConv2d(4, 8, levels=[(4, 1), (4, 2)]).state_dict()
    with pytest.raises(ValueError, match=r"levels \(\(4, 1\), \(4, 2\)\); this one has"):
        CoConv2d(4, 8, levels=[(4, 1), (4, 3)]).load_state_dict(state)


def test_weights_fit_the_same_levels_at_another_dilation():
    state = CoConv2d(4, 8, levels=2).state_dict()
    CoConv2d(4, 8, levels=2, dilation=2).load_state_dict(state)


def test_averaged_weights_load():
    op = CoConv2d(4, 8, levels=3)
    averaged = op.state_dict()
    for _ in range(5):
        averaged = {key: 0.9 * averaged[key] + 0.1 * op.state_dict()[key] for key in averaged}
    op.load_state_dict(averaged)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_an_input_of_other_channels_is_an_error(groups):
    op = CoConv2d(8, 8, groups=groups)
    with pytest.raises(ValueError, match=r"in_channels=8 got an input of shape \(1, 12, 5, 5\)"):
        op(torch.zeros(1, 12, 5, 5))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_takes_an_image_without_a_batch(groups):
    op = CoConv2d(8, 8, groups=groups)
    x = torch.randn(8, 5, 6)
    torch.testing.assert_close(op(x), op(x[None])[0])


def test_device_and_dtype_are_those_of_a_convolution():
    op = CoConv2d(4, 8, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in op.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize(
    ("name", "levels", "stride"),
    [
        ("coconv_levels1to3_stride2", 3, 2),
        ("coconv_levels1to4", 4, 1),
        ("coconv_levels1to5", 5, 1),
    ],
)
def test_equals_the_authors_code(name, levels, stride, tmp_path):
    _, state, (x,), expected = vectors.load(name)
    width = sum(len(weight) for weight in state.values())
    op = CoConv2d(x.shape[1], width, levels=levels, stride=stride, bias=False).double()
    torch.save(state, tmp_path / "authors.pth")
    ctxbench.load_checkpoint(op, tmp_path / "authors.pth")
    assert vectors.relative_error(op(x), expected["output"]) < 1e-9


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_takes_over_a_plain_convolution(mode):
    conv = nn.Conv2d(4, 8, (3, 5), (2, 1), (2, 4), dilation=2, groups=2, padding_mode=mode)
    op = OPS["coconv"].from_conv(conv, levels=1)
    x = torch.randn(2, 4, 9, 8)
    assert op.weight is conv.weight
    assert op.bias is conv.bias
    torch.testing.assert_close(op(x), conv(x))


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(4, 8, 1), "^1x1, which no dilation changes$"),
        (nn.Conv2d(4, 8, 2), "^an even kernel, 2x2$"),
        (nn.Conv2d(4, 8, 3), r"^padding \(0, 0\), where 'same' is \(1, 1\)$"),
        (nn.Conv2d(4, 8, 3, padding="valid"), "^padding valid, where 'same'"),
        (nn.Conv2d(4, 8, 3, padding=(2, 1), dilation=(2, 1)), r"^dilation \(2, 1\), where CoConv"),
        (nn.Conv2d(4, 2, 3, padding=1), "out_channels=2"),
    ],
)
def test_says_why_a_convolution_stays(conv, reason):
    with pytest.raises(ValueError, match=reason):
        OPS["coconv"].from_conv(conv)
