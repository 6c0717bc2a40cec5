"""CGC-ResNet: the authors' network, and ResNet but for its gates."""

import pytest
import torch

from ctxbench import create_model, load_checkpoint
from ctxbench.errors import CheckpointError, SpecError
from ctxbench.measure.flops import count
from ctxbench.models import resolve, without_weights
from ctxbench.ops import CGConv2d
from tests.conformance import vectors


def _count(spec):
    network = resolve(spec)
    return count(without_weights(network), *network.inputs(1, 224, 224))


def test_equals_the_authors_network(tmp_path):
    described, state, (x,), expected = vectors.load("cgc_resnet50")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "authors.pth")
    model = create_model("cgc_resnet50").double().eval()
    load_checkpoint(model, tmp_path / "authors.pth")
    seen = {}
    for name in described["probes"]:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, y, name=name: seen.update({name: float(y.mean())})
        )
    with torch.no_grad():
        assert vectors.relative_error(model(x), expected["logits"]) < 1e-9
    means = {name: probe["mean"] for name, probe in described["probes"].items()}
    assert seen == pytest.approx(means, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("spec", ["resnet50", "cgc_resnet50:gated_stem=false", "cgc_resnet101"])
def test_the_authors_weights_fit_no_other_network(spec, tmp_path):
    _, state, _, _ = vectors.load("cgc_resnet50")
    torch.save(state, tmp_path / "authors.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(create_model(spec), tmp_path / "authors.pth")


def test_our_own_weights_load_back(tmp_path):
    model, other = (create_model("cgc_resnet_tiny") for _ in range(2))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    load_checkpoint(other, tmp_path / "w.pth")
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_adds_the_parameters_of_the_gates_to_resnet():
    plain = _count("resnet50").params
    assert _count("cgc_resnet50").params == 25_589_951 == plain + 32_919  # measured, 3.1
    assert _count("cgc_resnet50:gated_stem=false").params == plain + 28_912


def test_adds_the_products_of_the_gates_to_resnet():
    counted = _count("cgc_resnet50")
    gates = {name: m for name, m in counted.modules.items() if name.endswith(".gate")}
    added = sum(module.work.macs for module in gates.values())
    assert len(gates) == 17
    assert counted.macs == 4_089_184_256 + added
    assert round(added / 1e6, 2) == 0.90  # measured, 3.1


@pytest.mark.parametrize("depth", [18, 50])
def test_differs_from_resnet_in_the_3x3_and_the_stem_alone(depth):
    plain, gated = (without_weights(resolve(f"{name}{depth}")) for name in ("resnet", "cgc_resnet"))
    names = {name for name, module in gated.named_modules() if isinstance(module, CGConv2d)}
    convolutions = {
        name
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1)
    }
    assert names == convolutions
    shapes = {key: value.shape for key, value in plain.state_dict().items()}
    without_gates = {
        key: value.shape for key, value in gated.state_dict().items() if ".gate." not in key
    }
    assert without_gates == shapes


@pytest.mark.parametrize("spec", ["cgc_resnet50:width=16", "cgc_resnet18", "cgc_resnet_tiny"])
@pytest.mark.parametrize("size", [(72, 72), (256, 192)])
def test_takes_images_of_any_size(spec, size):
    torch.manual_seed(0)
    model = create_model(f"{spec}:num_classes=7").eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_a_width_without_an_answer_is_named():
    with pytest.raises(SpecError, match="cgc_resnet18: CGConv2d lets 16.*in_channels=24"):
        create_model("cgc_resnet18:width=24")
