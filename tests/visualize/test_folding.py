import numpy as np
import pytest
import torch
from torch import nn

from ctxbench.ops import DilatedReparam
from ctxbench.visualize.folding import folding


def _trained(kernel_size=7, branches=None):
    """Batch norms of a fresh layer have no mean and hardly a scale."""
    torch.manual_seed(0)
    layer = DilatedReparam(3, kernel_size, branches=branches).double()
    for norm in (m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)):
        for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            value.uniform_(0.5, 2)
    return layer.eval()


@pytest.mark.parametrize("kernel_size", [7, 13, 17])
def test_parts_sum_to_the_folded_kernel(kernel_size):
    layer = _trained(kernel_size)
    (found,) = folding(nn.Sequential(layer))
    layer.fold()
    np.testing.assert_allclose(found.kernel, layer.conv.weight.detach()[:, 0], rtol=1e-12)
    np.testing.assert_allclose(found.parts.sum(0), found.kernel, rtol=1e-10, atol=1e-12)


def test_a_part_is_what_its_branch_makes_of_an_impulse():
    layer = _trained()
    (found,) = folding(nn.Sequential(layer))
    nothing = torch.zeros(1, 3, 7, 7, dtype=torch.float64)
    impulse = nothing.clone()
    impulse[..., 3, 3] = 1
    assert found.names == ("7x7", "5x5", "3x3", "3x3 dilation 2", "3x3 dilation 3")
    for part, branch in zip(found.parts, layer.branches.values(), strict=True):
        response = (branch(impulse) - branch(nothing))[0].detach()
        np.testing.assert_allclose(part, response.flip(1, 2), atol=1e-12)


def test_a_dilated_tap_by_hand():
    layer = _trained(5, [(3, 2)])
    (found,) = folding(nn.Sequential(layer))
    conv, norm = layer.branches["3_2"]
    scale = norm.weight[1] / (norm.running_var[1] + 1e-5) ** 0.5
    assert found.parts[1][1, 4, 0] == pytest.approx((conv.weight[1, 0, 2, 0] * scale).item())
    assert np.count_nonzero(found.parts[1][1]) == 9


def test_a_folded_layer_has_its_kernel_alone():
    layer = _trained()
    layer.fold()
    (found,) = folding(nn.Sequential(layer))
    assert found.folded
    assert found.parts.shape == (0, 3, 7, 7)
    assert list(found.statistics()) == ["rms_folded"]
    np.testing.assert_array_equal(found.kernel, layer.conv.weight.detach()[:, 0])


def test_statistics_by_hand():
    (found,) = folding(nn.Sequential(_trained(5, [(3, 2)])))
    told = found.statistics()
    assert told["rms_3x3_dilation_2"] == pytest.approx(np.sqrt(np.mean(found.parts[1] ** 2)))
    assert told["rms_folded"] == pytest.approx(np.sqrt(np.mean(found.kernel**2)))
    assert told["largest_difference"] < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_keeps_its_branches(dtype):
    layer = _trained().to(dtype).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    folding(nn.Sequential(layer))
    assert not layer.folded
    assert layer.training
    assert all(parameter.requires_grad for parameter in layer.parameters())
    after = layer.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())
