"""ContextualConv2d and what feeds it against their definitions and the authors' outputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ctxbench
from ctxbench.ops import ContextualConv2d
from ctxbench.ops.class_prior import ClassEmbedding, ClassMerger, VisualProjection, rank
from tests.conformance import vectors
from tests.reference.ctxconv import ctxconv, generated

SHAPES = {
    "dense": {"in_channels": 8, "out_channels": 6, "context_channels": 4},
    "depthwise": {
        "in_channels": 16, "out_channels": 16, "kernel_size": 7, "context_channels": 3,
        "groups": 16, "norm": "layer",
    },
    "stride": {"in_channels": 4, "out_channels": 5, "context_channels": 2, "stride": 2},
    "dilation": {"in_channels": 4, "out_channels": 5, "context_channels": 2, "dilation": 2},
    "5x5": {"in_channels": 4, "out_channels": 3, "kernel_size": 5, "context_channels": 2},
    "offsets": {"in_channels": 4, "out_channels": 3, "context_channels": 2, "parts": "offsets"},
    "kernels": {"in_channels": 4, "out_channels": 3, "context_channels": 2, "parts": "kernels"},
    "depthwise kernels": {
        "in_channels": 4, "out_channels": 4, "groups": 4, "context_channels": 2, "parts": "kernels",
        "stride": 2,
    },
    "no mask": {"in_channels": 4, "out_channels": 3, "context_channels": 2, "mask": False},
    "no prior": {"in_channels": 4, "out_channels": 3},
    "no bias": {"in_channels": 4, "out_channels": 3, "context_channels": 2, "bias": False},
}  # fmt: skip
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def _nudged(shape):
    """Return a layer that generates something, with statistics unlike the initial ones."""
    torch.manual_seed(0)
    op = ContextualConv2d(**shape).double().eval()
    for name, value in [*op.named_parameters(), *op.named_buffers()]:
        if "net" in name and value.is_floating_point():
            value.data.uniform_(0.3, 0.7) if "var" in name else value.data.uniform_(-0.4, 0.4)
    return op


def _inputs(op, size, batch=2):
    x = torch.randn(batch, op.in_channels, *size, dtype=torch.float64, requires_grad=True)
    if op.context_channels is None:
        return (x,)
    context = torch.randn(batch, op.context_channels, dtype=torch.float64, requires_grad=True)
    return (x, context)


@pytest.mark.parametrize("size", [(9, 9), (6, 11), (2, 3), (1, 1)])
@every_shape
def test_equals_its_definition(shape, size):
    op = _nudged(shape)
    inputs = _inputs(op, size)
    leaves = (*inputs, *op.parameters())

    parts = generated(op, *(inputs if len(inputs) == 2 else (*inputs, None)))
    expected = ctxconv(
        inputs[0], op.weight, op.bias, *parts,
        stride=op.stride[0], dilation=op.dilation[0], groups=op.groups,
    )  # fmt: skip
    actual = op(*inputs)

    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(actual)
    gradients = [torch.autograd.grad(y, leaves, upstream) for y in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@every_shape
def test_a_new_layer_is_the_static_convolution_seen_through_its_mask(shape):
    op = ContextualConv2d(**shape).eval()
    inputs = _inputs(op.double(), (7, 6))
    plain = F.conv2d(
        inputs[0], op.weight, None, op.stride, op.padding, op.dilation, op.groups
    )  # fmt: skip
    half = 0.5 if op.offset_net is not None and op.mask else 1.0
    expected = half * plain + (0 if op.bias is None else op.bias[:, None, None])
    torch.testing.assert_close(op(*inputs), expected)


@every_shape
@pytest.mark.parametrize("size", [(9, 12), (1, 2)])
def test_costs_what_its_docstring_says(shape, size):
    op = ContextualConv2d(**shape).eval()
    inputs = tuple(tensor.float().detach() for tensor in _inputs(op, size, batch=1))
    c, o, k = op.in_channels, op.out_channels, op.kernel_size[0]
    s, h = c + (op.context_channels or 0), max(1, c // (4 * max(1, (k // 3) ** 2)))
    q, p = size[0] * size[1], op(*inputs)[0, 0].numel()
    macs = k * k * c * o // op.groups * p
    if op.offset_net is not None:
        macs += s * h * q + k * k * h * (3 if op.mask else 2) * k * k * p
    if op.kernel_net is not None:
        macs += s * h + h * k * k * c
    assert ctxbench.count(op, *inputs).macs == macs


VECTORS = {
    "spatial_offset_conv_3x3": {"parts": "offsets"},
    "weight_offset_conv_3x3": {"parts": "kernels"},
    "contextual_conv_3x3": {},
    "contextual_conv_3x3_stride2": {"stride": 2},
}


def _error_of(name, op, tmp_path):
    _, state, inputs, expected = vectors.load(name)
    torch.save(state, tmp_path / "authors.pth")
    op = op.double().eval()
    ctxbench.load_checkpoint(op, tmp_path / "authors.pth")
    return vectors.relative_error(op(*inputs), expected["output"])


@pytest.mark.parametrize("name", VECTORS)
def test_equals_the_authors_layer(name, tmp_path):
    op = ContextualConv2d(16, 16, context_channels=8, bias=False, **VECTORS[name])
    assert _error_of(name, op, tmp_path) < 1e-9


def test_equals_the_authors_depthwise_layer(tmp_path):
    op = ContextualConv2d(16, 16, 7, context_channels=8, groups=16, norm="layer")
    assert _error_of("contextual_conv_7x7_depthwise", op, tmp_path) < 1e-9


def test_projection_and_merger_equal_the_authors(tmp_path):
    projection = VisualProjection(48, 24, 64, norm="batch")
    assert _error_of("visual_projection", projection, tmp_path) < 1e-9
    assert _error_of("class_merger", ClassMerger(64, 24), tmp_path) < 1e-9


def test_classes_are_ranked_by_their_scaled_cosine():
    classes = ClassEmbedding(3, 2)
    classes.weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.5], [-1.0, -1.0]])
    scores = classes(torch.tensor([[0.0, 4.0]]))
    torch.testing.assert_close(scores, torch.tensor([[0.0, 1.0, -(0.5**0.5)]]) / 0.07)
    assert rank(scores).tolist() == [[1, 0, 2]]
    assert torch.equal(classes.rows(rank(scores))[0, 0], classes.weight[1])


def test_the_order_of_classes_changes_no_context():
    merger, rows = ClassMerger(16, 6), torch.randn(2, 5, 16)
    torch.testing.assert_close(merger(rows), merger(rows.flip(1)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"parts": "offset"}, "generates parts='both', .* got parts='offset'"),
        ({"norm": "bn"}, "norm='batch' or 'layer'; got norm='bn'"),
        ({"stride": 0}, "stride of at least 1; got stride=0"),
        ({"dilation": 0}, "got dilation=0"),
        ({"context_channels": 0}, "got context_channels=0"),
    ],
)
def test_choices_that_do_not_exist_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        ContextualConv2d(4, 4, **shape)


@pytest.mark.parametrize("parts", ["both", "offsets", "kernels"])
@pytest.mark.parametrize("groups", [1, 4])
def test_autocast_gives_the_type_of_a_convolution(parts, groups):
    op, x = ContextualConv2d(4, 4, parts=parts, groups=groups), torch.randn(2, 4, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert op(x).dtype == nn.Conv2d(4, 4, 3)(x).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [{"kernel_size": 2}, {"kernel_size": 0}])
def test_an_even_kernel_is_refused(shape):
    with pytest.raises(ValueError, match="odd kernel to stay centred; got kernel_size="):
        ContextualConv2d(4, 4, **shape)


def test_grouped_kernels_other_than_depthwise_are_refused():
    with pytest.raises(ValueError, match="groups=1 and for a depthwise .* got groups=2 with 4 and"):
        ContextualConv2d(4, 4, groups=2)


def test_inputs_that_do_not_fit_are_named():
    op, x = ContextualConv2d(4, 4, context_channels=3), torch.randn(2, 4, 5, 5)
    with pytest.raises(ValueError, match=r"takes a context of shape \(2, 3\); got None"):
        op(x)
    with pytest.raises(ValueError, match=r"got \(2, 4\)"):
        op(x, torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"in_channels=4 got an input of shape \(2, 3, 5, 5\)"):
        op(torch.randn(2, 3, 5, 5), torch.randn(2, 3))
    with pytest.raises(ValueError, match="has no sampling displacements"):
        ContextualConv2d(4, 4, parts="kernels").sampling(x)


def test_trains_away_from_its_zeros():
    torch.manual_seed(0)
    op = ContextualConv2d(4, 4, context_channels=2)
    x, context, target = torch.randn(8, 4, 6, 6), torch.randn(8, 2), torch.randn(8, 4, 6, 6)
    optimizer = torch.optim.Adam(op.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = nn.functional.mse_loss(op(x, context), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert op.offset_net[-1].weight.any()
    assert op.kernel_net[-1].weight.any()
