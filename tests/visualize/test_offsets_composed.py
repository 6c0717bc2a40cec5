"""Where maps stand in the image, points through several layers, and statistics of them."""

import numpy as np
import pytest
import torch
from torch import nn

from ctxbench import create_model
from ctxbench.errors import VisualizeError
from ctxbench.visualize.offsets import composed, mean_field, sampling, statistics
from tests.visualize.deformable import Deformable, contextual


def grids(spec, size):
    found = sampling(create_model(spec), torch.zeros(1, 3, *size))
    return [(layer.grid.start_px, layer.grid.step_px) for layer in found]


def test_maps_of_a_resnet_start_at_the_first_pixel():
    assert grids("ctx_resnet_tiny:width=4", (20, 32)) == [
        ((0, 0), (1, 1)), ((0, 0), (2, 2)), ((0, 0), (4, 4))
    ]  # fmt: skip


def test_maps_of_a_convnext_start_in_the_middle_of_their_patches():
    patch = [((size - 1) / 2, (size - 1) / 2) for size in (4, 8, 16)]
    assert grids("ctx_convnext_nano:width=4", (32, 48))[:: 4] == [
        (patch[0], (4, 4)), (patch[2], (16, 16))
    ]  # fmt: skip
    assert grids("ctx_convnext_nano:width=4", (32, 48))[1] == (patch[1], (8, 8))


@pytest.mark.parametrize(
    ("stem", "start", "step"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 7, 2, 3), nn.MaxPool2d(3, 2, 1)), 0, 4),
        (nn.AvgPool2d(2), 0.5, 2),
        (nn.Conv2d(1, 1, 5), 2, 1),
        (nn.Conv2d(1, 1, 3, dilation=2), 2, 1),
        (nn.Sequential(nn.ZeroPad2d((2, 1, 0, 1)), nn.Conv2d(1, 1, 3, 2)), (1, -1), 2),
        (nn.ConvTranspose2d(1, 1, 4, 2, 1), -0.25, 0.5),
        (nn.PixelUnshuffle(2), 0.5, 2),  # not followed: assumed to divide the image
    ],
)
def test_grid_behind_a_stem(stem, start, step):
    channels = 4 if isinstance(stem, nn.PixelUnshuffle) else 1
    found = sampling(nn.Sequential(stem, Deformable(channels)), torch.zeros(1, 1, 24, 32))[0]
    assert found.grid.start_px == (start if isinstance(start, tuple) else (start, start))
    assert found.grid.step_px == (step, step)
    assert found.followed == (channels == 1)


def test_the_grid_is_where_a_map_pixel_looks():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Conv2d(2, 1, 2, 2)).double()
    x = torch.zeros(1, 1, 32, 48, dtype=torch.float64, requires_grad=True)
    stem(x)[0, 0, 2, 3].backward()
    rows, columns = (x.grad[0, 0].abs().sum(axis).nonzero().flatten() for axis in (1, 0))
    centre = [(float(seen.min()) + float(seen.max())) / 2 for seen in (rows, columns)]

    grid = sampling(nn.Sequential(stem, Deformable().double()), x.detach())[0].grid
    assert grid.to_image(np.array((2, 3))).tolist() == centre


def test_the_nearest_output_position():
    found = sampling(Deformable(stride=2), torch.zeros(1, 1, 8, 8))[0]
    assert found.nearest((4.4, 0)) == (2, 0)
    assert found.nearest((-9, 99)) == (0, 3)


def test_three_layers_compose_to_a_box_convolved_three_times():
    network = nn.Sequential(*(Deformable() for _ in range(3)))
    found = composed(sampling(network, torch.zeros(1, 1, 15, 17)), (7, 8))
    once = np.ones(3)
    thrice = np.convolve(np.convolve(once, once), once)
    times = np.zeros((15, 17))
    np.add.at(times, tuple(found.points.astype(int).T), 1)
    expected = np.zeros((15, 17))
    expected[4:11, 5:12] = np.outer(thrice, thrice)

    assert len(found.points) == 729
    assert found.lost == 0
    np.testing.assert_array_equal(times, expected)
    np.testing.assert_allclose(found.weight, 0.5**3)


def test_displacements_add_up_through_layers_and_masks_multiply():
    network = nn.Sequential(Deformable(), Deformable(stride=2))
    with torch.no_grad():
        network[0].offsets.bias[0:18:2] = 1.0  # every tap a row down, in image pixels
        network[1].offsets.bias[1:18:2] = 2.0  # every tap two columns right
        network[1].offsets.bias[18] = 30.0  # the mask of tap 0 is 1
    found = composed(sampling(network, torch.zeros(1, 1, 20, 20)), (4, 4))
    places = {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    expected = sorted(
        (8 + y + v + 1, 8 + x + w + 2, 0.5 * (1 if (y, x) == (-1, -1) else 0.5))
        for y, x in places for v, w in places
    )  # fmt: skip
    assert sorted(zip(*found.points.T.tolist(), found.weight.tolist(), strict=True)) == expected


def test_ways_that_leave_a_map_are_counted_and_dropped():
    network = nn.Sequential(Deformable(), Deformable())
    found = composed(sampling(network, torch.zeros(1, 1, 6, 6)), (0, 0))
    # 4 of the 9 places of the corner are on the map; each samples 9, some over the padding
    assert len(found.points) == 4 * 9
    assert found.lost == 5 * 9
    assert found.points.min() == -1


def test_composing_is_one_image_and_one_group():
    network = Deformable(2, groups=2)
    with torch.no_grad():
        network.offsets.bias[18:36:2] = 1.0  # the second group, a row down
    found = sampling(network, torch.zeros(2, 2, 6, 6))
    first, second = (composed(found, (3, 3), image=1, group=group) for group in (0, 1))
    assert (second.points - first.points == [1, 0]).all()


def test_composing_refuses_what_is_not_there():
    found = sampling(Deformable(1, 7), torch.zeros(1, 1, 6, 6))
    with pytest.raises(VisualizeError, match=r"no output position \(6, 0\)"):
        composed(found, (6, 0))
    with pytest.raises(VisualizeError, match="4 layers give 5,764,801 points"):
        composed(found * 4, (0, 0))


def test_statistics_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 1, 2, 2), Deformable())
    with torch.no_grad():
        network[1].offsets.bias[:2] = torch.tensor(
            [3.0, 4.0]
        )  # tap 0 by 5 map pixels, 10 of the image
        network[1].offsets.bias[18:] = -100.0  # masks 0, but
        network[1].offsets.bias[18:20] = 100.0  # those of taps 0 and 1
    found = statistics(sampling(network, torch.zeros(1, 1, 8, 8))[0])
    assert found.mean_displacement_map_px == pytest.approx(5 / 9)
    assert found.mean_displacement_px == pytest.approx(10 / 9)
    assert found.weighted_displacement_px == pytest.approx(10 / 2)
    assert found.largest_displacement_px == pytest.approx(10)
    assert found.mean_mask == pytest.approx(2 / 9)
    assert found.constant_share == pytest.approx(1)
    # of 16 positions: corners of the kernel are outside at 7, its sides at 4, its middle never
    assert found.regular_share_outside == pytest.approx((4 * 7 + 4 * 4) / (9 * 16))
    # tap 0 now reads rows 2..5 and columns 3..6 of 4: inside are 2 rows of 1 column
    assert found.share_outside == pytest.approx((3 * 7 + 4 * 4 + 14) / (9 * 16))


def test_statistics_of_nothing_displaced_and_nothing_let_through():
    network = Deformable()
    with torch.no_grad():
        network.offsets.bias[18:] = -1000.0
    found = statistics(sampling(network, torch.zeros(1, 1, 4, 4))[0])
    assert found.constant_share is None
    assert found.weighted_displacement_px is None


def test_displacements_that_differ_by_position_are_not_constant():
    network = contextual(1, nudged=0.0)
    layer = sampling(network, torch.zeros(1, 1, 2, 2))[0]
    layer.offset[0, 0, :, 0] = [1.0, 0.0]
    layer.offset[0, 0, :, 1] = [-1.0, 0.0]
    assert statistics(layer).constant_share == 0
    assert statistics(layer).mean_displacement_px == 1


def test_mean_field_weighs_by_the_mask():
    network = nn.Sequential(nn.AvgPool2d(2), Deformable())
    with torch.no_grad():
        network[1].offsets.bias[:4] = torch.tensor([1.0, 0.0, -1.0, 0.0])  # taps 0 and 1 part
        network[1].offsets.bias[18:] = -100.0
        network[1].offsets.bias[18:20] = torch.tensor([100.0, 0.0])  # masks 1 and 1/2
    mean, length = mean_field(sampling(network, torch.zeros(1, 1, 8, 8))[0])
    assert mean.shape == (4, 4, 2)
    np.testing.assert_allclose(mean[2, 1], [2 * 2 / 3 - 2 * 1 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(length, 2, atol=1e-6)


def test_each_point_has_the_weight_of_its_own_way():
    network = nn.Sequential(Deformable(), Deformable())
    with torch.no_grad():
        network[0].offsets.bias[18 + 1] = 30.0  # of the first layer tap 1 counts in full,
        network[1].offsets.bias[18] = 30.0  # of the second tap 0
    found = composed(sampling(network, torch.zeros(1, 1, 20, 20)), (9, 9))
    expected = [(1 if m == 0 else 0.5) * (1 if k == 1 else 0.5) for m in range(9) for k in range(9)]
    np.testing.assert_allclose(found.weight, expected)


@pytest.mark.parametrize(("down", "share"), [(0.25, 0), (0.75, 1 / 4)])
def test_a_place_is_outside_from_half_a_pixel_on(down, share):
    network = Deformable(1, 1)
    with torch.no_grad():
        network.offsets.bias[0] = down
    found = statistics(sampling(network, torch.zeros(1, 1, 4, 4))[0])
    assert found.share_outside == share


def test_of_two_ways_to_a_map_the_first_counts():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.shortcut = nn.Conv2d(1, 1, 3, 2, 1), nn.AvgPool2d(2)

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    found = sampling(nn.Sequential(Residual(), Deformable()), torch.zeros(1, 1, 8, 8))[0]
    assert found.grid.start_px == (0, 0)
