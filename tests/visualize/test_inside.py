"""Looking inside changes nothing, sees what the layers saw, and finds layers and scores."""

from collections import OrderedDict, namedtuple
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import detection

from ctxbench.errors import UnknownNameError, VisualizeError
from ctxbench.models import create_model
from ctxbench.visualize.dynamic_kernels import dynamic_kernels
from ctxbench.visualize.erf import erf
from ctxbench.visualize.gates import gates
from ctxbench.visualize.gradcam import gradcam
from ctxbench.visualize.inside import (
    at_rest,
    is_detection,
    layer_of,
    layers_of_type,
    listening,
    only_call,
    outcome,
    prepared,
    probabilities_of,
    scores_of,
    target_layer,
    unwrapped,
)
from ctxbench.visualize.offsets import sampling
from ctxbench.visualize.priors import priors
from tests.measure.test_undisturbed import assert_same, snapshot

Answer = namedtuple("Answer", ["logits", "aux"])


@pytest.fixture
def net():
    """Each module and parameter in another state."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1))
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[3].weight.grad = torch.ones_like(net[3].weight)
    return net


X = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_network_at_rest_comes_back_as_it_was(net, error):
    before = snapshot(net)
    try:
        with at_rest(net):
            assert not any(module.training for module in net.modules())
            assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
            net(X.clone().requires_grad_()).sum().backward()
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert_same(before, snapshot(net))
    assert net[3].weight.grad.eq(1).all()


def test_rest_within_rest_is_rest(net):
    before = snapshot(net)
    with at_rest(net):
        inner = snapshot(net)
        with at_rest(net):
            pass
        assert_same(inner, snapshot(net))
    assert_same(before, snapshot(net))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_made_whatever_the_callers_mode(net, mode):
    with mode():
        x = X.clone()
        with at_rest(net):
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(net(x).sum(), x)
        assert not torch.is_grad_enabled()
    assert gradient.abs().max() > 0


class Compiled:
    """A backend that counts how often what it has compiled is run."""

    def __init__(self):
        self.runs = 0

    def __call__(self, graph, inputs):
        del inputs

        def run(*given):
            self.runs += 1
            return graph(*given)

        return run


@pytest.mark.parametrize("part", ["network", "sub-module", "in place"])
def test_compiled_networks_run_uncompiled_at_rest_and_compiled_afterwards(net, part):
    backend = Compiled()
    net.eval()
    if part == "network":
        model = torch.compile(net, backend=backend)
    elif part == "sub-module":
        net[0] = torch.compile(net[0], backend=backend)
        model = net
    else:
        net.compile(backend=backend)
        model = net
    expected = model(X)
    assert backend.runs == 1
    with at_rest(model), at_rest(model), listening(unwrapped(model), ["0", "3"]) as calls:
        found = unwrapped(model)(X)
    assert backend.runs == 1
    torch.testing.assert_close(only_call(calls, "3").output, found)
    assert only_call(calls, "0").output.shape == (2, 4, 7, 5)
    torch.testing.assert_close(model(X), expected)
    assert backend.runs == 2


def test_the_network_inside_its_wrappers_is_found(net):
    assert unwrapped(net) is net
    assert unwrapped(nn.DataParallel(net)) is net
    assert unwrapped(torch.compile(nn.DataParallel(net), backend="eager")) is net


def test_layers_are_found_by_name_and_by_type(net):
    assert layer_of(net, "3") is net[3]
    assert layers_of_type(net, nn.Conv2d) == ["0", "3"]
    for name in ("33", ""):
        with pytest.raises(UnknownNameError, match=f"Unknown layer '{name}'"):
            layer_of(net, name)


class Changing(nn.Module):
    """Changes everything that a layer is given, and what it returns, in place."""

    def __init__(self):
        super().__init__()
        self.inner, self.twice, self.never = Add(), nn.Identity(), nn.Identity()

    def forward(self, x):
        scale = torch.full((1,), 3.0)
        y, extra = self.inner(x, by=scale)
        y.mul_(0)
        extra["more"].mul_(0)
        return self.twice(self.twice(y + 1))


class Add(nn.Module):
    def forward(self, x, by):
        y = x + by
        x.zero_()
        by.zero_()
        return y, {"more": y}


def test_what_was_heard_does_not_change_afterwards():
    model = Changing()
    with listening(model, ["inner", "inner"]) as calls:
        model(torch.ones(2))
    call = only_call(calls, "inner")
    assert call.inputs[0].tolist() == [1, 1]
    assert call.options["by"].tolist() == [3]
    assert call.output[0].tolist() == call.output[1]["more"].tolist() == [4, 4]


def test_what_was_heard_has_its_gradient(net):
    x = X.clone().requires_grad_()
    with at_rest(net), listening(net, ["0"]) as calls:
        y = net(x).square().sum()
        y0 = only_call(calls, "0").output
        found = torch.autograd.grad(y, y0)[0]
        kept = y0.detach().requires_grad_()
        expected = torch.autograd.grad(net[1:](kept).square().sum(), kept)[0]
    torch.testing.assert_close(found, expected)


def test_listening_leaves_no_hooks_also_after_an_error(net):
    before = snapshot(net)
    with pytest.raises(UnknownNameError), listening(net, ["0", "nothing"]):
        pass
    with pytest.raises(RuntimeError), listening(net, ["0"]):
        raise RuntimeError
    assert_same(before, snapshot(net))


def test_a_layer_without_one_call_is_told():
    model = Changing()
    with listening(model, ["twice", "never"]) as calls:
        model(torch.ones(2))
    with pytest.raises(VisualizeError, match="Layer 'twice' is called 2 times"):
        only_call(calls, "twice")
    with pytest.raises(VisualizeError, match="Layer 'never' is not called by this network"):
        only_call(calls, "never")


def test_images_are_given_as_the_weights_are(net):
    assert prepared(net.bfloat16(), X).dtype == torch.bfloat16
    assert prepared(nn.Identity(), X) is X


def test_a_network_that_cannot_run_is_told_in_its_own_words(net):
    told = r"Sequential cannot be run on images \(1, 2, 9, 9\): Given groups=1.*channels instead"
    with pytest.raises(VisualizeError, match=told):
        outcome(net, torch.ones(1, 2, 9, 9))
    for wrong in (torch.ones(3, 9, 9), torch.ones(0, 3, 9, 9)):
        with pytest.raises(VisualizeError, match=r"a batch \(B, C, H, W\) is needed"):
            outcome(net, wrong)


LAYERS = {
    "resnet_tiny": "layer4",
    "coresnet_tiny": "layer4",
    "convnext_nano": "stages.3",
    "overlock_tiny": "head.2",
    "ctx_resnet_tiny": "backbone.layer4.0",
    "ctx_convnext_nano": "backbone.stages.3.0",
    "cgc_resnet_tiny": "layer4",
}


@pytest.mark.parametrize(("spec", "layer"), LAYERS.items())
def test_the_target_layer_of_a_family_is_its_last_map(spec, layer):
    model = create_model(spec)
    with at_rest(model):
        assert target_layer(model, torch.ones(2, 3, 64, 64)) == layer


LARGE = {
    "resnet50": "layer4",
    "ctx_resnet50": "backbone.layer4.2",
    "se_resnet50": "layer4",
    "preact_resnet50": "neck",
    "torchvision/resnet18": "layer4",
    "torchvision/squeezenet1_1": "classifier.2",
    "torchvision/densenet121": "features",
    "torchvision/mobilenet_v2": "features",
    "torchvision/efficientnet_b0": "features",
    "torchvision/convnext_tiny": "features",
}


@pytest.mark.parametrize(("spec", "layer"), LARGE.items())
def test_the_target_layer_of_a_large_network_is_its_last_map(spec, layer):
    model = create_model(spec)
    with at_rest(model):
        assert target_layer(model, torch.ones(1, 3, 64, 64)) == layer


def test_what_has_channels_last_is_no_map():
    model = create_model("convnext_nano").eval()  # its last stage has one position
    with at_rest(model):
        assert target_layer(model, torch.ones(2, 3, 24, 24)) == "downsample_layers.3.0"
    with pytest.raises(VisualizeError, match="'stages.2.0.pwconv2' returns"):
        gradcam(model, torch.ones(2, 3, 24, 24), layer="stages.2.0.pwconv2")


def test_the_target_layer_of_timms_networks():
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18")
    with at_rest(model):
        assert target_layer(model, torch.ones(1, 3, 64, 64)) == "layer4"


def test_the_target_layer_of_a_detector_is_in_its_backbone():
    build = detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model = build(weights=None, weights_backbone=None, num_classes=5, min_size=96, max_size=96)
    with at_rest(model):
        assert target_layer(model, torch.rand(2, 3, 64, 64)).startswith("backbone")


def test_a_network_of_tokens_has_no_target_layer():
    model = models.VisionTransformer(32, 8, 1, 2, 8, 16)
    with at_rest(model), pytest.raises(VisualizeError, match="its last map, that of 'conv_proj'"):
        target_layer(model, torch.ones(2, 3, 32, 32))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(VisualizeError, match="Sequential has no layer that returns a map"):
        target_layer(flat, torch.ones(2, 3, 2, 2))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # people still have such networks
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_torch_jit_has_compiled_is_told(net):
    script = torch.jit.script(net.eval())
    with pytest.raises(VisualizeError, match="Layer '3' is compiled by torch.jit"):
        layer_of(script, "3")
    with at_rest(script), pytest.raises(VisualizeError, match="has no layer that returns a map"):
        target_layer(script, X)


def test_looking_for_the_target_layer_leaves_the_images_and_no_hooks(net):
    model = nn.Sequential(nn.ReLU(inplace=True), net)
    before, x = snapshot(model), X.clone()
    with at_rest(model):
        assert target_layer(model, x) == "1"
    assert torch.equal(x, X)
    assert_same(before, snapshot(model))


SCORES = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
DENSE = torch.stack([SCORES, SCORES + 1], 2)[..., None]  # (B, classes, 2, 1)
FOUND = [
    {"scores": torch.tensor([0.5, 0.25, 0.5]), "labels": torch.tensor([2, 2, 1]), "boxes": None},
    {"scores": torch.tensor([]), "labels": torch.tensor([], dtype=torch.long), "boxes": None},
]


@pytest.mark.parametrize(
    ("output", "scores"),
    [
        (SCORES, SCORES),
        ((SCORES, None), SCORES),
        (Answer(SCORES, None), SCORES),
        ({"aux": None, "logits": SCORES}, SCORES),
        (OrderedDict(out=DENSE, aux=None), SCORES + 0.5),
        ([{"first": SCORES}], SCORES),
        (FOUND, torch.tensor([[0, 0.5, 0.75], [0, 0, 0]])),
    ],
)
def test_scores_are_found_in_any_output(output, scores):
    torch.testing.assert_close(scores_of(output), scores)


def test_an_output_without_scores_is_told():
    for output, told in ((torch.ones(2, 5, 7), r"Tensor \(2, 5, 7\)"), (None, r"NoneType \(\)")):
        with pytest.raises(VisualizeError, match=f"The network returns {told}, which holds no"):
            scores_of(output)
    with pytest.raises(VisualizeError, match="detects nothing in these images"):
        scores_of(FOUND[1:])


def test_probabilities_are_the_softmax_of_scores_averaged_over_positions():
    torch.testing.assert_close(probabilities_of((SCORES,)), SCORES.softmax(1))
    uneven = torch.tensor([[[[0.0, 100.0]], [[0.0, 0.0]]]])  # .5 here, 1 there
    torch.testing.assert_close(probabilities_of({"out": uneven}), torch.tensor([[0.75, 0.25]]))
    assert probabilities_of(FOUND).isnan().all()


def test_detections_are_recognised():
    assert is_detection(FOUND)
    assert not is_detection([])
    assert not is_detection((SCORES, SCORES))


@pytest.mark.parametrize("wrong", [RuntimeError, AssertionError])
@pytest.mark.parametrize("kind", ["offsets", "kernels", "gates", "priors", "erf", "output"])
def test_a_network_that_cannot_be_run_on_images_is_one_line_in_every_kind(kind, wrong):
    name = {
        "offsets": "ctx_resnet_tiny", "priors": "ctx_resnet_tiny", "kernels": "overlock_tiny"
    }.get(kind, "cgc_resnet_tiny")  # fmt: skip
    net, x = create_model(name), torch.zeros(1, 3, 32, 32)
    first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))

    def refuse(*_):
        raise wrong("wrong height")

    first.register_forward_pre_hook(refuse)
    draw = {
        "offsets": sampling, "kernels": dynamic_kernels, "gates": gates, "priors": priors,
        "erf": partial(erf, layer="layer4"), "output": partial(erf, layer="output"),
    }[kind]  # fmt: skip
    with pytest.raises(VisualizeError, match=r"cannot be run on images \(1, 3, 32, 32\): wrong"):
        draw(net, x)
