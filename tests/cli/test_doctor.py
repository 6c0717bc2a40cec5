"""`ctxbench doctor` on a machine that is well, and on machines that are not."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

from ctxbench import doctor
from ctxbench.doctor import _machine, _operators, _packages
from ctxbench.doctor._packages import Requirement, check_optional, check_required, vision
from ctxbench.doctor._row import finding
from ctxbench.kernels import BACKENDS
from ctxbench.ops import CGConv2d, CoConv2d, ContextualConv2d, ContMix

PROGRAM = "import sys; sys.argv = {}; from ctxbench.cli import main; main()"


def _doctor(folder, *words, before=""):
    program = f"{before}\n{PROGRAM.format(['ctxbench', 'doctor', *words])}"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_machine_that_is_well(tmp_path):
    run = _doctor(tmp_path, "--format", "json")
    assert run.returncode == 0, run.stdout
    rows = {row["part"]: row for row in json.loads(run.stdout)}
    assert {row["state"] for row in rows.values()} <= {"ok", "missing"}
    assert rows["torch"]["found"] == version("torch")
    each = {f"{name} on cpu, {by}" for name in _operators.CASES for by in ("reference", "torch")}
    assert each | {f"backend {name}" for name in BACKENDS} <= set(rows)
    assert rows["parameters of resnet50"]["found"] == "25,557,032"
    assert run.stderr.endswith("Nothing is wrong.\n")
    assert not list(tmp_path.iterdir())


def test_without_torch_it_says_so_and_how_to_get_it(tmp_path):
    run = _doctor(tmp_path, before="import sys; sys.modules['torch'] = None")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    lines = {line.split()[1]: line for line in run.stdout.splitlines()[2:]}
    assert lines["torch"].startswith("wrong")
    assert "cannot be imported" in lines["torch"]
    assert "pip install --force-reinstall torch torchvision" in lines["torch"]
    assert lines["grad-cam"].endswith("cannot be imported without torch, see there")
    assert lines["operators"].startswith("wrong")


def test_something_wrong_is_exit_code_1_and_something_missing_is_not(run, monkeypatch):
    rows = [finding("missing", "timm", "not installed")]
    monkeypatch.setattr(doctor, "examine", lambda out: iter(rows))
    assert run("doctor")[0] == 0
    rows.append(finding("wrong", "torch", "1.0"))
    code, _, err = run("doctor")
    assert (code, err) == (1, "Wrong: torch.\n")


def test_an_absent_package_comes_with_the_command_that_brings_it():
    found = check_optional(Requirement("no-such-package", "", "timm"))
    assert found["state"] == "missing"
    assert "pip install 'ctxbench[timm]'" in found["note"]
    found = check_required(Requirement("no-such-package", "2.1", None))
    assert found["state"] == "wrong"
    assert "pip install 'no-such-package>=2.1'" in found["note"]


def test_a_package_that_is_too_old_is_wrong():
    found = check_required(Requirement("torch", "99.0", None))
    assert found["state"] == "wrong"
    assert found["note"] == "older than 99.0: pip install 'torch>=99.0'"


def test_a_package_that_cannot_be_imported_is_wrong(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    found = check_required(Requirement("safetensors", "", None))
    assert found["state"] == "wrong"
    assert "cannot be imported" in found["note"]


def test_torchvision_without_its_operators_is_wrong(monkeypatch):
    assert list(vision()) == []
    monkeypatch.setattr(torch.ops, "torchvision", SimpleNamespace(), raising=False)
    (found,) = vision()
    assert found["state"] == "wrong"
    assert "torchvision::nms is missing: pip install --force-reinstall" in found["note"]


@pytest.mark.parametrize(
    ("build", "vision_build", "note"),
    [
        ("+cpu", "+cu130", "builds for cu130 and for cpu: pip install --force-reinstall"),
        ("+cu126", "+cu130", "builds for cu130 and for cu126: pip install --force-reinstall"),
    ],
)
def test_builds_that_do_not_fit_each_other_are_wrong(build, vision_build, note):
    versions = {"torch": f"2.11.0{build}", "torchvision": f"0.26.0{vision_build}"}
    (found,) = vision(versions.get)
    assert found["state"] == "wrong"
    assert found["note"].startswith(note)


def test_a_torchvision_of_another_torch_is_wrong(monkeypatch):
    monkeypatch.setattr(_packages, "_wanted_torch", lambda: "2.12.0")
    (found,) = vision({"torch": "2.11.0", "torchvision": "0.27.0"}.get)
    assert found["note"].startswith("it was built for torch 2.12.0: pip install")


def test_every_optional_package_has_a_purpose():
    assert {
        each.name
        for each in _packages.requirements()
        if each.extra not in _packages.OWN and each.name not in _packages.PURPOSES
    } == set()


def test_an_installed_package_knows_its_requirements_without_the_checkout(monkeypatch, tmp_path):
    texts = ["torch>=2.11", "typer", 'timm; extra == "timm"']
    monkeypatch.setattr(_packages, "_PROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(_packages.metadata, "requires", lambda name: texts)
    assert _packages.requirements() == [
        Requirement("torch", "2.11", None),
        Requirement("typer", "", None),
        Requirement("timm", "", "timm"),
    ]


def _states():
    return {row["part"].partition(" on ")[0]: row["state"] for row in _operators.operators()}


def test_operators_that_compute_right_are_ok():
    assert set(_states().values()) == {"ok"}


@pytest.mark.parametrize(
    ("operator", "part"),
    [
        (CoConv2d, "CoConv"),
        (CGConv2d, "Context-Gated Convolution"),
        (ContextualConv2d, "contextual convolution"),
        (ContMix, "ContMix"),
    ],
)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y * (1 + 1e-8),
        lambda y: y * float("nan"),
        lambda y: y.detach() + 2 * (y - y.detach()),  # right values, wrong gradients
        lambda y: y.no_such_method(),
    ],
)
def test_an_operator_that_computes_wrong_is_found(monkeypatch, operator, part, spoil):
    right = operator.forward
    monkeypatch.setattr(operator, "forward", lambda self, *x: spoil(right(self, *x)))
    wrong = [name for name, state in _states().items() if state == "wrong"]
    assert wrong == [part]


def test_checking_leaves_the_seed_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(_operators.operators())
    assert torch.equal(torch.rand(3), expected)


def test_checking_seeds_no_gpu(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    list(_operators.operators())
    assert seeds == []


@pytest.mark.gpu
def test_checking_leaves_the_random_numbers_of_the_gpu_alone():
    before = torch.cuda.get_rng_state()
    assert {found["state"] for found in _operators.operators("cuda")} == {"ok"}
    assert torch.equal(torch.cuda.get_rng_state(), before)


def _gpus(monkeypatch, *, cuda, says):
    def start():
        raise RuntimeError(says)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", start)
    (found,) = _machine.gpus()
    return found


@pytest.mark.parametrize(
    ("cuda", "says", "state", "note"),
    [
        (None, "", "missing", "this torch is a build for CPUs; nothing here needs a GPU"),
        ("13.0", "Found no NVIDIA driver. Get one.", "missing", "Found no NVIDIA driver; nothing"),
        ("13.0", "The driver is too old (found 11). Update.", "wrong", "The driver is too old"),
    ],
)
def test_why_there_is_no_gpu(monkeypatch, cuda, says, state, note):
    found = _gpus(monkeypatch, cuda=cuda, says=says)
    assert found["state"] == state
    assert found["note"].startswith(note)


@pytest.mark.parametrize(("known", "state"), [(["sm_80", "sm_90"], "ok"), (["sm_50"], "wrong")])
def test_a_gpu_that_torch_has_no_code_for_is_wrong(monkeypatch, known, state):
    properties = SimpleNamespace(name="GPU", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: known)
    (found,) = _machine.gpus()
    assert found["state"] == state
    assert "80 GiB, compute capability 8.6" in found["found"]


def test_a_folder_whose_name_no_system_takes_is_wrong(tmp_path):
    found = _machine.results(tmp_path / ("x" * 300))
    assert (found["state"], "File name too long" in found["note"]) == ("wrong", True)


def test_results_that_cannot_be_written_are_wrong(tmp_path):
    (tmp_path / "file").touch()
    found = _machine.results(tmp_path / "file/results")
    assert found["state"] == "wrong"
    assert "Choose --out" in found["note"]
    assert _machine.results(tmp_path / "new/results")["state"] == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
