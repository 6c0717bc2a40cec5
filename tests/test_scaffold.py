"""A new operator's files: names that are refused, and a checkout that is left as it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctxbench.ops import LAYERS, OPS
from ctxbench.scaffold import ScaffoldError, class_name, new_operator
from ctxbench.scaffold._registry import registered, with_operator

ROOT = Path(__file__).parents[1]
REGISTRY = (ROOT / "ctxbench/ops/__init__.py").read_text()
LONGEST = "multi_scale_context_gate"
RUFF = [sys.executable, "-m", "ruff"]


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with what of a checkout a new operator touches."""
    for folder in ("ctxbench/ops", "tests/reference", "tests/ops", "experiments"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "ctxbench/ops/__init__.py", tmp_path / "ctxbench/ops")
    return tmp_path


def _state(folder):
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_those_that_are_told(checkout):
    before = _state(checkout)
    written = new_operator("mean_gate", checkout)
    changed = {path for path, text in _state(checkout).items() if before.get(path) != text}
    assert set(written) == changed
    assert {str(path.relative_to(checkout)) for path in written} == {
        "ctxbench/ops/mean_gate.py",
        "tests/reference/mean_gate.py",
        "tests/ops/test_mean_gate.py",
        "experiments/mean_gate.toml",
        "ctxbench/ops/__init__.py",
    }


def test_no_placeholder_is_left(checkout):
    assert not any("$" in path.read_text() for path in new_operator("mean_gate", checkout))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "'' is no name for an operator"),
        ("Gate", "'Gate' is no name for an operator"),
        ("mean-gate", "'mean-gate' is no name"),
        ("2d", "'2d' is no name"),
        ("../gate", "'../gate' is no name"),
        ("lambda", "'lambda' is no name"),
        ("_gate", "'_gate' is no name"),
        ("gäte", "'gäte' is no name"),
        ("sum", "'sum' is no name"),  # its definition adds taps by it
        ("torch", "'torch' is no name"),
        (f"{LONGEST}x", f"'{LONGEST}x' is no name .* of 24 characters at most"),
        ("x" * 300, "is no name"),  # no file system has a file of that name
        ("coconv", "There is an operator 'coconv' already"),
        ("repconv", "There is an operator 'repconv' already"),
        ("conv", "There is an operator 'conv' already"),
        ("plain", "There is an operator 'plain' already"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(checkout, name, message):
    before = _state(checkout)
    with pytest.raises(ScaffoldError, match=message):
        new_operator(name, checkout)
    assert _state(checkout) == before


@pytest.mark.parametrize(
    "path",
    [
        "ctxbench/ops/gate.py", "tests/reference/gate.py",
        "tests/ops/test_gate.py", "experiments/gate.toml",
    ],
)  # fmt: skip
def test_nothing_is_overwritten(checkout, path):
    (checkout / path).write_text("mine")
    before = _state(checkout)
    with pytest.raises(ScaffoldError, match=f"{path} is there already. Choose another name"):
        new_operator("gate", checkout)
    assert _state(checkout) == before


def test_elsewhere_than_in_a_checkout_nothing_is_written(tmp_path):
    with pytest.raises(ScaffoldError, match=r"is no checkout of ctxbench.*--root"):
        new_operator("gate", tmp_path)
    assert _state(tmp_path) == {}


def test_what_cannot_be_written_in_full_is_not_written(checkout):
    (checkout / "experiments").rmdir()
    (checkout / "experiments").touch()
    before = _state(checkout)
    with pytest.raises(ScaffoldError, match=r"Cannot write .*gate.toml.*Nothing is left behind"):
        new_operator("gate", checkout)
    assert _state(checkout) == before


@pytest.mark.parametrize("source", ["", "from ctxbench.ops import cgc\n", "OPS = {}"])
def test_a_registry_that_reads_otherwise_is_an_error(checkout, source):
    (checkout / "ctxbench/ops/__init__.py").write_text(source)
    with pytest.raises(ScaffoldError, match="cannot be extended: it has no"):
        new_operator("gate", checkout)


def test_all_registered_names_are_seen():
    assert registered(REGISTRY) >= {*OPS, *LAYERS}


def test_many_operators_keep_the_registry_in_order(tmp_path):
    source, names = REGISTRY, [f"an_operator_with_a_long_name_{n}" for n in range(4)]
    for name in names:
        source = with_operator(source, name)
    (tmp_path / "__init__.py").write_text(source)
    assert set(names) <= registered(source)
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(tmp_path)]
    for words in (["format", "--check"], ["check", "--select", "I,F,E"]):
        subprocess.run([*RUFF, *words, *config], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["x", LONGEST, 24 * "x"])
def test_names_of_any_length_give_lines_that_ruff_accepts(checkout, name):
    written = [str(path) for path in new_operator(name, checkout) if path.suffix == ".py"]
    shutil.copy(ROOT / "pyproject.toml", checkout)
    for words in (["format", "--check"], ["check", "--ignore", "I"]):  # of ours too few are here
        run = subprocess.run(
            [*RUFF, *words, "--no-cache", *written], cwd=checkout, capture_output=True, check=False
        )
        assert run.returncode == 0, run.stdout


def test_a_class_is_named_as_the_others_are():
    assert class_name("mean_gate") == "MeanGate2d"
    assert class_name("gate3") == "Gate32d"
