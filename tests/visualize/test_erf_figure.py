import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from torch import nn

from ctxbench import create_model
from ctxbench.errors import VisualizeError
from ctxbench.style import save
from ctxbench.visualize.erf import erf
from ctxbench.visualize.erf_figure import pages
from ctxbench.visualize.preprocess import Preprocess
from ctxbench.visualize.subject import Image, Subject, batch_of


def _subject(spec="resnet_tiny:width=4", *, trained=False, side=16, model=None):
    torch.manual_seed(0)
    return Subject(
        spec=spec,
        title=spec.split(":")[0],
        model=create_model(spec) if model is None else model,
        weights="weights.safetensors" if trained else "random weights, seed 0",
        trained=trained,
        preprocess=Preprocess(side, side, (0.5,) * 3, (0.25,) * 3),
    )


def _images(count):
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        pixels = torch.randint(256, (3, 20, 20), generator=generator, dtype=torch.uint8)
        yield Image(f"image {number}", pixels)


def _page(subjects, count=3, **options):
    (page,) = pages(subjects, _images(count), **options)
    return page


def _words(figure):
    return [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]


def _maps(page):
    return [axis for axis in page.figure.findobj(lambda a: hasattr(a, "get_images")) if axis.images]


def _frames(axis):
    return [patch for patch in axis.patches if isinstance(patch, Rectangle)]


def _curves(page):
    (axis,) = [a for a in page.figure.axes if a.get_ylabel() == "energy that it holds (%)"]
    return axis


def test_one_page_compares_all_networks():
    page = _page([_subject(), _subject("coresnet_tiny:width=4")], probes=1)
    assert len(_maps(page)) == 2
    assert [row.model for row in page.rows] == ["resnet_tiny:width=4", "coresnet_tiny:width=4"]
    assert {row.images for row in page.rows} == {3}
    assert page.arrays["models"].tolist() == [row.model for row in page.rows]
    assert page.arrays["images"].tolist() == ["image 0", "image 1", "image 2"]


def test_what_is_drawn_is_what_is_computed():
    subject = _subject()
    page = _page([subject], layer="layer2", seed=3)
    x = batch_of([subject.sample(image) for image in _images(3)])
    mean = erf(subject.model, x, layer="layer2", seed=3).energies.mean(0)
    np.testing.assert_allclose(page.arrays["energy_0"], mean, rtol=1e-10, atol=1e-15)
    (axis,) = _maps(page)
    shown = np.asarray(axis.images[0].get_array())
    np.testing.assert_allclose(shown[mean > 1e-3], mean[mean > 1e-3])


def test_all_maps_have_one_scale():
    page = _page([_subject(), _subject("coresnet_tiny:width=4")])
    highest = max(page.arrays[f"energy_{number}"].max() for number in (0, 1))
    limits = {axis.images[0].get_clim() for axis in _maps(page)}
    assert limits == {(highest / 1e4, highest)}


def test_frames_are_the_squares_and_the_field():
    page = _page([_subject()])
    row, (axis,) = page.rows[0], _maps(page)
    sizes = [frame.get_width() for frame in _frames(axis)]
    assert sizes == [row.square50_px, row.square99_px]  # layer4 sees all of 16 px
    middles = {
        (f.get_x() + f.get_width() / 2, f.get_y() + f.get_height() / 2) for f in _frames(axis)
    }
    assert middles == {(row.centre_column_px, row.centre_row_px)}
    smaller = _page([_subject(side=32)], layer="layer1")
    field = _frames(_maps(smaller)[0])[2]
    assert (field.get_width(), field.get_height()) == (5, 5)
    assert (field.get_x(), field.get_y()) == (13.5, 13.5)


def test_a_whole_field_is_said_and_not_drawn():
    page = _page([_subject("cgc_resnet_tiny:width=16")], layer="layer1")
    assert len(_frames(_maps(page)[0])) == 2
    assert any("field: the whole image" in words for words in _words(page.figure))
    assert page.rows[0].field_whole


def test_random_and_trained_weights_are_told_apart():
    page = _page([_subject(trained=True), _subject()])
    heads = [axis.get_title(loc="left") for axis in _maps(page)]
    assert "weights.safetensors" in heads[0]
    assert "random weights" in heads[1]
    axis = _curves(page)
    lines = [line.get_linestyle() for line in axis.lines[:2]]
    assert lines == ["-", "--"]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels[:2] == ["resnet_tiny, trained", "resnet_tiny, random weights"]


def test_untrained_weights_of_another_name_are_called_random():
    subject = _subject()
    renamed = Subject(
        subject.spec, subject.title, subject.model, "seed 0", trained=False,
        preprocess=subject.preprocess,
    )  # fmt: skip
    (axis,) = _maps(_page([renamed]))
    assert "random weights (seed 0)" in axis.get_title(loc="left")


def test_a_map_has_the_colour_of_its_curve():
    page = _page([_subject(), _subject("coresnet_tiny:width=4")])
    maps = [to_rgb(axis.spines["top"].get_edgecolor()) for axis in _maps(page)]
    assert maps == [to_rgb(line.get_color()) for line in _curves(page).lines[:2]]
    assert maps[0] != maps[1]


def test_one_image_has_no_band_and_no_brackets():
    page = _page([_subject()], count=1)
    assert not _curves(page).collections
    assert "[" not in _maps(page)[0].get_title(loc="left")
    assert page.rows[0].square50_low_px is None
    assert "held_low_0" not in page.arrays
    several = _page([_subject()])
    assert len(_curves(several).collections) == 1
    assert several.arrays["held_low_0"].shape == several.arrays["held_0"].shape


def test_more_than_four_networks_wrap():
    page = _page([_subject() for _ in range(5)], count=1, probes=1)
    rows = {round(axis.get_subplotspec().rowspan.start) for axis in _maps(page)}
    assert rows == {0, 1}


class _Counting(nn.Module):
    """Remembers how many images it saw at a time."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return self.conv(x)


def test_images_are_taken_a_few_at_a_time():
    model, taken = _Counting(), []

    def images():
        for image in _images(19):
            taken.append(sum(model.batches))
            yield image

    (page,) = pages([_subject(model=model)], images(), layer="conv", probes=2)
    assert page.rows[0].images == 19
    assert max(model.batches) <= 8
    assert taken[8] >= 8  # the first eight were through when the ninth was asked for


def test_each_network_takes_its_own_size():
    page = _page([_subject(side=16), _subject(side=24)])
    assert [(row.height_px, row.width_px) for row in page.rows] == [(16, 16), (24, 24)]
    assert page.arrays["energy_1"].shape == (24, 24)
    foot = page.figure.get_supxlabel()
    assert "16x16 px" in foot
    assert "24x24 px" in foot


def test_networks_without_a_gradient_are_drawn_as_that():
    dead = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    nn.init.constant_(dead[0].bias, -100.0)
    page = _page([_subject(model=dead)])
    assert "no gradient: 3 images" in _maps(page)[0].get_title(loc="left")
    assert (page.rows[0].images, page.rows[0].dead_images) == (0, 3)


def test_class_scores_are_named():
    page = _page([_subject()], layer="output")
    assert "class scores" in _maps(page)[0].get_title(loc="left")
    assert page.rows[0].position_row is None


def test_nothing_to_show_is_an_error():
    with pytest.raises(VisualizeError, match="at least one image; got none"):
        _page([_subject()], count=0)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_figure_can_be_saved(tmp_path, suffix):
    save(_page([_subject()], count=2).figure, tmp_path / f"erf.{suffix}")
    assert (tmp_path / f"erf.{suffix}").stat().st_size > 10_000
