"""The share of attention within what decides the class, and its controls."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ctxbench.errors import VisualizeError
from ctxbench.models import create_model
from ctxbench.visualize.cues import around, attend, raster, rows_of, within
from ctxbench.visualize.cues_figure import pages
from ctxbench.visualize.preprocess import Preprocess
from ctxbench.visualize.subject import Image, Mark, Subject

PX = 16


def marks(y, x, *, down=0, right=5):
    return (Mark(y, x, 3, 3, "object 1"), Mark(y + down, x + right, 3, 3, "cue 0"))


def image(y, x, *, label=0, bright=1):
    """Return a black image in which one of the two parts is white."""
    placed = marks(y, x)
    pixels = torch.zeros(1, PX, PX, dtype=torch.uint8)
    part = placed[bright]
    pixels[:, part.top : part.top + 3, part.left : part.left + 3] = 255
    return Image(f"image at {y}, {x}", pixels, label, placed)


IMAGES = [image(1, 1), image(10, 8, label=1), image(5, 2)]


def subject(model, title="net"):
    weights = ("random weights (seed 0)", False)
    return Subject("net", title, model.eval(), *weights, Preprocess(PX, PX, (0.0,), (1.0,)))


class Energy(nn.Module):
    """Scores that are sums of squares: the gradient is the image itself."""

    def __init__(self):
        super().__init__()
        self.map = nn.Identity()
        self.kept = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        y = torch.relu(x)
        y = self.kept(y) * 0 + y
        return y.square().sum((2, 3)).repeat(1, 2)


def rows(model, images, measure):
    return [
        row
        for attention in attend(subject(model), images)
        for row in rows_of(subject(model), attention, images[0].marks, (PX, PX))
        if row.measure == measure
    ]


def test_attention_that_follows_the_cue_is_all_within_it_and_nowhere_near_another_ones():
    thing, cue = rows(Energy(), [image(1, 1), image(10, 8), image(5, 2)], "gradient")
    assert (thing.part, cue.part) == ("object", "cue")
    assert (thing.share_percent, cue.share_percent) == (0, 100)
    assert cue.shuffled_percent == 0
    assert cue.area_percent == pytest.approx(100 * 9 / PX**2)
    assert cue.plain_percent is None


def test_attention_to_the_same_place_in_all_images_is_equal_to_its_control():
    class Corner(Energy):
        def forward(self, x):
            y = self.kept(x) * 0 + x
            return y[..., 1:4, 6:9].sum((2, 3)).repeat(1, 2)

    _, cue = rows(Corner(), [image(1, 1), image(10, 8), image(10, 2), image(1, 1)], "gradient")
    assert cue.share_percent == cue.shuffled_percent == 50


def test_samples_that_are_not_displaced_are_those_of_the_regular_grid():
    torch.manual_seed(0)
    net = create_model("ctx_resnet_tiny:width=4:in_channels=1:num_classes=2:prior_sizes=2,2,1")
    found = rows(net, IMAGES, "samples")
    assert [row.layer for row in found[::2]] == [f"backbone.layer{n}.0.conv2" for n in (2, 3, 4)]
    for row in found:
        assert row.share_percent == pytest.approx(row.plain_percent)
        assert row.share_percent == pytest.approx(row.shuffled_percent)
    assert (
        found[0].share_percent > found[1].share_percent
    )  # a 3x3 window of half the resolution is about the object


def test_kernels_are_compared_with_even_ones():
    torch.manual_seed(0)
    net = create_model("overlock_tiny:in_channels=1:num_classes=2")
    found = rows(net, IMAGES, "dynamic kernel")
    assert [row.part for row in found] == ["object", "cue"] * 2
    for row in found:
        assert 0 < row.share_percent < 100
        assert 0 < row.plain_percent < 100


def test_what_is_empty_has_no_share():
    class Against(Energy):
        def forward(self, x):
            return -super().forward(x)

    assert [row.share_percent for row in rows(Against(), IMAGES, "Grad-CAM")] == [None, None]


def test_within_is_the_share_of_the_sum():
    attention = np.zeros((PX, PX))
    attention[2, 2], attention[9, 9] = 3, 1
    assert within(attention, Mark(1, 1, 3, 3, "cue 0")) == 0.75
    assert math.isnan(within(np.zeros((PX, PX)), Mark(1, 1, 3, 3, "cue 0")))


@pytest.mark.parametrize(("down", "right"), [(0, 5), (0, -5), (5, 0), (-5, 0)])
def test_every_image_is_turned_so_that_its_cue_is_at_the_right(down, right):
    thing, cue = marks(6, 6, down=down, right=right)
    attention = np.zeros((PX, PX))
    attention[7, 7], attention[7 + down, 7 + right] = 1, 3
    turned = around(attention, thing, cue)
    assert turned.shape == (19, 19)
    assert (turned[9, 9], turned[9, 14]) == (0.25, 0.75)
    assert np.isnan(turned).any()


def test_points_cover_rectangles():
    points = np.array([[3.0, 4.0], [0.0, 0.5]])
    exact = raster(points, np.array([1.0, 2.0]), (1.0, 1.0), (8, 8))
    assert exact[3, 4] == 1
    assert exact[0, 0] == exact[0, 1] == 1
    wide = raster(points[:1], np.ones(1), (2.0, 4.0), (8, 8))
    assert wide.sum() == pytest.approx(1)
    assert wide[3, 4] == pytest.approx(1 / 8)
    assert wide[2, 2] == pytest.approx(1 / 32)
    assert raster(np.array([[-0.5, 4.0]]), np.ones(1), (1.0, 1.0), (8, 8)).sum() == 0.5


def test_one_image_alone_and_images_without_marks_are_one_line():
    with pytest.raises(VisualizeError, match="Give two or more"):
        attend(subject(Energy()), [image(1, 1)])
    bare = [Image(f"photo {n}", torch.zeros(1, PX, PX, dtype=torch.uint8), 0) for n in range(2)]
    with pytest.raises(VisualizeError, match="photo 0 does not tell where object and cue stand"):
        attend(subject(Energy()), bare)


def test_the_page_has_a_panel_for_each_kind_of_attention_and_says_what_it_shows():
    torch.manual_seed(0)
    net = subject(
        create_model("ctx_resnet_tiny:width=4:in_channels=1:num_classes=2:prior_sizes=2,2,1")
    )
    (page,) = pages(
        [net, subject(create_model("resnet_tiny:width=4:in_channels=1"), "other")],
        [image(1, 1), image(9, 3)],
    )
    said = "\n".join(
        text.get_text() for text in page.figure.findobj(lambda a: hasattr(a, "get_text"))
    )
    assert "random weights" in said
    assert "Mean of 2 images" in said
    assert {row.measure for row in page.rows} == {"gradient", "Grad-CAM", "samples"}


def test_the_last_image_counts_too():
    images = [image(1 + n % 3, 1 + n % 5) for n in range(65)]
    thing, _ = rows(Energy(), images, "gradient")
    assert thing.images == 65
    (page,) = pages([subject(Energy())], iter(images))
    assert {row.images for row in page.rows} == {65}


def test_a_class_that_the_network_has_not_is_one_line():
    with pytest.raises(VisualizeError, match="have class 2, and the network's classes are 0 to 1"):
        attend(subject(Energy()), [image(1, 1), image(5, 2, label=2)])


def test_trained_and_random_weights_of_one_network_are_not_averaged():
    random = subject(Energy())
    trained = replace(random, weights="trained: run 1", trained=True)
    (page,) = pages([trained, random], IMAGES)
    said = [text.get_text() for text in page.figure.findobj(lambda a: hasattr(a, "get_text"))]
    assert [text for text in said if text.startswith("net")] == [
        "net\ntrained, 1 seed", "net\nrandom weights"
    ]  # fmt: skip
    assert sorted(page.arrays) == [
        "net (2) Grad-CAM kept", "net (2) gradient", "net Grad-CAM kept", "net gradient"
    ]  # fmt: skip


def test_an_object_of_an_even_number_of_pixels_is_in_the_middle_wherever_it_stands():
    for y, x, down, right in [
        (5, 5, 0, 6),
        (6, 5, 0, 6),
        (6, 6, 6, 0),
        (8, 7, -6, 0),
        (7, 8, 0, -6),
    ]:
        thing, cue = Mark(y, x, 4, 4, "object 1"), Mark(y + down, x + right, 4, 4, "cue 0")
        attention = np.zeros((18, 18))
        attention[y : y + 4, x : x + 4] = 1
        turned = around(attention, thing, cue)
        middle = len(turned) // 2
        assert np.nansum(turned[middle - 2 : middle + 2, middle - 2 : middle + 2]) == 1


def test_the_page_names_what_is_bound_to_the_object_and_says_where_there_is_nothing():
    class Against(Energy):
        def forward(self, x):
            return -super().forward(x)

    def hierarchical(one):
        thing, cue = one.marks
        return replace(
            one, marks=(thing, replace(cue, name="detail 1"), Mark(12, 1, 3, 3, "cue 0"))
        )

    (page,) = pages([subject(Against())], map(hierarchical, IMAGES))
    said = "\n".join(
        text.get_text() for text in page.figure.findobj(lambda a: hasattr(a, "get_text"))
    )
    assert "so that the detail is at the right" in said
    assert "Orange: the detail." in said
    assert "detail \N{EN DASH} % (\N{EN DASH})" in said


def test_parts_of_a_resized_image_are_where_they_are_drawn():
    seen = replace(subject(Energy()), preprocess=Preprocess(2 * PX, 2 * PX, (0.0,), (1.0,)))
    (attention, *_) = attend(seen, [image(1, 1), image(10, 8), image(5, 2)])
    thing, cue = rows_of(seen, attention, attention.marks, (2 * PX, 2 * PX))
    assert cue.area_percent == pytest.approx(100 * 9 / PX**2)
    assert cue.share_percent > 85
    assert thing.share_percent < 1
    cut = replace(seen, preprocess=replace(seen.preprocess, resize_px=40))
    with pytest.raises(VisualizeError, match=r"as the network sees it \(32x32 px\)"):
        attend(cut, IMAGES)


def test_within_counts_parts_of_pixels():
    attention = np.full((4, 4), 1 / 16)
    assert within(attention, Mark(0.5, 1.25, 1.5, 0.5, "cue 0")) == pytest.approx(0.75 / 16)
