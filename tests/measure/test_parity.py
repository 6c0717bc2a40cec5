"""Layer by layer: rows sum to the totals, and what differs is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ctxbench.measure.costs import count_spec
from ctxbench.measure.flops import count
from ctxbench.measure.parity import compare, layers, pair_layers
from ctxbench.models import resolve, without_weights
from tests.measure.nets import Calls

X = torch.randn(1, 4, 5, 3)


def conv(width=4, kernel=1):
    return nn.Conv2d(4, width, kernel, padding=kernel // 2, bias=False)


class Branches(nn.Module):
    """A convolution made of two, side by side."""

    def __init__(self, kernel=1):
        super().__init__()
        self.levels = nn.ModuleList([conv(2, kernel), conv(2, kernel)])

    def forward(self, x):
        return torch.cat([level(x) for level in self.levels], 1)


def rows(one, other):
    return {row.layer: row for row in pair_layers(count(one, X), count(other, X))}


def test_a_layer_made_of_branches_is_paired_as_a_whole():
    one, other = nn.Sequential(conv(kernel=3), Branches(3)), nn.Sequential(Branches(3), conv(4, 3))
    for found in (rows(one, other), rows(other, one)):
        assert {name: (row.params, row.macs, row.equal) for name, row in found.items()} == {
            "0": (144, 144 * 15, True),
            "1": (144, 144 * 15, True),
        }


def test_branches_are_paired_one_by_one_with_branches():
    assert list(rows(Branches(), Branches())) == ["levels.0", "levels.1"]


def test_a_whole_has_the_name_and_kind_of_either_side():
    row = rows(nn.Sequential(conv(), Branches()), nn.Sequential(conv(), conv()))["1"]
    assert (row.kind, row.against_kind) == ("Branches", "Conv2d")


def test_an_unequal_layer_is_named():
    one, other = nn.Sequential(conv(), conv()), nn.Sequential(conv(), conv(kernel=3))
    parity = compare(count(one, X), count(other, X))
    assert parity.unequal == ("1",)
    assert (parity.params_difference, parity.macs_difference) == (16 - 144, (16 - 144) * 15)
    assert not parity.equal


def test_differences_that_cancel_are_no_parity():
    one, other = nn.Sequential(conv(), conv(kernel=3)), nn.Sequential(conv(kernel=3), conv())
    parity = compare(count(one, X), count(other, X))
    assert (parity.params_difference, parity.macs_difference) == (0, 0)
    assert parity.unequal == ("0", "1")
    assert not parity.equal


def test_a_layer_that_only_one_has_is_named():
    parity = compare(count(nn.Sequential(conv()), X), count(nn.Sequential(conv(), conv()), X))
    row = rows(nn.Sequential(conv()), nn.Sequential(conv(), conv()))["1"]
    assert parity.unequal == ("1",)
    assert (row.kind, row.params, row.macs, row.against_params) == (None, None, None, 16)


def test_work_beside_macs_is_named():
    one, other = nn.Sequential(conv(), nn.ReLU()), nn.Sequential(conv(), nn.GELU())
    parity = compare(count(one, X), count(other, X))
    assert parity.equal
    assert set(parity.other_work) == {"relu", "activation"}


def test_a_layer_has_weights_or_macs_of_its_own():
    net = nn.Sequential(
        nn.Sequential(conv(), nn.ReLU()), nn.BatchNorm2d(4), Calls(lambda x: x @ x.mT)
    )
    assert list(layers(count(net, X))) == ["0.0", "1", "2"]


def test_work_between_the_layers_is_the_networks_own():
    net = Calls(lambda net, x: net.conv(x) @ x.mT, conv=conv())
    found = {row.layer: row.macs for row in pair_layers(count(net, X))}
    assert found == {"": 4 * 5 * 5 * 3, "conv": 16 * 15}


@pytest.mark.parametrize("levels", ["4,3,2,1", "3,3,3,3", "top"])
def test_coresnet50_equals_resnet50_in_every_layer(levels):
    x = torch.zeros(1, 3, 64, 64)
    ours = count(without_weights(resolve(f"coresnet50:levels={levels}")), x)
    parity = compare(ours, count(without_weights(resolve("resnet50")), x))
    assert parity.equal
    assert (parity.unequal, parity.other_work) == ((), ())
    assert parity.layers == 53 + 53 + 1  # convolutions, batch norms, the classifier


def test_resnet101_does_not_equal_resnet50():
    x = torch.zeros(1, 3, 64, 64)
    deep, shallow = (count(without_weights(resolve(f"resnet{n}")), x) for n in (101, 50))
    parity = compare(deep, shallow)
    assert not parity.equal
    assert len(parity.unequal) == 17 * 6  # the third stage has 23 blocks instead of 6
    assert all(layer.startswith("layer3.") for layer in parity.unequal)


class Node(nn.Module):
    """A module with what a tree says: children by name, some shared, and weights of its own."""

    def __init__(self, tree, shared):
        super().__init__()
        parts = {"conv": conv, "norm": lambda: nn.BatchNorm2d(4), "shared": lambda: shared}
        if tree.pop("weight", False):
            self.weight = nn.Parameter(torch.ones(4, 4))
        for name, part in tree.items():
            self.add_module(
                name, Node(dict(part), shared) if isinstance(part, dict) else parts[part]()
            )

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return torch.einsum("oc,bchw->bohw", self.weight, x) if hasattr(self, "weight") else x


names = st.sampled_from("abc")
trees = st.recursive(
    st.dictionaries(names, st.sampled_from(["conv", "norm", "shared"]), min_size=1),
    lambda inner: st.tuples(
        st.dictionaries(names, inner | st.sampled_from(["conv", "norm", "shared"]), min_size=1),
        st.booleans(),
    ).map(lambda pair: {**pair[0], "weight": pair[1]}),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(trees, trees)
def test_rows_sum_to_the_totals_of_any_two_networks(one, other):
    shared = conv()
    ours, theirs = (count(Node(dict(tree), shared), X) for tree in (one, other))
    found = pair_layers(ours, theirs)
    assert len({row.layer for row in found}) == len(found)
    assert sum(row.params or 0 for row in found) == ours.params
    assert sum(row.macs or 0 for row in found) == ours.macs
    assert sum(row.against_params or 0 for row in found) == theirs.params
    assert sum(row.against_macs or 0 for row in found) == theirs.macs


@settings(deadline=None, max_examples=20)
@given(trees)
def test_any_network_equals_itself(tree):
    counted = count(Node(dict(tree), conv()), X)
    assert compare(counted, counted).equal


def test_weights_tied_to_another_layer_are_counted_with_the_first():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    found = pair_layers(count(net, torch.ones(1, 3)))
    assert [(row.layer, row.params, row.macs) for row in found] == [("0", 9, 9), ("1", 0, 9)]


def test_a_backbone_is_paired_with_the_network_that_it_is():
    mine, theirs = (count_spec(spec)[0] for spec in ("ctx_resnet_tiny", "resnet_tiny"))
    rows = {pair.layer: pair for pair in pair_layers(mine, theirs)}
    assert rows["conv1"].equal
    assert rows["layer1.0.conv2"].equal
    assert rows["layer2.0.conv2"].macs > rows["layer2.0.conv2"].against_macs > 0
    assert rows["classes"].against_macs is None
    assert not any(layer.startswith("backbone") for layer in rows)
    assert sum(pair.macs or 0 for pair in rows.values()) == mine.macs
