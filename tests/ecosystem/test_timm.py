"""Our networks as timm's programs see them."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch

from ctxbench import create_model, load_checkpoint, save_checkpoint
from ctxbench.errors import SpecError, UnknownNameError
from ctxbench.measure.flops import count
from ctxbench.models import MODELS
from tests.ecosystem.networks import error

timm = pytest.importorskip("timm", reason="timm is an optional extra")
for part in ("data", "loss", "optim", "utils"):
    pytest.importorskip(f"timm.{part}")
pytest.importorskip("ctxbench.timm")

# the smallest of each class that timm's methods are written for
SMALL = ("resnet_tiny", "ctx_resnet_tiny", "convnext_nano", "ctx_convnext_nano", "overlock_tiny")
each = pytest.mark.parametrize("name", SMALL)


def _timm(name, **arguments):
    torch.manual_seed(0)
    return timm.create_model(f"ctxbench_{name}", **arguments).eval()


X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_every_network_that_classifies_is_listed():
    others = {name for name in MODELS if name.startswith(("ssd", "progan", "coprogan"))}
    assert set(timm.list_models("ctxbench_*")) == {f"ctxbench_{n}" for n in MODELS.keys() - others}
    assert timm.is_model("ctxbench_coresnet50")
    assert timm.list_models("ctxbench_*", pretrained=True) == []


@each
def test_it_is_our_network_with_our_state_dict(name, tmp_path):
    theirs, ours = _timm(name), create_model(name).eval()
    save_checkpoint(ours, tmp_path / "x.safetensors")
    load_checkpoint(theirs, tmp_path / "x.safetensors")
    with torch.no_grad():
        assert torch.equal(theirs(X), ours(X))
    assert list(theirs.state_dict()) == list(ours.state_dict())


@each
def test_checkpoint_path_takes_our_files(name, tmp_path):
    ours = create_model(name).eval()
    save_checkpoint(ours, tmp_path / "x.safetensors")
    theirs = _timm(name, checkpoint_path=str(tmp_path / "x.safetensors"))
    with torch.no_grad():
        assert torch.equal(theirs(X), ours(X))


@each
def test_features_and_head_are_the_forward(name):
    model = _timm(name, num_classes=11, in_chans=1)
    x = X[:, :1]
    with torch.no_grad():
        features = model.forward_features(x)
        seen = model.forward_head(features, pre_logits=True)
        assert error(model.forward_head(features), model(x)) < 1e-6
    assert features.shape[:2] == (2, model.num_features)
    assert seen.shape == (2, model.head_hidden_size)
    assert model(x).shape == (2, model.num_classes) == (2, 11)


@each
def test_feature_maps_are_what_hooks_see(name):
    model = _timm(name, features_only=True)
    seen, info = {}, model.feature_info
    for module in info.module_name():
        model.model.get_submodule(module).register_forward_hook(
            lambda _m, _i, y, module=module: seen.update({module: y.clone()})
        )
    with torch.no_grad():
        maps = model(X)
    assert [y.shape[1] for y in maps] == info.channels()
    assert [64 // y.shape[-1] for y in maps] == info.reduction()
    assert all(
        torch.equal(y, seen[module]) for y, module in zip(maps, info.module_name(), strict=True)
    )


@pytest.mark.parametrize("name", ["resnet_tiny", "convnext_nano"])
def test_feature_maps_are_the_stages(name):
    model, stages = _timm(name, features_only=True, out_indices=(-4, -3, -2, -1)), _timm(name)
    with torch.no_grad():
        for theirs, ours in zip(model(X), stages.features(X), strict=True):
            assert torch.equal(theirs, ours)


@pytest.mark.parametrize(
    ("name", "reductions"),
    [
        ("coresnet18", [2, 4, 8, 16, 32]),
        ("nl_resnet50", [2, 4, 8, 16, 32]),
        ("ctx_resnet50", [2, 4, 8, 16, 32]),
        ("convnext_tiny", [4, 8, 16, 32]),
        ("overlock_xt", [4, 8, 16, 32]),
    ],
)
def test_reductions_of_the_published_networks(name, reductions):
    assert [stage["reduction"] for stage in _timm(name).feature_info] == reductions


def test_out_indices_choose_maps():
    everything = _timm("resnet_tiny", features_only=True)(X)
    some = _timm("resnet_tiny", features_only=True, out_indices=(1, -1))
    assert some.feature_info.module_name() == ["layer1", "layer4"]
    for ours, theirs in zip([everything[1], everything[4]], some(X), strict=True):
        assert torch.equal(ours, theirs)
    assert len(_timm("resnet_tiny", features_only=True, out_indices=2)(X)) == 2


@each
@pytest.mark.parametrize("indices", [(2, 0), (-1, 1, 1)])
def test_maps_come_in_the_order_that_is_asked_for(name, indices):
    model = _timm(name, features_only=True, out_indices=indices)
    with torch.no_grad():
        maps = model(X)
    assert [y.shape[1] for y in maps] == model.feature_info.channels()
    assert [64 // y.shape[-1] for y in maps] == model.feature_info.reduction()


def test_options_of_ours_pass():
    model = _timm("coresnet50", levels="3,3,2,1", width=8)
    assert model.layer1[0].conv2.levels == create_model("coresnet50:levels=3,3,2,1:width=8") \
        .layer1[0].conv2.levels  # fmt: skip
    assert _timm("coresnet50", levels=[3, 3, 2, 1], width=8).layer1[0].conv2.levels == (
        model.layer1[0].conv2.levels
    )
    rates = [block.drop_path for block in _timm("convnext_nano", drop_path_rate=0.2).stages[3]]
    assert rates[-1].p == pytest.approx(0.2)


@each
def test_the_classifier_is_replaced(name):
    model = _timm(name)
    model.reset_classifier(9)
    assert (model(X).shape, model.num_classes) == ((2, 9), 9)
    assert model.get_classifier() is model.get_submodule(model.pretrained_cfg["classifier"])


@pytest.mark.parametrize("name", ["resnet_tiny", "convnext_nano", "overlock_tiny"])
def test_without_classes_it_gives_what_the_classifier_sees(name):
    model = _timm(name, num_classes=0)
    assert (model(X).shape, model.num_classes) == ((2, model.head_hidden_size), 0)


def test_its_configuration_says_what_images_it_takes():
    config = timm.data.resolve_data_config(_timm("resnet_tiny", in_chans=1).pretrained_cfg)
    assert config["input_size"] == (1, 32, 32)
    assert len(config["mean"]) == len(config["std"]) == 1
    assert timm.data.resolve_data_config({}, model=_timm("coresnet18"))["input_size"][1] == 224


@each
def test_it_trains_with_timms_parts(name):
    torch.manual_seed(0)
    model = _timm(name, num_classes=10, drop_rate=0.0).train()
    optimizer = timm.optim.create_optimizer_v2(model, opt="sgd", lr=1e-4, weight_decay=0.0)
    average = timm.utils.ModelEmaV2(model, decay=0.5)
    loss_of, target = timm.loss.LabelSmoothingCrossEntropy(), torch.tensor([1, 2])
    losses = []
    for _ in range(3):
        loss = loss_of(model(X), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert type(average.module) is type(model)


def test_it_is_copied_and_pickled():
    model = _timm("resnet_tiny")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.eval()(X), model(X))


def test_gradient_checkpointing_is_overlocks():
    model = _timm("overlock_tiny")
    model.set_grad_checkpointing()
    assert model.checkpointing
    with pytest.raises(ValueError, match="for OverLoCK alone"):
        _timm("resnet_tiny").set_grad_checkpointing()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("resnet18", {"pretrained": True}, "nothing to download.*checkpoint_path=PATH"),
        ("resnet18", {"drop_path_rate": 0.1}, "has no drop_path_rate=0.1"),
        ("resnet18", {"drop_rate": 0.1}, "has no drop_rate=0.1"),
        ("resnet18", {"global_pool": "max"}, "has no global_pool=max"),
        ("resnet18", {"out_indices": (1,)}, "out_indices goes with features_only=True"),
        ("resnet18", {"width": 0}, "width=0 is out of range"),
        ("resnet_tiny", {"features_only": True, "out_indices": (7,)}, "there are 5 stages"),
        ("ctx_resnet_tiny", {"num_classes": 0}, "asks for more classes|guide a stage"),
    ],
)
def test_what_it_cannot_be_given_is_said_in_one_line(name, arguments, said):
    with pytest.raises(SpecError, match=said) as caught:
        _timm(name, **arguments)
    assert "\n" not in str(caught.value)


def test_an_unknown_argument_is_met_with_the_nearest():
    with pytest.raises(UnknownNameError, match="'widht'. Did you mean 'width'"):
        _timm("resnet18", widht=3)


def test_a_foreign_spec_finds_it():
    spec = "timm/ctxbench_coresnet50:levels=3,3,2,1:num_classes=10"
    counted = count(create_model(spec), torch.zeros(1, 3, 64, 64))
    ours = count(
        create_model("coresnet50:levels=3,3,2,1:num_classes=10"), torch.zeros(1, 3, 64, 64)
    )
    assert (counted.macs, counted.params) == (ours.macs, ours.params)


def test_without_timm_one_line_says_so():
    program = (
        "import sys; sys.modules['timm'] = None\n"
        "from ctxbench.errors import MissingPackageError\n"
        "try:\n    import ctxbench.timm\n"
        "except MissingPackageError as error:\n    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "ctxbench.timm needs 'timm'. Install it: pip install 'ctxbench[timm]'\n"


def test_a_command_that_names_it_by_timms_name_is_told_ours():
    command = [sys.executable, "-m", "ctxbench", "flops", "timm/ctxbench_resnet18"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("ctxbench: timm/ctxbench_resnet18 is a network of ours. Write res")
