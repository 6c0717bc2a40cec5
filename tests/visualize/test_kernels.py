from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from ctxbench import create_model
from ctxbench.errors import VisualizeError
from ctxbench.ops import CGConv2d, CoConv2d
from ctxbench.visualize.dynamic_kernels import dynamic_kernels
from ctxbench.visualize.dynamic_kernels_figure import positions_of
from ctxbench.visualize.kernels import chosen_layers, kernel_layers, stage_ends
from ctxbench.visualize.kernels_figure import pages
from ctxbench.visualize.preprocess import Preprocess
from ctxbench.visualize.subject import Image, Mark, Subject

_OVERLOCK = "overlock_tiny:num_classes=3:in_channels=1"
_MARKS = (Mark(2, 4, 5, 5, "object"), Mark(12, 8, 5, 5, "cue"))


def _subject(spec, *, trained=False):
    torch.manual_seed(0)
    preprocess = Preprocess(24, 24, (0.5,), (0.25,))
    return Subject(spec, spec.split(":")[0], create_model(spec), "seed 0", trained, preprocess)


def _images(count, marks=()):
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (count, 1, 24, 24), dtype=torch.uint8)
    return [Image(f"image {number}", each, None, marks) for number, each in enumerate(pixels)]


def _texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))
    )


def test_layers_are_found_by_their_operator():
    found = kernel_layers(create_model(_OVERLOCK))
    assert [name for name, layers in found.items() if layers] == ["ContMix", "DilatedReparam"]
    assert len(found["ContMix"]) == 2
    assert len(found["DilatedReparam"]) == 6


def test_a_network_without_kernels_is_told_which_have_some():
    with pytest.raises(VisualizeError, match="Linear has no layer of ContMix, CGC, CoConv, Dil"):
        kernel_layers(nn.Linear(2, 2))


def test_an_operator_that_is_not_there_is_told_which_is():
    with pytest.raises(VisualizeError, match="Sequential has no layer of ContMix; it has CoConv"):
        dynamic_kernels(nn.Sequential(CoConv2d(4, 4)), torch.randn(1, 4, 8, 8))


def test_a_name_stands_for_all_inside():
    found = chosen_layers(create_model(_OVERLOCK), ["focus3"])
    assert found["ContMix"] == ["focus3.0.block.mixer.contmix"]
    assert found["DilatedReparam"] == ["focus3.0.block.mixer.local.0"]


@pytest.mark.parametrize("name", ["focus", "stem", "", "layer9"])
def test_a_name_without_kernels_is_told_which_have_some(name):
    message = f"OverLoCK has no layer of .* at '{name}'. There are 'focus3.0.block"
    with pytest.raises(VisualizeError, match=message):
        chosen_layers(create_model(_OVERLOCK), [name])


@pytest.mark.parametrize(
    ("names", "most", "ends"),
    [
        (["layer1.0.a", "layer1.1.a", "layer2.0.a"], 4, ["layer1.1.a", "layer2.0.a"]),
        (["stages.0.a", "stages.0.b", "stages.1.a"], 4, ["stages.0.b", "stages.1.a"]),
        (["a.x", "b.x", "c.x"], 2, ["b.x", "c.x"]),
        (["conv1", "conv2"], 4, ["conv1", "conv2"]),
        (["body.0"], 4, ["body.0"]),
        ([""], 4, [""]),
        ([], 4, []),
    ],
)
def test_the_last_layer_of_each_stage(names, most, ends):
    assert stage_ends(names, most) == ends


def test_positions_are_the_marks_then_the_centre():
    sample = _subject(_OVERLOCK).sample(_images(1, _MARKS)[0])
    places = [(place.name, place.y, place.x) for place in positions_of(sample)]
    # the middle of five pixels from 2 on is pixel 4
    assert places == [("object", 4, 6), ("cue", 14, 10), ("centre", 12, 12)]


def test_pages_of_a_network_with_two_operators():
    subject = _subject(_OVERLOCK)

    folded, first, last = pages([subject], _images(1, _MARKS))

    assert [row.operator for row in folded.rows] == ["DilatedReparam"] * 6
    assert [row.layer for row in (*first.rows, *last.rows)] == kernel_layers(subject.model)[
        "ContMix"
    ]
    assert asdict(first.rows[0])["image"] == "image 0"
    x = subject.sample(_images(1)[0]).x[None]
    expected = dynamic_kernels(subject.model, x, layers=["focus4"])[0].large[0]
    np.testing.assert_array_equal(last.arrays["large_kernels"], expected)
    assert first.arrays["positions_yx_px"].tolist() == [[4, 6], [14, 10], [12, 12]]
    assert "random weights (seed 0)" in _texts(first.figure)


def test_gates_are_one_page_over_all_images_whatever_is_taken_at_once():
    subject = _subject("cgc_resnet_tiny:width=4:num_classes=3:in_channels=1", trained=True)

    (page,) = pages([subject], iter(_images(6)))

    assert [row.images for row in page.rows] == [6] * 5
    assert page.arrays["gates_3"].shape == (32, 32, 3, 3)
    alone = torch.stack([subject.sample(image).x for image in _images(6)])
    layer = subject.model.eval().get_submodule("conv1")
    expected = layer.gates(alone).std(0).square().mean().sqrt().item()
    assert page.rows[0].statistics["std_between_images"] == pytest.approx(expected, rel=1e-4)
    assert "random" not in _texts(page.figure)


@pytest.mark.parametrize("spec", ["coresnet_tiny", "overlock_tiny:reparam=true"])
def test_weights_are_drawn_without_an_image(spec):
    (page,) = pages([_subject(f"{spec}:num_classes=3:in_channels=1")], [])
    assert page.rows[0].image == ""
    assert page.rows[0].images == 0
    assert len(page.arrays["layers"]) == len(page.rows)


def test_images_are_taken_a_few_at_a_time():
    taken = []
    images = (taken.append(image.name) or image for image in _images(40))
    drawn = pages([_subject(_OVERLOCK)], images, layers=["focus4.0.block.mixer.contmix"])
    assert next(drawn).rows[0].image == "image 0"
    assert len(taken) <= 4


def test_gates_of_one_image_say_that_two_are_needed():
    subject = _subject("cgc_resnet_tiny:width=4:num_classes=3:in_channels=1")
    (page,) = pages([subject], _images(1), layers=["layer2.0.conv2"])
    assert "needs two images" in _texts(page.figure)
    assert [row.layer for row in page.rows] == ["layer2.0.conv2"]
    assert "std_between_images_0" not in page.arrays


def test_gates_without_an_image_are_refused():
    subject = _subject("cgc_resnet_tiny:width=4:num_classes=3:in_channels=1")
    with pytest.raises(VisualizeError, match="cgc_resnet_tiny are made from an image. Give one"):
        list(pages([subject], []))


def test_a_position_outside_the_image_is_refused():
    drawn = pages([_subject(_OVERLOCK)], _images(1), layers=["focus4"], positions=[(24, 0)])
    with pytest.raises(VisualizeError, match="Position y=24, x=0 is outside"):
        list(drawn)


def test_a_convolution_put_into_a_network_is_drawn():
    model = nn.Sequential(CoConv2d(1, 4), CGConv2d(4, 4))
    preprocess = Preprocess(24, 24, (0.5,), (0.25,))
    subject = Subject("mine", "mine", model, "seed 0", False, preprocess)
    found = [page.rows[0].operator for page in pages([subject], _images(2))]
    assert found == ["CoConv", "CGC"]


@pytest.mark.gpu
def test_pages_of_networks_on_a_gpu():
    subjects = [
        _subject(_OVERLOCK),
        _subject("cgc_resnet_tiny:width=4:num_classes=3:in_channels=1"),
    ]
    for subject in subjects:
        subject.model.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    found = [page.rows[0].operator for page in pages(subjects, _images(2))]
    assert found == ["DilatedReparam", *["ContMix"] * 4, "CGC"]
