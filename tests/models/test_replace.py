"""Operators in the place of the convolutions of other people's networks."""

import json
import sys

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations
from typer.testing import CliRunner

import ctxbench
from ctxbench import cli
from ctxbench.errors import SpecError, UnknownNameError
from ctxbench.measure.flops import count
from ctxbench.measure.parity import compare
from ctxbench.models import create_model, replace_conv, resolve, without_weights
from ctxbench.ops import OPS, CGConv2d, CoConv2d, OpSpec

PLAIN = "1x1, which no dilation changes"


def _net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 1)),
        nn.Conv2d(32, 64, 5, padding=2, bias=False),
    )


def _levels(model):
    return {n: len(m.levels) for n, m in model.named_modules() if isinstance(m, CoConv2d)}


def _count(spec):
    network = resolve(spec)
    return count(without_weights(network), *network.inputs(1, 64, 64))


def test_one_level_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    x = torch.randn(2, 3, 64, 64)
    before = model(x)
    replaced = replace_conv(model, "coconv:levels=1")
    assert len(replaced.replaced) == 17
    assert set(replaced.left) == {f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)}
    torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "regnet_y_400mf"])
def test_the_first_convolution_alone_of_its_width_goes_with_the_narrowest(name):
    spec = f"torchvision/{name}:replace=coconv:levels=4,3,2,1"
    model = create_model(spec)
    levels = list(_levels(model).values())
    assert levels[0] == 4
    assert levels == sorted(levels, reverse=True)
    assert set(levels) == {4, 3, 2, 1}
    assert compare(_count(spec), _count(f"torchvision/{name}")).equal


@pytest.mark.parametrize("operator", ["coconv:levels=2", "cgc"])
@pytest.mark.parametrize(
    ("name", "replaced"),
    [
        ("resnet18", 17),
        ("resnext50_32x4d", 17),
        ("mobilenet_v3_small", 12),
        ("convnext_tiny", 18),
        ("densenet121", 59),
    ],
)
def test_replaces_in_the_networks_of_torchvision(name, replaced, operator):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=7).eval()
    of_interest = {
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    }
    found = replace_conv(model, operator)
    assert set(found.replaced) | (of_interest & set(found.left)) == of_interest
    reasons = {reason for path, reason in found.left.items() if path in of_interest}
    if operator == "cgc":  # some widths have no answer
        assert all("even" in reason or "CGConv2d" in reason for reason in reasons)
    else:
        assert len(found.replaced) == replaced
        assert all("even" in reason for reason in reasons)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).isfinite().all()


def test_costs_the_same_in_every_layer():
    plain = "torchvision/resnext50_32x4d"
    replaced = _count(f"{plain}:replace=coconv:levels=4,3,2,1:where=layer*")
    parity = compare(replaced, _count(plain))
    assert parity.equal
    assert replaced.modules["layer1.0.conv2"].kind == "CoConv2d"


def test_is_the_registered_variant_of_our_own_baseline():
    torch.manual_seed(0)
    ours = create_model("coresnet50:width=16").eval()
    made = create_model("resnet50:width=16:replace=coconv:levels=4,3,2,1:where=layer*").eval()
    made.load_state_dict(ours.state_dict())  # strict: the same names, and the same levels
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(made(x), ours(x), rtol=0, atol=0)


def test_a_gated_network_has_the_names_of_the_registered_variant():
    theirs = create_model("cgc_resnet18:width=16").state_dict()
    made = create_model("resnet18:width=16:replace=cgc").state_dict()
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in theirs.items()}


def test_keeps_weights_modes_types_and_what_needs_gradients():
    model = _net().double().train()
    model[0].requires_grad_(False).eval()
    weights = dict(model.named_parameters())
    replace_conv(model, "cgc")
    after = dict(model.named_parameters())
    assert all(after[name] is weight for name, weight in weights.items())
    assert [model[0].training, model[0].gate.training, model[2].gate.training] == [False, False, 1]
    assert [model[0].weight.requires_grad, model[2].weight.requires_grad] == [False, True]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_says_what_stands_where_and_why_the_rest_stayed():
    found = replace_conv(_net(), "coconv:levels=2", where="1*,2")
    assert found.left == {"0": "left out by where", "1.1": PLAIN}
    assert set(found.replaced) == {"1.0", "2"}
    assert found.replaced["2"].startswith("CoConv2d(32, 64, kernel_size=(5, 5)")


class _Special(nn.Conv2d):
    pass


def _hooked():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    conv.register_forward_hook(lambda *_: None)
    return conv


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(16, 16, 2), "an even kernel, 2x2"),
        (nn.Conv2d(16, 16, 3), r"padding (0, 0), where 'same' is (1, 1)"),
        (_Special(16, 16, 3, padding=1), "_Special, which does more than nn.Conv2d"),
        (nn.ConvTranspose2d(16, 16, 3), "ConvTranspose2d, transposed"),
        (nn.Conv1d(16, 16, 3, padding=1), "Conv1d, which is no nn.Conv2d"),
        (_hooked(), "hooks, which the swap would lose"),
        (
            parametrizations.weight_norm(nn.Conv2d(16, 16, 3, padding=1)),
            "parametrized, which the swap would lose",
        ),
    ],
)
def test_leaves_what_it_cannot_replace(conv, reason):
    model = nn.ModuleDict({"odd": conv, "plain": nn.Conv2d(16, 16, 3, padding=1)})
    found = replace_conv(model, "cgc")
    assert found.left == {"odd": reason}
    assert model["odd"] is conv


def test_names_the_widths_without_an_answer():
    model = nn.Sequential(nn.Conv2d(24, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    assert "in_channels=24" in replace_conv(model, "cgc").left["0"]


def test_a_shared_convolution_stays_one():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    block = nn.Sequential(conv, nn.ReLU())
    model = nn.ModuleList([conv, block, block])
    found = replace_conv(model, "cgc", where="1*")
    assert set(found.replaced) == {"0", "1.0", "2.0"}
    assert isinstance(model[0], CGConv2d)
    assert model[0] is model[1][0] is model[2][0]


@pytest.mark.parametrize(
    ("where", "expected"),
    [("*", {"0", "1.0", "2"}), ("!1*", {"0", "2"}), ("1.*, 2", {"1.0", "2"}), ("*,!2,!0", {"1.0"})],
)
def test_where_chooses_by_path(where, expected):
    assert set(replace_conv(_net(), "coconv:levels=2", where=where).replaced) == expected
    assert set(replace_conv(_net(), f"coconv:levels=2:where={where}").replaced) == expected


def test_a_list_goes_by_width():
    model = _net()
    replace_conv(model, "coconv:levels=3,2,1")
    assert _levels(model) == {"0": 3, "1.0": 2, "2": 1}
    model = _net()
    replace_conv(model, "coconv:levels=top2,1:where=!0")
    assert [model[1][0].levels, model[2].levels] == [((32, 2),), ((64, 1),)]


@pytest.mark.parametrize(
    ("replacement", "where", "message"),
    [
        ("coconvv", "*", "Unknown operator 'coconvv'. Did you mean 'coconv'"),
        ("coconv:levls=2", "*", "Unknown option of coconv 'levls'. Did you mean 'levels'"),
        ("cgc:levels=2", "*", "Unknown option of cgc 'levels'. Known: backend, where"),
        ("coconv:levels=9", "*", "coconv: CoConv2d splits into 1 to 5 levels; got levels=9"),
        ("coconv:levels=2,2,bottom", "*", "coconv: CoConv2d takes levels='top'.*got 'bottom'"),
        ("coconv:levels", "*", "'levels' is not of the form key=value"),
        (
            "coconv:levels=4,3,2,1",
            "*",
            "levels=4,3,2,1 is 4 values for 3 widths .*: 16 \\(0\\), 32 \\(1.0\\), 64",
        ),
        ("cgc", "layer*", "'layer\\*' matches no convolution of the network. It has 0, 1.0"),
        ("cgc", "*,!layer*", "'!layer\\*' matches no convolution"),
        ("cgc", "", "'' matches no convolution"),
        ("cgc", "1.1", "none of the 4 .*: left out by where \\(3\\); 1x1, which CGC .* \\(1\\)"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(replacement, where, message):
    model = _net()
    with pytest.raises((SpecError, UnknownNameError), match=message):
        replace_conv(model, replacement, where=where)
    assert not any(isinstance(module, CoConv2d | CGConv2d) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(4, 4, 3), "The network itself is a Conv2d.*Wrap it in nn.Sequential"),
        (nn.Sequential(nn.ReLU()), "Sequential has no convolution"),
    ],
)
def test_a_network_without_a_place_is_named(model, message):
    with pytest.raises(SpecError, match=message):
        replace_conv(model, "cgc")


def test_a_block_cannot_stand_in(monkeypatch):
    block = OpSpec(build=nn.Identity, inputs=lambda *_: (), source="")
    monkeypatch.setitem(OPS, "block", block)
    with pytest.raises(SpecError, match="block cannot stand in.*These can: .*coconv"):
        replace_conv(_net(), "block")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18:replace=", "names no operator. Write replace=coconv"),
        ("resnet18:replace=cgc:width=16", "Unknown option of cgc 'width'"),
        ("resnet18:levels=2:replace=cgc", "Unknown option of resnet18 'levels'"),
        ("coresnet_tiny:replace=coconv:where=layer*.conv2", "matches no convolution"),
    ],
)
def test_a_mistake_in_a_spec_is_named(spec, message):
    with pytest.raises((SpecError, UnknownNameError), match=message):
        create_model(spec)


def test_a_spec_replaces_in_networks_of_every_kind(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net(width=8): return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1))"
    )
    for spec in (
        "resnet_tiny : width=8 : replace = coconv : levels=2",
        "torchvision/resnet18:num_classes=7:replace=coconv:levels=2",
        f"{tmp_path / 'nets.py'}:net:width=16:replace=coconv:levels=2",
    ):
        network = resolve(spec)
        assert network.spec == spec
        assert set(_levels(without_weights(network)).values()) == {2}
        assert network.build()(torch.zeros(2, 3, 32, 32)).isfinite().all()


def test_the_commands_take_such_a_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = "torchvision/resnet18"
    spec = f"{plain}:replace=coconv:levels=4,3,2,1:where=layer*"
    words = ["flops", spec, "--against", plain, "--image-size", "64", "--per-layer"]
    monkeypatch.setattr(sys, "argv", ["ctxbench", *words, "--format", "json"])
    with CliRunner().isolation() as (out, err, _):
        with pytest.raises(SystemExit) as stop:
            cli.main()
        rows, notes = json.loads(out.getvalue()), err.getvalue().decode()
    assert not stop.value.code
    assert {row["equal"] for row in rows} == {True}
    assert f"{spec} costs what {plain} does, in each of {len(rows)} layers." in notes


def test_is_a_public_name():
    assert ctxbench.replace_conv is replace_conv


def test_what_is_no_network_and_no_pattern_is_named():
    with pytest.raises(TypeError, match="torch.nn.Module; got str. A name is built by"):
        replace_conv("resnet50", "cgc")
    with pytest.raises(TypeError, match=r"where as text, .*; got \['layer\*'\]"):
        replace_conv(_net(), "cgc", where=["layer*"])


def test_a_convolution_with_a_forward_of_its_own_is_left():
    model = _net()
    model[0].forward = lambda x: x.repeat(1, 6, 1, 1)[:, :16]
    assert replace_conv(model, "cgc:where=0,2").left["0"].startswith("a forward of its own")
