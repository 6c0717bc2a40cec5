"""einsum: exact counts for every way to write one, in the order in which torch contracts."""

import pytest
import torch

from ctxbench.measure.flops import count
from tests.measure.nets import Calls, elements, macs

A, B, C, D, E = 2, 3, 5, 7, 4

# equation, shapes, products that are summed over
CONTRACTIONS = [
    ("ab,bc->ac", [(A, B), (B, C)], A * B * C),
    ("ab, bc -> ac", [(A, B), (B, C)], A * B * C),
    ("ab,bc", [(A, B), (B, C)], A * B * C),  # the output is implied
    ("ba,bc", [(B, A), (B, C)], A * B * C),
    ("a,a", [(A,), (A,)], A),
    ("a,a->", [(A,), (A,)], A),
    ("ab,ab->a", [(A, B), (A, B)], A * B),
    ("AB,BC->AC", [(A, B), (B, C)], A * B * C),
    # an ellipsis stands for axes counted from the last, and is broadcast
    ("...ab,...bc->...ac", [(D, A, B), (D, B, C)], D * A * B * C),
    ("...ab,...bc", [(E, D, A, B), (D, B, C)], E * D * A * B * C),
    ("...ab,bc->...ac", [(E, D, A, B), (B, C)], E * D * A * B * C),
    ("a...,a...->a...", [(A, B), (A, B)], None),
    ("a...,a...->...", [(A, B), (A, B)], A * B),
    ("a...b,b->a...", [(A, E, D, B), (B,)], A * E * D * B),
    ("ab...,b...->a", [(A, B, D), (B, D)], A * B * D),  # the ellipsis is summed over
    # a repeated letter is a diagonal
    ("aa,ab->b", [(A, A), (A, B)], A * B),
    ("aab,ab->a", [(A, A, B), (A, B)], A * B),
    # what only one operand has and the output lacks is summed before
    ("ab,c->c", [(A, B), (C,)], None),
    ("abd,bc->ac", [(A, B, D), (B, C)], A * B * C),
    # an axis of size 1 is broadcast
    ("ab,bc->ac", [(A, 1), (B, C)], None),
    ("ab,bc->ac", [(A, B), (B, 1)], A * B),
    ("dab,dbc->dac", [(1, A, B), (D, B, C)], D * A * B * C),
    # nothing is summed over
    ("a,b->ab", [(A,), (B,)], None),
    ("ab,ab->ab", [(A, B), (A, B)], None),
    ("ab,b->ab", [(A, B), (B,)], None),
    # from the left, one pair after the other
    ("ab,bc,cd->ad", [(A, B), (B, C), (C, D)], A * B * C + A * C * D),
    ("ab,cd,bc->ad", [(A, B), (C, D), (B, C)], A * B * C * D),
    ("ab,bc,cd,de->ae", [(A, B), (B, C), (C, D), (D, E)], A * B * C + A * C * D + A * D * E),
]


@pytest.mark.parametrize(("equation", "shapes", "products"), CONTRACTIONS)
def test_einsum(equation, shapes, products):
    expected = {} if products is None else {"einsum": products}
    assert macs(lambda *operands: torch.einsum(equation, *operands), *shapes) == expected


@pytest.mark.parametrize(("equation", "shapes", "products"), CONTRACTIONS)
def test_torch_counts_the_same(equation, shapes, products):
    net = Calls(lambda *operands: torch.einsum(equation, *operands))
    counted = count(net, *map(torch.randn, shapes), cross_check=True)
    if equation != "ab,cd,bc->ad":  # an outer product first, which torch counts as none
        assert counted.torch_macs == counted.comparable_macs


def test_operands_by_letters_as_numbers():
    net = Calls(lambda a, b: torch.einsum(a, [0, 1], b, [1, 2], [0, 2]))
    assert count(net, torch.randn(A, B), torch.randn(B, C)).operators == {"einsum": A * B * C}


@pytest.mark.parametrize(
    ("path", "products"),
    [
        ([0, 1, 0, 1], A * B * C + A * C * D),
        ([1, 2, 0, 1], B * C * D + A * B * D),
        ([2, 1, 1, 0], B * C * D + A * B * D),
        ([0, 2, 0, 1], A * B * C * D),  # an outer product, and then both axes at once
    ],
)
def test_a_path_gives_the_order(path, products):
    """As opt_einsum finds one, where it is installed."""
    done = macs(
        lambda *operands: torch._VF.einsum("ab,bc,cd->ad", operands, path=path),
        (A, B),
        (B, C),
        (C, D),
    )
    assert done == {"einsum": products}


def test_a_path_numbers_results_last():
    path = [2, 3, 0, 1, 0, 1]
    done = macs(
        lambda *operands: torch._VF.einsum("ab,bc,cd,de->ae", operands, path=path),
        (A, B),
        (B, C),
        (C, D),
        (D, E),
    )
    assert done == {"einsum": C * D * E + A * B * C + A * C * E}


def test_an_outer_product_is_elementwise_work():
    assert elements(lambda a, b: torch.einsum("a,b->ab", a, b), (A,), (B,)) == {
        "elementwise": A * B
    }


@pytest.mark.parametrize("equation", ["aab->b", "aab->ab", "aab->", "aab->ba"])
def test_one_operand_multiplies_nothing(equation):
    assert elements(lambda a: torch.einsum(equation, a), (A, A, B)) == {}
