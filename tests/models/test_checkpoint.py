"""Weight files: everybody's are read, strictly, and none can run code."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctxbench import create_model, load_checkpoint
from ctxbench.errors import CheckpointError
from tests.conformance import vectors

TINY = "coresnet_tiny:width=8"


@pytest.fixture
def weights():
    torch.manual_seed(1)
    return create_model(TINY).state_dict()


def _equal(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_equals_the_authors_network(tmp_path):
    described, state, (x,), expected = vectors.load("coresnet50")
    torch.save({"epoch": 89, "state_dict": {f"module.{k}": v for k, v in state.items()}},
               tmp_path / "authors.pth")  # fmt: skip
    model = create_model("coresnet50:end_norm=true").double().eval()
    load_checkpoint(model, tmp_path / "authors.pth")
    seen = {}
    for name in described["probes"]:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, y, name=name: seen.update({name: y.detach().clone()})
        )
    with torch.no_grad():
        assert vectors.relative_error(model(x), expected["logits"]) < 1e-9
    for name, probe in described["probes"].items():
        mean = torch.tensor(probe["mean"], dtype=torch.float64)
        torch.testing.assert_close(seen[name].mean(), mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "spec", ["coresnet50:end_norm=false", "coresnet50:end_norm=true:levels=3,3,2,1", "resnet50"]
)
def test_the_authors_weights_fit_no_other_network(spec, tmp_path):
    _, state, _, _ = vectors.load("coresnet50")
    torch.save(state, tmp_path / "authors.pth")
    with pytest.raises(CheckpointError, match="does not fit|belong to a CoConv2d"):
        load_checkpoint(create_model(spec), tmp_path / "authors.pth")


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: (
            {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in state.items()}
        ),
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "hyper": {}},
    ],
    ids=["plain", "state_dict", "model and module.", "compiled and parallel", "averaged", "lit"],
)
def test_reads_what_torch_saved(nest, weights, tmp_path):
    torch.save(nest(weights), tmp_path / "w.pth")
    model = create_model(TINY)
    load_checkpoint(model, tmp_path / "w.pth")
    assert _equal(model, weights)


def test_weights_at_another_output_stride(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth")
    load_checkpoint(create_model(f"{TINY}:output_stride=8"), tmp_path / "w.pth")


def test_half_precision_becomes_the_networks(weights, tmp_path):
    halves = {key: v.half() if v.is_floating_point() else v for key, v in weights.items()}
    torch.save(halves, tmp_path / "w.pth")
    model = create_model(TINY)
    load_checkpoint(model, tmp_path / "w.pth")
    assert _equal(model, {k: v.float() if v.dtype == torch.half else v for k, v in halves.items()})


def test_loads_into_a_compiled_and_a_parallel_network(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth")
    model = create_model(TINY)
    load_checkpoint(torch.nn.DataParallel(torch.compile(model)), tmp_path / "w.pth")
    assert _equal(model, weights)


def test_reads_safetensors(weights, tmp_path):
    save_file(weights, tmp_path / "w.safetensors")
    model = create_model(TINY)
    load_checkpoint(model, str(tmp_path / "w.safetensors"))
    assert _equal(model, weights)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("fc.bias"), "1 missing: fc.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            lambda s: s.update({"fc.bias": torch.zeros(7)}),
            r"1 of another shape: fc.bias \(file \(7,\), network \(10,\)\)",
        ),
        (lambda s: s.update({"conv1.weight": "text"}), "no tensors: conv1.weight"),
        (lambda s: s.update({3: torch.zeros(1)}), "no tensors: 3"),
        (lambda s: s.update({"fc.bias": torch.zeros(10).cfloat()}), "kind of number: fc.bias"),
        (lambda s: s.update({"fc.bias": torch.zeros(10).char()}), "kind of number: fc.bias"),
        (
            lambda s: s.update({"layer1.0.conv2._extra_state": torch.tensor(3)}),
            "1 of another shape: layer1.0.conv2._extra_state",
        ),
        (
            lambda s: s.update({"layer4.0.conv2._extra_state": torch.tensor([[64, 2]])}),
            "belong to a CoConv2d",
        ),
    ],
    ids=[
        "missing",
        "unexpected",
        "shape",
        "not a tensor",
        "number as name",
        "complex",
        "integer",
        "levels of no shape",
        "other levels",
    ],
)
def test_every_misfit_is_named_and_the_network_kept(spoil, message, weights, tmp_path):
    model = create_model(TINY)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    spoil(weights)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, tmp_path / "w.pth")
    assert _equal(model, before)


def test_every_missing_and_unexpected_entry_can_be_asked_for(weights, tmp_path):
    moved = {f"x.{key}" if key.startswith("layer") else key: v for key, v in weights.items()}
    torch.save(moved, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="and [0-9]+ more") as caught:
        load_checkpoint(create_model(TINY), tmp_path / "w.pth")
    assert set(caught.value.missing) == set(weights) - set(moved)
    assert set(caught.value.unexpected) == set(moved) - set(weights)


def test_other_levels_are_refused_and_the_network_kept(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth")
    model = create_model(f"{TINY}:levels=top")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="belong to a CoConv2d"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert _equal(model, before)


@pytest.mark.parametrize(
    ("saved", "spec", "hint"),
    [
        ("coresnet_tiny:end_norm=true", "coresnet_tiny", "Build it with end_norm=true."),
        ("coresnet_tiny", "coresnet_tiny:end_norm=true", "Build it with end_norm=false."),
        ("resnet_tiny", "coresnet_tiny", "of a network with plain convolutions."),
        ("coresnet_tiny", "resnet_tiny", "of a network with CoConv convolutions."),
        ("coresnet_tiny:num_classes=7", "coresnet_tiny", "Build it with num_classes=7."),
    ],
)
def test_says_what_network_the_file_is_of(saved, spec, hint, tmp_path):
    torch.save(create_model(saved).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=hint):
        load_checkpoint(create_model(spec), tmp_path / "w.pth")


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_weights_give_torchvision_outputs(depth, tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    theirs = models.get_model(f"resnet{depth}", num_classes=7).double().eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = create_model(f"resnet{depth}:num_classes=7").double().eval()
    load_checkpoint(ours, tmp_path / "w.pth")
    x = torch.randn(2, 3, 65, 80, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


class _Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_file_that_would_run_code_is_refused_in_one_line(save, tmp_path, capsys):
    save({"state_dict": _Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match="would run code") as caught:
        load_checkpoint(create_model(TINY), tmp_path / "bomb.pth")
    assert "\n" not in str(caught.value)
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torn_empty_and_absent_files_are_one_line(suffix, weights, tmp_path):
    whole = tmp_path / f"whole.{suffix}"
    (torch.save if suffix == "pth" else save_file)(weights, whole)
    model = create_model(TINY)
    for size in (0, 7, 1000, whole.stat().st_size - 100):
        torn = tmp_path / f"torn.{suffix}"
        torn.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(CheckpointError, match="no complete") as caught:
            load_checkpoint(model, torn)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="There is no weight file"):
        load_checkpoint(model, tmp_path / f"absent.{suffix}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.pth", b"1 2 3"),
        ("array.pth", b"\x93NUMPY\x01"),
        ("zip.pth", b"PK\x05\x06" + bytes(18)),
    ],
)
def test_files_of_another_kind_are_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="no complete weight file") as caught:
        load_checkpoint(create_model(TINY), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_program_is_named_as_such(tmp_path):
    with pytest.warns(FutureWarning, match="jit"):
        torch.jit.script(torch.nn.ReLU()).save(tmp_path / "script.pth")
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        load_checkpoint(create_model(TINY), tmp_path / "script.pth")


def test_a_torn_old_style_file_is_one_line(weights, tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save(weights, whole, _use_new_zipfile_serialization=False)
    model = create_model(TINY)
    load_checkpoint(model, whole)
    data = whole.read_bytes()
    for size in range(1, len(data) - 1, len(data) // 60):
        (tmp_path / "torn.pth").write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="no complete weight file"):
            load_checkpoint(model, tmp_path / "torn.pth")
    assert _equal(model, weights)


def test_a_file_nested_in_itself_ends(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no tensors: model"):
        load_checkpoint(create_model(TINY), tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, torch.zeros(3)])
def test_what_is_no_state_dict_is_named(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_checkpoint(create_model(TINY), tmp_path / "w.pth")


class _Stranger(nn.Module):
    """A network of somebody else, whose names are those of the authors' files."""

    def __init__(self):
        super().__init__()
        self.conv, self.cls = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.nonlinear = nn.Sequential(nn.Linear(2, 2))


class _Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = _Stranger()


@pytest.mark.parametrize("make", [_Stranger, _Wrapped])
def test_a_networks_own_names_are_left_alone(make, tmp_path):
    state = make().state_dict()
    torch.save(state, tmp_path / "own.pth")
    model = make()
    load_checkpoint(model, tmp_path / "own.pth")
    assert _equal(model, state)


def test_a_file_that_lacks_branches_is_not_folded_into_the_network(tmp_path):
    state = create_model("overlock_tiny").state_dict()
    lacking = {
        key: value for key, value in state.items() if "stage1.0.spatial.branches.5_1" not in key
    }
    torch.save(lacking, tmp_path / "lacking.pth")
    model = create_model("overlock_tiny:reparam=true")
    with pytest.raises(CheckpointError, match=r"branches.5_1.0.weight is missing in the file"):
        load_checkpoint(model, tmp_path / "lacking.pth")
