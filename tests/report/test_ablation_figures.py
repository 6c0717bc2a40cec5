import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb

from ctxbench.report.figures import FIGURES
from tests.report.ablation_rows import (
    ALL,
    ERRORS,
    LEVELS,
    PUBLISHED,
    SIZE_ERRORS,
    SIZES,
    TRIALS,
    experiment,
    failed,
    trials,
)
from tests.report.drawn import draw, points, texts, written

ABLATIONS = [name for name in FIGURES if name.startswith("ablation_")]
LONG = "somebody/very_long_network_name_32x4d:replace=coconv:levels=4,3,2,1:where=layer*"


def select(name, rows):
    return FIGURES[name].select(rows)


def same(row, *errors):
    """Trials with the same errors for every variant."""
    return trials(row, {tuple(v["labels"].values()): list(errors) for v in row["variants"]})


def grid(count, numbers=("2", "8"), **changes):
    axes = {"levels": [f"l{n}" for n in range(count)], "distance": list(numbers)}
    return experiment("grid", axes, seeds=[0, 1], **changes)


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize(
    "rows", [[], [LEVELS, SIZES], TRIALS], ids=["none", "no trials", "no plan"]
)
def test_nothing_is_drawn_of_what_was_not_trained(name, rows):
    assert select(name, rows).empty


@pytest.mark.parametrize("name", ["ablation_distance", "ablation_priors"])
def test_an_experiment_without_a_fitting_axis_is_not_drawn(name):
    row = experiment("x", {"levels": ["1,1", "2,1"], "data": ["8"], "other": ["none", "1", "9"]})
    assert "other" not in set(select(name, [row, *same(row, 1, 2, 3, 4, 5)])["axis"])


def test_errors_draw_means_intervals_and_every_seed():
    axis = draw("ablation_errors", ALL).axes[0]
    found = points(axis)
    seeds, means = found[0::2], found[1::2]
    assert [dots[:, 0].tolist() for dots in seeds] == [
        [error for error in errors if error is not None] for errors in ERRORS.values()
    ]
    assert [dots[0].tolist() for dots in means] == [[22, 0], [75, 1], [12, 2], [30.125, 3]]
    bars = [line for line in axis.collections if isinstance(line, LineCollection)]
    reach = 2.7764451 * math.sqrt(2.5 / 5)
    first = next(line for line in bars if line.get_linewidth()[0] == 1.6)
    assert first.get_segments()[0][:, 0].tolist() == pytest.approx([22 - reach, 22 + reach])


def test_errors_write_what_was_published_and_never_draw_it():
    figure = draw("ablation_errors", [LEVELS, *TRIALS])
    assert {"22.50", "published\n(ImageNet)"} <= set(texts(figure))
    assert not any(22.5 in dots[:, 0] for dots in points(figure.axes[0]))
    assert "published\n(ImageNet)" not in texts(draw("ablation_errors", [SIZES, *TRIALS]))


def test_errors_tell_seeds_that_failed_or_are_missing():
    row = experiment("x", {"net": ["plain", "context", "third"]})
    rows = [row, *trials(row, {("plain",): [1, 2, 3, 4, None], ("context",): [9.0] * 5,
                               ("third",): [None] * 5})]  # fmt: skip
    rows += map(failed, row["variants"][2]["trials"])
    shown = texts(draw("ablation_errors", rows))
    assert {"4 of 5", "5", "0 of 5", "5 failed", "2.50 [0.45, 4.55]", "9.00"} <= set(shown)
    assert "not run" in texts(draw("ablation_errors", rows[:-5]))


def test_errors_ring_the_baseline():
    axis = draw("ablation_errors", [LEVELS, *TRIALS]).axes[0]
    marks = [dots for dots in axis.collections if isinstance(dots, PathCollection)]
    faces = [to_rgb(dots.get_facecolor()[0]) for dots in marks if len(dots.get_offsets()) == 1]
    assert [face == (1, 1, 1) for face in faces] == [True, True, False, False]


@pytest.mark.parametrize("name", ["ablation_errors", "ablation_curves"])
def test_an_experiment_without_a_title_is_named_once(name):
    row = experiment("mine", {"net": ["plain", "context"]}, title="mine")
    assert "mine: mine" not in " ".join(texts(draw(name, [row, *same(row, 1, 2, 3, 4, 5)])))


def test_chance_is_drawn_or_said_to_be_out_of_sight():
    axis = draw("ablation_errors", [LEVELS, *TRIALS]).axes[0]
    assert any(line.get_xdata()[0] == 75 for line in axis.lines)
    row = experiment("x", {"net": ["plain", "context"]}, classes=50)
    shown = " ".join(texts(draw("ablation_errors", [row, *same(row, 1, 2, 3, 4, 5)])))
    assert "chance, 98 %, is out of sight" in shown


def test_colours_are_the_same_in_every_figure_of_an_experiment():
    errors, distance = (select(f"ablation_{name}", ALL) for name in ("errors", "distance"))
    lines = dict(zip(errors["variant"], errors["line"], strict=True))
    assert lines["levels 1, distance 2"] == lines["levels 1, distance 8"] == 0
    assert dict(zip(distance["name"], distance["line"], strict=True)) == {
        "levels 1": 0, "levels 4,3,2,1": 1,
    }  # fmt: skip


def test_curves_average_the_seeds_at_each_epoch_they_share():
    row = experiment("x", {"net": ["plain", "context"]})
    rows = [row, *trials(row, {("plain",): SIZE_ERRORS["1",], ("context",): [20.0] * 5})]
    shorter = {key: cells[:3] for key, cells in rows[1]["curve"].items()}
    rows[1] = {**rows[1], "curve": shorter}
    lines = select("ablation_curves", rows)
    plain = lines[(lines["variant"] == "net plain") & (lines["images"] == "top1_error")]
    assert plain["epoch"].tolist() == [1, 2, 3]
    # epoch 3 of 4: three quarters of the way from 100 to the mean of the errors, 40.2
    assert plain["mean"].tolist()[2] == pytest.approx(100 - 0.75 * (100 - 40.2))
    assert plain["low"].iloc[2] < plain["mean"].iloc[2] < plain["high"].iloc[2]


def test_curves_draw_training_and_validation_beside_each_other():
    left, right = draw("ablation_curves", [SIZES, *TRIALS]).axes
    assert left.get_xlabel() == "epoch (training images)"
    assert right.get_xlabel() == "epoch (validation images)"
    lines = [line for line in right.lines if len(line.get_xdata()) == 4]
    assert [line.get_label() for line in lines] == ["size none", "size 1", "size 50 %", "size all"]
    assert left.lines[0].get_ydata()[0] == pytest.approx(right.lines[0].get_ydata()[0] - 2)


def test_curves_of_a_large_grid_share_the_number_at_which_they_differ_most():
    row = grid(6, ("2", "8", "12"))
    errors = {
        tuple(v["labels"].values()): [10.0 + (n if v["labels"]["distance"] == "8" else 0)] * 2
        for n, v in enumerate(row["variants"])
    }
    lines = select("ablation_curves", [row, *trials(row, errors)])
    assert set(lines["variant"]) == {f"levels l{n}, distance 8" for n in range(6)}
    assert set(lines["shown"]) == {"6 of 18 variants"}


def test_of_many_curves_the_baseline_and_the_best_are_drawn():
    row = experiment("x", {"net": [f"n{n}" for n in range(12)]}, seeds=[0], baseline={"net": "n11"})
    errors = {(f"n{n}",): [10.0 + n] for n in range(12)}
    lines = select("ablation_curves", [row, *trials(row, errors)])
    assert list(dict.fromkeys(lines["variant"])) == [*(f"net n{n}" for n in range(7)), "net n11"]


def test_curves_without_training_errors_can_be_drawn():
    row = experiment("x", {"net": ["plain", "context"]})
    blank = [
        {**one, "curve": {**one["curve"], "train_top1_error": [None] * 4}}
        for one in same(row, 1, 2, 3, 4, 5)
    ]
    left, right = draw("ablation_curves", [row, *blank]).axes
    assert np.isnan(left.lines[0].get_ydata().astype(float)).all()
    assert np.isfinite(right.lines[0].get_ydata().astype(float)).all()


def test_distance_draws_a_line_for_what_else_differs_over_the_numbers():
    (axis,) = draw("ablation_distance", ALL).axes
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines]
    assert ([2.0, 8.0], [22.0, 75.0]) in drawn
    assert ([2.0, 8.0], [12.0, 30.125]) in drawn
    assert axis.get_xlabel() == "distance (px)"
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["levels 1", "levels 4,3,2,1"]
    assert any(line.get_ydata()[0] == 75 and line.get_linestyle() == "--" for line in axis.lines)


def test_distance_leaves_lines_out_beyond_8_and_says_so():
    row = grid(11)
    figure = draw("ablation_distance", [row, *same(row, 10.0, 11.0)])
    assert "3 more in the table" in " ".join(texts(figure))


def test_numbers_far_apart_are_on_a_logarithmic_scale():
    row = grid(2, ("1", "4", "16"))
    (axis,) = draw("ablation_distance", [row, *same(row, 10.0, 11.0)]).axes
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "4", "16"]


def test_priors_go_by_their_share_of_the_classes_and_none_stands_apart():
    lines = select("ablation_priors", ALL).set_index("label")
    assert lines["x"].drop("none").to_dict() == {"1": 25.0, "50 %": 50.0, "all": 100.0}
    assert math.isnan(lines.loc["none", "x"])
    (axis,) = draw("ablation_priors", ALL).axes
    line, apart = (one for one in axis.lines if one.get_marker() == "o")
    assert line.get_ydata().tolist() == pytest.approx([40.2, 31.4, 21.6])
    assert apart.get_xdata()[0] < 25
    assert apart.get_ydata().tolist() == pytest.approx([41.0])
    assert {"none", "1", "50 %", "all"} <= set(texts(axis.figure))


@pytest.mark.parametrize("name", ["ablation_errors", "ablation_curves", "ablation_distance"])
def test_one_seed_and_one_variant_can_be_drawn(name):
    row = experiment("x", {"net": ["plain"], "distance": ["2", "4"]}, seeds=[3], classes=None)
    figure = draw(name, [row, *same(row, 20.0)])
    assert figure.axes


@pytest.mark.parametrize("name", ABLATIONS)
def test_long_names_and_many_variants_stay_on_the_page(name):
    axes = {"net": [f"{LONG}{n}" for n in range(7)], "distance": ["2", "8"], "size": ["1", "all"]}
    published = {labels: PUBLISHED for labels in [(f"{LONG}0", "2", "1")]}
    row = experiment("long", axes, seeds=[0, 1], title="A long title " * 12, published=published)
    figure = draw(name, [row, *same(row, 20.0, 24.0)])
    boxes = [text.get_window_extent() for text in written(figure)]
    page = figure.bbox
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= page.x1 and b.y1 <= page.y1 for b in boxes)


def test_the_names_of_many_variants_do_not_touch():
    row = experiment("x", {"net": [f"{LONG}{n}" for n in range(20)]}, seeds=[0, 1])
    axis = draw("ablation_errors", [row, *same(row, 20.0, 24.0)]).axes[0]
    axis.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert len(boxes) >= 40
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes) if upper.width)
