"""A network prepared for inference computes the same with fewer layers."""

import json
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from typer.testing import CliRunner

import ctxbench
from ctxbench.cli import app
from ctxbench.errors import CtxbenchError, LatencyError, SpecError, UnknownNameError
from ctxbench.latency import compare
from ctxbench.latency.subject import Subject
from ctxbench.latency.subject import compare as hold_against
from ctxbench.measure.flops import count
from ctxbench.models import MODELS, create_model, resolve
from ctxbench.models._folded import Folded
from ctxbench.models.preparing import folding, prepare, split_prepared
from ctxbench.ops import CGConv2d, CoConv2d, ContextualConv2d
from ctxbench.ops._parts import LayerScale
from tests.latency.nets import MACHINE, Inline, condition
from tests.models.test_every_network import _narrow, _sizes

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# the deeper networks of a family have no parts that the others lack
_DEEPER = ("34", "101", "152", "_s", "_t", "_b", "_small", "_base", "resnet18", "vnext_tiny")
_SLOW = {name for name in MODELS if name.endswith(_DEEPER) or name.startswith("ssd300")}


def every_network(slow):
    """Go through all networks, some of them only where slow tests are wanted."""
    marks = {name: [pytest.mark.slow] if name in slow else [] for name in sorted(MODELS)}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


def norms_in(model):
    return sum(isinstance(module, NORMS) for module in model.modules())


@torch.no_grad()
def used(model):
    """Give a network statistics and affine parts as if it were trained, and not the identity."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, NORMS) and module.track_running_stats:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if parameter.squeeze().ndim == 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def built(name, dtype=torch.float64, px=None):
    """Return a used network of a spec, and an input of two images."""
    torch.manual_seed(0)
    network = resolve(name)
    side = px or network.image_px
    inputs = [torch.randn_like(x, dtype=dtype) for x in network.inputs(2, side, side)]
    return used(network.build().to(dtype)), inputs


@torch.no_grad()
def distance(model, prepared, *inputs):
    plain, fast = model(*inputs), prepared(*inputs)
    return float((plain - fast).abs().max() / plain.abs().max())


# every network


@every_network(_SLOW)
def test_every_network_computes_the_same(name):
    model, inputs = built(_narrow(name), px=_sizes(name)[0][0])
    assert distance(model, prepare(model, *inputs), *inputs) < 1e-10


@pytest.mark.parametrize("name", ["resnet_tiny", "cgc_resnet_tiny", "overlock_tiny"])
def test_single_precision_is_rounded_only(name):
    model, inputs = built(name, torch.float32)
    assert distance(model, prepare(model, *inputs), *inputs) < 1e-5


# batch norms that stay, in a network of so many blocks: behind an addition, in a gate
LEFT = {
    "resnet_tiny": 0,
    "resnet50:width=8:end_norm=true": 4,
    "coresnet50:width=8": 0,
    "cgc_resnet_tiny": 3 * 5,
    "cgc_resnet18:width=16": 3 * 17,
    "preact_resnet18:width=8": 8,
    "preact_resnet50:width=8:shortcut_norm=true": 16,
    "se_resnet50:width=16": 0,
    "nl_resnet50:width=8": 0,
    "ctx_resnet_tiny": 3,
    "overlock_tiny": 0,
    "ssd300_resnet50:width=8": 0,
    "torchvision/resnet18": 0,
    "torchvision/mobilenet_v3_small": 0,
}


@pytest.mark.parametrize(("name", "left"), LEFT.items())
def test_the_norms_that_are_left(name, left):
    assert norms_in(create_model(f"{name}:prepared=true")) == left


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_networks_of_torchvision_compute_the_same(name):
    model, inputs = built(f"torchvision/{name}", px=64)
    prepared = prepare(model, *inputs)
    assert distance(model, prepared, *inputs) < 1e-10
    assert not any(hasattr(module, "layer_scale") for module in prepared.modules())


@pytest.mark.parametrize("name", ["efficientnet_b0", "deit3_small_patch16_224", "resnet18d"])
def test_networks_of_timm_compute_the_same(name):
    pytest.importorskip("timm")
    model, inputs = built(f"timm/{name}", px=224 if "deit" in name else 64)
    prepared = prepare(model, *inputs)
    assert distance(model, prepared, *inputs) < 1e-10
    assert norms_in(prepared) == 0
    assert not any(type(module).__name__ == "LayerScale" for module in prepared.modules())


@pytest.mark.parametrize("operator", ["coconv", "cgc", "ctxconv:prior=false"])
def test_operators_in_the_place_of_convolutions_take_norms_in(operator):
    model, inputs = built(f"resnet_tiny:replace={operator}")
    prepared = prepare(model, *inputs)
    assert distance(model, prepared, *inputs) < 1e-10
    assert norms_in(prepared) < norms_in(model)


@pytest.mark.parametrize("name", ["op/dilated_reparam", "op/repconv", "op/dynamic_block"])
def test_operators_alone_are_prepared(name):
    model, inputs = built(f"{name}:channels=16", px=14)
    prepared = prepare(model, *inputs)
    assert norms_in(prepared) == 0 < norms_in(model)
    assert distance(model, prepared, *inputs) < 1e-10


# pairs of layers

X = torch.randn(2, 6, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FOLDABLE = {
    "a convolution": nn.Conv2d(6, 4, 3, 2, bias=False),
    "with a bias": nn.Conv2d(6, 4, 3),
    "with groups": nn.Conv2d(6, 4, 3, groups=2),
    "padded with what is there": nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
    "transposed": nn.ConvTranspose2d(6, 4, 3, groups=2),
    "CoConv": CoConv2d(6, 4, levels=2),
    "CGC": CGConv2d(6, 4, bias=False),
    "contextual, without a change of kernels": ContextualConv2d(6, 4, parts="offsets"),
}


@pytest.mark.parametrize("layer", FOLDABLE.values(), ids=FOLDABLE.keys())
def test_a_norm_behind_it_is_folded(layer):
    model = used(nn.Sequential(deepcopy(layer), nn.BatchNorm2d(4), nn.ReLU()).double())
    prepared = prepare(model, X)
    assert isinstance(model[1], nn.BatchNorm2d)
    assert not isinstance(prepared[1], nn.BatchNorm2d)
    assert distance(model, prepared, X) < 1e-10


@pytest.mark.parametrize("groups", [1, 6])
def test_a_contextual_convolution_takes_a_norm_in_where_each_channel_has_its_kernel(groups):
    layer = ContextualConv2d(6, 6, groups=groups)
    model = used(nn.Sequential(layer, nn.BatchNorm2d(6)).double())
    nn.init.normal_(layer.kernel_net[-1].weight)
    prepared = prepare(model, X)
    assert isinstance(prepared[1], nn.BatchNorm2d) == (groups == 1)
    assert distance(model, prepared, X) < 1e-10


@pytest.mark.parametrize(("padding", "left"), [(0, 0), ("valid", 0), (1, 1)])
def test_a_norm_before_a_convolution_is_folded_where_nothing_is_padded(padding, left):
    layers = [nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=padding, groups=2)]
    model = used(nn.Sequential(*layers).double())
    prepared = prepare(model, X)
    assert norms_in(prepared) == left
    assert distance(model, prepared, X) < 1e-10


def test_norms_and_scales_in_a_row_are_folded_one_after_the_other():
    layers = [nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), LayerScale(4), nn.BatchNorm2d(4)]
    model = used(nn.Sequential(*layers).double())
    prepared = prepare(model, X)
    assert [into for _, _, into in folding(prepared)] == ["0", "", "0", "0"]
    assert distance(model, prepared, X) < 1e-10


def test_a_norm_over_another_axis_than_the_layers_channels_stays():
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    model = used(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).double())
    prepared = prepare(model, x)
    assert norms_in(prepared) == 1
    assert distance(model, prepared, x) < 1e-10


# what must stay


class Net(nn.Module):
    """A convolution and a norm, put together by the function that a test gives."""

    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.kept = None
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


def keeping(net, x):
    net.kept = net.conv(x)
    return net.norm(net.kept)


UNSAFE = {
    "its output is added, too": lambda net, x: (y := net.conv(x)) + net.norm(y),
    "its output is a view that is added": lambda net, x: (
        net.norm(y := net.conv(x)) + y[:, :1].expand_as(y)
    ),
    "it is activated in place": lambda net, x: net.norm(net.conv(x).relu_()),
    "the convolution is called twice": lambda net, x: net.norm(net.conv(x)) + net.conv(x),
    "the norm is called twice": lambda net, x: net.norm(net.conv(x)) + net.norm(x),
    "its weight is read besides": lambda net, x: net.norm(net.conv(x)) + net.conv.weight.sum(),
    "the network returns it, too": lambda net, x: torch.cat([y := net.conv(x), net.norm(y)]),
    "it is kept": keeping,
}


@pytest.mark.parametrize("how", UNSAFE.values(), ids=UNSAFE.keys())
def test_a_convolution_that_is_read_otherwise_keeps_its_norm(how):
    model = used(Net(how).double())
    prepared = prepare(model, X)
    assert norms_in(prepared) == 1
    assert distance(model, prepared, X) < 1e-10


def test_a_convolution_that_the_network_returns_beside_the_rest_keeps_its_norm():
    model = used(Net(lambda net, x: {"map": (y := net.conv(x)), "out": net.norm(y)}).double())
    assert norms_in(prepare(model, X)) == 1


@dataclass(slots=True)
class Output:
    """What a network may return: tensors that stand in no container."""

    map: torch.Tensor
    out: torch.Tensor


def test_a_convolution_inside_an_object_that_the_network_returns_keeps_its_norm():
    model = used(Net(lambda net, x: Output(y := net.conv(x), net.norm(y))).double())
    assert norms_in(prepare(model, X)) == 1


def test_a_convolution_whose_output_an_object_of_the_network_keeps_keeps_its_norm():
    def boxing(net, x):
        net.box.map = net.conv(x)
        return net.norm(net.box.map)

    model = used(Net(boxing).double())
    model.box = SimpleNamespace()
    assert norms_in(prepare(model, X)) == 1


def test_a_norm_whose_statistics_are_read_besides_stays():
    model = used(Net(lambda net, x: net.norm(net.conv(x)) + net.norm.running_var.sum()).double())
    assert norms_in(prepare(model, X)) == 1


@pytest.mark.parametrize(
    "looks", [lambda x: x.mean() > 0, lambda x: x.sum().item() > 1, lambda x: torch.equal(x, x + 1)]
)
def test_a_network_that_decides_by_values_is_refused(looks):
    model = used(Net(lambda net, x: net.norm(net.conv(x)) if looks(x * 2) else net.conv(x)))
    with pytest.raises(CtxbenchError, match="one run does not show all .* Use it unprepared"):
        prepare(model.double(), X)


def test_a_value_of_a_buffer_decides_nothing():
    model = used(Net(lambda net, x: net.norm(net.conv(x)) * net.step.item()).double())
    model.register_buffer("step", torch.tensor(2.0))
    assert norms_in(prepare(model, X)) == 0


@pytest.mark.parametrize("hooked", ["conv", "norm"])
def test_hooks_keep_their_layers(hooked):
    model = used(Net(lambda net, x: net.norm(net.conv(x))).double())
    seen = []
    getattr(model, hooked).register_forward_hook(lambda *_: seen.append(1))
    prepared = prepare(model, X)
    assert norms_in(prepared) == 1
    seen.clear()
    prepared(X)
    assert seen == [1]


def test_a_hook_on_what_holds_a_convolution_keeps_the_norm_behind_it():
    model = used(nn.Sequential(nn.Sequential(nn.Conv2d(6, 4, 1)), nn.BatchNorm2d(4)).double())
    model[0].register_forward_hook(lambda *_: None)
    assert norms_in(prepare(model, X)) == 1


def test_a_parametrized_convolution_keeps_its_norm():
    model = used(Net(lambda net, x: net.norm(net.conv(x))).double())
    nn.utils.parametrizations.weight_norm(model.conv)
    assert norms_in(prepare(model, X)) == 1


def test_a_norm_without_running_statistics_stays():
    layers = [nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)]
    assert norms_in(prepare(nn.Sequential(*layers).double())) == 1


# the network around it


def test_the_network_itself_stays_as_it_is():
    model = create_model("overlock_tiny").train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules, hooks = list(model.modules()), [len(m._forward_hooks) for m in model.modules()]
    prepared = prepare(model)
    assert list(model.modules()) == modules
    assert [len(m._forward_hooks) for m in modules] == hooks
    assert all(m.training for m in modules)
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    theirs = {p.untyped_storage().data_ptr() for p in prepared.parameters()}
    assert not theirs & {p.untyped_storage().data_ptr() for p in model.parameters()}


def test_what_comes_is_in_eval_mode_needs_no_gradient_and_can_be_copied():
    prepared = prepare(create_model("overlock_tiny"))
    assert not any(module.training for module in prepared.modules())
    assert not any(p.requires_grad for p in prepared.parameters())
    assert not any(module._forward_hooks for module in prepared.modules())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(deepcopy(prepared)(x), prepared(x))
    assert torch.equal(prepare(prepared)(x), prepared(x))


def test_no_random_number_is_drawn():
    model = create_model("resnet_tiny")
    torch.manual_seed(1)
    prepare(model)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)


def test_it_says_what_was_folded():
    found = {fold.layer: fold for fold in folding(ctxbench.prepare(create_model("overlock_tiny")))}
    assert found["stage1.0.spatial"][1:] == ("5 branches", "stage1.0.spatial.conv")
    assert found["stage1.0.spatial_norm"][1:] == ("BatchNorm2d", "stage1.0.spatial.conv")
    assert found["stage1.0.local"][1:] == ("identity beside it", "stage1.0.local")
    assert found["focus3.0.block.mixer.project.0"].into == "focus3.0.block.mixer.project.1"
    scale = folding(prepare(create_model("convnext_nano")))[0]
    assert scale == ("stages.0.0.gamma", "scale", "stages.0.0.pwconv2")


def test_it_compiles_without_a_break():
    model = prepare(create_model("convnext_nano"))
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


def test_an_input_that_does_not_run_is_one_line_with_the_way_out():
    with pytest.raises(
        CtxbenchError, match=r"\(1, 3, 224, 224\): .*prepare\(model, x\)\.$"
    ) as told:
        prepare(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)))
    assert "\n" not in str(told.value)


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match="takes a torch.nn.Module; got str"):
        prepare("resnet50")


@pytest.mark.parametrize("given", [[X], 3])
def test_what_is_no_tensor_is_refused(given):
    with pytest.raises(
        TypeError, match=rf"one by one: prepare\(model, x\); got {type(given).__name__}"
    ):
        prepare(nn.Identity(), given)


def test_a_mistyped_option_is_known():
    with pytest.raises(UnknownNameError, match="Did you mean 'prepared'"):
        resolve("resnet_tiny:prepard=true")


def test_a_network_that_would_compute_something_else_is_refused():
    model = used(Net(lambda net, x: net.norm(net.conv(x))).double())
    model.how = lambda net, x: net.norm(net.conv(x)) + 9 * isinstance(net.norm, nn.BatchNorm2d)
    with pytest.raises(CtxbenchError, match="computes something else .* Use it unprepared"):
        prepare(model, X)


def test_what_goes_wrong_because_a_layer_is_folded_says_so():
    model = used(Net(lambda net, x: net.norm(net.conv(x)) * net.norm.eps).double())
    with pytest.raises(CtxbenchError, match="once its layers are folded: .*'eps'. Use it unprep"):
        prepare(model, X)


def test_a_dropout_of_ones_own_stays():
    class Doubling(nn.Dropout):
        def forward(self, x):
            return 2 * x

    prepared = prepare(nn.Sequential(Doubling(), nn.Dropout()), X)
    assert [type(layer) for layer in prepared] == [Doubling, Folded]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "cannot be prepared: .*uninitialized"),
        (lambda: nn.Sequential(torch.jit.script(nn.Conv2d(6, 4, 1))), "cannot be prepared: "),
        (lambda: _masked(nn.Conv2d(6, 4, 1)), "Conv2d cannot be copied: .*Prepare it before"),
    ],
)
def test_what_cannot_be_changed_is_one_line(model, words):
    with pytest.raises(CtxbenchError, match=words) as told:
        prepare(model(), X)
    assert "\n" not in str(told.value)


def _masked(conv):
    """Return a convolution with a weight that is no parameter any more, as pruning leaves it."""
    return prune.l1_unstructured(conv, "weight", 0.5)


def test_folding_needs_no_gpu_for_operators_that_do():
    model = create_model("coresnet_tiny:backend=triton:prepared=true")
    assert norms_in(prepare(create_model("coresnet_tiny:backend=triton"))) == norms_in(model) == 0


# specs and commands


@pytest.mark.parametrize(
    ("spec", "split"),
    [
        ("resnet50", ("resnet50", False)),
        ("resnet50:prepared=true:width=8", ("resnet50:width=8", True)),
        ("resnet50:replace=cgc: prepared = True", ("resnet50:replace=cgc", True)),
        ("nets.py:net:prepared=false", ("nets.py:net", False)),
    ],
)
def test_the_option_of_a_spec(spec, split):
    assert split_prepared(spec) == split


@pytest.mark.parametrize(
    ("options", "words"),
    [("prepared=yes", "is not true or false"), ("prepared=true:prepared=true", "twice")],
)
def test_a_value_that_does_not_fit_is_refused(options, words):
    with pytest.raises(SpecError, match=words):
        resolve(f"resnet_tiny:{options}")


@pytest.mark.parametrize("name", ["resnet50:width=8", "overlock_tiny", "torchvision/resnet18"])
def test_a_spec_builds_what_prepare_makes(name):
    torch.manual_seed(0)
    by_hand = prepare(create_model(name))
    torch.manual_seed(0)
    by_spec = create_model(f"{name}:prepared=true")
    assert by_spec.state_dict().keys() == by_hand.state_dict().keys()
    for key, value in by_hand.state_dict().items():
        torch.testing.assert_close(by_spec.state_dict()[key], value)


@every_network({name for name in MODELS if not name.endswith("_tiny")} | _SLOW)
def test_macs_and_parameters_do_not_rise(name):
    network = resolve(_narrow(name))
    model, inputs = network.build(), network.inputs(1, *_sizes(name)[0])
    plain, prepared = count(model, *inputs), count(prepare(model, *inputs), *inputs)
    assert prepared.macs <= plain.macs
    assert sum(prepared.work.elements.values()) <= sum(plain.work.elements.values())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder, with networks measured in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "Worker", Inline)
    monkeypatch.setattr(compare, "know_machine", lambda condition: MACHINE)
    return lambda *words: CliRunner().invoke(app, [*words, "--format", "json", "--quiet"])


@pytest.mark.parametrize("name", ["resnet50:width=8", "torchvision/squeezenet1_1", "overlock_tiny"])
def test_flops_counts_a_network_beside_the_prepared_one(run, name):
    found = run("flops", name, f"{name}:prepared=true", "--image-size", "64")
    plain, prepared = json.loads(found.stdout)
    assert plain["macs"] >= prepared["macs"] > 0
    assert plain["params"] >= prepared["params"] > 0
    assert prepared["elements"].get("batch_norm", 0) == 0


def test_flops_knows_what_a_replacement_did_to_a_prepared_network(run):
    found = run("flops", "resnet_tiny:replace=coconv:levels=2:prepared=true")
    assert found.exit_code == 0


QUICKLY = ("--launches", "1", "--budget", "0.05", "--warmup", "0.02", "--threads", "1")


@pytest.mark.parametrize("name", ["resnet_tiny", "torchvision/resnet18"])
def test_latency_times_a_network_beside_the_prepared_one(run, name):
    found = run(
        "latency", f"{name}:prepared=true", "--against", name, "--image-size", "32", *QUICKLY
    )
    prepared, plain = json.loads(found.stdout)
    assert prepared["status"] == plain["status"] == "ok"
    assert prepared["params"] < plain["params"]


@pytest.mark.parametrize("name", ["resnet_tiny", "torchvision/resnet18"])
def test_latency_does_not_train_what_is_prepared(name):
    with pytest.raises(LatencyError, match=f"is folded for inference. Train the unfolded {name}"):
        Subject(f"{name}:prepared=true", condition(mode="training"))


@pytest.mark.parametrize("name", ["cgc_resnet_tiny", "overlock_tiny", "torchvision/resnet18"])
def test_latency_holds_a_prepared_network_against_its_plain_form(name):
    subject = Subject(f"{name}:prepared=true", condition())
    plain, norms = subject.results(), norms_in(subject.model)
    subject.make_fast()
    assert subject.fast
    assert norms_in(subject.model) < norms
    assert hold_against(subject.results(), plain) < 1e-4
