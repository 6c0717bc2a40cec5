"""Work beside multiply-accumulates: each kind in its own column, in elements."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import roi_align

from ctxbench import count
from tests.measure.nets import Calls, elements, work

X = (2, 3, 8, 6)
SIZE = 2 * 3 * 8 * 6


# name -> (function of x, kind, elements)
KINDS = {
    "relu": (F.relu, "relu", SIZE),
    "relu in place": (lambda x: F.relu(x + 1, inplace=True) - 1, "relu", SIZE),
    "gelu": (F.gelu, "activation", SIZE),
    "relu6": (F.relu6, "activation", SIZE),
    "glu": (lambda x: F.glu(x, 2), "activation", SIZE // 2),
    "softmax": (lambda x: x.softmax(1), "softmax", SIZE),
    "addition": (lambda x: x + 1, "elementwise", SIZE),
    "addcmul": (lambda x: torch.addcmul(x, x, x), "elementwise", SIZE),
    "lerp": (lambda x: torch.lerp(x, x, 0.5), "elementwise", SIZE),
    "product": (lambda x: x * x, "elementwise", SIZE),
    "outer product": (lambda x: torch.outer(x.flatten(), x[0, 0, 0]), "elementwise", SIZE * 6),
    "scatter_add": (
        lambda x: x.scatter_add(1, torch.zeros(1, 1, 1, 1).long(), x),
        "elementwise",
        SIZE,
    ),
    "sum": (lambda x: x.sum((1, 2)), "reduction", SIZE),
    "maximum": (lambda x: x.max(1)[0], "reduction", SIZE),
    "norm": (lambda x: torch.linalg.norm(x, dim=1), "reduction", SIZE),
    "distances": (lambda x: torch.cdist(x[0], x[1]), "distance", 3 * 8 * 8 * 6),
    "pooling": (lambda x: F.max_pool2d(x, 2), "pooling", SIZE // 4),
    "global pooling": (lambda x: F.adaptive_avg_pool2d(x, 1), "pooling", 6),
    "nearest": (lambda x: F.interpolate(x, size=(5, 4)), "interpolation", 6 * 20),
    "bilinear": (
        lambda x: F.interpolate(x, size=(5, 4), mode="bilinear"),
        "interpolation",
        6 * 20,
    ),
    "antialiased": (
        lambda x: F.interpolate(x, size=(5, 4), mode="bicubic", antialias=True),
        "interpolation",
        6 * 20,
    ),
    "grid_sample": (
        lambda x: F.grid_sample(x, torch.zeros(2, 5, 4, 2), align_corners=False),
        "sampling",
        6 * 20,
    ),
    "roi_align": (lambda x: roi_align(x, torch.zeros(7, 5), (4, 2)), "sampling", 7 * 3 * 8),
    "layer norm": (lambda x: F.layer_norm(x, (6,)), "norm", SIZE),
    "group norm": (lambda x: F.group_norm(x, 3), "norm", SIZE),
    "instance norm": (F.instance_norm, "norm", SIZE),
    "rms norm": (lambda x: F.rms_norm(x, (6,)), "norm", SIZE),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind_of_work(name):
    function, kind, expected = KINDS[name]
    assert elements(function, X)[kind] == expected


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1).t().unsqueeze(0).expand(4, -1, -1),
        lambda x: torch.cat([x[:, :1], x.roll(1, 2)], 1).index_select(0, torch.tensor([1])),
        lambda x: F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3),
        lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2).chunk(3, 1),
        lambda x: F.dropout(x, training=False).to(torch.float64).clone(),
    ],
)
def test_moving_data_is_no_work(function):
    assert elements(function, X) == {}


# what fvcore adds for each: (function of x, fvcore's own rule)
FVCORE = {
    "batch norm": (nn.BatchNorm2d(3), 2 * SIZE),
    "batch norm without weights": (nn.BatchNorm2d(3, affine=False), SIZE),
    "batch norm on the batch": (nn.BatchNorm2d(3, track_running_stats=False), 5 * SIZE),
    "layer norm": (nn.LayerNorm(6), 5 * SIZE),
    "layer norm without weights": (nn.LayerNorm(6, elementwise_affine=False), 4 * SIZE),
    "group norm": (nn.GroupNorm(3, 3), 5 * SIZE),
    "instance norm": (nn.InstanceNorm2d(3), 4 * SIZE),
    "global pooling": (nn.AdaptiveAvgPool2d(1), SIZE),
    "nearest": (nn.Upsample(scale_factor=2), 4 * SIZE),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), 16 * SIZE),
    "relu": (nn.ReLU(), 0),
}


@pytest.mark.parametrize("name", FVCORE)
def test_what_fvcore_adds(name):
    module, expected = FVCORE[name]
    counted = count(module, torch.randn(X))
    assert (counted.macs, counted.total("fvcore")) == (0, expected)


def test_batch_norm_is_a_column_of_its_own_unless_it_uses_the_batch():
    norms = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    assert count(norms, torch.randn(X)).work.elements == {"batch_norm": SIZE, "norm": SIZE}


def test_interpolation_beside_a_convolution_stays_in_its_column():
    conv = nn.Conv2d(3, 4, 1)
    net = Calls(lambda net, x: F.interpolate(net.conv(x), scale_factor=2), conv=conv)
    done = count(net, torch.randn(X)).work
    assert (done.macs, done.elements) == (2 * 12 * 48, {"interpolation": 2 * 4 * 4 * 48})


def test_an_integer_is_no_element():
    assert work(lambda x: x + 0 * (x.shape[0] * 2 + 1), X).elements == {"elementwise": SIZE}
