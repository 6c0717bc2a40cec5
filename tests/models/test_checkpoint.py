"""Weight files: everybody's are read, strictly, and none can run code."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

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
    ],
    ids=["plain", "state_dict", "model and module.", "compiled and parallel"],
)
def test_reads_what_torch_saved(nest, weights, tmp_path):
    torch.save(nest(weights), tmp_path / "w.pth")
    model = create_model(TINY)
    load_checkpoint(model, tmp_path / "w.pth")
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
    ],
    ids=["missing", "unexpected", "shape", "not a tensor"],
)
def test_every_misfit_is_named_and_the_network_kept(spoil, message, weights, tmp_path):
    model = create_model(TINY)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    spoil(weights)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, tmp_path / "w.pth")
    assert _equal(model, before)


def test_other_levels_are_refused_and_the_network_kept(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth")
    model = create_model(f"{TINY}:levels=top")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="belong to a CoConv2d"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert _equal(model, before)


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


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, torch.zeros(3)])
def test_what_is_no_state_dict_is_named(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_checkpoint(create_model(TINY), tmp_path / "w.pth")
