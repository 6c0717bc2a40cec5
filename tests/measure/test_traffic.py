"""Bytes of operators, against sums by hand; a float takes 4."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctxbench import create_model
from ctxbench.measure.traffic import traffic

X = torch.randn(2, 4, 6, 5)  # 240 floats
SIZE = 240 * 4


def test_a_convolution_reads_input_weight_and_bias_and_writes_output():
    conv = nn.Conv2d(4, 8, 3, padding=1)
    assert traffic(lambda: conv(X)) == SIZE + (8 * 4 * 9 + 8) * 4 + 2 * SIZE


def test_strided_and_padded_by_name():
    conv = nn.Conv2d(4, 3, 3, padding="same", bias=False)
    assert traffic(lambda: conv(X)) == SIZE + 3 * 4 * 9 * 4 + SIZE * 3 // 4


@pytest.mark.parametrize("inplace", [False, True])
def test_relu_reads_and_writes(inplace):
    x = X.clone()
    assert traffic(lambda: F.relu(x, inplace=inplace)) == 2 * SIZE


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(2, -1),
        lambda x: x.transpose(1, 2),
        lambda x: x[:1].expand(7, 4, 6, 5),
        lambda x: x.chunk(2, dim=1),
        lambda x: x.unbind(),
        lambda x: x[:, 1:].unfold(2, 3, 1),
        lambda x: torch.ops.aten._unsafe_view(x, [2, 120]),
        lambda x: x.detach(),
        lambda x: x.contiguous(),
        lambda x: F.dropout(x, training=False),
        torch.empty_like,
        lambda x: x.new_empty(3).resize_(4),
        lambda x: torch.empty(3, 4).t_(),
    ],
)
def test_views_and_empty_memory_are_no_traffic(function):
    assert traffic(lambda: function(X)) == 0


def test_a_broadcast_tensor_is_read_once():
    row = torch.randn(5)
    assert traffic(lambda: X + row) == 2 * SIZE + 20
    assert traffic(lambda: X + row.expand_as(X)) == 2 * SIZE + 20


def test_a_tensor_given_twice_is_read_once():
    square = torch.randn(3, 7)
    assert traffic(lambda: X + X) == 2 * SIZE
    assert traffic(lambda: square @ square.T) == (21 + 9) * 4


def test_windows_that_overlap_are_read_once():
    assert traffic(lambda: X.unfold(3, 3, 1).clone()) == SIZE + 2 * 4 * 6 * 3 * 3 * 4


def test_a_slice_counts_without_its_gaps():
    assert traffic(X[:, ::2].clone) == SIZE


def test_a_list_of_tensors():
    assert traffic(lambda: torch.cat([X, X[:, :1]], 1)) == SIZE + SIZE // 4 + SIZE * 5 // 4


def test_a_linear_layer_of_any_number_of_axes():
    linear = nn.Linear(5, 3)
    expected = SIZE + (15 + 3) * 4 + SIZE * 3 // 5
    assert traffic(lambda: linear(X)) == expected
    with torch.inference_mode():
        assert traffic(lambda: linear(X)) == expected


def test_batch_norm_in_eval_mode():
    norm = nn.BatchNorm2d(4).eval()
    assert traffic(lambda: norm(X)) == 2 * SIZE + 4 * 4 * 4


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: x.copy_(y), 2 * SIZE),
        (lambda x, y: x.fill_(2), SIZE),
        (lambda x, y: x.normal_(), SIZE),
        (lambda x, y: torch.zeros_like(x), SIZE),
        (lambda x, y: x.new_full((3,), 2), 12),
        (lambda x, y: torch.exp(y, out=x), 2 * SIZE),
        (lambda x, y: x.add_(y), 3 * SIZE),
        (lambda x, y: x[:, 0].mul_(2), SIZE // 2),
        (lambda x, y: torch._foreach_mul_([x, y], 2), 4 * SIZE),
        (lambda x, y: (x == y).any().item(), 2 * SIZE + 2 * 240 + 1 + 1),
    ],
)
def test_what_is_only_written_or_only_read(function, expected):
    assert traffic(lambda: function(X.clone(), X.clone())) == expected + 4 * SIZE  # two clones


def test_pooling_writes_places_too():
    assert traffic(lambda: F.max_pool2d(X, 2)) == SIZE + 2 * 4 * 3 * 2 * (4 + 8)


def test_attention_is_one_operator():
    q = torch.randn(2, 3, 8, 4)
    sums = 2 * 3 * 8 * 4
    found = traffic(lambda: F.scaled_dot_product_attention(q, q.clone(), q.clone()))
    assert found - 2 * 2 * q.nbytes in (4 * q.nbytes, 4 * q.nbytes + sums)


def test_sums_of_rows():
    table, index = torch.randn(9, 4), torch.randint(9, (6, 5))
    found = traffic(lambda: F.embedding_bag(index, table, mode="sum"))
    # six starts are made, read, and copied or not; lengths and places are bookkeeping
    assert 0 <= found - (table.nbytes + index.nbytes + 6 * 4 * 4) <= 6 * 8 * 6


@torch.library.custom_op("ctxbench_tests::doubled", mutates_args={"seen"})
def doubled(x: torch.Tensor, seen: torch.Tensor, names: list[int] | None = None) -> torch.Tensor:
    seen += 1
    return 2 * x


def test_a_custom_operator_is_one_operator():
    seen = torch.zeros(3)
    assert traffic(lambda: doubled(X, seen=seen)) == 2 * SIZE + 2 * 12
    assert seen.tolist() == [1, 1, 1]


def test_gradients_are_no_traffic():
    x = X.clone().requires_grad_()
    assert traffic(x.exp) == 2 * SIZE


def by_hand(net, x):
    """Return the traffic of a basic ResNet: every layer, and the addition of every block."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        held = [*module.parameters(), *module.buffers()]
        weights = sum(t.numel() for t in held if t.is_floating_point() and t.dim())
        total += (inputs[0].numel() + output.numel() + weights) * 4

    def add_block(module, inputs, output):
        nonlocal total
        total += 3 * output.numel() * 4

    layers = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear, nn.AdaptiveAvgPool2d)
    for module in net.modules():
        if isinstance(module, layers):
            module.register_forward_hook(add)
        elif hasattr(module, "conv2"):
            module.register_forward_hook(add_block)
    with torch.no_grad():
        net(x)
    return total


def network():
    return create_model("resnet18:blocks=1,1,1,1:width=8:stem=small").eval()


def test_a_network_is_the_sum_of_its_operators():
    net, x = network(), torch.randn(2, 3, 16, 16)
    expected = by_hand(net, x)
    assert traffic(lambda: net(x)) == expected


@pytest.mark.parametrize("name", ["cgc_resnet_tiny", "overlock_tiny"])
def test_inference_mode_does_not_matter(name):
    net, x = create_model(name).eval(), torch.randn(2, 3, 32, 32)
    expected = traffic(lambda: net(x))
    with torch.inference_mode():
        assert traffic(lambda: net(x)) == expected


def test_the_memory_format_does_not_matter():
    net, x = network(), torch.randn(2, 3, 16, 16)
    expected = traffic(lambda: net(x))
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    assert traffic(lambda: net(x)) == expected


def test_half_the_bytes_in_bfloat16():
    net, x = network(), torch.randn(2, 3, 16, 16)
    expected = traffic(lambda: net(x)) // 2
    net, x = net.bfloat16(), x.bfloat16()
    assert traffic(lambda: net(x)) == expected
