"""A product whose result is only summed over is a contraction: one MAC a product."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ctxbench import count
from tests.measure.nets import Calls, macs, work

A, B, C, D = 2, 3, 5, 7
X, GATE = (A, B, C, D), (A, B, 1, 1)


def _multiply_in_place(x, y):
    x = x + 1
    x *= y
    return x


@pytest.mark.parametrize("other", [X, GATE], ids=["same size", "broadcast"])
@pytest.mark.parametrize("multiply", [torch.mul, torch.multiply, _multiply_in_place])
def test_a_product_and_a_sum(multiply, other):
    done = macs(lambda x, y: multiply(x, y).sum(1), X, other)
    assert done == {"contraction": A * B * C * D}


# what is done with the product z of two tensors
SUMS = {
    "torch.sum": lambda z: torch.sum(z, (2, 3)),
    "sum of all": lambda z: z.sum(),
    "no axis named": lambda z: z.sum(dim=[]),
    "kept axis": lambda z: z.sum((2, 3), keepdim=True),
    "mean": lambda z: z.mean((2, 3)),
    "nansum": lambda z: z.nansum(1),
    "two sums": lambda z: z.sum(1) + z.sum(1),
    "a view": lambda z: z.view(A, B * C, D).sum(1),
    "a chain of views": lambda z: z.permute(0, 2, 3, 1).flatten(1).unsqueeze(1).sum(2),
    "two views": lambda z: z.view(A, -1).sum(1) + z.transpose(0, 1).sum(),
    "another format": lambda z: z.double().contiguous().sum(1),
    "its shape is asked for": lambda z: z.flatten(1).sum(1) / z.shape[1],
}


@pytest.mark.parametrize("name", SUMS)
def test_contraction(name):
    assert macs(lambda x, y: SUMS[name](x * y), X, X) == {"contraction": A * B * C * D}


OTHER_USES = {
    "no sum": lambda z: z,
    "a sum and itself": lambda z: z.sum(1) + z[:, 0],
    "returned, too": lambda z: (z, z.sum(1)),
    "returned inside, too": lambda z: {"a": [None, z], "b": z.sum(1)},
    "returned in an object, too": lambda z: SimpleNamespace(a=[z], b=z.sum(1)),
    "a view is used, too": lambda z: (z.flatten(1).relu(), z.sum(1)),
    "something between": lambda z: z.relu().sum(1),
    "a maximum": lambda z: z.amax(1),
    "a sum over one": lambda z: z.unsqueeze(1).sum(1),
    "only its shape": lambda z: torch.ones(X).view_as(z).sum(1),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_a_product_used_elsewhere_is_no_contraction(name):
    assert macs(lambda x, y: OTHER_USES[name](x * y), X, X) == {}


SCALED = {
    "a number": lambda x, y: x * 2.0,
    "a tensor of one number": lambda x, y: x * y[0, 0, 0, 0],
    "a tensor of one number, with axes": lambda x, y: x * y[:1, :1, :1, :1],
    "a quotient": lambda x, y: x / y,
}


@pytest.mark.parametrize("name", SCALED)
def test_a_scaled_sum_is_no_contraction(name):
    assert macs(lambda x, y: SCALED[name](x, y).sum(1), X, X) == {}


SCALED_SUMS = {
    "times a number": lambda z: (z * 0.2).sum(1),
    "over a number": lambda z: (z / 25).sum(1),
    "negated": lambda z: (-z).sum(1),
    "masked": lambda z: z.masked_fill(torch.ones(X, dtype=torch.bool), 0).sum(1),
    "times a tensor of one number": lambda z: (torch.ones(1) * z).sum(1),
}


@pytest.mark.parametrize("name", SCALED_SUMS)
def test_a_scale_between_product_and_sum_changes_nothing(name):
    assert macs(lambda x, y: SCALED_SUMS[name](x * y), X, X) == {"contraction": A * B * C * D}


def _from_zero(x, y):
    total = 0
    for step in range(3):
        total = total + (x + step) * y
    return total


def _from_zeros_in_place(x, y):
    total = torch.zeros_like(x)
    for step in range(3):
        total += (x + step) * y
    return total


def _addcmul(x, y):
    total = x.new_zeros(X)
    for step in range(3):
        total = torch.addcmul(total, x + step, y)
    return total


TAP_BY_TAP = {
    "from zero": _from_zero,
    "in place": _from_zeros_in_place,
    "sum of a list": lambda x, y: sum((x + step) * y for step in range(3)),
    "from the first": lambda x, y: x * y + (x + 1) * y + (x + 2) * y,
    "addcmul": _addcmul,
    "with a bias": lambda x, y: _from_zero(x, y) + y,
    "and activated": lambda x, y: _from_zero(x, y).relu(),
}


@pytest.mark.parametrize("name", TAP_BY_TAP)
@pytest.mark.parametrize("other", [X, GATE], ids=["same size", "broadcast"])
def test_products_added_up_one_by_one(name, other):
    assert macs(TAP_BY_TAP[name], X, other) == {"contraction": 3 * A * B * C * D}


NO_SUM_OF_PRODUCTS = {
    "residual": lambda x, y: x * y + x,
    "residual first": lambda x, y: x + x * y,
    "scaled residual": lambda x, y: x * 0.5 + y * 0.5,
    "addcmul to a tensor": lambda x, y: torch.addcmul(x, x, y),
    "a difference": lambda x, y: x * y - x * y,
}


@pytest.mark.parametrize("name", NO_SUM_OF_PRODUCTS)
def test_a_product_added_to_something_else_is_elementwise(name):
    assert macs(NO_SUM_OF_PRODUCTS[name], X, X) == {}


def test_each_of_two_products_is_judged_alone():
    """x * y is multiplied again; the second product is only summed over."""
    done = work(lambda x, y, z: (x * y * z).sum(1), X, X, GATE)
    assert done.macs_by_kind == {"contraction": A * B * C * D}
    assert done.elements["elementwise"] == A * B * C * D


@pytest.mark.parametrize("join", [torch.stack, torch.cat])
def test_products_joined_and_then_summed(join):
    done = macs(lambda x, y: join([x * y, x * (y + 1)], 1).sum(1), X, X)
    assert done == {"contraction": 2 * A * B * C * D}


def test_a_product_made_in_one_module_and_summed_in_another():
    class Product(nn.Module):
        def forward(self, x, y):
            return x * y

    net = Calls(lambda net, x, y: net.product(x, y).sum(1), product=Product())
    counted = count(net, torch.randn(X), torch.randn(X))
    assert counted.operators == {"contraction": A * B * C * D}
    assert counted.modules["product"].work.macs == A * B * C * D


def test_products_of_indices_are_no_contraction():
    grid = torch.arange(6).view(2, 3)
    assert macs(lambda x: x[(grid * torch.tensor([3, 2, 1])).sum(1)], (30, 2)) == {}
