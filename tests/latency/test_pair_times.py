"""Own times of two networks, layer by layer: rows sum to the runs."""

import pytest
import torch
from torch import nn

from ctxbench import count, create_model
from ctxbench.latency.layers import REST, LayerTime, layer_times, pair_times
from ctxbench.measure.costs import count_spec
from ctxbench.measure.parity import pair_layers

CPU = torch.device("cpu")
X = torch.randn(1, 4, 5, 3)


def shares(counted):
    """Return a time for every module, each another one."""
    return {name: 2.0**-place for place, name in enumerate(list(counted.modules)[::-1][:50])}


def test_activations_are_the_rest():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.BatchNorm2d(4))
    found = pair_times(count(net, X), {"": 1.0, "0": 2.0, "0.0": 4.0, "0.1": 8.0, "1": 16.0})
    assert found == [
        LayerTime("0.0", "Conv2d", 4 * 4 * 15, 4.0),
        LayerTime("1", "BatchNorm2d", 0, 16.0),
        LayerTime(REST, None, 0, 11.0),
    ]


def test_a_layer_made_of_several_holds_their_time():
    branches = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1))
    one, other = nn.Sequential(branches), nn.Sequential(nn.Conv2d(4, 4, 1))
    mine = {"": 1.0, "0": 2.0, "0.0": 4.0, "0.1": 8.0, "0.2": 16.0}
    rows = pair_times(count(one, X), mine, count(other, X), {"": 3.0, "0": 5.0})
    assert [(row.layer, row.ms, row.against_ms) for row in rows] == [
        ("0", 30.0, 5.0),
        (REST, 1.0, 3.0),
    ]
    assert (rows[0].kind, rows[0].against_kind) == ("Sequential", "Conv2d")


def test_a_layer_that_one_lacks_has_no_time_and_one_never_called_has_none():
    one, other = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    mine, theirs = {"": 1.0, "0": 2.0}, {"": 1.0, "0": 2.0}
    row = pair_times(count(one, X), mine, count(other, X), theirs)[1]
    assert (row.layer, row.ms, row.against_ms) == ("1", None, 0.0)


def check_sums(ours, theirs):
    mine, others = shares(ours), shares(theirs)
    rows = pair_times(ours, mine, theirs, others)
    pairs = pair_layers(ours, theirs)
    assert [row.layer for row in rows] == [*(pair.layer for pair in pairs), REST]
    assert [(row.macs, row.against_macs) for row in rows[:-1]] == [
        (pair.macs, pair.against_macs) for pair in pairs
    ]
    assert sum(row.ms or 0 for row in rows) == sum(mine.values())  # powers of two: exact
    assert sum(row.against_ms or 0 for row in rows) == sum(others.values())
    return rows


@pytest.mark.parametrize("spec", ["coresnet_tiny", "ctx_resnet_tiny", "cgc_resnet_tiny"])
def test_rows_sum_to_the_whole_run(spec):
    rows = check_sums(count_spec(spec)[0], count_spec("resnet_tiny")[0])
    assert not any(row.layer.startswith("backbone") for row in rows)


def test_two_real_networks():
    rows = {}
    for name in ("coresnet_tiny", "resnet_tiny"):
        net, x = create_model(name).eval(), torch.randn(1, 3, 32, 32)
        rows[name] = (
            count(net, x),
            layer_times(net, lambda net=net, x=x: net(x), runs=1, device=CPU),
        )
    (ours, mine), (theirs, others) = rows.values()
    found = pair_times(ours, mine, theirs, others)
    assert all(row.ms > 0 and row.against_ms > 0 for row in found)
    assert sum(row.ms for row in found) == pytest.approx(sum(mine.values()))
    assert sum(row.against_ms for row in found) == pytest.approx(sum(others.values()))


def test_times_need_their_count():
    counted = count(nn.ReLU(), X)
    with pytest.raises(ValueError, match="both the count and the times"):
        pair_times(counted, {}, counted)
