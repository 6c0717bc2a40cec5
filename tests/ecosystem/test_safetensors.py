"""Weights out and in again, as safetensors and torch files, whole or not at all."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import safe_open
from torch import nn

import ctxbench
from ctxbench import create_model, load_checkpoint, save_checkpoint
from ctxbench.ablate.checkpoint import save_weights
from ctxbench.errors import CheckpointError
from ctxbench.models.saving import write_new
from tests.ecosystem.networks import FAMILIES

RESNET = FAMILIES["resnet"]


def _same(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_what_is_saved_is_loaded(tmp_path, name, suffix):
    model, other = create_model(FAMILIES[name]), create_model(FAMILIES[name])
    assert not _same(model, other)
    save_checkpoint(model, tmp_path / f"weights{suffix}")
    load_checkpoint(other, tmp_path / f"weights{suffix}")
    assert _same(model, other)


def test_the_weights_of_a_finished_trial_are_loaded(tmp_path):
    model, other = create_model(FAMILIES["coresnet"]), create_model(FAMILIES["coresnet"])
    load_checkpoint(other, save_weights(tmp_path, model))
    assert _same(model, other)


def test_the_version_and_the_spec_are_written_beside_the_weights(tmp_path):
    model = create_model(RESNET)
    save_checkpoint(model, tmp_path / "x.safetensors", spec=RESNET)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        about = file.metadata()
    assert about == {"format": "pt", "ctxbench": ctxbench.__version__, "spec": RESNET}
    save_checkpoint(model, tmp_path / "x.pth", spec=RESNET)
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert (content["ctxbench"], content["spec"]) == (ctxbench.__version__, RESNET)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_tensors_that_share_memory_are_saved(tmp_path, suffix):
    model, other = Tied(), Tied()
    save_checkpoint(model, tmp_path / f"x{suffix}")
    load_checkpoint(other, tmp_path / f"x{suffix}")
    assert _same(model, other)
    assert other.a.weight is other.b.weight


def test_a_view_does_not_bring_what_it_is_a_view_of(tmp_path):
    model = nn.Module()
    model.register_buffer("row", torch.zeros(1000, 1000)[0])
    save_checkpoint(model, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").stat().st_size < 20_000


def test_a_parallel_network_is_saved_without_its_wrapper(tmp_path):
    model, other = create_model(RESNET), create_model(RESNET)
    save_checkpoint(nn.DataParallel(model), tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert set(file.keys()) == set(other.state_dict())


def test_a_file_is_overwritten_on_request_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    first, second = create_model(RESNET), create_model(RESNET)
    save_checkpoint(first, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"there already\. .*overwrite=True\.$"):
        save_checkpoint(second, path)
    assert path.read_bytes() == before
    save_checkpoint(second, path, overwrite=True)
    load_checkpoint(first, path)
    assert _same(first, second)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("x.bin", r"the suffix '\.bin' is unknown\. Give \.safetensors or \.pth"),
        ("x", "the suffix '' is unknown"),
        ("no/x.pth", "there is no folder '.*no'. Make it first"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(tmp_path, path, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        save_checkpoint(nn.Linear(1, 1), tmp_path / path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"x{suffix}"
    save_checkpoint(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"^Cannot write .*: No space left on device\.$"):
        save_checkpoint(nn.Linear(2, 2), path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="^Cannot write .*: Permission denied"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "x.pth")


class Odd(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}


def test_state_that_is_no_tensor_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match="_extra_state is no dense tensor .*, and a weight file"
    ):
        save_checkpoint(Odd(2, 2), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 2, device="meta"), nn.LazyLinear(2)], ids=["meta", "lazy"]
)
def test_weights_without_numbers_are_refused(tmp_path, model):
    with pytest.raises(CheckpointError, match="weight is no dense tensor with numbers"):
        save_checkpoint(model, tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_safetensors_does_not_know_are_told(tmp_path):
    model = nn.Linear(2, 2, dtype=torch.complex128)
    with pytest.raises(CheckpointError, match=r"safetensors has no form for torch.complex128"):
        save_checkpoint(model, tmp_path / "x.safetensors")


def test_two_threads_may_write_one_file(tmp_path):
    path, both_began = tmp_path / "x.pt", threading.Barrier(2)

    def write(text):
        with write_new(path, suffixes=(".pt",), overwrite=True) as save:
            both_began.wait(10)
            save(lambda file: file.write_text(text))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, ["one", "other"]))  # raises what was raised there
    assert path.read_text() in ("one", "other")
    assert list(tmp_path.iterdir()) == [path]
