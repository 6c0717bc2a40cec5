import math

import numpy as np
import pytest
import torch
from torch import nn

from ctxbench import ContextualConv2d, create_model
from ctxbench.errors import UnknownNameError, VisualizeError
from ctxbench.visualize.erf import Erf, erf
from ctxbench.visualize.erf_summary import SHARES, ErfTotal
from ctxbench.visualize.field import Field, field_of


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _textbook(chain, size, place):
    """Walk back from a place through (kernel, stride, padding, dilation), a map at a time."""
    sizes = [size]
    for kernel, stride, padding, dilation in chain:
        sizes.append((sizes[-1] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    seen = {place}
    for (kernel, stride, padding, dilation), before in zip(
        reversed(chain), reversed(sizes[:-1]), strict=True
    ):
        taps = {at * stride - padding + dilation * tap for at in seen for tap in range(kernel)}
        seen = {tap for tap in taps if 0 <= tap < before}
    return min(seen), max(seen)


CHAINS = [
    [(3, 1, 1, 1)],
    [(3, 1, 1, 1), (5, 1, 2, 1), (3, 1, 1, 1)],
    [(7, 2, 3, 1), (3, 2, 1, 1), (3, 1, 1, 1)],
    [(3, 1, 4, 4), (3, 2, 2, 2)],
    [(4, 4, 0, 1), (7, 1, 3, 1), (2, 2, 0, 1)],
    [(3, 3, 0, 1), (3, 1, 0, 2), (5, 2, 1, 1)],
]


def _network(chain):
    layers, channels = [], 2
    for number, (kernel, stride, padding, dilation) in enumerate(chain):
        if number % 3 == 1 and 2 * padding <= kernel:
            layers.append(nn.MaxPool2d(kernel, stride, padding, dilation))
        else:
            layers.append(nn.Conv2d(channels, 3, kernel, stride, padding, dilation))
            channels = 3
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@pytest.mark.parametrize("place", ["first", "centre", "last"])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_field_of_a_chain_is_the_textbooks(chain, place):
    height, width = 37, 52
    model = _network(chain)
    rows, columns = model(torch.zeros(1, 2, height, width)).shape[2:]
    row, column = {
        "first": (0, 0), "centre": (rows // 2, columns // 2), "last": (rows - 1, columns - 1),
    }[place]  # fmt: skip

    found = field_of(model, (2, height, width), str(len(model) - 1), (row, column))

    assert (found.top, found.bottom) == _textbook(chain, height, row)
    assert (found.left, found.right) == _textbook(chain, width, column)


# the fields of ResNet-18's stages, from the recursion over its kernels and strides
@pytest.mark.parametrize(
    ("layer", "side", "size"), [("layer1", 43, 96), ("layer2", 99, 128), ("layer4", 435, 480)]
)
def test_the_field_of_resnet18(layer, side, size):
    model = create_model("resnet18:width=2")
    found = field_of(model, (3, size, size), layer)
    assert (found.height, found.width) == (side, side)


def test_the_field_of_dilated_levels_is_that_of_the_largest():
    model = nn.Sequential(create_model("coresnet_tiny").layer1[0].conv2)
    channels = model[0].in_channels
    assert field_of(model, (channels, 20, 24), "0", (10, 9)) == Field(6, 14, 5, 13)


def test_the_field_of_a_patch_is_the_patch():
    model = create_model("convnext_nano")
    assert field_of(model, (3, 32, 48), "downsample_layers.0.0", (3, 7)) == Field(6, 7, 14, 15)


@pytest.mark.parametrize(
    ("spec", "layer"), [("cgc_resnet_tiny", "layer1"), ("overlock_tiny", "head.2")]
)
def test_a_global_context_makes_the_field_the_whole_image(spec, layer):
    assert field_of(create_model(spec), (3, 48, 64), layer).is_whole(48, 64)


def test_weights_of_zero_do_not_shrink_the_field():
    model = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2))
    nn.init.zeros_(model[0].weight)
    assert field_of(model, (1, 12, 12), "0", (6, 6)) == Field(4, 8, 4, 8)


def test_the_field_of_displaced_taps_is_where_they_look_and_what_displaces_them():
    op = ContextualConv2d(1, 1, 3, parts="offsets", mask=False)
    down = torch.zeros(18)
    down[0::2] = 5  # dy of each of the nine taps
    op.offset_net[-1].bias.data = down
    # the displacements see rows 9 to 11, the taps read rows 14 to 16
    found = field_of(nn.Sequential(op), (1, 24, 24), "0", (10, 10))
    assert (found.top, found.bottom, found.left, found.right) == (9, 17, 9, 12)


def test_fields_of_several_images_are_united():
    op = ContextualConv2d(1, 1, 1, parts="offsets", mask=False)
    op.offset_net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    op.offset_net[0].weight.data[:] = torch.tensor([1.0, 0.0])[:, None, None, None]
    up, down = torch.full((1, 1, 20, 20), -3.0), torch.full((1, 1, 20, 20), 3.0)
    model = nn.Sequential(op)
    found = [field_of(model, x, "0", (10, 10)) for x in (up, down, torch.cat([up, down]))]
    assert [(field.top, field.bottom) for field in found] == [(7, 10), (10, 14), (7, 14)]


def test_the_field_of_class_scores_is_the_whole_image():
    assert field_of(create_model("resnet_tiny"), (3, 33, 40), "output") == Field(0, 32, 0, 39)


class _Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.layer(torch.ones_like(x)).mean((2, 3))


def test_a_layer_that_no_pixel_reaches_has_no_field():
    with pytest.raises(VisualizeError, match="map of layer 'layer' depends on no pixel"):
        field_of(_Deaf(), (1, 8, 8), "layer")


def test_a_map_that_is_no_number_has_no_field():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    model[0].bias.data[:] = math.nan
    with pytest.raises(VisualizeError, match="is no number by itself"):
        field_of(model, (1, 8, 8), "0")


def test_measuring_a_field_leaves_the_network_alone():
    model = create_model("resnet_tiny:width=4").train().half()
    field_of(model, (3, 16, 16), "layer1")
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not any(module._forward_hooks for module in model.modules())


def _jacobian_energy(function, x):
    """Return the sum of squared derivatives by pixel, divided by its total, from the Jacobian."""
    energy = []
    for image in x:
        jacobian = torch.autograd.functional.jacobian(lambda i: function(i[None])[0], image)
        squares = jacobian.square().sum((0, 1))
        energy.append(squares / squares.sum())
    return torch.stack(energy).numpy()


def _bent(outputs=6):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, outputs, 3, 2, 1), nn.Tanh()
    ).double()


def test_the_energy_of_a_convolution_is_that_of_its_kernel():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))
    found = erf(model, torch.randn(2, 3, 9, 12), layer="0", position=(4, 6), probes=5)
    kernel = model[0].weight.detach().double().square().sum((0, 1))
    expected = np.zeros((2, 9, 12))
    expected[:, 3:6, 5:8] = kernel / kernel.sum()
    np.testing.assert_allclose(found.energies, expected, rtol=1e-5)


def test_as_many_probes_as_channels_give_the_jacobian():
    model, x = _bent(), torch.randn(2, 3, 8, 10, dtype=torch.float64)
    found = erf(model, x, probes=6)
    expected = _jacobian_energy(lambda i: model(i)[:, :, 2, 2], x)
    np.testing.assert_allclose(found.energies, expected, rtol=1e-10, atol=1e-15)
    assert found.position == (2, 2)


def test_random_signs_give_the_jacobian_on_average():
    model, x = _bent(outputs=40), torch.randn(1, 3, 8, 10, dtype=torch.float64)
    found = erf(model, x.expand(100, -1, -1, -1), layer="3", probes=4)
    expected = _jacobian_energy(lambda i: model(i)[:, :, 2, 2], x)[0]
    # 400 signs: a pixel's energy is off by about sqrt(2 / 400) of it
    assert np.abs(found.energies.mean(0) - expected).sum() < 0.1
    assert np.abs(found.energies[0] - expected).sum() > 0.1  # and four are not enough for that


def test_class_scores_have_an_energy_too():
    model, x = create_model("resnet_tiny:width=2").double().eval(), torch.randn(2, 3, 12, 16)
    found = erf(model, x, layer="output", probes=10)
    np.testing.assert_allclose(found.energies, _jacobian_energy(model, x.double()), rtol=1e-8)
    assert (found.position, found.map_size, found.centre) == (None, None, (5.5, 7.5))


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize("factor", [1000.0, -1.0, 1e-3])
@pytest.mark.parametrize("layer", ["output", "1"])
def test_the_scale_and_the_sign_of_the_output_do_not_matter(layer, factor):
    network = create_model("resnet_tiny:width=4")
    body = network if layer == "output" else _bent().float()
    x = torch.randn(2, 3, 16, 20)
    plain, scaled = (
        erf(nn.Sequential(body, _Times(f)), x, layer=layer).energies for f in (1.0, factor)
    )
    np.testing.assert_allclose(scaled, plain, rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(plain.sum((1, 2)), 1)


class _Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _bent()
        self.norm = nn.GroupNorm(1, 6, affine=False).double()
        self.map = nn.Identity()

    def forward(self, x):
        y = self.body(x)[:, :, 2:3, 2:3]
        return self.map(self.norm(y))


def test_channels_that_add_up_to_a_constant_still_have_a_field():
    model, x = _Normed(), torch.randn(1, 3, 8, 10, dtype=torch.float64)
    image = x.clone().requires_grad_()
    (of_the_sum,) = torch.autograd.grad(model(image).sum(), image)
    assert of_the_sum.abs().max() < 1e-12  # nothing but rounding
    found = erf(model, x, layer="map", position=(0, 0), probes=6)
    expected = _jacobian_energy(lambda i: model(i)[:, :, 0, 0], x)
    np.testing.assert_allclose(found.energies, expected, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize(
    ("spec", "layer", "whole"),
    [
        ("resnet_tiny", "layer4", False),
        ("coresnet_tiny:levels=1,1,1,1", "layer2", False),
        ("coresnet_tiny:levels=4,3,2,1", "layer2", False),
        ("convnext_nano", "stages.1", False),
        ("cgc_resnet_tiny", "layer1", True),
        ("ctx_resnet_tiny", "backbone.layer4.0", True),
        ("overlock_tiny", None, True),
    ],
)
def test_the_effective_field_is_inside_the_theoretical_one(spec, layer, whole):
    found = erf(create_model(spec), torch.randn(1, 3, 64, 56), layer=layer, probes=1)
    field = found.field
    assert field.is_whole(64, 56) == whole
    outside = np.ones((64, 56), dtype=bool)
    outside[field.top : field.bottom + 1, field.left : field.right + 1] = False
    assert (found.energies[0][outside] == 0).all()
    assert found.energies[0][~outside].sum() == pytest.approx(1)


def test_more_levels_reach_farther():
    x = torch.randn(2, 3, 64, 64)
    one, four = (
        erf(create_model(f"coresnet_tiny:levels={levels}"), x, layer="layer1")
        for levels in ("1,1,1,1", "4,3,2,1")
    )
    # one 3x3 convolution in the stem, one in the stage, of dilation 1 or up to 4
    assert (one.field.height, four.field.height) == (5, 11)


def _padded(size):
    return nn.Conv2d(1, 4, size, 4, size // 2)


class _Gated(nn.Module):
    """A strided convolution beside a global context: its field is the whole image."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.map = nn.Identity()

    def forward(self, x):
        return self.map(self.conv(x) + 0.1 * x.mean((1, 2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("model", "layer", "centre"),
    [
        (nn.Sequential(_padded(5)), "0", 12.0),
        (nn.Sequential(_padded(25)), "0", 12.0),  # clipped at the border
        (nn.Sequential(nn.Conv2d(1, 4, 4, 4)), "0", 13.5),
        (_Gated(_padded(5)), "map", 12.0),
        (_Gated(nn.Conv2d(1, 4, 4, 4)), "map", 13.5),
    ],
)
def test_the_centre_is_where_the_position_stands(model, layer, centre):
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    found = erf(model, torch.randn(1, 1, 28, 28), layer=layer, position=(3, 3))
    assert found.centre == (centre, centre)


@pytest.mark.parametrize(
    ("size", "places", "centre"), [(28, 7, 8.0), (30, 8, 8.0), (27, 9, 6.0), (10, 3, 8.0)]
)
def test_the_centre_of_a_global_network_at_any_size(size, places, centre):
    model = _Gated(nn.Conv2d(1, 4, 5, 3 if size == 27 else 4, 2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    found = erf(model, torch.randn(1, 1, size, size), layer="map", position=(2, 2))
    assert found.map_size == (places, places)
    assert found.centre == (centre, centre)


def test_without_a_stride_the_centre_is_the_median():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Upsample((7, 7)))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    found = erf(model, torch.randn(1, 1, 10, 10), layer="1", position=(0, 0))
    assert found.centre == (0.5, 0.5)  # rows 0 and 1 have the same energy, 2 has none


def test_batches_change_nothing():
    model, x = create_model("resnet_tiny:width=4"), torch.randn(3, 3, 16, 16)
    whole = erf(model, x)
    first = erf(model, x[:2])
    second = erf(model, x[2:], like=first, start=2)
    np.testing.assert_allclose(
        np.concatenate([first.energies, second.energies]), whole.energies, rtol=1e-3, atol=1e-9
    )


def test_the_seed_is_the_only_source_of_chance():
    model, x = create_model("resnet_tiny:width=4"), torch.randn(1, 3, 16, 16)
    state = torch.get_rng_state()
    first, again, other = (erf(model, x, seed=seed).energies for seed in (1, 1, 2))
    assert (first == again).all()
    assert not (first == other).all()
    assert torch.equal(torch.get_rng_state(), state)


def _made(*maps, centre=None):
    energies = np.stack([np.asarray(each, dtype=float) for each in maps])
    energies = energies / energies.sum((1, 2), keepdims=True)
    height, width = energies.shape[1:]
    middle = ((height - 1) / 2, (width - 1) / 2) if centre is None else centre
    return Erf("layer", energies, (0, 0), (1, 1), Field(0, height - 1, 0, width - 1), middle)


def _summary(*found):
    total = ErfTotal()
    for each in found:
        total.add(each)
    return total.summary()


def test_squares_on_an_even_map():
    found = _summary(_made(np.ones((8, 8))))
    # sides 2, 4, 6, 8 hold 4, 16, 36 and 64 of 64 pixels
    assert [found.squares_px[share].mean for share in SHARES] == [4, 6, 8]
    assert [found.square_areas[share].mean for share in SHARES] == [16 / 64, 36 / 64, 1]
    assert [found.set_share(share) for share in SHARES] == [13 / 64, 32 / 64, 1]
    assert found.square_of_mean_px(0.5) == 6


def test_squares_reach_beyond_the_image_where_the_centre_is_aside():
    found = _summary(_made(np.ones((5, 5)), centre=(0.0, 0.0)))
    # a side of 2n + 1 px holds (n + 1)^2 of 25 pixels
    assert [found.squares_px[share].mean for share in SHARES] == [5, 7, 9]
    assert found.square_areas[0.5].mean == 16 / 25


def test_squares_grow_with_the_share():
    found = _summary(_made(np.random.default_rng(0).random((9, 14))))
    assert (np.diff(found.held) >= 0).all()
    sides = [found.square_of_mean_px(share) for share in np.linspace(0, 1, 30)]
    assert sides == sorted(sides)
    assert found.held[-1] == pytest.approx(1)


def test_one_pixel_holds_all():
    point = np.zeros((7, 7))
    point[3, 3] = 1
    found = _summary(_made(point))
    assert [found.squares_px[share].mean for share in SHARES] == [1, 1, 1]
    assert found.set_share(0.99) == 1 / 49


def test_the_interval_is_students():
    points = np.zeros((3, 41, 41))
    for number, distance in enumerate((8, 9, 10)):  # squares of 17, 19 and 21 px
        points[number, 20, 20 + distance] = 1
    found = _summary(_made(points[0], points[1]), _made(points[2]))
    reach = 4.302653 * 2 / math.sqrt(3)  # t of 2 degrees of freedom; the spread is 2
    assert found.squares_px[0.5] == pytest.approx((19, 19 - reach, 19 + reach), rel=1e-6)
    assert found.images == 3


def test_equal_images_have_an_interval_without_width():
    each = np.random.default_rng(0).random((9, 9))
    found = _summary(_made(each, each))
    low, high = found.squares_px[0.5][1:]
    assert low == high == found.squares_px[0.5].mean
    assert (found.low == np.clip(found.held, 0, 1)).all()


def test_one_image_has_no_interval():
    found = _summary(_made(np.ones((4, 4))))
    assert found.squares_px[0.5][1:] == (None, None)
    assert found.low is None


def test_images_without_a_gradient_are_counted_and_left_out():
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3, padding=1))
    x = torch.stack([torch.full((1, 9, 9), -1.0), torch.ones(1, 9, 9)])
    found = erf(model, x, layer="1", probes=2)
    assert np.isnan(found.energies).all((1, 2)).tolist() == [True, False]
    summary = _summary(found)
    assert (summary.images, summary.dead) == (1, 1)
    assert summary.mean_map.sum() == pytest.approx(1)


def test_without_any_gradient_all_is_nan():
    found = erf(nn.Sequential(nn.ReLU()), torch.full((1, 1, 5, 5), -1.0), layer="0")
    summary = _summary(found)
    assert (summary.images, summary.dead) == (0, 1)
    assert math.isnan(summary.squares_px[0.5].mean)
    assert math.isnan(summary.set_share(0.5))
    assert math.isnan(summary.square_of_mean_px(0.5))


@pytest.mark.parametrize("layer", ["layer2", "nonsense"])
def test_the_network_comes_back_as_it_was(layer):
    model = create_model("resnet_tiny:width=4").train()
    model.layer1.eval()
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    modes = [module.training for module in model.modules()]
    if layer == "nonsense":
        with pytest.raises(UnknownNameError, match="Unknown layer 'nonsense'"):
            erf(model, torch.randn(1, 3, 16, 16), layer=layer)
    else:
        erf(model, torch.randn(1, 3, 16, 16), layer=layer)
    assert [module.training for module in model.modules()] == modes
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["fc.weight"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.requires_grad_(False),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: torch.compile(model, backend="eager"),
    ],
    ids=["frozen", "bfloat16", "channels_last", "compiled"],
)
def test_other_forms_of_a_network_give_the_same(change):
    model, x = create_model("resnet_tiny:width=4"), torch.randn(2, 3, 16, 16)
    plain = erf(model, x, layer="layer2")
    found = erf(change(model), x, layer="layer2")
    assert found.field == plain.field
    # bfloat16 has 8 bits; the fields of these two images differ by 1
    assert np.abs(found.energies - plain.energies).sum((1, 2)).max() < 0.3


class _Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(3, 3)
        self.halves = nn.LSTM(3, 2)

    def forward(self, x):
        y = self.layer(self.layer(x))
        z = self.last(y.permute(0, 2, 3, 1))
        self.halves(z[:, 0])
        return {"logits": z.mean((1, 2)), "aux": y}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "layer"}, "Layer 'layer' is called 2 times"),
        ({"layer": "last"}, "Layer 'last' works on the last axis"),
        ({"layer": "halves"}, r"Layer 'halves' returns tuple \(\), not a map"),
        ({"layer": "output", "position": (1, 1)}, r"Class scores have no position; got \(1, 1\)"),
        ({"layer": "output", "probes": 0}, "at least one probe; got probes=0"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options, message):
    with pytest.raises(VisualizeError, match=message) as caught:
        erf(_Twice(), torch.randn(1, 3, 8, 8), **options)
    assert "\n" not in str(caught.value)


def test_a_position_outside_the_map_is_an_error():
    model = nn.Sequential(nn.Conv2d(1, 1, 3))
    with pytest.raises(VisualizeError, match=r"\(6, 0\) is outside the map of layer '0'.* 6 rows"):
        erf(model, torch.randn(1, 1, 8, 9), layer="0", position=(6, 0))


def test_scores_of_a_dictionary_are_found():
    model = _Twice()
    found = erf(model, torch.randn(1, 3, 8, 8), layer="output", probes=3)
    assert found.energies.sum() == pytest.approx(1)


def test_gradients_that_overflow_are_an_error():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), _Times(1e38), _Times(1e38))
    with pytest.raises(VisualizeError, match=r"no finite numbers in torch\.float32"):
        erf(model, torch.randn(1, 1, 4, 4), layer="2")


def test_another_size_of_images_is_an_error():
    model = nn.Sequential(nn.Conv2d(1, 1, 3))
    first = erf(model, torch.randn(1, 1, 8, 9), layer="0")
    with pytest.raises(VisualizeError, match="got 9x9 px after 8x9 px"):
        erf(model, torch.randn(1, 1, 9, 9), like=first)


def test_no_images_have_no_field():
    with pytest.raises(VisualizeError, match="at least one image"):
        ErfTotal().summary()
