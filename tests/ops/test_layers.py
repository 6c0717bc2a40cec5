"""Operators by spec, `op/NAME:key=value...`: at any shape, as they cost and compute elsewhere."""

import re

import pytest
import torch

from ctxbench.errors import SpecError, UnknownNameError
from ctxbench.measure.costs import Setting, count_spec
from ctxbench.measure.flops import count
from ctxbench.models import create_model, replaced_in, resolve, without_weights
from ctxbench.models.listing import expand
from ctxbench.ops import LAYERS, OPS
from ctxbench.spec import defaults_of, options_of

every_layer = pytest.mark.parametrize("name", LAYERS)

# a value that each option takes besides its default; channels of 32 suit all operators
OTHER = {
    "backend": "reference",
    "channels": "32", "out_channels": "96", "kernel": "13", "stride": "2", "dilation": "2",
    "groups": "2", "depthwise": "true", "bias": "false", "levels": "top3", "parts": "kernels",
    "mask": "false", "norm": "layer", "context_channels": "12", "small_kernel": "3", "heads": "2",
    "ratio": "2", "first": "true", "scaled": "true", "folded": "true",
}  # fmt: skip
CASES = [(name, key) for name, layer in LAYERS.items() for key in options_of(layer.build)]


def _macs(spec, size=(9, 7), batch=1):
    return count_spec(spec, Setting(batch=batch, image_size=size))[0].macs


def test_every_operator_and_the_plain_convolution_have_a_layer():
    assert set(LAYERS) == {"conv", *OPS}


@every_layer
def test_every_option_has_a_default(name):
    build = LAYERS[name].build
    assert set(defaults_of(build)) == set(options_of(build))


@every_layer
@pytest.mark.parametrize("size", [(14, 14), (9, 17)])
def test_runs_on_its_inputs(name, size):
    network = resolve(f"op/{name}:channels=32")
    inputs = network.inputs(2, *size)
    assert inputs[0].shape == (2, 32, *size)
    assert all(tensor.std() > 0.5 for tensor in inputs)
    y = network.build()(*inputs)
    assert (len(y), *y.shape[2:]) == (2, *size)


@pytest.mark.parametrize(("name", "key"), CASES)
def test_every_option_as_text_reaches_the_layer(name, key):
    network = resolve(f"op/{name}:{key}={OTHER[key]}")
    op = network.build().eval()
    assert op(*network.inputs(2, 9, 12)).isfinite().all()
    default = resolve(f"op/{name}")
    assert (str(op), _macs(network.spec)) != (str(default.build()), _macs(default.spec))


@every_layer
def test_counted_without_weights_it_costs_what_the_real_one_does(name):
    network = resolve(f"op/{name}:channels=32")
    inputs = network.inputs(2, 9, 17)
    bare, real = (count(op, *inputs) for op in (without_weights(network), network.build()))
    assert (bare.macs, bare.params, bare.work) == (real.macs, real.params, real.work)
    assert bare.macs > 0


@every_layer
def test_batches_cost_as_much_a_sample(name):
    spec = f"op/{name}:channels=32"
    assert _macs(spec, batch=3) == 3 * _macs(spec)


@pytest.mark.parametrize(
    ("spec", "macs"),
    [
        ("op/conv:channels=32:out_channels=48:bias=false", 9 * 32 * 48 * 63),
        ("op/conv:channels=32:kernel=5:groups=4", 25 * 32 * 8 * 63),
        ("op/conv:channels=32:stride=2", 9 * 32 * 32 * 20),
        ("op/conv:channels=256:kernel=13:depthwise=true", 169 * 256 * 63),
        ("op/coconv:channels=128:levels=3", 9 * 128 * 128 * 63),
        ("op/coconv:channels=32:groups=2:levels=top:stride=2", 9 * 32 * 16 * 20),
        ("op/cgc:channels=32", 9 * 32 * 32 * 63 + 9 * 5 * 3 * 32 + 5 * 16 * 32),
        ("op/dilated_reparam:channels=256:kernel=13:folded=true", 169 * 256 * 63),
        (
            "op/dilated_reparam:channels=32:kernel=7",
            (49 + 25 + 9 + 9 + 9) * 32 * 63,
        ),
        (  # hidden = 8: the taps displaced, the displacements with the mask, the kernel offsets
            "op/ctxconv:channels=32:context_channels=4",
            9 * 32 * 32 * 63 + (36 * 8 + 9 * 8 * 27) * 63 + 36 * 8 + 8 * 9 * 32,
        ),
        (  # hidden = 2, without a prior
            "op/ctxconv:channels=32:kernel=7:depthwise=true",
            49 * 32 * 63 + (32 * 2 + 49 * 2 * 147) * 63 + 32 * 2 + 2 * 49 * 32,
        ),
        (
            "op/repconv:channels=32:kernel=7:folded=true",
            (32 * (9 + 49) + 128 * (64 + 9)) * 63 + 2 * 32 * 16,
        ),
    ],
)
def test_costs_what_its_formula_says(spec, macs):
    assert _macs(spec) == macs


@pytest.mark.parametrize("options", ["channels=128", "channels=24:kernel=5:stride=2:groups=3"])
def test_coconv_costs_what_the_convolution_does(options):
    setting = Setting(batch=2, image_size=(20, 31))
    ours, plain = (count_spec(f"op/{name}:{options}", setting) for name in ("coconv", "conv"))
    assert ours[1] == plain[1] == (2, int(options[9:].split(":")[0]), 20, 31)
    assert (ours[0].macs, ours[0].params) == (plain[0].macs, plain[0].params)


def test_the_published_shapes_can_be_counted():
    for spec in (
        "op/contmix:channels=64:kernel=7:heads=2",
        "op/dynamic_block:channels=256:context_channels=84:kernel=13:heads=4",
        "op/ctxconv:channels=192:kernel=7:depthwise=true",
    ):
        assert _macs(spec, size=(14, 14)) > 0


def test_second_inputs_have_the_widths_of_the_options():
    shapes = [
        [tuple(tensor.shape) for tensor in resolve(spec).inputs(2, 5, 6)]
        for spec in (
            "op/ctxconv:channels=8",
            "op/ctxconv:channels=8:context_channels=3",
            "op/dynamic_block:channels=8:context_channels=3",
        )
    ]
    x = (2, 8, 5, 6)
    assert shapes == [[x], [x, (2, 3)], [x, (2, 3, 5, 6), (2, 3, 5, 6)]]


@pytest.mark.parametrize("parts", ["both", "offsets", "kernels"])
def test_a_contextual_layer_generates_something(parts):
    network = resolve(f"op/ctxconv:channels=32:parts={parts}")
    op = network.build().eval()
    (x,) = network.inputs(2, 9, 9)
    if parts != "kernels":
        offset, _ = op.sampling(x)
        assert (offset != offset.round()).all()
    if parts != "offsets":
        assert (op.kernels(x) != op.weight).all()


def test_building_a_layer_sets_no_seed():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        torch.rand(5)
        weights.append(create_model("op/ctxconv:channels=8").offset_net[-1].weight)
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    other = create_model("op/ctxconv:channels=8").offset_net[-1].weight
    assert not torch.equal(other, weights[0])


def test_an_operator_is_built_by_its_spec():
    op = create_model("op/coconv:channels=32:out_channels=40:levels=2:bias=false")
    assert (op.in_channels, op.out_channels, op.bias) == (32, 40, None)
    assert op.levels == ((20, 1), (20, 2))
    assert resolve(" op/coconv ").image_px == 56


def test_patterns_of_networks_match_no_operator():
    assert not any(name.startswith("op/") for name in expand(["*"]))
    several = sorted(name for name in LAYERS if name.startswith("co") and name.endswith("v"))
    assert {"coconv", "conv"} <= set(several)
    assert expand(["op/co*v:channels=8"]) == [f"op/{name}:channels=8" for name in several]
    assert expand(["op/*"]) == sorted(f"op/{name}" for name in LAYERS)


def test_a_file_in_a_folder_of_that_name_stays_a_file(tmp_path, monkeypatch):
    (tmp_path / "op").mkdir()
    (tmp_path / "op/nets.py").write_text("import torch\ndef net(): return torch.nn.ReLU()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(create_model("op/nets.py:net"), torch.nn.ReLU)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("op/cocnv", UnknownNameError, "Unknown operator 'cocnv'. Did you mean 'coconv'?"),
        ("op/", UnknownNameError, f"Unknown operator ''. Known: {', '.join(sorted(LAYERS))}"),
        ("op/cgc:chanels=8", UnknownNameError, "Unknown option of op/cgc 'chanels'. Did you mean"),
        ("op/conv:kernel=big", SpecError, "op/conv: kernel=big is not a whole number"),
        ("op/conv:kernel=2", SpecError, "op/conv: conv needs an odd kernel"),
        ("op/conv:stride=0", SpecError, "op/conv: stride=0 is out of range"),
        ("op/conv:out_channels=0", SpecError, "op/conv: out_channels=0 is out of range"),
        ("op/conv:groups=3", SpecError, "op/conv: in_channels must be divisible by groups"),
        ("op/conv:groups=2:depthwise=true", SpecError, "depthwise=true is groups=64; got groups=2"),
        ("op/coconv:levels=9", SpecError, "op/coconv: CoConv2d splits into 1 to 5 levels"),
        ("op/cgc:channels=24", SpecError, "op/cgc: CGConv2d lets 16 input channels interact"),
        ("op/ctxconv:parts=all", SpecError, "parts=all is not both or offsets or kernels"),
        ("op/contmix:channels=0", SpecError, "op/contmix: channels=0 is out of range"),
        ("op/contmix:heads=3", SpecError, "op/contmix: ContMix cuts each half of the channels"),
        ("op/dynamic_block:ratio=-1", SpecError, "op/dynamic_block: ratio=-1 is out of range"),
        ("op/dilated_reparam:kernel=9", SpecError, "op/dilated_reparam: DilatedReparam knows"),
        ("op/repconv:channels=-8", SpecError, "op/repconv: channels=-8 is out of range"),
    ],
)
def test_a_mistake_is_named(spec, error, message):
    with pytest.raises(error, match=re.escape(message)):
        create_model(spec)


@pytest.mark.parametrize("call", [resolve, create_model, replaced_in])
def test_nothing_is_replaced_in_an_operator(call):
    with pytest.raises(SpecError, match="op/conv:bias=false is one operator, with no network"):
        call("op/conv:bias=false:replace=coconv:levels=2")
