"""The drawing in docs/architecture.md against the imports in the code."""

import ast
import re
from pathlib import Path

import pytest

import ctxbench
from tests.test_architecture import RANKS

PACKAGE = Path(ctxbench.__file__).parent
PAGE = (PACKAGE.parent / "docs/architecture.md").read_text()
ROOMS = {
    path.name.removesuffix(".py")
    for path in PACKAGE.iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
}


def _drawing():
    """Return the arrows (from, to) of the page, and the rooms that any may import."""
    (mermaid,) = re.findall(r"```mermaid\n(.*?)```", PAGE, flags=re.DOTALL)
    arrows = set(re.findall(r"^ +(\w+) --> (\w+)$", mermaid, flags=re.MULTILINE))
    (ground,) = re.findall(r'ground\["(.*)<br/>\(any', mermaid)
    return arrows, set(re.findall(r"\w+", ground.replace("<br/>", " ")))


def _imported(path):
    """Yield the rooms that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, room, *_ = [*name.split("."), ""]
            if package == "ctxbench" and room in ROOMS:
                yield room


def _imports():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found |= {(room, to) for to in _imported(path) if room not in (to, "__init__")}
    return found


def _reached(start, arrows):
    """Return the rooms that arrows lead to from one."""
    found, next_ones = set(), {start}
    while next_ones:
        next_ones = {to for room, to in arrows if room in next_ones} - found
        found |= next_ones
    return found


ARROWS, GROUND = _drawing()
IMPORTS = _imports()


def test_every_room_is_drawn():
    drawn = {room for arrow in ARROWS for room in arrow} | GROUND
    assert drawn == ROOMS - {"__init__"}


def test_every_arrow_is_an_import():
    assert not ARROWS - IMPORTS


def test_every_import_follows_arrows():
    strangers = {
        (room, to)
        for room, to in IMPORTS
        if room not in GROUND and to not in GROUND | _reached(room, ARROWS)
    }
    assert strangers == set()


def test_no_arrow_is_implied_by_others():
    implied = {(room, to) for room, to in ARROWS if to in _reached(room, ARROWS - {(room, to)})}
    assert implied == set()


def test_the_ground_imports_nothing_but_errors():
    assert {to for room, to in IMPORTS if room in GROUND} == {"errors"}


def test_every_room_stands_in_the_table_with_its_rank():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, flags=re.MULTILINE)
    assert {room: int(rank) for room, rank in rows} == RANKS
    assert len(rows) == len(RANKS)


def test_a_new_import_would_be_noticed():
    """Guards the tests above: without an arrow, and against one, an import is a stranger."""
    assert "cli" not in _reached("report", ARROWS)
    assert "latency" not in _reached("report", ARROWS)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from ctxbench.ops.cgc import CGConv2d", {"ops"}),
        ("from ctxbench import models", {"models"}),
        ("import ctxbench.report.build", {"report"}),
        ("def late():\n    from ctxbench.data import batches", {"data"}),
        ("from ctxbench import __version__\nimport torch", set()),
    ],
)
def test_imports_are_found(tmp_path, code, expected):
    path = tmp_path / "code.py"
    path.write_text(code)
    assert set(_imported(path)) == expected
