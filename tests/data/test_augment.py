from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ctxbench.data import Data, TensorImages
from ctxbench.data._keys import key, keys, uniform, whole
from ctxbench.data.augment import Augmentation, evaluation, mixing, shifted, training
from ctxbench.errors import DataError

PX, CLASSES, COUNT = 16, 4, 64


def make(channels=3, side=PX, count=COUNT):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, side, side), generator=generator)
    images = TensorImages(pixels.to(torch.uint8), torch.arange(count) % CLASSES)
    return Data(images, images, CLASSES, channels, PX, (0.5,) * channels, (0.25,) * channels)


DATA = make()
RAW = DATA.train.images
KEYS = keys(key(5), torch.arange(COUNT))
PLAIN = (RAW.float() / 255 - 0.5) / 0.25


def changed(data=DATA, **fields):
    return training(data, Augmentation(**fields)).batch(data.train.images, KEYS)


def pixels(x):
    """Return uint8 pixels of normalised images."""
    return ((x * 0.25 + 0.5) * 255).round().to(torch.uint8)


def test_nothing_is_changed_unless_asked():
    transform = training(DATA, Augmentation())
    assert not transform.random
    torch.testing.assert_close(transform.batch(RAW, KEYS), PLAIN)
    torch.testing.assert_close(evaluation(DATA, Augmentation()).batch(RAW, KEYS), PLAIN)


def test_flip_1_mirrors_exactly():
    assert torch.equal(pixels(changed(flip=1.0)), F.horizontal_flip(RAW))


def test_flip_is_a_probability():
    data = make(count=2000)
    made = training(data, Augmentation(flip=0.3)).batch(
        data.train.images, keys(key(1), torch.arange(2000))
    )
    mirrored = (pixels(made) == data.train.images.flip(-1)).flatten(1).all(1)
    kept = (pixels(made) == data.train.images).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 0.26 < mirrored.float().mean() < 0.34


def test_shifted_is_what_v2_crops_out_of_a_padded_image():
    down, right = torch.arange(COUNT) % 5, torch.arange(COUNT) // 5 % 5
    windows = shifted(RAW, 2, down, right)
    for index in range(COUNT):
        padded = F.pad(RAW[index], [2, 2, 2, 2])
        crop = F.crop(padded, int(down[index]), int(right[index]), PX, PX)
        assert torch.equal(windows[index], crop)


def test_crop_pad_shifts_by_up_to_an_eighth_each_way():
    data = make(count=2000)
    base = keys(key(2), torch.arange(2000))
    made = training(data, Augmentation(crop="pad")).batch(data.train.images, base)
    padded = F.pad(data.train.images, [2, 2, 2, 2])
    found = {}
    for down in range(5):
        for right in range(5):
            window = F.crop(padded, down, right, PX, PX)
            found[down, right] = int((pixels(made) == window).flatten(1).all(1).sum())
    assert sum(found.values()) == 2000
    assert min(found.values()) > 40  # 80 are expected of each


def test_crop_resized_takes_the_share_of_the_area():
    ramp = torch.arange(PX).expand(COUNT, 3, PX, PX) * 16
    data = replace(
        DATA, train=TensorImages(ramp.to(torch.uint8).contiguous(), torch.zeros(64).long())
    )
    for scale, least, most in [((1.0, 1.0), 180, 256), ((0.1, 0.1), 20, 150)]:
        made = pixels(changed(data, crop="resized", crop_scale=scale)).float()
        seen = (made.amax((1, 2, 3)) - made.amin((1, 2, 3))).median()
        assert least <= seen <= most


def test_crop_resized_and_its_interpolation_are_those_of_v2():
    for interpolation in ("bilinear", "bicubic"):
        transform = training(DATA, Augmentation(crop="resized", interpolation=interpolation))
        torch.manual_seed(3)
        made = transform.crop(RAW[0])
        torch.manual_seed(3)
        theirs = v2.RandomResizedCrop(PX, interpolation=v2.InterpolationMode(interpolation))
        assert torch.equal(made, theirs(RAW[0]))


def test_erasing_1_erases_a_rectangle_to_the_mean():
    made = changed(erasing=1.0)
    different = (made != changed()).any(1)
    for image, mask in zip(made, different, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert len(rows)
        box = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box == 0).all()
        assert 0.01 < mask.float().mean() < 0.4


def test_one_erased_image_in_a_batch():
    made = training(DATA, Augmentation(erasing=1.0)).batch(RAW[5:6], KEYS[5:6])
    assert torch.equal(made, changed(erasing=1.0)[5:6])


def test_erasing_is_a_probability():
    erased = (changed(erasing=0.5) != changed()).flatten(1).any(1)
    assert 15 < erased.sum() < 49


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fields", [{"rand_augment": 9}, {"color_jitter": 0.4}])
def test_colours_change_most_images_and_not_their_shape(channels, fields):
    data = make(channels)
    made, plain = changed(data, **fields), changed(data)
    assert made.shape == plain.shape
    assert made.dtype == torch.float32
    assert (made != plain).flatten(1).any(1).float().mean() > 0.5


def test_color_jitter_0_1_changes_little():
    assert (changed(color_jitter=0.1) - PLAIN).abs().mean() < (
        changed(color_jitter=0.9) - PLAIN
    ).abs().mean()


def test_colours_of_two_channels_are_an_error():
    with pytest.raises(DataError, match=r"1 or 3 channels; these have 2. Leave them out"):
        training(make(channels=2), Augmentation(rand_augment=3))


EVERYTHING = {"flip": 0.5, "rand_augment": 9, "color_jitter": 0.3, "erasing": 0.5}


@pytest.mark.parametrize("crop", ["pad", "resized", "none"])
def test_an_image_is_the_same_in_any_batch(crop):
    transform = training(DATA, Augmentation(crop=crop, **EVERYTHING))
    whole_batch = transform.batch(RAW, KEYS)
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))
    other = transform.batch([RAW[index] for index in order[:7]], KEYS[order[:7].numpy()])
    assert torch.equal(other, whole_batch[order[:7]])
    assert torch.equal(transform.batch(RAW, KEYS), whole_batch)


def test_a_transform_called_draws_from_the_generator_of_torch():
    transform = training(DATA, Augmentation(crop="pad", **EVERYTHING))
    torch.manual_seed(1)
    first, second = transform(RAW[0]), transform(RAW[0])
    torch.manual_seed(1)
    assert torch.equal(transform(RAW[0]), first)
    assert first.shape == (3, PX, PX)
    assert not torch.equal(first, second)


def test_a_transform_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    changed(crop="resized", **EVERYTHING)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_of_other_sizes_are_framed():
    transform = evaluation(make(side=40), Augmentation())
    expected = F.center_crop(F.resize(make(side=40).train.images, [18]), [PX, PX])
    made = transform.batch(make(side=40).train.images, KEYS)
    assert torch.equal(pixels(made), expected)
    wide = torch.zeros(3, 30, 90, dtype=torch.uint8)
    assert transform.batch([wide, wide], KEYS[:2]).shape == (2, 3, PX, PX)
    whole_image = evaluation(make(side=40), Augmentation(eval_crop=1.0))
    resized = F.resize(make(side=40).train.images, [PX])
    assert torch.equal(pixels(whole_image.batch(make(side=40).train.images, KEYS)), resized)


def test_training_without_a_crop_frames_as_evaluation_does():
    data = make(side=40)
    made = training(data, Augmentation()).batch(data.train.images, KEYS)
    assert torch.equal(made, evaluation(data, Augmentation()).batch(data.train.images, KEYS))
    assert (
        training(data, Augmentation(crop="pad")).batch([*data.train.images[:3]], KEYS[:3]).shape[-1]
        == PX
    )


def one_image_a_class():
    """Return constant images, whose pixels tell the label."""
    target = torch.arange(8) % CLASSES
    return target[:, None, None, None].float().expand(-1, 1, PX, PX).contiguous(), target


def test_mixup_mixes_images_and_targets_alike():
    x, target = one_image_a_class()
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, shares = mixing(DATA, Augmentation(mixup=1.0))(x, target)
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        told = (shares * torch.arange(CLASSES)).sum(1)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), told)
        assert (mixed.std((1, 2, 3)) < 1e-6).all()
        assert shares.max() < 1


def test_cutmix_pastes_as_much_as_the_targets_say():
    x, target = one_image_a_class()
    pasted = 0
    for seed in range(5):
        torch.manual_seed(seed)
        mixed, shares = mixing(DATA, Augmentation(cutmix=1.0))(x, target)
        for image, share in zip(mixed, shares, strict=True):
            counted = torch.stack([(image == label).float().mean() for label in range(CLASSES)])
            torch.testing.assert_close(counted, share)
        pasted += bool(shares.max() < 1)
    assert pasted


def test_with_both_one_of_them_mixes_a_batch():
    x, target = one_image_a_class()
    mix = mixing(DATA, Augmentation(mixup=1.0, cutmix=1.0))
    kinds = set()
    for seed in range(12):
        torch.manual_seed(seed)
        mixed, shares = mix(x, target)
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        kinds.add("cutmix" if torch.equal(mixed, mixed.round()) else "mixup")
    assert kinds == {"cutmix", "mixup"}


def test_no_mixing_is_none():
    assert mixing(DATA, Augmentation()) is None


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"crop": "square"}, r"crop=square is not none or pad or resized"),
        ({"interpolation": "nearest"}, r"interpolation=nearest is not bilinear or bicubic"),
        ({"flip": 1.5}, r"flip=1.5 is not from 0 to 1"),
        ({"flip": float("nan")}, r"flip=nan is not from 0 to 1"),
        ({"erasing": -0.1}, r"erasing=-0.1 is not from 0 to 1"),
        ({"rand_augment": 31}, r"rand_augment=31 is not from 0 to 30"),
        ({"color_jitter": -1}, r"color_jitter=-1 is not 0 or more"),
        ({"mixup": float("inf")}, r"mixup=inf is not 0 or more"),
        ({"cutmix": -0.2}, r"cutmix=-0.2 is not 0 or more"),
        ({"crop_scale": (0.5,)}, r"crop_scale=\(0.5,\) is not two shares of the area"),
        ({"crop_scale": (0.9, 0.1)}, r"crop_scale=\(0.9, 0.1\) is not two shares"),
        ({"crop_scale": (0.0, 1.0)}, r"crop_scale=\(0.0, 1.0\) is not two shares"),
        ({"eval_crop": 0.0}, r"eval_crop=0.0 is not above 0 and up to 1"),
    ],
)
def test_bad_values_are_named(fields, match):
    with pytest.raises(ValueError, match=match):
        Augmentation(**fields)


def test_keys_are_splitmix64():
    # the first numbers of the generator that begins at 0, as published with its code
    state = (np.arange(1, 4, dtype=np.uint64) - np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    numbers = [key(int(value)) for value in state]
    assert numbers == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_keys_of_a_batch_are_those_of_its_numbers():
    assert keys(key(3, 4), torch.tensor([0, 7])).tolist() == [key(3, 4, 0), key(3, 4, 7)]
    assert key(1, 2) != key(2, 1)
    assert key(-1) == key(2**64 - 1)


def test_numbers_are_uniform_and_uses_are_independent():
    base = keys(key(0), torch.arange(20_000))
    first, second = uniform(base, 0), uniform(base, 1)
    assert 0 <= first.min() < 0.001
    assert 0.999 < first.max() < 1
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.03
    counts = whole(base, 2, 5).bincount()
    assert len(counts) == 5
    assert counts.min() > 3800
