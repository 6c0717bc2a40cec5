"""Where displaced convolutions sample: what is told is what the operators do."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d, deform_conv2d

from ctxbench import ContextualConv2d, create_model
from ctxbench.errors import VisualizeError
from ctxbench.visualize.offsets import sampled_layers, sampling
from tests.visualize.deformable import Deformable, contextual, last_bias, weight_of


def nudged_tiny(std=0.3, **options):
    torch.manual_seed(0)
    network = create_model("ctx_resnet_tiny:width=4:num_classes=10:in_channels=1", **options).eval()
    for module in network.modules():
        if isinstance(module, ContextualConv2d):
            nn.init.normal_(module.offset_net[-1].weight, std=std)
            nn.init.normal_(module.offset_net[-1].bias, std=std)
    return network


each_kind = pytest.mark.parametrize("build", [contextual, Deformable])


@each_kind
@pytest.mark.parametrize(("axis", "row", "column"), [(0, 1.0, 0.0), (1, 0.0, 1.0)])
@pytest.mark.parametrize("tap", [0, 5])
def test_channel_2k_moves_tap_k_down_and_the_next_one_right(build, axis, row, column, tap):
    network = build()
    before = sampling(network, torch.zeros(1, 1, 6, 8))[0].places
    with torch.no_grad():
        last_bias(network)[2 * tap + axis] = 1.0
    moved = sampling(network, torch.zeros(1, 1, 6, 8))[0].places - before

    assert (moved[0, 0, tap] == [row, column]).all()
    assert not np.delete(moved[0, 0], tap, axis=0).any()


@each_kind
@pytest.mark.parametrize("tap", range(9))
def test_a_tap_reads_the_pixel_that_is_told(build, tap):
    network = build()
    with torch.no_grad():
        last_bias(network)[:18] = torch.arange(18) % 5 - 2.0  # whole pixels, all different
        weight_of(network).zero_().flatten()[tap] = 1.0
    y, x = 4, 5
    place = sampling(network, torch.zeros(1, 1, 10, 11))[0].places[0, 0, tap, y, x]

    bright = torch.zeros(1, 1, 10, 11)
    bright[0, 0, int(place[0]), int(place[1])] = 1.0
    with torch.no_grad():
        read = network(bright)[0, 0, y, x]
    assert read == 0.5  # the mask of a new layer
    moved = last_bias(network)[2 * tap : 2 * tap + 2].tolist()
    assert place.tolist() == [y - 1 + tap // 3 + moved[0], x - 1 + tap % 3 + moved[1]]


@each_kind
def test_zero_offsets_are_the_regular_grid(build):
    found = sampling(build(), torch.randn(2, 1, 5, 7))[0]
    y, x = 3, 6
    grid = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert (found.places[1, 0, :, y, x] == grid).all()
    assert found.zero


@pytest.mark.parametrize(
    ("stride", "dilation", "kernel"), [(2, 1, 3), (1, 2, 3), (2, 2, 3), (1, 1, 7)]
)
@each_kind
def test_regular_grid_of_strides_dilations_and_kernels(build, stride, dilation, kernel):
    found = sampling(build(2, kernel, stride=stride, dilation=dilation), torch.randn(1, 2, 9, 12))[
        0
    ]
    half = kernel // 2
    taps = [
        (i * dilation, j * dilation) for i in range(-half, half + 1) for j in range(-half, half + 1)
    ]
    assert found.output_size == (-(-9 // stride), -(-12 // stride))
    for y, x in ((0, 0), (1, 2), (found.output_size[0] - 1, found.output_size[1] - 1)):
        assert (found.regular[:, y, x] == np.array((y, x)) * stride + taps).all()


def test_depthwise_7x7():
    found = sampling(contextual(3, 7, groups=3), torch.randn(1, 3, 8, 8))[0]
    assert found.places.shape == (1, 1, 49, 8, 8, 2)


def test_kernels_may_be_oblong():
    class Oblong(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(1, 1, (1, 3), padding=(0, 1), stride=(2, 1))

        def forward(self, x):
            return self.conv(x, x.new_zeros(len(x), 6, 4, 6))

    found = sampling(Oblong(), torch.zeros(1, 1, 7, 6))[0]
    assert found.window.kernel_size == (1, 3)
    assert (found.places[0, 0, :, 3, 2] == [(6, 1), (6, 2), (6, 3)]).all()


def test_masks_and_no_masks():
    with_mask, without = Deformable(), Deformable(masks=False)
    with torch.no_grad():
        with_mask.offsets.bias[18 + 4] = 2.0
    x = torch.zeros(1, 1, 4, 4)
    mask = sampling(with_mask, x)[0].mask
    assert mask[0, 0, 4] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert (np.delete(mask[0, 0], 4, axis=0) == 0.5).all()
    assert (sampling(without, x)[0].mask == 1).all()


def test_offset_groups_stay_apart():
    network = Deformable(4, groups=2)
    with torch.no_grad():
        network.offsets.bias[18 + 2 * 3 + 1] = 1.5  # group 1, tap 3, dx
    found = sampling(network, torch.zeros(1, 4, 5, 5))[0]
    assert found.offset.shape == (1, 2, 9, 5, 5, 2)
    assert (found.offset[0, 1, 3] == [0, 1.5]).all()
    assert np.abs(found.offset).sum() == 1.5 * 25

    bright = torch.zeros(1, 4, 5, 5)
    bright[:, 2] = torch.arange(5.0)  # read by the second group alone
    with torch.no_grad():
        network.conv.weight.zero_()[0, 2].flatten()[3] = 1.0
        assert network(bright)[0, 0, 2, 2] == 0.5 * (2 - 1 + 1.5)


def test_offsets_are_those_of_the_forward_pass():
    network, x = nudged_tiny(), torch.randn(2, 1, 16, 24)
    used = {}
    for name in sampled_layers(network):
        network.get_submodule(f"{name}.offset_net").register_forward_hook(
            lambda _, __, output, name=name: used.setdefault(name, output.detach())
        )
    with torch.no_grad():
        network(x)
    for found in sampling(network, x):
        offset_BT2YX = used[found.layer][:, :18].unflatten(1, (9, 2)).numpy()
        np.testing.assert_array_equal(found.offset[:, 0], np.moveaxis(offset_BT2YX, 2, -1))
        np.testing.assert_array_equal(found.mask[:, 0], used[found.layer][:, 18:].sigmoid().numpy())


def test_layers_come_in_the_order_in_which_they_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = Deformable(stride=2), Deformable()

        def forward(self, x):
            return self.second(self.first(x))

    found = sampling(Backwards(), torch.zeros(1, 1, 8, 8))
    assert [layer.layer for layer in found] == ["first.conv", "second.conv"]


def test_layers_that_call_the_operation_themselves_are_found():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1, 3, 3))

        def forward(self, x):
            return deform_conv2d(
                x, x.new_full((len(x), 18, *x.shape[2:]), 0.5), self.weight, padding=1
            )

    network = nn.Sequential(nn.ReLU(), Own())
    assert sampled_layers(network) == []
    found = sampling(network, torch.zeros(1, 1, 4, 4))
    assert [layer.layer for layer in found] == ["1"]
    assert (found[0].offset == 0.5).all()


def test_a_subclass_that_makes_its_own_offsets():
    class Packed(DeformConv2d):
        def forward(self, x):
            return super().forward(x, x.new_zeros(len(x), 18, *x.shape[2:]))

    found = sampling(nn.Sequential(Packed(1, 1, 3, padding=1)), torch.zeros(1, 1, 4, 4))
    assert [layer.layer for layer in found] == ["0"]


def test_a_layer_called_twice_is_left_out_or_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.single = Deformable(), Deformable()

        def forward(self, x):
            return self.single(self.shared(self.shared(x)))

    x = torch.zeros(1, 1, 4, 4)
    assert [layer.layer for layer in sampling(Twice(), x)] == ["single.conv"]
    with pytest.raises(VisualizeError, match=r"'shared.conv' is called 2 times.*: single.conv"):
        sampling(Twice(), x, layers=["shared.conv"])


@pytest.mark.parametrize("name", ["layer9", "backbone.layer1.0.conv2"])
def test_what_displaces_nothing_is_refused_with_what_does(name):
    with pytest.raises(VisualizeError, match=rf"{name}' displaces no .*backbone.layer2.0.conv2"):
        sampling(nudged_tiny(), torch.zeros(1, 1, 16, 16), layers=[name])


@pytest.mark.parametrize(
    ("spec", "has"),
    [
        ("resnet_tiny", "17 Conv2d"),
        ("ctx_resnet_tiny:parts=kernels", r"ContextualConv2d \(parts='kernels'\)"),
    ],
)
def test_a_network_without_offsets_is_refused(spec, has):
    with pytest.raises(VisualizeError, match=rf"{has}.*ctx_resnet50.*DeformConv2d"):
        sampling(create_model(spec), torch.zeros(1, 3, 16, 16))


def test_the_network_comes_back_as_it_was():
    network = nudged_tiny()
    network.train()
    network.backbone.layer2.eval()
    network.backbone.layer3.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    required = [p.requires_grad for p in network.parameters()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    sampling(network, torch.randn(1, 1, 16, 16))
    with pytest.raises(VisualizeError, match="channels"):
        sampling(network.backbone.layer2[0].conv2, torch.randn(1, 3, 8, 8))

    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == required
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_bfloat16_and_channels_last():
    network = nudged_tiny()
    x = torch.randn(1, 1, 16, 16)
    exact = sampling(network, x)[0]
    coarse = sampling(network.to(torch.bfloat16, memory_format=torch.channels_last), x)[0]
    assert coarse.offset.dtype == np.float32
    np.testing.assert_allclose(coarse.offset, exact.offset, atol=0.05 * np.abs(exact.offset).max())


def test_compiled_networks_run_uncompiled():
    network, x = nudged_tiny(), torch.randn(1, 1, 16, 16)
    plain, compiled = (sampling(model, x) for model in (network, torch.compile(network)))
    assert [layer.layer for layer in compiled] == [layer.layer for layer in plain]
    np.testing.assert_array_equal(compiled[2].places, plain[2].places)
