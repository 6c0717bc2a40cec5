"""The figure `operators`: the time of every form of an operator over the plain convolution's."""

import pytest

from ctxbench.report.figures import FIGURES
from tests.report.drawn import draw, texts, written
from tests.report.rows import OPERATORS

TORCH = OPERATORS[0]
FORMS = ("torch", "reference", "triton", "obvious")


def measured(form, ratio, **changes):
    batch = changes.get("batch", 4)
    case = {"case": f"8 channels, batch {batch}", "batch": batch, "formulation": f"by {form}"}
    return {**TORCH, **case, "form": form, "ratio_to_plain": ratio, **changes}


def every_form(**changes):
    return [measured(form, 1.0 + at, **changes) for at, form in enumerate(FORMS)]


def drawn(axis):
    """Marker -> (ratio, line) of all marks with it on an axis."""
    marks = [line for line in axis.lines if line.get_marker() not in ("None", "")]
    return {
        line.get_marker(): line.get_xydata().tolist() for line in marks if line.get_xydata().size
    }


def test_every_form_has_a_mark_of_its_own_at_its_ratio():
    forward, training = draw("operators", every_form()).axes
    assert drawn(forward) == {"o": [[1, 0]], "s": [[2, 0]], "D": [[3, 0]], "x": [[4, 0]]}
    assert drawn(training) == {}


def test_the_legend_names_the_forms_that_are_there_alone():
    shown = texts(draw("operators", [measured("torch", 1.5), measured("obvious", 2.0)]))
    assert {"backend torch (the default)", "obvious formulation"} <= set(shown)
    assert not any("triton" in text for text in shown)


def test_of_several_batches_the_largest_with_an_obvious_form_is_shown():
    rows = [*every_form(batch=1), *every_form(batch=4), measured("torch", 9.0, batch=128)]
    lines = FIGURES["operators"].select(rows)
    assert set(lines["line"]) == {"mix: 8 channels, batch 4"}
    assert len(lines) == len(FORMS)


def test_a_form_without_a_plain_convolution_to_compare_with_is_left_out():
    lines = FIGURES["operators"].select([measured("obvious", 2.0), measured("torch", None)])
    assert lines["form"].tolist() == ["obvious"]


def test_types_and_layouts_are_panels():
    half = {"dtype": "bf16", "layout": "channels_last"}
    figure = draw("operators", [*every_form(), *every_form(**half)])
    titles = [text for text in texts(figure) if text.endswith("\nforward")]
    told = [title.splitlines()[-2] for title in titles]
    assert told == ["fp32, contiguous", "bf16, channels_last"]


@pytest.mark.parametrize("ratios", [(0.04, 0.5), (1.0, 1.0), (3.0, 400.0)])
def test_the_plain_convolution_and_all_marks_are_in_view(ratios):
    slow = {"dtype": "bf16"}  # a panel that shares the axis
    rows = [measured("obvious", ratios[0]), measured("torch", ratios[1])]
    figure = draw("operators", [*rows, measured("obvious", 7.0, **slow)])
    low, high = figure.axes[0].get_xlim()
    assert low < min(1, *ratios)
    assert high > max(7, *ratios)


def test_texts_do_not_touch_and_lie_on_the_page():
    rows = [
        measured(form, 1.5, task=task, operator="a long operator", device_name="A long name of it")
        for form in FORMS
        for task in ("forward", "training")
    ]
    figure = draw("operators", rows)
    boxes = [text.get_window_extent() for text in written(figure)]
    page = figure.bbox
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= page.x1 and b.y1 <= page.y1 for b in boxes)
    below = [box for box in boxes if box.y1 < figure.axes[0].get_window_extent().y0]
    touching = [
        (a, b) for at, a in enumerate(below) for b in below[:at]
        if a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
    ]  # fmt: skip
    assert touching == []
