"""Class activation maps are those of their definitions, on any network, and leave no trace."""

import copy
import gc
from pathlib import Path

import numpy as np
import pytest
import pytorch_grad_cam as library
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models import detection, vgg

from ctxbench.errors import UnknownNameError, VisualizeError
from ctxbench.models import MODELS, create_model, resolve
from ctxbench.visualize.gradcam import METHODS, gradcam, shares, upsampled
from ctxbench.visualize.gradcam_figure import GradcamRow, class_of, pages
from ctxbench.visualize.inside import at_rest, scores_of, target_layer
from ctxbench.visualize.preprocess import Preprocess
from ctxbench.visualize.subject import Image, Subject
from tests.measure.test_undisturbed import assert_same, snapshot

TINY = ("resnet_tiny", "coresnet_tiny", "ctx_resnet_tiny", "cgc_resnet_tiny", "overlock_tiny",
        "convnext_nano", "ctx_convnext_nano")  # fmt: skip
WITHOUT_CLASSES = ("ssd300_resnet50", "ssd300_resnet101", "ssd300_coresnet50",
                   "ssd300_coresnet101", "progan128", "coprogan128")  # fmt: skip
LIBRARY = {
    "gradcam": library.GradCAM,
    "gradcam++": library.GradCAMPlusPlus,
    "hirescam": library.HiResCAM,
    "xgradcam": library.XGradCAM,
    "layercam": library.LayerCAM,
    "gradcamelementwise": library.GradCAMElementWise,
    "eigencam": library.EigenCAM,
    "eigengradcam": library.EigenGradCAM,
    "segeigencam": library.SegEigenCAM,
    "kpcacam": library.KPCA_CAM,
    "fem": library.FEM,
    "shapleycam": library.ShapleyCAM,
    "scorecam": library.ScoreCAM,
    "ablationcam": library.AblationCAM,
}


class Same(nn.Module):
    """Maps as large as the image, smooth behind the layer, nothing in place."""

    def __init__(self, classes=4):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 6, 3, padding=1)
        self.last = nn.Linear(6, classes)

    def forward(self, x):
        y = self.second(torch.tanh(self.first(x)))
        return self.last(F.softplus(y).square().mean((2, 3)))


class InPlace(nn.Module):
    """Changes the layer's map in place, as densenet's forward does, and its input, too."""

    def __init__(self):
        super().__init__()
        self.start = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(6, 4)

    def forward(self, x, change=True):
        y = self.conv(self.start(x) if change else x.relu())
        y = F.relu(y, inplace=change)
        y = self.middle(y)
        y = y.mul_(2).relu_() if change else (y * 2).relu()
        return self.last(y.square().mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Same().eval()


def images(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(3))


def captums(model, x, layer, classes):
    """Return Captum's maps, of the whole precision of the network."""
    attr = pytest.importorskip("captum.attr")
    module = dict(model.named_modules())[layer]
    found = attr.LayerGradCam(lambda x: scores_of(model(x)), module).attribute(
        x.clone(), torch.as_tensor(classes), relu_attributions=True
    )
    return found[:, 0].detach().numpy()


def assert_captums(model, x):
    found = gradcam(model, x)
    with at_rest(model):
        x = x.clone().requires_grad_()  # Captum needs something with a gradient
        expected = captums(model, x, found.layer, found.classes)
    scale = np.abs(expected).max()
    assert scale > 0
    assert np.abs(found.maps - expected).max() <= 1e-5 * scale


@pytest.mark.parametrize("name", TINY)
def test_maps_are_captums_on_our_networks(name):
    torch.manual_seed(1)
    assert_captums(create_model(name).double().eval(), images(3, 3, 32, 48).double())


@pytest.mark.parametrize("name", ["vgg", "densenet121", "mobilenet_v2", "squeezenet1_1"])
def test_maps_are_captums_on_networks_that_work_in_place(name):
    torch.manual_seed(1)
    if name == "vgg":  # narrow, and without its 100 million weights behind the maps
        maps = vgg.make_layers([8, "M", 16, 16, "M", 16, "M"], batch_norm=True)
        model = nn.Sequential(maps, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)).eval()
    else:
        model = models.get_model(name, weights=None, num_classes=5).eval()
    assert_captums(model.double(), images(1, 3, 64, 64).double())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - set(WITHOUT_CLASSES)))
def test_maps_are_captums_on_every_network(name):
    network = resolve(name)
    torch.manual_seed(1)
    model = network.build().eval()
    x = images(2, 3, 64, 64)
    assert_captums(model, x)


@pytest.mark.parametrize("name", ["ssd300_resnet50", "progan128"])
def test_a_network_without_classes_is_told(name):
    with pytest.raises(VisualizeError, match="cannot be run on images|holds no class scores"):
        gradcam(create_model(name), images(1, 3, 320, 320))


def test_maps_in_an_in_place_network_are_those_of_the_definition():
    torch.manual_seed(0)
    net, x = InPlace().eval(), images(2, 3, 6, 7)
    found = gradcam(net, x, layer="conv", classes=[1, 2])
    y = net.conv(x.relu()).detach().requires_grad_()
    behind = net.last((net.middle(y.relu()) * 2).relu().square().mean((2, 3)))
    gradient = torch.autograd.grad(behind[0, 1] + behind[1, 2], y)[0]
    weight_BC = gradient.mean((2, 3))
    expected = torch.einsum("bc,bcyx->byx", weight_BC, y.detach()).relu()
    np.testing.assert_allclose(found.maps, expected, rtol=1e-5, atol=1e-8)
    assert expected.max() > 0


class Steered(nn.Conv2d):
    """A layer that takes something besides the map."""

    def forward(self, x, context):
        return super().forward(x) * context


def test_ablation_is_its_definition_in_an_in_place_network():
    torch.manual_seed(0)
    net, x = InPlace().eval(), images(2, 3, 6, 7)
    conv, net.conv = net.conv, Steered(3, 6, 3, padding=1)
    net.conv.load_state_dict(conv.state_dict())
    net.conv.register_forward_pre_hook(lambda _, given: (*given, torch.tensor(1.0)))
    found = gradcam(net, x, layer="conv", method="ablationcam", classes=[1, 2])
    y = conv(x.relu()).detach()

    def scores(y):
        behind = net.last((net.middle(y.relu()) * 2).relu().square().mean((2, 3)))
        return behind.detach()[[0, 1], [1, 2]]

    off = []
    for channel in range(6):
        without = y.clone()
        without[:, channel] = -1e7  # far below, since the map is negative in places
        off.append((scores(y) - scores(without)) / scores(y))
    expected = torch.einsum("cb,bcyx->byx", torch.stack(off), y).relu()
    np.testing.assert_allclose(found.maps, expected, rtol=1e-3, atol=1e-5)
    assert expected.max() > 0


def test_images_are_not_changed_by_a_first_layer_that_works_in_place():
    torch.manual_seed(0)
    x = images(1, 3, 6, 7)
    before = x.clone()
    gradcam(InPlace().eval(), x, method="shapleycam")
    gradcam(InPlace().eval(), x, method="fullgrad")
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", LIBRARY)
def test_each_method_is_the_librarys(net, name):
    x = images(2, 3, 9, 7)
    found = gradcam(net, x, layer="second", method=name, classes=[1, 3])
    targets = [library.utils.model_targets.ClassifierOutputTarget(i) for i in (1, 3)]
    with LIBRARY[name](copy.deepcopy(net), []) as theirs:
        theirs.target_layers = [theirs.model.second]
        theirs.activations_and_grads = library.ActivationsAndGradients(
            theirs.model, theirs.target_layers, None, theirs.detach
        )
        expected = theirs(x, targets)
    low, high = found.maps.min((1, 2), keepdims=True), found.maps.max((1, 2), keepdims=True)
    np.testing.assert_allclose((found.maps - low) / (high - low), expected, atol=2e-5)


def test_finercam_is_the_librarys(net):
    x = images(2, 3, 9, 7)
    found = gradcam(net, x, layer="second", method="finercam")
    theirs = copy.deepcopy(net)
    expected = library.FinerCAM(theirs, [theirs.second])(x)
    low, high = found.maps.min((1, 2), keepdims=True), found.maps.max((1, 2), keepdims=True)
    np.testing.assert_allclose((found.maps - low) / (high - low), expected, atol=2e-5)


def test_fullgrad_is_the_librarys(net):
    x = images(2, 3, 9, 7)
    found = gradcam(net, x, method="fullgrad", classes=[1, 3])
    targets = [library.utils.model_targets.ClassifierOutputTarget(i) for i in (1, 3)]
    expected = library.FullGrad(copy.deepcopy(net), [])(x.clone(), targets)
    low, high = found.maps.min((1, 2), keepdims=True), found.maps.max((1, 2), keepdims=True)
    np.testing.assert_allclose((found.maps - low) / (high - low), expected, atol=2e-5)


def test_fullgrad_takes_each_layers_own_bias():
    """Registered in the other order than they are called, which misleads the library."""
    torch.manual_seed(0)
    net = Same().eval()
    swapped = copy.deepcopy(net)
    swapped._modules = dict(reversed(net._modules.items()))
    x = images(2, 3, 9, 7)
    found = [gradcam(each, x, method="fullgrad", classes=[1, 3]).maps for each in (net, swapped)]
    np.testing.assert_array_equal(*found)


def test_randomcam_is_a_weighted_sum_of_the_channels(net):
    x = images(2, 3, 9, 7)
    y = net.second(torch.tanh(net.first(x))).detach().numpy()
    weight_C = np.random.default_rng(0).uniform(-1, 1, 6)
    expected = np.maximum(np.einsum("c,bcyx->byx", weight_C, y), 0)
    found = gradcam(net, x, layer="second", method="randomcam")
    np.testing.assert_allclose(found.maps, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_gives_the_maps_of_one_image_at_a_time(net, name):
    x = images(3, 3, 9, 7)
    layer = None if name == "fullgrad" else "second"
    together = gradcam(net, x, layer=layer, method=name)
    alone = [gradcam(net, x[i : i + 1], layer=layer, method=name) for i in range(3)]
    expected = np.concatenate([each.maps for each in alone])
    np.testing.assert_allclose(together.maps, expected, rtol=1e-3, atol=1e-5 * expected.max())
    assert together.classes.tolist() == [int(each.classes[0]) for each in alone]


def test_the_class_is_the_predicted_one_and_its_score_and_probability_are_told(net):
    x = images(3, 3, 9, 7)
    with torch.no_grad():
        scores = net(x)
    found = gradcam(net, x)
    assert found.layer == "second"
    assert found.classes.tolist() == scores.argmax(1).tolist()
    np.testing.assert_allclose(found.scores, scores.max(1).values, rtol=1e-6)
    np.testing.assert_allclose(found.probabilities, scores.softmax(1).max(1).values, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_comes_back_as_it_was(method, fails):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Same())
    net[2].first = nn.Conv2d(4, 5, 3, padding=1)
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[2].last.weight.grad = torch.ones(4, 6)
    net[2].second.register_forward_hook(lambda *_: None)
    before, bytes_before = snapshot(net), list(np.random.get_state()[1])
    classes = [9, 9] if fails else [1, 2]
    options = {} if method == "fullgrad" else {"layer": "2.second"}
    if fails:
        with pytest.raises(VisualizeError, match=r"no class 9: the network's classes are 0 to 3"):
            gradcam(net, images(2, 3, 8, 8), method=method, classes=classes, **options)
    else:
        gradcam(net, images(2, 3, 8, 8), method=method, classes=classes, **options)
    assert_same(before, snapshot(net))
    assert list(np.random.get_state()[1]) == bytes_before


def test_an_interrupted_ablation_puts_the_layer_back(net):
    second = net.second
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt

    net.last.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        gradcam(net, images(1, 3, 8, 8), layer="second", method="ablationcam")
    assert net.second is second


@pytest.mark.parametrize("method", ["gradcam", "shapleycam", "scorecam", "eigencam", "fem"])
def test_half_numbers_give_nearly_the_same(net, method):
    x = images(2, 3, 9, 7)
    exact = gradcam(net, x, layer="second", method=method, classes=[1, 2]).maps
    half = gradcam(net.bfloat16(), x, layer="second", method=method, classes=[1, 2]).maps
    np.testing.assert_allclose(shares(half), shares(exact), atol=0.1)


def test_memory_format_compiling_wrapping_and_freezing_change_nothing(net):
    x = images(2, 3, 9, 7)
    expected = gradcam(net, x).maps
    forms = (
        copy.deepcopy(net).to(memory_format=torch.channels_last),
        torch.compile(net, backend="eager"),
        nn.DataParallel(net),
        copy.deepcopy(net).requires_grad_(False),
    )
    for form in forms:
        np.testing.assert_allclose(gradcam(form, x).maps, expected, rtol=1e-4, atol=1e-7)
    with torch.inference_mode():
        np.testing.assert_array_equal(gradcam(net, x).maps, expected)


def test_nothing_is_printed(net, capfd):
    for method in METHODS:
        layer = None if method == "fullgrad" else "second"
        gradcam(net, images(1, 3, 8, 8), layer=layer, method=method)
    assert capfd.readouterr() == ("", "")


class Odd(Same):
    """A layer called twice, one that returns two maps, tokens, and one that does not matter."""

    def __init__(self):
        super().__init__()
        self.twice, self.never = nn.Identity(), nn.Identity()
        self.point = nn.AdaptiveAvgPool2d(1)
        self.pair, self.tokens, self.aside = Pair(), nn.Flatten(2), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        y = self.second(self.twice(self.twice(self.first(x))))
        self.pair(y), self.tokens(y), self.aside(y)
        return self.last(self.point(y).flatten(1))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "twice"}, "Layer 'twice' is called 2 times"),
        ({"layer": "never"}, "Layer 'never' is not called by this network"),
        ({"layer": "pair"}, r"Layer 'pair' returns tuple, and not a map \(B, C, H, W\)"),
        ({"layer": "point"}, r"Layer 'point' returns \(2, 6, 1, 1\), and not a map"),
        ({"layer": "tokens"}, r"Layer 'tokens' returns \(2, 6, 64\), and not a map"),
        ({"layer": "aside"}, "class scores do not depend on layer 'aside'"),
        ({"classes": [0, 4]}, "no class 4: the network's classes are 0 to 3"),
        ({"classes": [-1, 0]}, "no class -1"),
        ({"classes": [1]}, "2 images need as many classes; got 1"),
        ({"method": "fullgrad", "layer": "second"}, "fullgrad has no layer; got 'second'"),
    ],
)
def test_what_cannot_be_drawn_is_told(options, message):
    with pytest.raises(VisualizeError, match=message):
        gradcam(Odd().eval(), images(2, 3, 8, 8), **options)


def test_unknown_names_are_told(net):
    x = images(1, 3, 8, 8)
    with pytest.raises(UnknownNameError, match="Unknown method 'gradcm'. Did you mean 'gradcam'?"):
        gradcam(net, x, method="gradcm")
    with pytest.raises(UnknownNameError, match="Unknown layer 'secnd'. Did you mean 'second'?"):
        gradcam(net, x, layer="secnd")


def test_maps_that_are_not_finite_are_told(net):
    with torch.no_grad():
        net.second.weight[0, 0] = torch.nan
    with pytest.raises(VisualizeError, match="gradcam of layer 'second' gives numbers that are"):
        gradcam(net, images(1, 3, 8, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_same_on_a_gpu(net, method):
    net, x = net.double(), images(2, 3, 9, 7)
    layer = None if method == "fullgrad" else "second"
    expected = gradcam(net, x, layer=layer, method=method).maps
    found = gradcam(net.cuda(), x, layer=layer, method=method).maps
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())


class Foreign(nn.Module):
    """Returns what only its author could know: a tuple with a dictionary."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"logits": self.net(x)}, x


def test_a_foreign_network_with_a_tuple_of_outputs_is_drawn(net):
    x = images(2, 3, 9, 7)
    found = gradcam(Foreign(net), x)
    assert found.layer == "net.second"
    np.testing.assert_array_equal(found.maps, gradcam(net, x).maps)


def test_dense_predictions_are_explained_by_their_mean(net):
    dense = nn.Sequential(net.first, nn.Tanh(), net.second, nn.Conv2d(6, 4, 1)).eval()
    x = images(2, 3, 9, 7)
    found = gradcam(dense, x, layer="2", classes=[1, 3])
    y, weight_OC = dense[:3](x).detach(), dense[3].weight.detach()[:, :, 0, 0]
    expected = torch.einsum("bc,bcyx->byx", weight_OC[[1, 3]], y).relu() / (9 * 7)
    np.testing.assert_allclose(found.maps, expected, rtol=1e-4, atol=1e-8)
    with torch.no_grad():
        probabilities = dense(x).softmax(1).mean((2, 3))[[0, 1], [1, 3]]
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-5)


def test_a_detector_is_explained_or_says_that_it_found_nothing():
    torch.manual_seed(0)
    build = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    shy = build(weights=None, weights_backbone=None, num_classes=5, min_size=96, max_size=96)
    shy.roi_heads.score_thresh = 0.99
    with pytest.raises(VisualizeError, match="detects nothing in these images"):
        gradcam(shy.eval().requires_grad_(False), images(1, 3, 64, 64).sigmoid())
    shy.roi_heads.score_thresh = 0.0
    found = gradcam(shy, images(2, 3, 64, 64).sigmoid())
    assert found.layer.startswith("backbone")
    assert np.isnan(found.probabilities).all()
    assert found.maps.shape[0] == 2
    assert found.maps.max() > 0


def test_a_map_is_upsampled_and_shared_by_its_own_maximum():
    maps = np.array([[[0, 4], [0, 0]], [[0, 0], [0, 0]]], np.float32)
    assert shares(maps).tolist() == [[[0, 1], [0, 0]], [[0, 0], [0, 0]]]
    # half-pixel centres: between two positions a quarter, and three quarters, of the way
    assert upsampled(maps, (2, 4))[0].tolist() == [[0, 1, 3, 4], [0, 0, 0, 0]]


def resident_mib():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def subject(spec="resnet_tiny:width=4", side=32, names=None, title="net"):
    torch.manual_seed(0)
    mean = (0.5, 0.5, 0.5)
    return Subject(spec, title, create_model(spec), "random weights, seed 0", trained=False,
                   preprocess=Preprocess(side, side, mean, mean), class_names=names)  # fmt: skip


def photographs(count, side=32):
    return (
        Image(f"{i}.png", torch.randint(0, 256, (3, side, side), dtype=torch.uint8), label=i % 10)
        for i in range(count)
    )


# what other tests left to be collected moves this by some; graphs or pages that are kept take 100
MOST_MIB = 24


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_two_hundred_images_take_no_more_memory_than_a_few():
    given = subject()

    def run(count):
        for i in range(0, count, 8):
            gradcam(given.model, images(8, 3, 32, 32), method=list(METHODS)[i // 8 % 5])

    run(40)
    before = resident_mib()
    run(200)
    assert resident_mib() - before < MOST_MIB


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_pages_of_two_hundred_images_take_no_more_memory_than_a_few():
    given = subject()
    for _ in pages([given], photographs(60), steps=2):
        pass
    before = resident_mib()
    for _ in pages([given], photographs(200), steps=2):
        pass
    assert resident_mib() - before < MOST_MIB


def test_a_page_has_four_images_and_a_row_for_each_map():
    found = list(pages([subject()], photographs(5), methods=("gradcam", "eigencam"), steps=2))
    assert [len(page.rows) for page in found] == [8, 2]
    row = found[0].rows[0]
    assert isinstance(row, GradcamRow)
    assert (row.image, row.method, row.layer, row.label) == ("0.png", "gradcam", "layer4", 0)
    assert row.class_name == f"class {row.class_index}"
    assert 0 < row.deletion < 1
    assert 0 < row.random_insertion < 1
    assert found[0].arrays["maps_1"].shape == (4, 4, 4)
    assert found[0].arrays["shown_0"].shape == (4, 32, 32, 3)
    assert found[0].arrays["columns"].tolist() == [
        "image, 32x32 px", "net\ngradcam\nlayer4", "net\neigencam\nlayer4"
    ]  # fmt: skip


def test_images_are_shown_again_for_another_preprocessing_and_on_another_page():
    nets = [subject(title="a"), subject(title="b"), subject(side=64, title="c")]
    found = pages(nets, photographs(1), methods=("gradcam", "hirescam"), steps=2)
    starts = [[name.split("\n")[0] for name in page.arrays["columns"]] for page in found]
    small, large = "image, 32x32 px", "image, 64x64 px"
    assert starts == [[small, "a", "a", "b", "b"], [large, "c", "c"]]


def test_titles_say_the_layer_the_method_and_that_weights_are_random():
    (page,) = pages([subject()], photographs(1), target=2, steps=2)
    titles = [axis.get_title() for axis in page.figure.axes]
    assert titles[:2] == ["image, 32x32 px", "net\ngradcam\nlayer4\nrandom weights"]
    assert "random weights" in page.figure.get_suptitle()
    label = page.figure.axes[1].get_xlabel()
    row, digits = page.rows[0], 2 if page.rows[0].probability >= 0.1 else 3
    assert label.startswith(f"class 2, p {row.probability:.{digits}f}\ndel ")


def test_a_map_without_anything_positive_says_so():
    given = subject()
    with torch.no_grad():
        given.model.fc.weight.fill_(-1)
    (page,) = pages([given], photographs(1), steps=2)
    assert page.rows[0].map_max == 0
    assert [text.get_text() for text in page.figure.axes[1].texts] == ["no positive\nevidence"]


def test_a_class_is_given_by_number_or_by_name():
    given = subject(names=("cat", "dog"))
    assert [class_of(given, target) for target in (None, 1, "1", "dog")] == [None, 1, 1, 1]
    with pytest.raises(VisualizeError, match="There is no class 'dig'. Did you mean 'dog'?"):
        class_of(given, "dig")
    with pytest.raises(
        VisualizeError, match="Class 'dog' is no number, and the names of the classes are not known"
    ):
        class_of(subject(), "dog")


def test_the_default_layer_is_looked_for_once_a_network(monkeypatch):
    from ctxbench.visualize import gradcam as module

    asked = []
    monkeypatch.setattr(
        module, "target_layer", lambda *given: asked.append(1) or target_layer(*given)
    )
    list(pages([subject()], photographs(5), methods=("gradcam", "fullgrad", "fem"), steps=2))
    assert len(asked) == 1
