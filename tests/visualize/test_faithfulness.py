"""Deletion and insertion are what their definition says, on networks that can be done by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from ctxbench.models import create_model
from ctxbench.visualize.faithfulness import faithfulness
from tests.measure.test_undisturbed import assert_same, snapshot


class Weighted(nn.Module):
    """Two classes: the weighted sum of the pixels and 0; p is the sigmoid of the sum."""

    def __init__(self, weight_HW):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight_HW, dtype=torch.float32))
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        y = (x[:, 0] * self.weight).sum((1, 2))
        return torch.stack([y, torch.zeros_like(y)], 1)


def sigmoid(y):
    return 1 / (1 + np.exp(-y))


def weights(side=8):
    return np.random.default_rng(0).uniform(-0.5, 1, (side, side)).astype(np.float32)


def test_deletion_is_the_sum_of_the_pixels_that_are_left():
    weight = weights()
    found = faithfulness(Weighted(weight), torch.ones(1, 1, 8, 8), weight[None], [0], steps=64)
    left = np.sort(weight.ravel())[::-1]
    expected = [sigmoid(left[count:].sum()) for count in range(65)]
    np.testing.assert_allclose(found.deletion[0], expected, rtol=1e-4)
    np.testing.assert_allclose(found.shares, np.arange(65) / 64)


def test_a_step_takes_its_share_of_the_pixels():
    weight = weights(6)
    found = faithfulness(Weighted(weight), torch.ones(1, 1, 6, 6), weight[None], [0], steps=5)
    left = np.sort(weight.ravel())[::-1]
    counts = [0, 7, 14, 22, 29, 36]  # of 36, rounded
    expected = [sigmoid(left[count:].sum()) for count in counts]
    np.testing.assert_allclose(found.deletion[0], expected, rtol=1e-4)
    np.testing.assert_allclose(found.shares, np.array(counts) / 36, rtol=1e-6)
    areas = [(a + b) / 2 * (n - m) / 36 for a, b, m, n in
             zip(expected, expected[1:], counts, counts[1:], strict=False)]  # fmt: skip
    np.testing.assert_allclose(found.areas()["deletion"], [sum(areas)], rtol=1e-4)


def test_insertion_restores_the_pixels_of_a_blurred_image():
    weight = weights(32) / 32
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = faithfulness(Weighted(weight), x, weight[None], [1], steps=4)
    tap = np.exp(-((224 / 32 / 5) ** 2) / 2)  # one pixel away; it is cut off behind that
    kernel = np.array([tap, 1, tap]) / (1 + 2 * tap)
    padded = np.pad(x[0, 0].numpy(), 1, mode="reflect")
    blurred = sum(
        kernel[i] * kernel[j] * padded[i : i + 32, j : j + 32] for i in range(3) for j in range(3)
    )
    order = np.argsort(-weight.ravel())
    expected = []
    for count in (0, 256, 512, 768, 1024):
        image = blurred.ravel().copy()
        image[order[:count]] = x.numpy().ravel()[order[:count]]
        expected.append(1 - sigmoid((image * weight.ravel()).sum()))
    np.testing.assert_allclose(found.insertion[0], expected, rtol=1e-3)


def test_nothing_is_inserted_where_blurring_changes_nothing():
    weight = weights()
    found = faithfulness(Weighted(weight), torch.ones(1, 1, 8, 8), weight[None], [0], steps=4)
    expected = sigmoid(weight.sum())
    np.testing.assert_allclose(found.insertion, np.full((1, 5), expected), rtol=1e-5)
    np.testing.assert_allclose(found.areas()["insertion"], [expected], rtol=1e-5)


def test_the_best_order_beats_the_random_one_which_beats_the_worst():
    weight = weights(16)
    maps = np.stack([weight, -weight])
    found = faithfulness(Weighted(weight / 8), torch.ones(2, 1, 16, 16), maps, [0, 0])
    (best, worst), (random, same) = found.areas()["deletion"], found.areas()["random_deletion"]
    assert best < random < worst
    assert random == same


def test_pixels_of_equal_value_go_in_the_random_order():
    weight, flat = weights(16), np.zeros((1, 16, 16), np.float32)
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = faithfulness(Weighted(weight / 8), x, flat, [0])
    np.testing.assert_array_equal(found.deletion, found.random_deletion)
    np.testing.assert_array_equal(found.insertion, found.random_insertion)


def test_the_random_order_is_of_patches_and_of_its_seed():
    side = 16
    weight = np.zeros((side, side), np.float32)
    weight[:2, :2] = 10  # one patch of 64: p falls at one step, and nowhere else
    x = torch.ones(1, 1, side, side)
    flat = np.zeros((1, side, side), np.float32)
    curves = [faithfulness(Weighted(weight), x, flat, [0], steps=64, seed=seed).random_deletion[0]
              for seed in (0, 0, 1)]  # fmt: skip
    assert all(set(np.round(curve, 3)) == {1, 0.5} for curve in curves)
    np.testing.assert_array_equal(curves[0], curves[1])
    assert not np.array_equal(curves[0], curves[2])


def test_a_batch_gives_the_curves_of_one_image_at_a_time():
    torch.manual_seed(0)
    net, x = create_model("resnet_tiny:width=4"), torch.randn(3, 3, 16, 24)
    maps = np.random.default_rng(0).random((3, 16, 24)).astype(np.float32)
    together = faithfulness(net, x, maps, [1, 2, 3], steps=4)
    for i in range(3):
        alone = faithfulness(net, x[i : i + 1], maps[i : i + 1], [i + 1], steps=4)
        for name in ("deletion", "insertion", "random_deletion", "random_insertion"):
            np.testing.assert_allclose(
                getattr(together, name)[i], getattr(alone, name)[0], rtol=1e-5
            )


def test_a_pass_takes_no_more_than_sixteen_images_and_as_many_as_told():
    net = Weighted(weights())
    faithfulness(net, torch.ones(2, 1, 8, 8), np.stack([weights()] * 2), [0, 0], steps=16)
    assert max(net.batches) == 16
    assert sum(net.batches) == 2 * (4 * 16 - 1)


def test_the_network_comes_back_as_it_was():
    torch.manual_seed(0)
    net = create_model("resnet_tiny:width=4").train()
    net.conv1.eval()
    before, x = snapshot(net), torch.randn(1, 3, 16, 16)
    kept = x.clone()
    faithfulness(net, x, np.ones((1, 16, 16), np.float32), [1], steps=2)
    assert_same(before, snapshot(net))
    assert torch.equal(x, kept)


def test_boxes_have_no_probability():
    class Boxes(nn.Module):
        def forward(self, x):
            return [{"scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.long)} for _ in x]

    found = faithfulness(Boxes(), torch.ones(1, 3, 8, 8), np.ones((1, 8, 8), np.float32), [1])
    assert all(np.isnan(area).all() for area in found.areas().values())


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_have_the_same_ends(steps):
    weight = weights()
    found = faithfulness(Weighted(weight), torch.ones(1, 1, 8, 8), weight[None], [0], steps=steps)
    assert found.deletion.shape == (1, steps + 1)
    np.testing.assert_allclose(found.deletion[0, [0, -1]], [sigmoid(weight.sum()), 0.5], rtol=1e-5)
