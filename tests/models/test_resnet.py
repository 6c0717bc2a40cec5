"""ResNet and CoResNet: counts of the papers, strides, dilations, the moved norm."""

import pytest
import torch

import ctxbench
from ctxbench.errors import SpecError, UnknownNameError
from ctxbench.models import create_model, resolve, without_weights
from ctxbench.models.resnet import ResNetConfig, places_of
from ctxbench.ops import CoConv2d


def _count(spec, side=224):
    network = resolve(spec)
    return ctxbench.count(without_weights(network), *network.inputs(1, side, side))


# parameters: torchvision's documentation of the same networks; MACs: see the paper's Table 5
@pytest.mark.parametrize(
    ("depth", "params"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_variant_and_baseline_have_the_known_parameters(depth, params):
    plain, context = _count(f"resnet{depth}", 64), _count(f"coresnet{depth}", 64)
    assert plain.params == context.params == params
    assert plain.macs == context.macs


@pytest.mark.parametrize("levels", ["1,1,1,1", "2,2,2,1", "3,3,2,1", "3,3,3,3", "4,3,2,1", "top"])
def test_every_row_of_table_3_costs_the_same(levels):
    counted = _count(f"coresnet50:levels={levels}")
    assert (counted.params, counted.macs) == (25_557_032, 4_089_184_256)


def test_levels_reach_the_convolutions():
    model = create_model("coresnet50:levels=3,3,2,1:width=16")
    found = {
        name: module.levels
        for name, module in model.named_modules()
        if isinstance(module, CoConv2d) and name.endswith(".0.conv2")
    }
    assert found == {
        "layer1.0.conv2": ((8, 1), (4, 2), (4, 3)),
        "layer2.0.conv2": ((16, 1), (8, 2), (8, 3)),
        "layer3.0.conv2": ((32, 1), (32, 2)),
        "layer4.0.conv2": ((128, 1),),
    }


def test_top_is_the_largest_dilation_of_each_stage():
    model = create_model("coresnet_tiny:levels=top")
    dilations = [m.levels[0][1] for m in model.modules() if isinstance(m, CoConv2d)]
    assert dilations == [4, 3, 2, 1]


@pytest.mark.parametrize("spec", ["resnet18", "resnet50", "coresnet50", "coresnet18:stem=small"])
@pytest.mark.parametrize("output_stride", [16, 8])
@torch.inference_mode()
def test_a_finer_output_stride_computes_the_same_function_on_a_finer_grid(spec, output_stride):
    torch.manual_seed(0)
    fine = create_model(f"{spec}:width=8:output_stride={output_stride}").double().eval()
    coarse = create_model(f"{spec}:width=8").double().eval()
    coarse.load_state_dict(fine.state_dict())
    x = torch.randn(1, 3, 75, 96, dtype=torch.float64)
    for near, far in zip(fine.features(x), coarse.features(x), strict=True):
        step = -(-near.shape[-1] // far.shape[-1])
        torch.testing.assert_close(near[..., ::step, ::step], far, rtol=1e-10, atol=1e-10)
    assert near.shape[-1] == (32 // output_stride) * far.shape[-1]


def test_stride_8_dilates_stages_3_and_4_by_2_and_4():
    places = places_of(ResNetConfig(output_stride=8))
    assert [(stage[0].stride, stage[0].entry_dilation, stage[-1].dilation) for stage in places] == [
        (1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4),
    ]  # fmt: skip


@torch.inference_mode()
def test_end_norm_applies_the_last_norm_behind_the_addition():
    torch.manual_seed(0)
    model = create_model("coresnet_tiny:end_norm=true").double().eval()
    block = model.layer1[-1]
    for tensor in block.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, 16, 9, 7, dtype=torch.float64)
    y = torch.relu(block.bn1(block.conv1(x)))
    y = torch.relu(block.bn2(block.conv2(y)))
    expected = torch.relu(block.end_norm(block.conv3(y) + block.downsample(x)))
    torch.testing.assert_close(block(x), expected)


def test_end_norm_moves_parameters_and_adds_none():
    moved, plain = _count("coresnet50:end_norm=true", 64), _count("coresnet50", 64)
    assert moved.params == plain.params
    names = create_model("coresnet_tiny:end_norm=true").state_dict()
    assert "layer1.0.end_norm.weight" in names
    assert "layer1.0.bn3.weight" not in names


def test_shape_options():
    model = create_model(
        "coresnet50:num_classes=37:in_channels=1:width=8:blocks=1,2:levels=2,1:stem=small"
    )
    assert model(torch.zeros(2, 1, 16, 24)).shape == (2, 37)
    assert [len(model.layer1), len(model.layer2)] == [1, 2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("coresnet50:levels=4,3", "levels=4,3 names 2 stages and the network has 4"),
        ("coresnet50:levels=9,3,2,1", "level 9 is none. Give 1 to 5"),
        ("coresnet50:levels=4,x,2,1", "level x is none"),
        ("coresnet50:levels=top,3,2,1", "level top is none.*top alone for all stages"),
        ("resnet50:output_stride=4", "output_stride=4 is not 32 or 16 or 8"),
        ("resnet50:num_classes=ten", "num_classes=ten is not a whole number"),
        ("resnet50:end_norm=maybe", "end_norm=maybe is not true or false"),
        ("resnet50:num_classes=0", "resnet50: num_classes=0 is out of range"),
        ("ssd300_resnet50:blocks=0,1,1", "blocks=0,1,1 is out of range"),
        ("resnet50:block=wide", "block=wide is not basic or bottleneck"),
    ],
)
def test_a_wrong_value_is_named(spec, message):
    with pytest.raises(SpecError, match=message):
        create_model(spec)


def test_a_wrong_option_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'level'\. Did you mean 'levels'\?"):
        create_model("coresnet50:level=4")
