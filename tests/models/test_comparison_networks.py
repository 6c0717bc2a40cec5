"""The networks that the CoConv paper compares with: counts, definitions, gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ctxbench.errors import SpecError
from ctxbench.models import create_model, resolve
from ctxbench.models.nonlocal_resnet import NonLocal
from ctxbench.models.progan import latents
from ctxbench.models.se_resnet import SqueezeExcitation
from ctxbench.ops import CoConv2d

SMALL = ":width=8:blocks=1,1,1,1:num_classes=5"
SMALL_SSD = ":width=8:blocks=1,1,1:num_classes=3"
SMALL_GAN = ":widths=8,8,8,8,8,8:latent=6"
SMALL_NETWORKS = [
    f"preact_resnet50{SMALL}",
    f"preact_resnet18{SMALL}",
    f"se_resnet50{SMALL}",
    f"nl_resnet50{SMALL}",
    f"ssd300_resnet50{SMALL_SSD}",
    f"ssd300_coresnet50{SMALL_SSD}",
    f"progan128{SMALL_GAN}",
    f"coprogan128{SMALL_GAN}",
]


def on_meta(spec):
    with torch.device("meta"):
        return create_model(spec)


def params(spec):
    return sum(parameter.numel() for parameter in on_meta(spec).parameters())


def macs(spec):
    network = resolve(spec)
    (x,) = network.inputs(1, network.image_px, network.image_px)
    with FlopCounterMode(display=False) as counter:
        on_meta(spec).eval()(x.to("meta"))
    return counter.get_total_flops() / 2


def randomise(module):
    """Fill every parameter and statistic, so that no term of a definition is zero or one."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 1.0)
    for name, tensor in module.named_parameters():
        if tensor.ndim > 1 or name.endswith("bias"):
            nn.init.normal_(tensor, std=0.3)
    return module.double().eval()


def batch_norm(x, norm):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def assert_same(actual, expected, x):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn_like(actual)
    grads = [torch.autograd.grad(y, x, upstream)[0] for y in (actual, expected)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "published_m"),
    [
        ("preact_resnet50:shortcut_norm=true", 25.56),
        ("preact_resnet101:shortcut_norm=true", 44.55),
        ("preact_resnet152:shortcut_norm=true", 60.19),
        ("se_resnet50", 28.07),
        ("se_resnet101", 49.29),
        ("se_resnet152", 66.77),
        ("nl_resnet50", 36.72),
        ("nl_resnet101", 55.71),
        ("nl_resnet152", 71.35),
    ],
)
def test_parameters_of_table_5(spec, published_m):
    assert round(params(spec) / 1e6, 2) == published_m


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_preact_has_the_parameters_of_resnet_without_the_norms_of_its_shortcuts(depth):
    shortcut_norms = 2 * (256 + 512 + 1024 + 2048)
    assert params(f"preact_resnet{depth}") == params(f"resnet{depth}") - shortcut_norms


@pytest.mark.parametrize("kind", ["resnet", "coresnet"])
@pytest.mark.parametrize(
    ("depth", "count", "gmacs"), [(50, 22894902, 20.15), (101, 41887030, 47.5)]
)
def test_counts_of_ssd300(kind, depth, count, gmacs):
    spec = f"ssd300_{kind}{depth}"
    assert params(spec) == count
    assert round(macs(spec) / 1e9, 2) == gmacs


@pytest.mark.parametrize("name", ["progan128", "coprogan128"])
def test_counts_of_progan_are_those_of_its_table(name):
    convs = [(512, 512, 4)]  # (channels, width, image side) of every 3x3 convolution
    for before, width, side in [
        (512, 512, 8), (512, 512, 16), (512, 512, 32), (512, 256, 64), (256, 128, 128),
    ]:  # fmt: skip
        convs += [(before, width, side), (width, width, side)]
    ends = 512 * 512 * 16 + 512 + 128 * 3 + 3
    end_macs = 512 * 512 * 16 + 128 * 3 * 128**2
    assert params(name) == ends + sum(9 * c * width + width for c, width, _ in convs)
    assert macs(name) == end_macs + sum(9 * c * width * side**2 for c, width, side in convs)


@pytest.mark.parametrize("name", ["progan128", "coprogan128"])
def test_totals_of_the_progan_table_belong_to_a_wider_generator(name):
    spec = f"{name}:widths=512,512,512,512,512,256"
    assert params(spec) / 1e6 == pytest.approx(27.21, abs=0.01)
    assert macs(spec) / 1e9 == pytest.approx(54.76, abs=0.05)


@pytest.mark.parametrize("spec", SMALL_NETWORKS)
def test_every_parameter_gets_a_gradient(spec):
    torch.manual_seed(0)
    network = resolve(spec)
    model = network.build()
    for module in model.modules():
        if isinstance(module, NonLocal):  # starts as identity, with dead weights behind the scale
            nn.init.ones_(module.norm.weight)
    side = 64 if network.image_px == 224 else network.image_px
    (x,) = network.inputs(3, side, side)
    model(torch.randn_like(x)).square().sum().backward()
    dead = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize("spec", [f"{kind}_resnet50{SMALL}" for kind in ("preact", "se", "nl")])
@pytest.mark.parametrize("size", [(32, 32), (33, 64)])
def test_classifiers_return_logits(spec, size):
    assert create_model(spec).eval()(torch.randn(2, 3, *size)).shape == (2, 5)


def test_preact_block_is_the_definition():
    torch.manual_seed(0)
    x = torch.randn(2, 32, 6, 7, dtype=torch.float64, requires_grad=True)
    block = randomise(create_model(f"preact_resnet50{SMALL}").layer2[0])
    conv1, norm_relu1, conv2, norm_relu2, conv3 = block.residual
    y = batch_norm(x, block.preact[0]).relu()
    z = batch_norm(F.conv2d(y, conv1.weight), norm_relu1[0]).relu()
    z = batch_norm(F.conv2d(z, conv2.weight, stride=2, padding=1), norm_relu2[0]).relu()
    expected = F.conv2d(z, conv3.weight) + F.conv2d(y, block.shortcut[0].weight, stride=2)
    assert_same(block(x), expected, x)


def test_preact_block_of_constant_shape_adds_to_what_came_in():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64, requires_grad=True)
    block = randomise(create_model(f"preact_resnet18{SMALL.replace('1,1,1,1', '2')}").layer1[1])
    conv1, norm_relu, conv2 = block.residual
    y = F.conv2d(batch_norm(x, block.preact[0]).relu(), conv1.weight, padding=1)
    expected = x + F.conv2d(batch_norm(y, norm_relu[0]).relu(), conv2.weight, padding=1)
    assert_same(block(x), expected, x)


def test_preact_activates_after_the_stem_and_before_the_classifier():
    model = randomise(create_model(f"preact_resnet50{SMALL}"))
    assert isinstance(model.layer1[0].preact, nn.Identity)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    last = batch_norm(model.features(x)[-1], model.neck[0]).relu()
    torch.testing.assert_close(model(x), model.fc(last.mean((2, 3))))


def test_preact_output_stride_computes_the_same_on_a_finer_grid():
    coarse, fine = (
        create_model(f"preact_resnet50{SMALL}{stride}") for stride in ("", ":output_stride=8")
    )
    fine.load_state_dict(randomise(coarse).state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    last = fine.double().eval().features(x)[-1]
    torch.testing.assert_close(last[..., ::4, ::4], coarse.features(x)[-1])


def test_squeeze_excitation_is_the_definition():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64, requires_grad=True)
    block = randomise(SqueezeExcitation(8, reduction=4))
    rows = []
    for sample in x:
        hidden = (block.squeeze.weight @ sample.mean((1, 2))).clamp(min=0)
        gates = 1 / (1 + torch.exp(-(block.excite.weight @ hidden)))
        rows.append(torch.stack([gates[c] * sample[c] for c in range(8)]))
    assert_same(block(x), torch.stack(rows), x)


@pytest.mark.parametrize("size", [(3, 3), (2, 4)])
def test_non_local_block_is_the_definition(size):
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    block = randomise(NonLocal(4))

    def embed(conv, vector):
        return conv.weight[:, :, 0, 0] @ vector + conv.bias

    samples = []
    for sample in x.flatten(2):
        positions = sample.unbind(1)
        rows = []
        for i in positions:
            weights = [torch.exp(embed(block.theta, i) @ embed(block.phi, j)) for j in positions]
            terms = [w * embed(block.g, j) for w, j in zip(weights, positions, strict=True)]
            rows.append(embed(block.out, sum(terms) / sum(weights)))
        samples.append(torch.stack(rows, dim=1))
    expected = x + batch_norm(torch.stack(samples).view_as(x), block.norm)
    assert_same(block(x), expected, x)


def test_non_local_network_starts_as_its_baseline():
    model, baseline = create_model(f"nl_resnet50{SMALL}"), create_model(f"resnet50{SMALL}")
    baseline.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.eval()(x), baseline.eval()(x))
    assert model.layer1[-1].theta.weight.std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("name", ["ssd300_resnet50", "ssd300_coresnet50"])
def test_ssd300_predicts_8732_boxes(name):
    assert on_meta(name).eval()(torch.zeros(1, 3, 300, 300, device="meta")).shape == (1, 8732, 85)


@torch.no_grad()
def test_ssd_rows_go_map_by_map_then_row_by_row_then_box_by_box():
    torch.manual_seed(0)
    model = create_model(f"ssd300_resnet50{SMALL_SSD}").eval()
    x = torch.randn(2, 3, 257, 300)
    rows = []
    heads = zip(model.maps(x), model.location, model.scores, (4, 6, 6, 6, 4, 4), strict=True)
    for y, location, scores, boxes in heads:
        offsets, classes = location(y), scores(y)
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                for box in range(boxes):
                    offset = offsets[:, 4 * box : 4 * box + 4, i, j]
                    rows.append(torch.cat([offset, classes[:, 3 * box : 3 * box + 3, i, j]], dim=1))
    torch.testing.assert_close(model(x), torch.stack(rows, dim=1))


@pytest.mark.parametrize("kind", ["resnet", "coresnet"])
def test_ssd_backbone_ends_after_a_third_stage_of_stride_1(kind):
    model = on_meta(f"ssd300_{kind}50")
    third = model.backbone.layer3.modules()
    assert {tuple(m.stride) for m in third if isinstance(m, nn.Conv2d | CoConv2d)} == {(1, 1)}
    assert not any("layer4" in key or ".fc" in key for key in model.state_dict())


def test_ssd_stage_3_is_not_dilated_beyond_its_levels():
    plain, variant = (on_meta(f"ssd300_{kind}50").backbone for kind in ("resnet", "coresnet"))
    assert {block.conv2.dilation for block in plain.layer3} == {(1, 1)}
    assert {block.conv2.levels for block in variant.layer3} == {((128, 1), (128, 2))}


@pytest.mark.parametrize("spec", ["progan128", "coprogan128:levels=1,2,3"])
def test_progan_is_the_definition(spec):
    torch.manual_seed(0)
    model = randomise(create_model(f"{spec}:widths=6,4,4:latent=5"))
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def normalised(y):
        return y / (y.square().sum(1, keepdim=True) / y.shape[1] + 1e-8).sqrt()

    def activated(y):
        return normalised(torch.where(y > 0, y, 0.2 * y))

    start, _, _, conv, *_ = model.layers[0]
    y = torch.einsum("bz,zoij->boij", normalised(x), start.weight) + start.bias[:, None, None]
    y = activated(conv(activated(y)))
    for _, first, _, _, second, _, _ in model.layers[1:]:
        y = y.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        y = activated(second(activated(first(y))))
    assert_same(model(x), F.conv2d(y, model.to_rgb.weight, model.to_rgb.bias), x)


def test_coprogan_splits_the_channels_as_table_2():
    layers = on_meta("coprogan128").layers
    levels = [{m.levels for m in layer if isinstance(m, CoConv2d)} for layer in layers]
    assert levels == [
        {((512, 1),)},
        {((256, 1), (256, 2))},
        {((172, 1), (170, 2), (170, 3))},
        {((128, 1), (128, 2), (128, 3), (128, 4))},
        {((64, 1), (64, 2), (64, 3), (64, 4))},
        {((32, 1), (32, 2), (32, 3), (32, 4))},
    ]


@pytest.mark.parametrize("name", ["progan128", "coprogan128"])
def test_progan_makes_images_of_latents(name):
    network = resolve(f"{name}{SMALL_GAN}")
    (x,) = network.inputs(2, 128, 128)
    assert x.shape == latents({"latent": 6}, 2, 128, 128).shape == (2, 6)
    assert network.build()(torch.randn_like(x)).shape == (2, 3, 128, 128)


def test_progan_starts_with_the_scale_of_the_equalised_learning_rate():
    model = create_model("progan128:widths=64,64")
    assert model.layers[1][1].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert model.to_rgb.weight.std().item() == pytest.approx((1 / 64) ** 0.5, rel=0.2)
    assert not any(p.any() for key, p in model.named_parameters() if key.endswith("bias"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("preact_resnet50:end_norm=true", "pre-activation has none"),
        ("se_resnet50:reduction=512", "from 1 to the 256 channels"),
        ("ssd300_resnet50:blocks=3,4,6,3", "should be three"),
        ("ssd300_resnet50:num_classes=0", "num_classes=0 is out of range"),
        ("ssd300_coresnet50:levels=4,3,2,1", "one level per stage"),
        ("progan128:latent=0", "latent=0 is out of range"),
        ("coprogan128:levels=1,2", "one level per resolution"),
        ("coprogan128:levels=0,2,3,4,4,4", "count from 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(spec, message):
    with pytest.raises(SpecError, match=message):
        on_meta(spec)


def test_ssd_names_the_smallest_image():
    model = on_meta("ssd300_resnet50").eval()
    with pytest.raises(ValueError, match=r"at least 257 px .* got \(300, 256\)"):
        model(torch.zeros(1, 3, 300, 256, device="meta"))
