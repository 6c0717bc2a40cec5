"""docs/operators.md tells of every operator, and of every option it has in a spec."""

import re

import pytest

from ctxbench.ops import LAYERS, OPS
from ctxbench.spec import options_of
from tests.docs.pages import DOCS

INTRODUCTION, *SECTIONS = re.split(r"^## ", (DOCS / "operators.md").read_text(), flags=re.MULTILINE)
BY_NAME = {section.splitlines()[0]: section for section in SECTIONS}


@pytest.mark.parametrize("name", OPS)
def test_an_operator_has_a_section_with_formula_cost_and_example(name):
    assert name in BY_NAME, f"docs/operators.md has no section `## {name}`"
    section = BY_NAME[name]
    for part in ("```text\n", "Cost", "```python\n", ".macs  # -> ", "- Options: ", "- Fast: "):
        assert part in section, part


@pytest.mark.parametrize("name", OPS)
def test_every_option_is_named(name):
    known = BY_NAME.get(name, "") + INTRODUCTION
    lacking = [option for option in options_of(LAYERS[name].build) if f"`{option}`" not in known]
    assert lacking == []


@pytest.mark.parametrize("name", OPS)
def test_the_overview_says_whether_it_stands_in_for_a_convolution(name):
    told = re.findall(rf"^\| \[`{name}`\]\(#{name}\) \| `\w+` \| (\w+)", INTRODUCTION, re.M)
    assert told == ["yes" if OPS[name].from_conv else "no"]
