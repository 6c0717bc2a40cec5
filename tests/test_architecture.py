"""Imports go one way, and what should be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ctxbench

ROOT = Path(ctxbench.__file__).parent
# a module imports only from lower ranks, or from its own folder
RANKS = {
    "__init__": 0, "__main__": 10, "errors": 0, "spec": 1, "records": 1, "render": 1, "style": 1,
    "userfile": 1, "scaffold": 1, "kernels": 1, "ops": 2, "data": 2, "models": 3, "measure": 4,
    "claims": 5, "latency": 5, "ablate": 6, "report": 6, "doctor": 6, "export": 4, "timm": 4,
    "visualize": 7, "api": 8, "cli": 9,
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def _room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path):
    """Yield the room of each import of ours, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ctxbench" and parts[1] in RANKS:
                yield parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = _room(path)
    if path.name == "__init__.py" and path.parent == ROOT:
        return  # names of the public functions, loaded on use
    wrong = {to for to in _imports(path) if to != room and RANKS[to] >= RANKS[room]}
    assert wrong == set()


def test_every_room_has_a_rank():
    assert {_room(path) for path in FILES} == set(RANKS)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import ctxbench", ["torch", "pandas", "typer"]),
        ("import ctxbench.cli", ["torch", "pandas", "seaborn", "matplotlib", "numpy", "rich"]),
        ("import ctxbench.report.build", ["torch", "fvcore", "torchvision"]),
        ("import ctxbench.measure.costs", ["pandas", "seaborn", "torchvision", "triton"]),
        ("import ctxbench; ctxbench.count, ctxbench.create_model", ["pandas", "torchvision"]),
        ("import ctxbench; ctxbench.count_costs", ["matplotlib", "torchvision", "sklearn"]),
        ("import ctxbench; ctxbench.read_table", ["torch", "torchvision", "sklearn"]),
    ],
)
def test_loads_nothing_heavy(code, absent):
    program = f"import sys\n{code}\nprint(*[name for name in {absent} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""
    assert run.stderr == ""


def test_files_are_short():
    long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}
