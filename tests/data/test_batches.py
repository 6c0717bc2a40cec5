import multiprocessing
import random
import warnings

import numpy as np
import pytest
import torch

from ctxbench.data import BrokenImageError, Data, TensorImages
from ctxbench.data.augment import Augmentation, Transform, evaluation, mixing, training
from ctxbench.data.batches import Reading, evaluation_batches, steps, training_batches
from ctxbench.errors import DataError

COUNT, PX = 50, 16
HARD = Augmentation(
    crop="pad", flip=0.5, rand_augment=5, color_jitter=0.3, erasing=0.5, mixup=0.4, cutmix=1.0
)


def numbered(count=COUNT):
    """Return images whose label is their index, so that a batch tells what is in it."""
    pixels = torch.randint(0, 256, (count, 3, PX, PX), generator=torch.Generator().manual_seed(1))
    return TensorImages(pixels.to(torch.uint8), torch.arange(count))


def data_of(images):
    return Data(images, images, COUNT, 3, PX, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))


class Files:
    """Images that are read one by one; the label of the broken ones is not to be seen."""

    def __init__(self, images, broken=()):
        self.images, self.broken = images, broken

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenImageError(f"{index}.png", "it is damaged")
        return self.images[index]


DATA = data_of(numbered())
OFF = evaluation(DATA, Augmentation())


def batches(images=DATA.train, augmentation=HARD, epoch=0, start=0, **reading):
    reading = Reading(**{"batch": 12, **reading})
    return list(
        training_batches(
            images,
            reading,
            training(DATA, augmentation),
            mixing(DATA, augmentation),
            epoch=epoch,
            start=start,
        )
    )


def content(made):
    return [(batch.images.numpy().tobytes(), batch.target.numpy().tobytes()) for batch in made]


@pytest.fixture(scope="module")
def whole():
    return content(batches())


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_a_batch_is_the_same_wherever_reading_begins(whole, start):
    assert content(batches(start=start)) == whole[start:]


@pytest.mark.parametrize("start", [0, 2])
def test_a_batch_is_the_same_from_workers(whole, start):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content(batches(workers=2, start=start)) == whole[start:]


def test_a_batch_is_the_same_whatever_happened_before(whole):
    torch.manual_seed(99)
    torch.rand(7)
    assert content(batches()) == whole


def test_files_and_memory_give_the_same(whole):
    assert content(batches(Files(DATA.train))) == whole


def test_two_ranks_together_have_the_global_batch():
    unmixed = Augmentation(crop="pad", flip=0.5, erasing=0.5, rand_augment=3)
    alone = batches(augmentation=unmixed)
    ranks = [batches(augmentation=unmixed, rank=rank, world=2) for rank in (0, 1)]
    for one, first, second in zip(alone, *ranks, strict=True):
        assert torch.equal(one.images[0::2], first.images)
        assert torch.equal(one.images[1::2], second.images)
        assert torch.equal(one.target[1::2], second.target)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_has_another_order_and_other_changes(change):
    plain, flipped = Augmentation(), Augmentation(crop="pad", flip=0.5)
    first, second = ([b.target for b in batches(augmentation=plain, **c)] for c in ({}, change))
    assert not torch.equal(torch.cat(first), torch.cat(second))

    def by_index(**which):
        made = batches(augmentation=flipped, **which)
        images, target = (torch.cat([b[part] for b in made]) for part in (0, 1))
        return {int(label): image for image, label in zip(images, target, strict=True)}

    one, other = by_index(), by_index(**change)
    both = one.keys() & other.keys()
    assert sum(torch.equal(one[index], other[index]) for index in both) < len(both) / 4


def test_each_image_comes_once_an_epoch_and_the_rest_is_dropped():
    made = batches(augmentation=Augmentation())
    assert [len(batch.target) for batch in made] == [12] * 4
    assert len(torch.cat([batch.target for batch in made]).unique()) == 48
    dropped = [
        set(range(COUNT)) - set(torch.cat([b.target for b in batches(epoch=e)]).argmax(1).tolist())
        for e in range(2)
    ]
    assert dropped[0] != dropped[1]


def test_images_go_with_their_labels():
    for batch in batches(augmentation=Augmentation()):
        pixels = DATA.train.images[batch.target].float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (DATA.mean, DATA.std))
        torch.testing.assert_close(batch.images, (pixels - mean) / std)


def test_the_random_states_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    batches()
    batches(workers=1)
    list(evaluation_batches(DATA.validation, Reading(7), evaluation(DATA, HARD)))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tobytes() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_workers_end_with_the_reading():
    made = training_batches(DATA.train, Reading(2, workers=2), training(DATA, HARD), None, epoch=0)
    next(made)
    assert len(multiprocessing.active_children()) == 2
    made.close()
    assert multiprocessing.active_children() == []


def test_workers_end_with_an_error():
    files = Files(DATA.train, broken=(0,))
    made = evaluation_batches(files, Reading(2, workers=2, strict=True), OFF)
    with pytest.raises(BrokenImageError) as caught:
        list(made)
    assert caught.traceback
    assert multiprocessing.active_children() == []


def test_more_workers_than_cores_is_no_warning(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(batches(augmentation=Augmentation(), workers=3)) == 4


@pytest.mark.parametrize(
    ("batch", "world", "workers"),
    [(7, 1, 0), (7, 3, 0), (8, 3, 0), (64, 3, 0), (1, 3, 0), (50, 1, 0), (7, 1, 2), (7, 3, 2)],
)
def test_evaluation_has_every_image_once(batch, world, workers):
    seen = []
    for rank in range(world):
        reading = Reading(batch, rank=rank, world=world, workers=workers)
        made = list(evaluation_batches(DATA.validation, reading, OFF))
        target = torch.cat([part.target for part in made])
        assert torch.equal(target, target.sort().values)
        expected = OFF.batch(DATA.validation.images[target], np.zeros(len(target), np.uint64))
        assert torch.equal(torch.cat([part.images for part in made]), expected)
        seen += target.tolist()
    assert sorted(seen) == list(range(COUNT))


def test_a_rank_without_images_evaluates_nothing():
    few = numbered(2)
    counts = [
        len(list(evaluation_batches(few, Reading(4, rank=rank, world=3), OFF))) for rank in range(3)
    ]
    assert counts == [1, 1, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_named(workers):
    files = Files(DATA.train, broken=(3, 17, 49))
    made = list(evaluation_batches(files, Reading(7, workers=workers), OFF))
    assert [path for batch in made for path in batch.broken] == ["3.png", "17.png", "49.png"]
    assert len(made) == 7  # the last batch was 49 alone: it is told with the one before
    seen = torch.cat([batch.target for batch in made]).tolist()
    assert seen == [index for index in range(COUNT) if index not in files.broken]


def test_an_image_is_the_same_beside_a_broken_one():
    unmixed = Augmentation(crop="pad", flip=0.5, erasing=0.5, rand_augment=3)
    whole = batches(augmentation=unmixed, batch=25)
    holed = batches(Files(DATA.train, broken=(3, 17)), augmentation=unmixed, batch=25)
    assert sorted(path for batch in holed for path in batch.broken) == ["17.png", "3.png"]
    for one, other in zip(whole, holed, strict=True):
        left = (one.target != 3) & (one.target != 17)
        assert torch.equal(one.images[left], other.images)
        assert torch.equal(one.target[left], other.target)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_an_error_when_strict(workers):
    files = Files(DATA.train, broken=(5,))
    reading = Reading(10, strict=True, workers=workers)
    match = r"^5.png cannot be read as an image: it is damaged$"
    with pytest.raises(BrokenImageError, match=match) as caught:
        list(evaluation_batches(files, reading, OFF))
    assert caught.value.path == "5.png"
    with pytest.raises(BrokenImageError, match=match):
        list(training_batches(files, reading, OFF, None, epoch=0))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_left_is_an_error(workers):
    files, reading = Files(DATA.train, broken=range(COUNT)), Reading(10, workers=workers)
    with pytest.raises(DataError, match=r"None of the 10 images of a batch .* [0-9]+\.png\. Look"):
        list(training_batches(files, reading, OFF, None, epoch=0))
    with pytest.raises(DataError, match=r"None of the 50 images .* the first is 0\.png\. Look"):
        list(evaluation_batches(files, reading, OFF))


def test_the_first_batch_may_be_all_broken_in_evaluation():
    made = list(evaluation_batches(Files(DATA.train, broken=(0, 1)), Reading(2), OFF))
    assert made[0].broken == ("0.png", "1.png")
    assert made[0].target.tolist() == [2, 3]


def test_a_batch_tells_how_long_it_took():
    assert all(0 < batch.seconds < 60 for batch in batches(workers=1))


def test_steps():
    assert [steps(DATA.train, batch) for batch in (1, 12, 50)] == [50, 4, 1]
    with pytest.raises(
        DataError, match=r"batch of 51 is more than the 50 training images.*batch=50"
    ):
        steps(DATA.train, 51)
    with pytest.raises(DataError, match=r"batch of 51 is more"):
        batches(batch=51)


def test_a_batch_must_be_shared_evenly():
    with pytest.raises(DataError, match=r"batch of 10 .* evenly by 3 processes.* multiple of 3"):
        batches(batch=10, world=3)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"batch": 0}, r"batch=0 is not 1 or more"),
        ({"workers": -1}, r"workers=-1 is not 0 or more"),
        ({"world": 0}, r"world=0 is not 1 or more"),
        ({"rank": 2, "world": 2}, r"rank=2 is not from 0 to 1"),
    ],
)
def test_a_reading_that_cannot_be(values, match):
    with pytest.raises(ValueError, match=match):
        Reading(**{"batch": 1, **values})


def test_images_of_another_size_than_said_are_an_error():
    wrong = Transform(PX + 1, mean=torch.zeros(3, 1, 1), std=torch.ones(3, 1, 1))
    with pytest.raises(DataError, match=r"torch.uint8 \(3, 16, 16\); .* \(3, 17, 17\)"):
        list(evaluation_batches(DATA.train, Reading(5), wrong))
