"""Years of rows still make a report that can be read."""

import pytest

from ctxbench.report.figures import FIGURES
from ctxbench.report.tables import TABLES
from ctxbench.style import WIDTH_IN
from tests.report.drawn import texts
from tests.report.many_rows import many_rows

_TALLEST_IN = 45
_MADE = ("claims", "latency", "roofline", "ablation_errors", "ablation_curves",
         "ablation_distance", "ablation_priors")  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return many_rows(20_000)


def of(rows, made):
    return [row for kind in (made.kind, *made.also) for row in rows[kind]]


@pytest.mark.slow
@pytest.mark.parametrize("name", _MADE)
def test_a_figure_of_many_rows_says_what_it_leaves_out(name, rows):
    picture = FIGURES[name]
    figure = picture.draw(picture.select(of(rows, picture)))
    width, height = figure.get_size_inches()
    assert width == WIDTH_IN
    assert height < _TALLEST_IN
    said = " ".join(texts(figure))
    assert "in the table" in said


@pytest.mark.slow
def test_a_table_holds_what_a_figure_leaves_out(rows):
    assert len(TABLES["claims"].make(rows["claims"])) == 600
    assert len(TABLES["ablations"].make(of(rows, TABLES["ablations"]))) == 50 * 64
