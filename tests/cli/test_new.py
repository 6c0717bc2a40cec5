"""`ctxbench new operator NAME` in a copy of the checkout: what it writes passes what all pass."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = "mean_gate"
WRITTEN = [
    f"ctxbench/ops/{NAME}.py",
    f"tests/reference/{NAME}.py",
    f"tests/ops/test_{NAME}.py",
    f"experiments/{NAME}.toml",
    "ctxbench/ops/__init__.py",
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a copy of the checkout's code with a new operator in it, and what the command said."""
    folder = tmp_path_factory.mktemp("checkout")
    unwanted = shutil.ignore_patterns("__pycache__", "*.npz", "*.pt", "*.safetensors")
    for part in ("ctxbench", "tests", "experiments"):
        shutil.copytree(ROOT / part, folder / part, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder, _python(folder, "-m", "ctxbench", "new", "operator", NAME)


def _python(folder, *words):
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_it_says_what_it_wrote_and_what_to_do_next(checkout):
    folder, said = checkout
    assert (said.returncode, said.stdout.split()) == (0, WRITTEN)
    assert all((folder / path).is_file() for path in WRITTEN)
    assert f"ctxbench ablate experiments/{NAME}.toml --dry-run" in said.stderr
    assert "docs/operators.md" in said.stderr  # where tests ask for every operator


def test_the_operator_passes_what_every_operator_must_obey(checkout):
    folder, _ = checkout
    words = ("-m", "pytest", "-p", "no:cacheprovider", "-vv", "-k", NAME, "tests/ops")
    run = _python(folder, *words)
    assert run.returncode == 0, run.stdout
    for each in (
        f"test_has_a_counting_rule[{NAME}]",
        f"test_every_parameter_gets_a_gradient[{NAME}]",
        f"test_every_option_has_a_default[{NAME}]",
        f"test_{NAME}.py::test_equals_its_definition",
    ):
        assert each in run.stdout


def test_the_operator_counts_alone_and_in_networks(checkout):
    folder, _ = checkout
    specs = (f"op/{NAME}", f"resnet_tiny:replace={NAME}", f"torchvision/resnet18:replace={NAME}")
    run = _python(folder, "-m", "ctxbench", "flops", *specs, "--cross-check", "--format", "csv")
    assert (run.returncode, "DISAGREEMENT" in run.stderr) == (0, False)
    assert [line.split(",")[0] for line in run.stdout.splitlines()[1:]] == list(specs)


def test_the_experiment_compares_it_with_the_convolution(checkout):
    folder, _ = checkout
    seeds = tomllib.loads((folder / f"experiments/{NAME}.toml").read_text())["seeds"]
    file = f"experiments/{NAME}.toml"
    words = ("--dry-run", "--set", "data=digits", "--format", "csv", "--quiet")
    run = _python(folder, "-m", "ctxbench", "ablate", file, *words)
    assert run.returncode == 0, run.stderr
    networks = [line.split(",")[1] for line in run.stdout.splitlines()[1:]]
    assert [NAME in network for network in networks] == [False, True]
    assert len(seeds) >= 3


def test_ruff_accepts_what_is_written(checkout):
    folder, _ = checkout
    files = [path for path in WRITTEN if path.endswith(".py")]
    for words in (("check",), ("format", "--check")):
        run = _python(folder, "-m", "ruff", *words, "--no-cache", *files)
        assert run.returncode == 0, run.stdout


@pytest.mark.slow  # without a cache mypy reads torch
def test_mypy_accepts_what_is_written(checkout):
    folder, _ = checkout
    files = [path for path in WRITTEN if path.startswith("ctxbench")]
    run = _python(folder, "-m", "mypy", *files)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", ["Gate", "coconv"])
def test_a_mistake_is_one_line_and_exit_code_2(run, name):
    code, out, err = run("new", "operator", name, "--root", str(ROOT))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("ctxbench: ")


def test_outside_of_a_checkout_it_says_so(run):
    code, out, err = run("new", "operator", "gate")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "is no checkout of ctxbench" in err
