import numpy as np
import pytest
import torch
from torch import nn

from ctxbench import create_model
from ctxbench.ops import CoConv2d
from ctxbench.visualize.footprints import footprints


@pytest.mark.parametrize("kernel_size", [3, (3, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_taps_stand_where_an_impulse_is_seen(kernel_size, dilation):
    torch.manual_seed(0)
    layer = CoConv2d(3, 7, kernel_size, levels=3, dilation=dilation, bias=False).double()
    (found,) = footprints(nn.Sequential(layer))
    side, centre = 33, 16
    # an impulse in each input channel in turn
    x = torch.zeros(3, 3, side, side, dtype=torch.float64)
    x[range(3), range(3), centre, centre] = 1

    seen = layer(x).detach().square().sum(0)

    for level, part in enumerate(seen.split(found.widths.tolist())):
        expected = torch.zeros(side, side, dtype=torch.float64)
        for place, energy in zip(
            found.places_px[level].reshape(-1, 2), found.energy[level].flat, strict=True
        ):
            # the output above an impulse reads it with the tap below its centre
            expected[centre - place[0], centre - place[1]] = energy
        torch.testing.assert_close(part.sum(0), expected)


def test_shares_by_hand():
    layer = CoConv2d(5, 3, 3, levels=[(2, 1), (1, 3)])
    with torch.no_grad():
        layer.weight[:2] = 1  # 2 * 5 * 9 weights of energy 1
        layer.weight[2:] = 2  # 1 * 5 * 9 weights of energy 4
    (found,) = footprints(nn.Sequential(layer))

    np.testing.assert_allclose(found.channel_share(), [2 / 3, 1 / 3])
    np.testing.assert_allclose(found.energy_share(), [1 / 3, 2 / 3])
    np.testing.assert_allclose(found.relative_energy()[:, 0, 0], [0.5, 2])
    told = found.statistics()
    assert told["reach_px"] == 3
    assert told["energy_share_dilation3"] == pytest.approx(2 / 3)
    # the mean squared distance of 3x3 taps is 12 / 9 times that of their dilation
    radius = (1 / 3 * 12 / 9 + 2 / 3 * 9 * 12 / 9) ** 0.5
    assert told["energy_radius_px"] == pytest.approx(radius)


def test_weights_of_zero_have_no_energy_to_share():
    layer = CoConv2d(4, 4, 3)
    nn.init.zeros_(layer.weight)
    (found,) = footprints(nn.Sequential(layer))
    assert found.energy_share().tolist() == [0, 0, 0, 0]
    assert found.relative_energy().sum() == 0


def test_levels_of_the_same_dilation_are_told_apart():
    (found,) = footprints(nn.Sequential(CoConv2d(4, 4, 3, levels=[(1, 2), (3, 2)])))
    told = found.statistics()
    assert told["channel_share_dilation2_level1"] == 0.25
    assert told["channel_share_dilation2_level2"] == 0.75


def test_the_paper_levels_of_a_network():
    found = footprints(create_model("coresnet_tiny:num_classes=3").bfloat16())
    assert [each.dilations.tolist() for each in found] == [[1, 2, 3, 4], [1, 2, 3], [1, 2], [1]]
    assert found[1].channel_share().tolist() == [0.5, 0.25, 0.25]


def test_a_replaced_convolution_is_found():
    model = create_model("resnet_tiny:num_classes=3:replace=coconv")
    names = [each.layer for each in footprints(model)]
    assert "layer1.0.conv2" in names
