"""The picture of class priors: its panels and words, and the numbers beside it."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from ctxbench import create_model
from ctxbench.errors import VisualizeError
from ctxbench.style import save
from ctxbench.visualize._priors_panels import _spread, short
from ctxbench.visualize.preprocess import Preprocess
from ctxbench.visualize.priors import places, priors, swapped
from ctxbench.visualize.priors_figure import pages
from ctxbench.visualize.subject import Image, Mark, Subject, batch_of

TINY = "ctx_resnet_tiny:width=4:class_embedding_width=8:num_classes=10"
NAMES = tuple(f"a class whose name is long, number {index}" for index in range(10))


def _subject(options="", *, trained=True, names=None):
    torch.manual_seed(0)
    preprocess = Preprocess(32, 32, (0.5,) * 3, (0.25,) * 3)
    model = create_model(TINY + options)
    if trained:  # the prior of a new network has no effect
        for name, parameter in model.named_parameters():
            if "kernel_net" in name:
                torch.nn.init.normal_(parameter)
    weights = "my.safetensors" if trained else "random weights (seed 0)"
    return Subject(TINY + options, "tiny", model, weights, trained, preprocess, names)


def _images(count=2, label=3):
    generator = torch.Generator().manual_seed(0)
    return [
        Image(
            f"image {number}",
            torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8),
            label,
            (Mark(4, 5, 6, 7, "the cue"),),
        )
        for number in range(count)
    ]


def _words(page):
    page.figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in page.figure.findobj(Text))


def _panels(page, index):
    return [axis for axis in page.figure.axes if axis.get_title().startswith(index)]


def test_a_page_for_each_network_and_three_images():
    subjects = [_subject(), _subject(":ranking=reduce")]
    found = list(pages(subjects, _images(4)))
    assert [len(page.rows) for page in found] == [3, 3, 1, 1]
    assert [row.image for page in found[::2] for row in page.rows] == [
        f"image {number}" for number in range(4)
    ]
    assert [page.rows[0].model for page in found] == [subject.spec for subject in subjects] * 2
    # an image, four stages, ranks, the swap, and its changes, by image
    assert [len(page.figure.axes) for page in found] == [24, 24, 8, 8]


def test_pages_are_made_as_they_are_asked_for():
    asked = []
    images = (asked.append(image.name) or image for image in _images(7))
    next(pages([_subject()], images))
    assert asked == ["image 0", "image 1", "image 2"]


def test_a_last_image_borrows_the_prior_of_the_one_before():
    first, last = pages([_subject()], _images(4))
    assert [row.donor for row in first.rows] == ["image 1", "image 2", "image 0"]
    assert [row.donor for row in last.rows] == ["image 2"]
    assert last.arrays["image_names"].tolist() == ["image 3", "image 2"]


def test_says_what_it_is_and_whose():
    (page,) = pages([_subject(names=NAMES)], _images(2))
    words = _words(page)
    for said in (
        "Class priors: tiny\nmy.safetensors",
        "image 0",
        "image 1",
        "the cue",
        "after stage 1",
        "prior: first 8 of 10",
        "prior: first 3 of 10",
        "the output, of 10",
        "with the prior of image 1",
        "with the prior of image 0",
        "true: a class who\N{HORIZONTAL ELLIPSIS}",
        "whole image at 32x32 px (bilinear); mean 0.5, 0.5, 0.5; std 0.25, 0.25, 0.25",
        "size of the prior",
        "true class",
    ):
        assert said in words
    assert "random" not in words
    assert "ignore the prior" not in words


def test_marks_are_frames_around_their_pixels():
    (page,) = pages([_subject()], _images(2))
    (frame,) = _panels(page, "image 1")[0].patches
    # pixel 4 begins at 3.5
    assert frame.get_bbox().bounds == (4.5, 3.5, 7, 6)


def test_a_picture_of_random_weights_says_that_it_means_nothing():
    (page,) = pages([_subject(trained=False)], _images(2))
    told = " ".join(page.figure.get_suptitle().split())
    assert "random weights (seed 0): these rankings mean nothing" in told
    assert "its contextual convolutions are new, and ignore the prior" in told
    unsaid = replace(_subject(trained=False), weights="seed 0")
    (page,) = pages([unsaid], _images(2))
    assert "seed 0; random weights: these" in page.figure.get_suptitle()


def test_bars_are_the_likeliest_classes_and_the_true_one():
    subject, images = _subject(), _images(2)
    x = batch_of([subject.sample(image) for image in images])
    worst = int(priors(subject.model, x).stages[0].order[0, -1])
    (page,) = pages([subject], [replace(image, label=worst) for image in images])
    probabilities, order = (page.arrays[name][0, 0] for name in ("probabilities_SBN", "order_SBN"))
    panel = _panels(page, "after stage 1")[0]
    shown = [*order[:5], worst]
    drawn = [bar.get_width() for bar in panel.patches]
    np.testing.assert_allclose(drawn, probabilities[shown])
    told = [text.get_text() for text in panel.texts[::2]]
    assert told == [
        *(f"{place}. class {index}" for place, index in enumerate(order[:5], 1)),
        f"10. class {worst}",
    ]


def test_all_probabilities_of_a_page_have_one_scale():
    (page,) = pages([_subject()], _images(3))
    scales = {axis.get_xlim() for axis in _panels(page, "after") + _panels(page, "with the prior")}
    assert len(scales) == 1
    most = np.nanmax(page.arrays["probabilities_SBN"])
    assert most <= scales.pop()[1]


def test_lines_are_the_ranks_of_the_final_top_classes_and_the_true_one():
    (page,) = pages([_subject()], _images(2))
    order = page.arrays["order_SBN"][:, :1]
    panel = _panels(page, "rank of the final top classes and the true one")[0]
    lines = [line.get_ydata() for line in panel.lines if line.get_linestyle() == "-"]
    drawn = [*dict.fromkeys([*order[-1, 0, :5].tolist(), 3])]
    expected = [places(stage, np.array([drawn]))[0] for stage in order]
    np.testing.assert_array_equal(np.array(lines), np.array(expected).T)
    assert [text.get_text() for text in panel.texts[:3]] == ["prior 8", "prior 5", "prior 3"]
    assert panel.get_ylim()[0] > panel.get_ylim()[1]  # the first is at the top


def test_pairs_are_the_final_probabilities_with_both_priors():
    subject, images = _subject(), _images(2)
    (page,) = pages([subject], images)
    x = batch_of([subject.sample(image) for image in images])
    swap = swapped(subject.model, x)
    own, other = swap.own.stages[-1], swap.changes[0]
    panel = _panels(page, "with the prior of image 1")[0]
    first = own.order[0, 0]
    assert panel.patches[0].get_width() == pytest.approx(own.probabilities[0, first])
    assert panel.patches[1].get_width() == pytest.approx(other.probabilities[0, first])


def test_dropped_classes_are_told():
    subject, images = _subject(":ranking=reduce"), _images(2, label=None)
    x = batch_of([subject.sample(image) for image in images])
    dropped = int(priors(subject.model, x).stages[0].order[0, -1])
    (page,) = pages([subject], [replace(images[0], label=dropped), images[1]])
    words = _words(page)
    assert "true class dropped" in words
    assert "(dropped)" in words
    assert "prior: 8 of 10, rest dropped" in words
    assert page.rows[0].true_rank == (10, None, None, None)
    assert (page.arrays["order_SBN"][1, :, 8:] == -1).all()


@pytest.mark.parametrize(
    ("options", "count", "said"),
    [
        (":prior=false", 2, "the stages take no prior: rankings only"),
        (":contextual_stages=none", 2, "the stages take no prior: rankings only"),
        ("", 1, "one image alone, with no other's prior to exchange"),
    ],
)
def test_without_an_exchange_the_rankings_are_left(options, count, said):
    (page,) = pages([_subject(options)], _images(count))
    assert said in page.figure.get_suptitle()
    assert not _panels(page, "with the prior")
    assert len(_panels(page, "rank of")) == count
    assert page.rows[0].donor is None
    assert page.rows[0].exchanged == ()
    assert "donors" not in page.arrays


def test_rows_are_the_numbers_of_the_picture():
    subject, images = _subject(names=NAMES), _images(2)
    (page,) = pages([subject], images, top=2)
    x = batch_of([subject.sample(image) for image in images])
    swap = swapped(subject.model, x, labels=[3, 3], top=2)
    row, change = page.rows[1], swap.changes[0]
    assert (row.model, row.weights, row.trained) == (subject.spec, "my.safetensors", True)
    assert (row.picture, row.image, row.true_class, row.donor) == (
        "",
        "image 1",
        NAMES[3],
        "image 0",
    )
    assert row.prior_sizes == (8, 5, 3, None)
    assert row.top_classes == tuple(
        tuple(NAMES[index] for index in stage.order[1, :2]) for stage in swap.own.stages
    )
    assert row.true_rank == tuple(stage.true_rank[1] for stage in swap.own.stages)
    assert row.predicted == row.top_classes[-1][0]
    assert row.swapped_predicted == NAMES[change.predicted[1]]
    assert row.swapped_top_overlap == change.top_overlap[1]
    assert row.swapped_correlation == change.correlation[1]
    assert row.exchanged == ("all stages", "stage 2", "stage 3", "stage 4")
    assert row.score_change == tuple(found.score_change[1] for found in swap.changes)
    plain = (str, bool, int, float, tuple, type(None))
    assert all(type(value) in plain for value in asdict(row).values())


def test_images_without_labels_have_no_true_class():
    (page,) = pages([_subject()], _images(2, label=None))
    assert "no label" in _words(page)
    assert page.rows[0].true_class is None
    assert page.rows[0].true_rank == (None,) * 4
    assert (page.arrays["labels"] == -1).all()
    assert len(_panels(page, "rank of the final top classes")) == 2


def test_labels_stand_in_for_those_of_the_images():
    (page,) = pages([_subject()], _images(2), labels=[1, None])
    assert page.arrays["labels"].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [1]}, "There are 1 labels, and none for image 'image 1'. Give one an image"),
        ({"labels": [1, 2, 3]}, "There are 1 more labels than images"),
        ({"labels": [1, 10]}, "Label 10 is none of the network's 10 classes"),
        ({"top": 0}, "top=0 shows no class"),
    ],
)
def test_values_that_do_not_fit_are_named(options, message):
    with pytest.raises(VisualizeError, match=message):
        list(pages([_subject()], _images(2), **options))


def test_other_networks_are_refused_before_any_image_is_read():
    plain = replace(_subject(), model=create_model("resnet_tiny:width=4"))
    images = (pytest.fail("an image is read") for _ in range(1))
    with pytest.raises(VisualizeError, match="ResNet ranks no classes"):
        next(pages([_subject(), plain], images))


@pytest.mark.parametrize("top", [1, 30])
def test_any_number_of_top_classes_can_be_saved(top, tmp_path):
    (page,) = pages([_subject(names=NAMES)], _images(1), top=top)
    for name in ("figure.png", "figure.svg"):
        save(page.figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    assert len(_panels(page, "after stage 1")[0].patches) == min(top, 10) + (
        page.rows[0].true_rank[0] > top
    )


def test_many_classes_have_logarithmic_ranks():
    torch.manual_seed(0)
    many = replace(_subject(), model=create_model("ctx_resnet_tiny:width=4:num_classes=200"))
    (page,) = pages([many], _images(2, label=150))
    (first, second) = _panels(page, "rank of")
    assert first.get_yscale() == "log"
    assert first.get_ylim() == second.get_ylim()
    (page,) = pages([_subject()], _images(2))
    assert _panels(page, "rank of")[0].get_yscale() == "linear"


def test_spread_keeps_the_order_and_the_distance():
    assert _spread([0.9, 0.5, 0.1], 0.2) == [0.9, 0.5, 0.1]
    assert _spread([0.5, 0.5, 0.5], 0.2) == pytest.approx([0.5, 0.3, 0.1])
    assert _spread([0.1, 0.1, 0.1], 0.2) == pytest.approx([0.4, 0.2, 0.0])


def test_short_names_stay_and_long_ones_end_in_an_ellipsis():
    assert short("tabby cat", 9) == "tabby cat"
    assert short("tabby cats", 7) == "tabby\N{HORIZONTAL ELLIPSIS}"
