"""Rules for convolutions, products of matrices and attention, against closed forms."""

import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import DeformConv2d, deform_conv2d

from ctxbench.measure._flop_tables import MOVES, RULES
from ctxbench.measure.flops import count
from tests.measure.nets import Calls, macs, work


def test_every_operation_of_the_tables_exists():
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    named = {name for name in {*RULES, *MOVES} if name.startswith("aten::")}
    assert {name for name in named if name not in known and not name.endswith("_")} == set()


def test_an_operation_computes_or_moves():
    assert RULES.keys() & MOVES == set()


same = partial(F.conv2d, padding="same")
grid = partial(F.affine_grid, align_corners=False)

X, W = (2, 4, 9, 7), (5, 4, 3, 3)

# name -> (function, input, weight, MACs)
CONVOLUTIONS = {
    "plain": (F.conv2d, X, (5, 4, 3, 2), 2 * 5 * 4 * 6 * 7 * 6),
    "groups": (partial(F.conv2d, groups=2), X, (6, 2, 3, 3), 2 * 6 * 2 * 9 * 7 * 5),
    "depthwise": (partial(F.conv2d, groups=4), X, (4, 1, 3, 3), 2 * 4 * 9 * 7 * 5),
    "stride": (partial(F.conv2d, stride=(2, 3), padding=1), X, W, 2 * 5 * 4 * 9 * 5 * 3),
    "dilation": (partial(F.conv2d, dilation=(3, 2)), X, W, 2 * 5 * 4 * 9 * 3 * 3),
    "same": (partial(same, dilation=2), X, W, 2 * 5 * 4 * 9 * 63),
    "same, wide kernel": (same, X, (5, 4, 1, 5), 2 * 5 * 4 * 5 * 63),
    "same, no batch": (same, (4, 9, 7), W, 5 * 4 * 9 * 63),
    "no batch": (F.conv2d, (4, 9, 7), W, 5 * 4 * 9 * 35),
    "1d": (F.conv1d, (2, 4, 9), (5, 4, 3), 2 * 5 * 4 * 3 * 7),
    "1d, no batch": (F.conv1d, (4, 9), (5, 4, 3), 5 * 4 * 3 * 7),
    "3d": (F.conv3d, (2, 4, 5, 6, 7), (3, 4, 1, 2, 3), 2 * 3 * 4 * 6 * 5 * 5 * 5),
    "transposed": (F.conv_transpose2d, X, (4, 5, 3, 2), 2 * 4 * 5 * 6 * 63),
    "transposed, groups, stride": (
        partial(F.conv_transpose2d, groups=2, stride=3, output_padding=1),
        X,
        (4, 5, 3, 2),
        2 * 4 * 5 * 6 * 63,
    ),
    "transposed, no batch": (F.conv_transpose2d, (4, 9, 7), (4, 5, 3, 2), 4 * 5 * 6 * 63),
    "transposed, 1d": (F.conv_transpose1d, (2, 4, 9), (4, 5, 3), 2 * 4 * 5 * 3 * 9),
    "transposed, 3d": (F.conv_transpose3d, (1, 4, 2, 3, 5), (4, 5, 3, 2, 1), 4 * 5 * 6 * 30),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    function, x, weight, expected = CONVOLUTIONS[name]
    assert macs(function, x, weight) == {"conv": expected}


@pytest.mark.parametrize("offset_groups", [1, 2, 6])
@pytest.mark.parametrize("groups", [1, 2])
def test_deformable_convolution(groups, offset_groups):
    offset = (2, 2 * offset_groups * 9, 5, 4)
    done = work(
        lambda x, o, w: deform_conv2d(x, o, w, stride=2, padding=1),
        (2, 6, 9, 7),
        offset,
        (4, 6 // groups, 3, 3),
    )
    assert done.macs_by_kind == {"deform_conv": 2 * 4 * (6 // groups) * 9 * 20}
    assert done.elements == {"sampling": 2 * 6 * 9 * 20}


def test_deformable_convolution_without_mask_or_bias():
    net = Calls(lambda net, x, o: net.conv(x, o), conv=DeformConv2d(6, 4, 3, bias=False))
    counted = count(net, torch.randn(1, 6, 9, 7), torch.randn(1, 18, 7, 5))
    assert counted.macs == 4 * 6 * 9 * 35


# name -> (function, shapes, MACs)
MATRICES = {
    "mm": (torch.mm, [(3, 5), (5, 4)], 3 * 5 * 4),
    "bmm": (torch.bmm, [(2, 3, 5), (2, 5, 4)], 2 * 3 * 5 * 4),
    "mv": (torch.mv, [(3, 5), (5,)], 3 * 5),
    "dot": (torch.dot, [(5,), (5,)], 5),
    "vdot": (torch.vdot, [(5,), (5,)], 5),
    "inner": (torch.inner, [(2, 3, 5), (4, 5)], 2 * 3 * 4 * 5),
    "inner of a number": (torch.inner, [(), (4, 5)], 20),
    "addmm": (torch.addmm, [(4,), (3, 5), (5, 4)], 3 * 5 * 4),
    "addmm_": (torch.Tensor.addmm_, [(3, 4), (3, 5), (5, 4)], 3 * 5 * 4),
    "addmv": (torch.addmv, [(3,), (3, 5), (5,)], 3 * 5),
    "baddbmm": (torch.baddbmm, [(3, 4), (2, 3, 5), (2, 5, 4)], 2 * 3 * 5 * 4),
    "addbmm": (torch.addbmm, [(3, 4), (2, 3, 5), (2, 5, 4)], 2 * 3 * 5 * 4),
    "matmul of linalg": (torch.linalg.matmul, [(3, 5), (5, 4)], 3 * 5 * 4),
    "linear": (F.linear, [(2, 5), (3, 5), (3,)], 2 * 3 * 5),
    "linear, one vector": (F.linear, [(5,), (3, 5)], 3 * 5),
    "linear, three axes": (F.linear, [(2, 7, 5), (3, 5)], 2 * 7 * 3 * 5),
    "linear, one output": (F.linear, [(2, 7, 5), (5,)], 2 * 7 * 5),
    "tensordot": (partial(torch.tensordot, dims=2), [(2, 3, 5), (3, 5, 4)], 2 * 4 * 15),
    "tensordot, axes": (
        partial(torch.tensordot, dims=([0, 2], [-1, 0])),
        [(2, 3, 5), (5, 4, 2)],
        3 * 4 * 2 * 5,
    ),
    "tensordot, broadcast": (partial(torch.tensordot, dims=1), [(3, 1), (5, 4)], 3 * 4),
    "affine_grid": (partial(grid, size=[2, 3, 7, 4]), [(2, 2, 3)], 2 * 28 * 2 * 3),
    "affine_grid, 3d": (partial(grid, size=[2, 3, 7, 4, 5]), [(2, 3, 4)], 2 * 140 * 3 * 4),
}


@pytest.mark.parametrize("name", MATRICES)
def test_product_of_matrices(name):
    function, shapes, expected = MATRICES[name]
    kind = "linear" if name.startswith("linear") else "matmul"
    assert macs(function, *shapes) == {kind: expected}


# the shapes of either side of matmul, and (axes before the matrix, rows or columns)
LEFT = {(5,): ((), 1), (3, 5): ((), 3), (2, 3, 5): ((2,), 3), (6, 1, 3, 5): ((6, 1), 3)}
RIGHT = {(5,): ((), 1), (5, 4): ((), 4), (2, 5, 4): ((2,), 4), (1, 5, 1): ((1,), 1)}
PAIRS = list(itertools.product(LEFT, RIGHT))


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_matmul_of_every_rank(left, right):
    (before, rows), (others, columns) = LEFT[left], RIGHT[right]
    batch = {(): 1, (1,): 1, (2,): 2, (6, 1): 6}
    both = 12 if (before, others) == ((6, 1), (2,)) else max(batch[before], batch[others])
    assert macs(torch.matmul, left, right) == {"matmul": both * rows * columns * 5}


def test_bilinear_contracts_one_input_and_then_the_other():
    layer = nn.Bilinear(5, 4, 3)
    counted = count(layer, torch.randn(2, 7, 5), torch.randn(2, 7, 4))
    assert counted.operators == {"bilinear": 14 * (3 * 5 * 4 + 3 * 4)}


def test_cosine_similarity_is_a_product_summed_over():
    assert macs(torch.cosine_similarity, (2, 5, 7), (5, 7)) == {"contraction": 70}


def test_vecdot_is_a_product_summed_over():
    assert macs(torch.linalg.vecdot, (2, 1, 7), (5, 7)) == {"contraction": 70}


# attention: queries (B, heads, L, E), keys (B, heads, S, E), values (B, heads, S, V)
Q, K, V = (2, 6, 5, 8), (2, 6, 7, 8), (2, 6, 7, 3)
SCORES = 2 * 6 * 5 * 7
ATTENTION = {
    "plain": (F.scaled_dot_product_attention, [Q, K, V]),
    "masked": (F.scaled_dot_product_attention, [Q, K, V, (5, 7)]),
    "causal": (partial(F.scaled_dot_product_attention, is_causal=True), [Q, K, V]),
    "shared heads": (
        partial(F.scaled_dot_product_attention, enable_gqa=True),
        [Q, (2, 3, 7, 8), (2, 3, 7, 3)],
    ),
    "one query for the batch": (F.scaled_dot_product_attention, [(1, 6, 5, 8), K, V]),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    function, shapes = ATTENTION[name]
    done = work(function, *shapes)
    assert done.macs_by_kind == {"attention": SCORES * (8 + 3)}
    assert done.elements == {"softmax": SCORES}


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_in_eval_mode_hides_nothing(need_weights):
    """Projections of queries, keys, values and outputs, and both products of each head."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    net = Calls(lambda net, x: net.layer(x, x, x, need_weights=need_weights), layer=layer)
    counted = count(net, torch.randn(3, 5, 8), cross_check=True)
    assert counted.macs == counted.torch_macs == 3 * (4 * 5 * 8 * 8 + 2 * 5 * 5 * 8)


def test_multihead_attention_with_other_keys_and_values():
    layer = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    inputs = torch.randn(3, 5, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 4)
    projections = 5 * 8 * 8 + 7 * 6 * 8 + 7 * 4 * 8 + 5 * 8 * 8
    assert count(layer, *inputs).macs == 3 * (projections + 2 * 5 * 7 * 8)


@pytest.mark.parametrize("layers", [1, 2])
def test_transformer_encoder_in_eval_mode_hides_nothing(layers):
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=20, batch_first=True)
    encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()
    attention = 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8
    counted = count(encoder, torch.randn(3, 5, 8), cross_check=True)
    assert counted.macs == counted.torch_macs == layers * 3 * (attention + 2 * 5 * 8 * 20)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_number_format_does_not_matter(dtype):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(140, 2))
    counted = count(net.to(dtype), torch.randn(2, 3, 9, 7, dtype=dtype))
    assert counted.operators == {"conv": 2 * 4 * 3 * 9 * 35, "linear": 2 * 140 * 2}


CHECKED = {
    **{name: (function, shapes) for name, (function, *shapes, _) in CONVOLUTIONS.items()},
    **{name: MATRICES[name][:2] for name in ("mm", "bmm", "addmm", "baddbmm", "linear")},
    **{str(pair): (torch.matmul, pair) for pair in PAIRS if (5,) not in pair},
    **{name: ATTENTION[name] for name in ("plain", "masked", "causal")},
    "values as wide as queries": (F.scaled_dot_product_attention, [Q, K, K]),  # a fused kernel
}


@pytest.mark.parametrize("name", CHECKED)
def test_torch_counts_the_same_where_it_counts(name):
    function, shapes = CHECKED[name]
    counted = count(Calls(function), *map(torch.randn, shapes), cross_check=True)
    assert counted.torch_macs == counted.comparable_macs > 0


def test_a_product_of_sizes_costs_nothing():
    """Arithmetic on shapes, which the tracer records as tensors."""
    done = work(lambda x: x.reshape(x.shape[0] * x.shape[1], x.shape[2] // 2, 2), (2, 3, 4))
    assert (done.macs_by_kind, done.elements) == ({}, {})
