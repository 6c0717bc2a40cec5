"""CGConv2d against its definition, the authors' code and the plain convolution it stands in for."""

from math import prod

import pytest
import torch
from torch import nn

import ctxbench
from ctxbench.ops import OPS, CGConv2d
from tests.conformance import vectors
from tests.reference import cgc as definition

SHAPES = {
    "plain": {"in_channels": 5, "out_channels": 7},
    "sixteens": {"in_channels": 32, "out_channels": 6, "bias": False},
    "stride": {"in_channels": 16, "out_channels": 3, "stride": 2},
    "dilated": {"in_channels": 4, "out_channels": 3, "dilation": 2},
    "rectangular": {
        "in_channels": 3, "out_channels": 4, "kernel_size": (1, 5),
        "stride": (2, 1), "dilation": (3, 2),
    },
    "large": {"in_channels": 3, "out_channels": 4, "kernel_size": 7, "stride": 2},
    "groups": {"in_channels": 32, "out_channels": 8, "groups": 4},
    "depthwise": {"in_channels": 6, "out_channels": 12, "groups": 6, "bias": False},
}  # fmt: skip


def _parts(op):
    """Return what the definition calls the parts of a gate."""
    gate = op.gate
    norms = {"BN_c": gate.input_norm, "BN'_c": gate.interact_norm, "BN_o": gate.output_norm}
    return {
        "E": gate.encode.weight.T,
        "D1": gate.input_decode.weight.T,
        "I": gate.interact.weight,
        "D2": gate.output_decode.weight.T,
        **{k: (n.weight, n.bias, n.running_mean, n.running_var) for k, n in norms.items()},
    }


def _random(shape):
    """Return an operator whose batch norms have statistics and scales of their own."""
    torch.manual_seed(0)
    op = CGConv2d(**shape).double()
    for norm in (op.gate.input_norm, op.gate.interact_norm, op.gate.output_norm):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
        nn.init.normal_(norm.running_mean, 0, 0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return op


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(9, 9), (8, 11), (2, 4), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_its_definition(shape, size, training):
    op = _random(shape).train(training)
    x = torch.randn(3, op.in_channels, *size, dtype=torch.float64, requires_grad=True)
    leaves = (x, *op.parameters())

    expected = definition.cgc(
        x, op.weight, op.bias, _parts(op),
        stride=op.stride, dilation=op.dilation, groups=op.groups, training=training,
    )  # fmt: skip
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, leaves, upstream)  # before op moves its statistics
    actual = op(x)

    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, upstream), gradients, rtol=1e-10, atol=1e-11
    )


def test_the_gates_are_those_of_the_definition():
    op = _random(SHAPES["sixteens"]).eval()
    x = torch.randn(2, 32, 5, 6, dtype=torch.float64)
    gates = op.gates(x)
    expected = definition.gates(x, op.kernel_size, _parts(op))
    torch.testing.assert_close(gates, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gates_lie_between_0_and_1_for_each_weight(shape):
    op = _random(shape)
    x = torch.randn(3, op.in_channels, 6, 7, dtype=torch.float64)
    gates = op.gates(x).detach()
    assert gates.shape == (3, *op.weight.shape)
    assert 0 < gates.min() < gates.max() < 1


@pytest.mark.parametrize(
    ("name", "stride"),
    [("cgc_conv_3x3", 1), ("cgc_conv_3x3_stride2", 2), ("cgc_conv_7x7_rgb", 2)],
)
def test_equals_the_authors_code(name, stride, tmp_path):
    _, state, (x,), expected = vectors.load(name)
    outputs, inputs, *size = state["weight"].shape
    op = CGConv2d(inputs, outputs, tuple(size), stride=stride, bias=False).double().eval()
    torch.save(state, tmp_path / "authors.pth")
    ctxbench.load_checkpoint(op, tmp_path / "authors.pth")
    assert vectors.relative_error(op(x), expected["output"]) < 1e-9


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "expected"),
    [(64, 64, 3, 775), (64, 128, 3, 1159), (3, 64, 7, 4007), (8, 8, 3, 247)],  # measured, 3.2
)
def test_the_gate_adds_few_parameters(inputs, outputs, size, expected):
    taps, group = size**2, min(inputs, 16)
    codes = taps // 2 + 1
    formula = 3 * taps * codes + outputs * group**2 // inputs + 2 * (2 * inputs + outputs)
    gate = CGConv2d(inputs, outputs, size).gate
    assert sum(p.numel() for p in gate.parameters()) == formula == expected


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("batch", [1, 3])
def test_costs_the_plain_convolution_and_the_linears_of_its_gate(shape, batch):
    op = CGConv2d(**shape)
    x = torch.zeros(batch, op.in_channels, 9, 12)
    counted = ctxbench.count(op, x)

    taps, together = prod(op.kernel_size), min(op.in_channels, 16)
    codes = taps // 2 + 1
    gate = taps * codes * (2 * op.in_channels + op.out_channels)
    gate += codes * together * op.out_channels
    pixels = op(x)[:, 0].numel()
    assert counted.modules["gate"].work.macs == batch * gate
    assert counted.macs == batch * gate + pixels * op.weight.numel()


def test_a_1x1_kernel_is_the_plain_convolution():
    op = CGConv2d(6, 4, 1, stride=2, groups=2)
    plain = nn.Conv2d(6, 4, 1, stride=2, groups=2)
    plain.load_state_dict(op.state_dict())
    x = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(op(x), plain(x))
    with pytest.raises(ValueError, match="plain and has no gates"):
        op.gates(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 2}, "odd kernel.*got kernel_size=\\(2, 2\\)"),
        ({"stride": 0}, "stride and dilation of at least 1"),
        ({"dilation": (1, 0)}, "dilation of at least 1; got 4, 8, 1, \\(1, 1\\), \\(1, 0\\)"),
        ({"stride": (1, 2, 3)}, "a number or a pair; got stride=\\(1, 2, 3\\)"),
        ({"groups": 3}, "divisible by groups=3; got in_channels=4, out_channels=8"),
        ({"in_channels": 24}, "got in_channels=24. Give a multiple of 16, or fewer than 16"),
        (
            {"in_channels": 64, "out_channels": 90},
            "each 16 of 64 input channels; got out_channels=90. Give a multiple of 4",
        ),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CGConv2d(**{"in_channels": 4, "out_channels": 8, **arguments})


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("shape", [(1, 12, 5, 5), (8, 5, 5)])
def test_an_input_of_other_channels_is_an_error(kernel_size, shape):
    with pytest.raises(ValueError, match="in_channels=8 got an input of shape"):
        CGConv2d(8, 8, kernel_size)(torch.zeros(shape))


def test_device_and_dtype_are_those_of_a_convolution():
    op = CGConv2d(4, 8, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in op.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("inputs", [16, 32])
def test_trains_compiled_at_several_batches_and_sizes(inputs):
    op = CGConv2d(inputs, 8)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    for size in [(2, 6, 7), (3, 6, 7), (5, 9, 7)]:
        x = torch.randn(size[0], inputs, *size[1:], requires_grad=True)
        actual, expected = compiled(x), op(x)
        torch.testing.assert_close(actual, expected)
        gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected)]
        torch.testing.assert_close(*gradients)


def test_autocast_gives_the_type_of_a_convolution():
    x = torch.randn(2, 4, 6, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert CGConv2d(4, 8)(x).dtype == nn.Conv2d(4, 8, 3)(x).dtype == torch.bfloat16


def test_takes_over_a_plain_convolution():
    conv = nn.Conv2d(16, 8, (3, 5), (2, 1), padding="valid", dilation=(2, 1), groups=2)
    conv.padding = (2, 2)
    op = OPS["cgc"].from_conv(conv)
    nn.init.zeros_(op.gate.input_decode.weight)
    nn.init.zeros_(op.gate.output_decode.weight)
    x = torch.randn(2, 16, 9, 8)
    assert op.weight is conv.weight
    half = (conv(x) + conv.bias[:, None, None]) / 2  # gates of 1/2, the bias as it is
    torch.testing.assert_close(op(x), half)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(16, 8, 1), "^1x1, which CGC leaves plain$"),
        (nn.Conv2d(16, 8, 4, padding=2), "^an even kernel, 4x4$"),
        (nn.Conv2d(16, 8, 3), r"^padding \(0, 0\), where 'same' is \(1, 1\)$"),
        (nn.Conv2d(16, 8, 3, padding=1, padding_mode="circular"), "padding_mode='circular'"),
        (nn.Conv2d(24, 8, 3, padding=1), "in_channels=24"),
    ],
)
def test_says_why_a_convolution_stays(conv, reason):
    with pytest.raises(ValueError, match=reason):
        OPS["cgc"].from_conv(conv)
