import pytest
import torch
from sklearn.datasets import load_digits

from ctxbench.data.digits import digits


@pytest.fixture(scope="module")
def data():
    return digits()


def test_sizes(data):
    assert (len(data.train), len(data.validation)) == (1437, 360)
    assert (data.classes, data.channels, data.image_px) == (10, 1, 32)
    assert data.train.images.shape == (1437, 1, 32, 32)
    assert data.train.images.is_contiguous()


def test_every_digit_has_its_share_in_both_parts(data):
    train, validation = (part.labels.bincount() for part in (data.train, data.validation))
    share = validation / (train + validation)
    assert share.min() > 0.19
    assert share.max() < 0.21


def test_the_images_are_those_of_scikit_learn_each_once():
    small = digits(image_px=8)
    both = torch.cat([small.train.images, small.validation.images]).flatten(1)
    labels = torch.cat([small.train.labels, small.validation.labels])
    images, targets = load_digits(return_X_y=True)
    original = torch.from_numpy(images * 255 / 16).round().to(torch.uint8)

    def rows(x, y):
        return sorted((*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True))

    assert rows(both, labels) == rows(original, targets)


def test_mean_and_std_are_those_of_the_training_pixels(data):
    pixels = data.train.images.double() / 255
    assert data.mean == (pytest.approx(pixels.mean()),)
    assert data.std == (pytest.approx(pixels.std()),)


def test_the_split_is_fixed_by_the_seed(data):
    assert torch.equal(digits().validation.images, data.validation.images)
    assert not torch.equal(digits(seed=1).validation.images, data.validation.images)


def test_options():
    colour = digits(image_px=12, channels=3)
    assert colour.train.images.shape == (1437, 3, 12, 12)
    assert len(colour.mean) == len(colour.std) == 3
    assert (colour.train.images == colour.train.images[:, :1]).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"image_px": 7}, r"image_px=7 is less than the 8"),
        ({"seed": -1}, r"seed=-1 is not 0 or more"),
    ],
)
def test_bad_values(options, match):
    with pytest.raises(ValueError, match=match):
        digits(**options)
