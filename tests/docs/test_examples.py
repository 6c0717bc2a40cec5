"""Every Python block of the docs runs, and gives what it says behind `# ->`."""

import pytest
import torch

from tests.docs.pages import PAGES, blocks, run

BLOCKS = [(page, line, code) for page in PAGES for line, code in blocks(page)]


@pytest.mark.parametrize(
    "code", [b[2] for b in BLOCKS], ids=[f"{page.name}:{line}" for page, line, _ in BLOCKS]
)
def test_a_block_runs_and_keeps_its_word(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for value, expected in run(code):
        assert value == expected


@pytest.mark.parametrize(
    ("page", "fewest"), [("operators.md", 7), ("conventions.md", 4), ("statistics.md", 4)]
)
def test_a_page_has_blocks_with_results(page, fewest):
    assert sum("# -> " in code for path, _, code in BLOCKS if path.name == page) >= fewest


@pytest.mark.parametrize(
    ("code", "given"),
    [
        ("1 + 1  # -> 2", [(2, 2)]),
        ("x = 3\nx + 1  # -> 5", [(4, 5)]),
        ("tuple(\n    [1, 2]\n)  # -> (1, 2)", [((1, 2), (1, 2))]),
        ("x = 1\nx  # -> 1\nx = 2\nx  # -> 1", [(1, 1), (2, 1)]),
    ],
)
def test_what_a_line_gives_is_held_against_what_it_says(code, given):
    assert run(code) == given


@pytest.mark.parametrize("code", ["x = 1  # -> 1", "if True:\n    1  # -> 2"])
def test_an_arrow_that_nothing_checks_is_an_error(code):
    with pytest.raises(SyntaxError, match="not behind an expression"):
        run(code)
