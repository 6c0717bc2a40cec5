"""The procedural images: parts tell nothing, binding tells all."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctxbench.data.context import Plan, context, draw_scenes, glyphs, render
from ctxbench.spec import read_options

TRAIN, VALIDATION = 3000, 2000
TASKS = {
    "flat": {},
    "far": {"distance": 20, "directions": 1},
    "cluttered": {"clutter": 4, "directions": 2},
    "families": {"classes": 20, "supers": 4, "distance": 5},
    "more families than details": {"classes": 12, "supers": 6, "distance": 4},
    "hundred": {
        "validation": 300,
        "classes": 100,
        "supers": 10,
        "distance": 5,
        "glyph_px": 4,
        "image_px": 40,
    },
}
every_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(scope="module")
def made():
    """Each task's data, made once."""
    cache = {}

    def make(task):
        if task not in cache:
            options = {"train": TRAIN, "validation": VALIDATION, **TASKS[task]}
            cache[task] = context(**options)
        return cache[task]

    return make


def _band(chance, count=VALIDATION):
    """Four standard deviations of the accuracy of guessing."""
    return 4 * (chance * (1 - chance) / count) ** 0.5


def _accuracy(train, validation, labels, *, hidden=None):
    """Fit a linear classifier, or a small network, and return its share of right answers."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, held_out = (torch.as_tensor((part - mean) / std).float() for part in (train, validation))
    y, expected = map(torch.as_tensor, labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = (x.shape[1], *([hidden] if hidden else []), int(y.max()) + 1)
        layers = [nn.Linear(one, other) for one, other in pairwise(widths)]
    model = nn.Sequential(layers[0], *(part for layer in layers[1:] for part in (nn.ReLU(), layer)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(120):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return (model(held_out).argmax(1) == expected).double().mean().item()


def _labels(data, of=lambda labels: labels):
    return [of(part.labels.numpy()) for part in (data.train, data.validation)]


def _patches(images, column):
    """Return the pixels of one column's glyph and two around it."""
    side = images.scenes.plan.glyph_px + 4
    padded = F.pad(images.images[:, 0].float(), (2,) * 4).numpy()
    rows = np.arange(side)
    y, x = (images.scenes.places[:, column, axis, None] + rows for axis in (0, 1))
    return padded[np.arange(len(padded))[:, None, None], y[:, :, None], x[:, None]].reshape(
        len(padded), -1
    )


def _responses(images):
    """Return how well each glyph fits at each place, (N, kinds, Y, X)."""
    plan = images.scenes.plan
    signs = torch.from_numpy(2.0 * glyphs(plan.kinds, plan.glyph_px) - 1).float()
    return F.conv2d(images.images.float() / 255 - 0.5, signs[:, None])


def _bag(images):
    """Return, for each glyph, its strongest response and a histogram of all, without places."""
    responses = _responses(images).flatten(2)
    levels = torch.tensor([-0.6, -0.3, 0, 0.3, 0.6]) * 0.4 * images.scenes.plan.glyph_px**2
    counts = [(responses > level).sum(2) for level in levels]
    return torch.cat([responses.amax(2), *counts], dim=1).numpy()


def _bound(plan, first, second):
    """Tell whether two places, (..., 2), are at the distance on one of the four sides."""
    apart = np.abs(first - second)
    return (apart.max(-1) == plan.distance) & (apart.min(-1) == 0)


@pytest.mark.parametrize("task", ["flat", "far", "cluttered"])
@pytest.mark.parametrize("column", [0, 1])
def test_neither_the_object_nor_the_cue_tells_the_label(made, task, column):
    data = made(task)
    patches = [_patches(part, column) for part in (data.train, data.validation)]
    assert _accuracy(*patches, _labels(data)) == pytest.approx(0.25, abs=_band(0.25))


@pytest.mark.parametrize("task", ["flat", "far", "cluttered"])
def test_an_unordered_bag_of_features_does_not_tell_the_label(made, task):
    data = made(task)
    bags = [_bag(part) for part in (data.train, data.validation)]
    accuracies = [_accuracy(*bags, _labels(data), hidden=hidden) for hidden in (None, 32)]
    assert accuracies == pytest.approx([0.25, 0.25], abs=_band(0.25))


def test_places_without_glyphs_do_not_tell_the_label(made):
    data = made("far")
    places = [part.scenes.places.reshape(len(part), -1) for part in (data.train, data.validation)]
    accuracy = _accuracy(*places, _labels(data), hidden=32)
    assert accuracy == pytest.approx(0.25, abs=_band(0.25))


def test_the_object_and_the_cue_together_do_tell_the_label(made):
    # the control of the tests above: these classifiers can learn what is there
    data = made("flat")
    pairs = [
        np.eye(16)[part.scenes.glyphs[:, 0] * 4 + part.scenes.glyphs[:, 1] - 4]
        for part in (data.train, data.validation)
    ]
    assert _accuracy(*pairs, _labels(data)) == 1


def test_the_place_of_a_bound_glyph_is_like_that_of_the_others(made):
    places = made("far").train.scenes.places
    bound, other = places[:, 0], places[:, 2:5].reshape(-1, 2)
    edges = np.arange(0, 33, 4)
    for axis in (0, 1):
        shares = [np.histogram(p[:, axis], edges)[0] / len(p) for p in (bound, other)]
        np.testing.assert_allclose(*shares, atol=0.06)


def test_in_a_bag_a_family_is_seen_and_its_detail_is_not(made):
    data = made("families")
    bags = [_bag(part) for part in (data.train, data.validation)]
    details = _labels(data, lambda labels: labels % 5)
    accuracies = [_accuracy(*bags, details, hidden=hidden) for hidden in (None, 32)]
    assert accuracies == pytest.approx([0.2, 0.2], abs=_band(0.2))
    assert _accuracy(*bags, _labels(data, lambda labels: labels // 5)) > 0.95


@pytest.mark.parametrize(("column", "known"), [(0, 4), (1, 5), (-1, 4)])
def test_one_glyph_of_a_family_leaves_the_rest_open(made, column, known):
    # the object or the cue tells one family in 4, the detail one in 5
    data = made("families")
    patches = [_patches(part, column) for part in (data.train, data.validation)]
    accuracy = _accuracy(*patches, _labels(data))
    assert accuracy == pytest.approx(known / 20, abs=_band(known / 20))


def _by_template(images):
    """Read the images: find every glyph, then the partner that stands at the distance."""
    plan = images.scenes.plan
    responses = _responses(images)
    width = responses.shape[-1]
    best = responses.flatten(2).argmax(2).numpy()
    found = np.stack([best // width, best % width], axis=-1)
    objects = found[:, : plan.objects]
    partners = found[:, plan.objects : plan.objects + plan.partners]
    bound = _bound(plan, objects[:, :, None], partners[:, None])
    if plan.supers == 1:
        pairs = bound.reshape(len(found), -1).argmax(1)
        return (pairs // plan.partners + pairs % plan.partners) % plan.classes
    cues = slice(plan.objects + plan.partners, plan.objects + plan.partners + plan.supers)
    family = responses[:, cues].amax((2, 3)).argmax(1).numpy()
    return family * plan.partners + bound[np.arange(len(found)), family].argmax(1)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"more families than details"}))
def test_a_rule_that_binds_reads_the_label_from_the_pixels(made, task):
    images = made(task).validation
    assert (_by_template(images) == images.labels.numpy()).mean() >= 0.99


@every_task
def test_the_scene_tells_the_label(made, task):
    scenes = made(task).train.scenes
    plan = scenes.plan
    sides = np.array(plan.sides)
    objects, partners = np.flatnonzero(sides == 1), np.flatnonzero(sides == -1)
    bound = _bound(plan, scenes.places[:, objects, None], scenes.places[:, None, partners])
    assert (bound.sum((1, 2)) == plan.bound).all()
    if plan.supers == 1:
        counts = bound.reshape(len(bound), -1).argmax(1)
        kinds = [
            np.take_along_axis(scenes.glyphs, column[:, None], 1)[:, 0]
            for column in (objects[counts // len(partners)], partners[counts % len(partners)])
        ]
        expected = (kinds[0] + kinds[1] - plan.classes) % plan.classes
    else:
        family = scenes.glyphs[:, plan.cue] - plan.objects - plan.partners
        row = (scenes.glyphs[:, objects] == family[:, None]).argmax(1)
        column = bound[np.arange(len(bound)), row].argmax(1)
        detail = scenes.glyphs[np.arange(len(bound)), partners[column]] - plan.objects
        expected = family * plan.partners + detail
    np.testing.assert_array_equal(scenes.labels, expected)


@every_task
def test_only_the_bound_pair_comes_near_the_distance(made, task):
    scenes = made(task).train.scenes
    plan = scenes.plan
    for (i, one), (j, other) in combinations(enumerate(plan.sides), 2):
        if one * other >= 0 or (j == i + 1 and i % 2 == 0 and i < 2 * plan.bound):
            continue
        apart = np.abs(scenes.places[:, i] - scenes.places[:, j])
        near = (np.abs(apart.max(1) - plan.distance) <= 1) & (apart.min(1) <= 1)
        assert not near.any()


@every_task
def test_glyphs_lie_inside_and_do_not_overlap(made, task):
    scenes = made(task).train.scenes
    plan = scenes.plan
    assert scenes.places.min() >= 0
    assert scenes.places.max() <= plan.image_px - plan.glyph_px
    for i, j in combinations(range(len(plan.sides)), 2):
        apart = np.abs(scenes.places[:, i] - scenes.places[:, j]).max(1)
        assert apart.min() >= plan.glyph_px


@every_task
def test_every_image_holds_the_same_bag(made, task):
    scenes = made(task).train.scenes
    bags = np.sort(np.delete(scenes.glyphs, scenes.plan.cue, 1) if scenes.plan.supers > 1
                   else scenes.glyphs, axis=1)  # fmt: skip
    assert (bags == bags[0]).all()


@every_task
def test_labels_are_equally_likely(made, task):
    data = made(task)
    counts = np.bincount(data.train.labels, minlength=data.classes)
    expected = TRAIN / data.classes
    assert len(counts) == data.classes
    assert ((counts - expected) ** 2 / expected).sum() < data.classes + 5 * (
        2 * data.classes
    ) ** 0.5


def test_the_directions_are_those_that_were_asked_for():
    seen = {}
    for directions in (1, 2, 4):
        scenes = context(directions=directions, train=400, validation=1).train.scenes
        apart = scenes.places[:, 1] - scenes.places[:, 0]
        seen[directions] = {tuple(pair) for pair in apart.tolist()}
    assert seen == {
        1: {(0, 8)},
        2: {(0, 8), (0, -8)},
        4: {(0, 8), (0, -8), (8, 0), (-8, 0)},
    }


def test_images_are_glyphs_on_noise():
    data = context(train=300, validation=1, noise=0)
    image, label = data.train[7]
    assert image.shape == (1, 32, 32)
    assert image.dtype == torch.uint8
    assert label == data.train.labels[7]
    assert len(image.unique()) == 3
    assert image.unique().tolist() == pytest.approx([0.1 * 255, 0.5 * 255, 0.9 * 255], abs=0.51)
    assert (image != 128).sum() == 8 * 9


def test_mean_and_standard_deviation_are_those_of_the_training_pixels(made):
    data = made("flat")
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx((pixels.mean().item(),))
    assert data.std == pytest.approx((pixels.std(correction=0).item(),))


def test_the_same_options_give_the_same_bytes():
    first, second = (context(train=600, validation=300, clutter=1) for _ in range(2))
    for one, other in ((first.train, second.train), (first.validation, second.validation)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_another_seed_gives_other_images():
    first, second = (context(train=100, validation=1, seed=seed).train for seed in (0, 1))
    assert not torch.equal(first.labels, second.labels)
    assert not (first.images == second.images).flatten(1).all(1).any()


def test_fewer_images_are_the_first_of_more():
    few, more = (context(train=count, validation=1).train for count in (30, 700))
    assert torch.equal(few.images, more.images[:30])
    assert torch.equal(few.labels, more.labels[:30])


def test_noise_leaves_the_layout_alone():
    plain, noisy = (context(train=50, validation=1, noise=noise).train for noise in (0.0, 0.3))
    np.testing.assert_array_equal(plain.scenes.places, noisy.scenes.places)
    np.testing.assert_array_equal(plain.scenes.glyphs, noisy.scenes.glyphs)


def test_no_image_is_in_training_and_in_validation_and_none_is_there_twice():
    # without noise, so that the layouts themselves are told apart
    data = context(train=5000, validation=2000, noise=0)
    images = torch.cat([data.train.images, data.validation.images]).flatten(1).numpy()
    assert len(np.unique(images, axis=0)) == 7000


def test_the_random_state_of_others_is_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    context(train=10, validation=10)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(("count", "side", "apart"), [(8, 3, 3), (20, 3, 2), (30, 4, 5)])
def test_glyphs_differ_mirrored_ones_too(count, side, apart):
    patterns = glyphs(count, side)
    assert patterns.shape == (count, side, side)
    for one, other in combinations(patterns, 2):
        assert (one != other).sum() >= apart
        assert (one != other[:, ::-1]).sum() >= apart


def test_the_names_of_glyphs():
    flat, families = Plan(clutter=1), Plan(classes=6, supers=3)
    assert [flat.name(glyph) for glyph in (0, 4, 8)] == ["object 0", "cue 0", "clutter 0"]
    names = [families.name(glyph) for glyph in (2, 3, 4, 5, 7)]
    assert names == ["object 2", "detail 0", "detail 1", "cue 0", "cue 2"]


def test_layout_and_rendering_are_two_steps():
    plan = Plan(image_px=20, classes=2)
    scenes = draw_scenes(plan, 5, np.random.default_rng(1))
    images = render(scenes, 0.0, np.random.default_rng(2))
    assert images.shape == (5, 20, 20)
    patterns = glyphs(4, 3)
    for image, numbers, places in zip(images, scenes.glyphs, scenes.places, strict=True):
        for number, (y, x) in zip(numbers, places, strict=True):
            np.testing.assert_array_equal(image[y : y + 3, x : x + 3] > 128, patterns[number])


def test_options_are_those_of_a_spec():
    text = {"image_px": "24", "directions": "2", "noise": "0.05", "train": "7"}
    options = read_options("context", context, text)
    assert options == {"image_px": 24, "directions": 2, "noise": 0.05, "train": 7}
    data = context(**options, validation=3)
    assert (len(data.train), len(data.validation), data.image_px, data.channels) == (7, 3, 24, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": 2}, "distance=2 does not fit.*3 to 29 apart"),
        ({"distance": 30}, "distance=30 does not fit.*3 to 29 apart"),
        ({"classes": 1}, "classes=1 is too small"),
        ({"classes": 60}, "120 glyphs.*do not fit.*more image_px"),
        (
            {"classes": 10, "clutter": 60},
            "glyph_px=3 gives only .* 80 are needed.*greater glyph_px",
        ),
        ({"image_px": 12, "classes": 7}, "14 glyphs.*image_px=12 find no room.*more image_px"),
        ({"classes": 10, "supers": 3}, "classes=10 is no multiple of supers=3"),
        ({"classes": 4, "supers": 4}, "classes=4 is no multiple of supers=4 of 2 or more"),
        ({"supers": 0}, "supers=0 is too small"),
        ({"clutter": -1}, "clutter=-1 is too small"),
        ({"glyph_px": 1}, "glyph_px=1 is too small"),
        ({"directions": 3}, "directions=3 is not 1, 2 or 4"),
        ({"noise": -0.1}, "noise=-0.1 is not between 0 and 1"),
        ({"noise": float("nan")}, "noise=nan is not between 0 and 1"),
        ({"train": 0}, "train=0 is too small"),
        ({"validation": 0}, "validation=0 is too small"),
        ({"seed": -1}, "seed=-1 is too small. Give 0 or more"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message) as raised:
        context(**options)
    assert "\n" not in str(raised.value)


def test_distances_can_be_swept():
    for near, far in pairwise((4, 8, 12, 16, 20, 24, 29)):
        scenes = [context(distance=d, train=20, validation=1).train.scenes for d in (near, far)]
        apart = [np.abs(scene.places[:, 0] - scene.places[:, 1]).max(1) for scene in scenes]
        assert (apart[0] == near).all()
        assert (apart[1] == far).all()
