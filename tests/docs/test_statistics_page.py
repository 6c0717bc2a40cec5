"""docs/statistics.md names every verdict and every number as the code has it."""

import ast
import re
from importlib import import_module

import pytest

from ctxbench.claims import VERDICTS
from ctxbench.report.ablations import CONFIRMED, INCONCLUSIVE, NOT_CONFIRMED
from tests.docs.pages import DOCS

PAGE = (DOCS / "statistics.md").read_text()
NUMBERS = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `([\w.]+)` \|$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize(("value", "place"), NUMBERS, ids=[place for _, place in NUMBERS])
def test_a_number_is_that_of_the_code(value, place):
    module, _, name = place.rpartition(".")
    assert getattr(import_module(module), name) == ast.literal_eval(value)


def test_there_are_numbers():
    assert len(NUMBERS) >= 8


def test_every_verdict_is_explained_and_no_other():
    explained = re.findall(r"^\| `([a-z ()]+)` \| ", PAGE, flags=re.MULTILINE)
    assert set(explained) == {*VERDICTS, CONFIRMED, NOT_CONFIRMED, INCONCLUSIVE}
