"""Conventions against the figures of PAPERS.md 1.8, which were measured and derived elsewhere."""

from functools import cache

import pytest
import torch
from torch import nn

from ctxbench.errors import UnknownNameError
from ctxbench.measure.conventions import CONVENTIONS, Work, convention
from ctxbench.measure.flops import count
from ctxbench.models import resolve, without_weights


@cache
def counted(spec):
    return count(without_weights(resolve(spec)), torch.zeros(1, 3, 224, 224))


# network -> MACs, and in thousands of millions: MACs + 4 BN + ReLU, fvcore in train mode
PUBLISHED = {
    "resnet50": (4_089_184_256, "4.1432", "4.1449"),
    "resnet101": (7_801_405_440, "7.8811", "7.8827"),
    "resnet152": (11_513_626_624, "11.6249", "11.6265"),
    "resnet50:output_stride=8": (19_079_364_608, "19.2017", None),
}


@pytest.mark.parametrize("spec", PUBLISHED)
def test_macs(spec):
    assert counted(spec).total("macs") == counted(spec).macs == PUBLISHED[spec][0]


@pytest.mark.parametrize("spec", PUBLISHED)
def test_mac_bn_relu(spec):
    assert f"{counted(spec).total('mac-bn-relu') / 1e9:.4f}" == PUBLISHED[spec][1]


@pytest.mark.parametrize("spec", list(PUBLISHED)[:3])
def test_fvcore_in_train_mode(spec):
    assert f"{counted(spec).total('fvcore-train') / 1e9:.4f}" == PUBLISHED[spec][2]


def test_fvcore_in_eval_mode():
    assert counted("resnet50").total("fvcore") == 4_111_512_576


def test_torchs_counter_counts_two_for_each():
    model = without_weights(resolve("resnet50"))
    found = count(model, torch.zeros(1, 3, 224, 224), cross_check=True)
    assert 2 * found.torch_macs == found.total("flops") == found.flops == 8_178_368_512


WORK = Work({"conv": 100, "matmul": 10}, {"batch_norm": 7, "relu": 3, "pooling": 2}, 16)

# by hand from the meaning of each
TOTALS = {
    "macs": 110, "flops": 220, "layers": 100, "fvcore": 126, "fvcore-train": 147,
    "mac-bn-relu": 141,
}  # fmt: skip


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_convention_is_a_function_of_the_work(name):
    assert convention(name).count(WORK) == TOTALS[name]


def test_a_convention_says_its_unit_and_meaning():
    assert all(known.unit and known.meaning for known in CONVENTIONS.values())
    assert convention("flops").unit == "FLOPs"


def test_fvcore_in_train_mode_is_three_more_a_batch_norm_element():
    norms = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.LayerNorm(6))
    found = count(norms, torch.randn(2, 3, 8, 6))
    assert found.total("fvcore-train") == 288 * (5 + 4 + 5)


def test_an_unknown_convention_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="Unknown convention 'mac'. Did you mean 'macs'"):
        counted("resnet50").total("mac")
