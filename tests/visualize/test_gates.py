import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctxbench.errors import VisualizeError
from ctxbench.ops import CGConv2d
from ctxbench.visualize.gates import Gates, GateSummary, gates


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), CGConv2d(8, 4, 3, stride=2, groups=2, bias=False))


def test_gates_are_what_the_weights_are_multiplied_by():
    model, x = _network().double().eval(), torch.randn(2, 3, 9, 7, dtype=torch.float64)

    (found,) = gates(model, x)

    assert found.layer == "1"
    assert found.gates.shape == (2, 4, 4, 3, 3)
    weights = model[1].weight * torch.from_numpy(found.gates).double()
    alone = [
        F.conv2d(model[0](image[None]), weight, stride=2, padding=1, groups=2)
        for image, weight in zip(x, weights, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), model(x), rtol=1e-5, atol=1e-6)


def test_a_plain_1x1_has_no_gates_and_is_left_out():
    model = nn.Sequential(CGConv2d(4, 4, 1), CGConv2d(4, 4, 3))
    assert [found.layer for found in gates(model, torch.randn(2, 4, 8, 8))] == ["1"]
    with pytest.raises(
        VisualizeError, match="Sequential has no layer of CGC at '0'. There are '1'."
    ):
        gates(model, torch.randn(2, 4, 8, 8), layers=["0"])


def test_gates_of_bfloat16_are_between_zero_and_one():
    (found,) = gates(_network().bfloat16(), torch.randn(2, 3, 9, 7))
    assert found.gates.dtype == np.float32
    assert 0 < found.gates.min() < found.gates.max() < 1


def test_the_network_comes_back_as_it_was():
    model = _network().train()
    before = model[1].gate.input_norm.running_mean.clone()
    gates(model, torch.randn(2, 3, 9, 7))
    assert model[1].gate.input_norm.training
    assert model[1].weight.requires_grad
    assert not model[1]._forward_hooks
    assert torch.equal(model[1].gate.input_norm.running_mean, before)


def test_a_layer_called_twice_has_no_one_gate():
    layer = CGConv2d(4, 4, 3)
    with pytest.raises(VisualizeError, match="Layer '0' is called 2 times"):
        gates(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 4, 8, 8))


def test_a_summary_of_batches_is_that_of_all_images():
    values = np.random.default_rng(0).random((7, 3, 2, 3, 3))
    parts = [GateSummary.of(Gates("layer", part)) for part in np.split(values, [1, 4])]

    summary = parts[0] + parts[1] + parts[2]

    assert summary.images == 7
    np.testing.assert_array_equal(summary.first, values[0])
    np.testing.assert_allclose(summary.mean, values.mean(0))
    np.testing.assert_allclose(summary.between(), values.std(0, ddof=1))
    told = summary.statistics()
    assert told["mean_gate"] == pytest.approx(values.mean())
    assert told["std_between_images"] == pytest.approx(values.var(0, ddof=1).mean() ** 0.5)
    assert told["std_within_image"] == pytest.approx(np.mean([image.std() for image in values]))


def test_one_image_tells_nothing_about_others():
    summary = GateSummary.of(Gates("layer", np.full((1, 2, 2, 3, 3), 0.5)))
    assert summary.between() is None
    assert summary.statistics() == {"mean_gate": 0.5, "std_within_image": 0}
