from matplotlib.patches import Rectangle

from ctxbench.report.figures import FIGURES
from tests.report.drawn import draw, texts
from tests.report.example_rows import EXAMPLES, FAMILY, PAIR, example


def frames(axis):
    return [patch for patch in axis.patches if isinstance(patch, Rectangle)]


def shown(figure):
    return [axis for axis in figure.axes if axis.images]


def test_every_image_is_drawn_whole_with_its_class():
    axes = shown(draw("data_examples", EXAMPLES))
    assert [axis.images[0].get_array().shape for axis in axes] == [
        *[(16, 16)] * 12, *[(40, 64, 3)] * 4
    ]  # fmt: skip
    captions = [axis.get_xlabel().splitlines()[0] for axis in axes]
    assert captions[:6] == ["class 0", "class 1", "class 2"] * 2


def test_frames_stand_around_what_is_marked_and_around_nothing_else():
    axis, *_ = shown(draw("data_examples", [example("toy", 16, 16, marks=PAIR)]))
    for frame, (row, column, height, width, _) in zip(frames(axis), PAIR, strict=True):
        # pixel 3 reaches from 2.5 to 3.5
        assert frame.get_x() == column - 1
        assert frame.get_y() == row - 1
        assert frame.get_width() == width + 1
        assert frame.get_height() == height + 1


def test_frames_are_told_apart_by_colour_and_by_line_and_named_below():
    axis, *_ = shown(draw("data_examples", [example("toy", 16, 16, marks=FAMILY)]))
    assert len({frame.get_edgecolor() for frame in frames(axis)}) == 3
    assert len({str(frame.get_linestyle()) for frame in frames(axis)}) == 3
    assert axis.get_xlabel().splitlines()[1:] == ["object 1", "detail 4", "cue 1"]


def test_the_key_explains_the_frames_that_there_are():
    (legend,) = draw("data_examples", EXAMPLES[:1]).legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["the object that counts", "what is bound to it: a cue or a detail"]
    assert len(draw("data_examples", EXAMPLES).legends[0].get_texts()) == 3
    assert draw("data_examples", EXAMPLES[2:]).legends == []


def test_a_data_set_is_named_with_its_rule_and_how_far_it_is_reduced():
    said = texts(draw("data_examples", EXAMPLES))
    assert "context:distance=8 (3 classes, 16 px)\nclass = object + cue" in said
    assert "imagefolder:photos (3 classes, 224 px, here reduced to 64 px)" in said


def test_the_last_row_of_a_data_set_counts():
    before = example("imagefolder:photos", 8, 8, labels=[2] * 6)
    lines = FIGURES["data_examples"].select([before, *EXAMPLES])
    assert len(lines) == 16
    assert lines["label"][lines["data"] == "imagefolder:photos"].tolist() == [0, 1, 2, 0]


def test_no_rows_make_nothing_to_draw():
    assert FIGURES["data_examples"].select([]).empty
