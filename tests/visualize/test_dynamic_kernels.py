import numpy as np
import pytest
import torch
from torch import nn

from ctxbench import create_model
from ctxbench.errors import VisualizeError
from ctxbench.kernels.contmix._reference import aggregate
from ctxbench.ops import ContMix, ContMixBlock
from ctxbench.visualize.dynamic_kernels import (
    cell_at,
    dynamic_kernels,
    evenness,
    reach_px,
    spread,
    window,
)


def _nudged(model):
    """Kernels of a fresh network are uniform, which would hide a mistake."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return model


def _network():
    return _nudged(nn.Sequential(nn.Conv2d(1, 8, 1), ContMixBlock(8, 7, small_kernel_size=3)))


@pytest.mark.parametrize("position", [(0, 0), (3, 4), (6, 8), (0, 5), (5, 1)])
def test_spread_is_what_aggregation_reads(position):
    torch.manual_seed(0)
    kernel = torch.randn(1, 2, 25, 7, 9, dtype=torch.float64).softmax(2)
    # value c is 1 at position c alone, so it tells how much of c is read
    values = torch.eye(63, dtype=torch.float64).reshape(1, 1, 63, 7, 9).expand(1, 2, -1, -1, -1)

    read = aggregate(values, kernel, 5)[0, :, :, *position].reshape(2, 7, 9)

    np.testing.assert_allclose(spread(kernel[0].numpy(), position), read, rtol=1e-12)


@pytest.mark.parametrize(
    ("position", "corner"), [((3, 4), (1, 2)), ((0, 0), (0, 0)), ((6, 8), (2, 4)), ((1, 7), (0, 4))]
)
def test_a_window_is_shifted_inward(position, corner):
    assert window(5, position, (7, 9)) == corner


def test_kernels_are_those_that_the_layer_mixes_with():
    model, x = _network().double(), torch.randn(2, 1, 9, 11, dtype=torch.float64)
    contmix = model[1].block.mixer.contmix
    seen = []
    contmix.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))

    (found,) = dynamic_kernels(model, x)

    values, output = seen[0]
    kernels = (found.small, found.large)
    mixed = [
        aggregate(half.reshape(2, 2, 2, 9, 11), torch.from_numpy(kernel).double(), size)
        for half, kernel, size in zip(values.chunk(2, 1), kernels, (3, 7), strict=True)
    ]
    expected = torch.cat([half.flatten(1, 2) for half in mixed], 1)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_kernels_of_a_small_map_are_on_the_enlarged_one():
    model = _nudged(create_model("overlock_tiny:num_classes=3:in_channels=1"))

    first, last = dynamic_kernels(model, torch.randn(2, 1, 24, 32))

    assert (first.layer, last.layer) == tuple(f"focus{n}.0.block.mixer.contmix" for n in (3, 4))
    assert first.feature_size == (3, 4)
    assert first.map_size == (7, 9)  # 4 * 7 / 3 rounded down
    assert first.small.shape == (2, 4, 25, 7, 9)
    assert first.large.shape == (2, 4, 49, 7, 9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_kernels_sum_to_one(dtype, tolerance):
    (found,) = dynamic_kernels(_network().to(dtype), torch.randn(2, 1, 9, 11))
    for kernel in (found.small, found.large):
        assert kernel.dtype == np.float32
        np.testing.assert_allclose(kernel.sum(2), 1, atol=tolerance)


def test_evenness_is_entropy_over_that_of_uniform():
    kernel = np.zeros((1, 3, 9, 4, 4), np.float32)
    kernel[:, 0] = 1 / 9
    kernel[:, 1, 5] = 1
    kernel[:, 2, :2] = 1 / 2
    np.testing.assert_allclose(evenness(kernel), [[1, 0, np.log(2) / np.log(9)]], atol=1e-6)


def test_evenness_of_rounded_weights_stays_within_one():
    kernel = np.full((1, 1, 25, 5, 5), 1.01 / 25, np.float32)
    assert evenness(kernel).item() == pytest.approx(1)
    assert reach_px(kernel, (5, 5)) == pytest.approx(reach_px(kernel / 1.01, (5, 5)))


def test_statistics_are_means_over_all_images_and_groups():
    (found,) = dynamic_kernels(_network(), torch.randn(2, 1, 9, 11))
    told = found.statistics()
    assert (told["small_kernel_size"], told["large_kernel_size"]) == (3, 7)
    assert told["large_evenness"] == pytest.approx(evenness(found.large).mean())
    assert told["small_reach_px"] == pytest.approx(reach_px(found.small, (9, 11)).mean())


def test_a_kernel_of_one_tap_is_even():
    np.testing.assert_array_equal(evenness(np.ones((1, 2, 1, 3, 3))), [[1, 1]])


def test_reach_is_the_distance_in_pixels_of_the_image():
    kernel = np.zeros((1, 1, 9, 3, 3))
    kernel[:, :, 0] = 1  # all windows are the whole map, and all read its first position
    distances = [np.hypot(10 * row, 20 * column) for row in range(3) for column in range(3)]
    assert reach_px(kernel, (30, 60)).item() == pytest.approx(np.mean(distances))


@pytest.mark.parametrize(
    ("pixel", "cell"), [((0, 0), (0, 0)), ((7, 7), (0, 0)), ((8, 15), (1, 1)), ((31, 31), (3, 3))]
)
def test_the_cell_over_a_pixel(pixel, cell):
    assert cell_at(pixel, (32, 32), (4, 4)) == cell


@pytest.mark.parametrize("pixel", [(-1, 0), (32, 0), (0, 64)])
def test_a_pixel_outside_says_what_is_inside(pixel):
    with pytest.raises(VisualizeError, match="outside the image. Give y from 0 to 31 and x from 0"):
        cell_at(pixel, (32, 64), (4, 8))


def test_context_given_by_name_is_found():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = ContMix(8, 8, 7)

        def forward(self, x):
            return self.mix(x, context=x + 1, query=x)

    model, x = _nudged(Wrapped()).eval(), torch.randn(1, 8, 9, 9)
    (found,) = dynamic_kernels(model, x)
    expected = model.mix.kernels(x, x + 1)[1]
    np.testing.assert_allclose(found.large, expected.detach(), atol=1e-6)


def test_a_layer_called_twice_has_no_one_kernel():
    block = ContMixBlock(8, 7)
    model = nn.Sequential(block, nn.ReLU(), block)
    with pytest.raises(VisualizeError, match="'0.block.mixer.contmix' is called 2 times"):
        dynamic_kernels(model, torch.randn(1, 8, 9, 9))


def test_the_network_comes_back_as_it_was():
    model = _network().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    dynamic_kernels(torch.compile(model), torch.randn(2, 1, 9, 11))

    assert model.training
    assert not model[1].training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
