import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ctxbench.data import BrokenImageError, resolve
from ctxbench.data.augment import Augmentation, evaluation, training
from ctxbench.data.batches import Reading, evaluation_batches, training_batches
from ctxbench.data.folder import decoded
from ctxbench.errors import DataError, SpecError


def save(path, colour=(200, 100, 0), size=(20, 12), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def root(tmp_path):
    for label in range(3):
        for number in range(4):
            save(tmp_path / "train" / f"class{label}" / f"{number}.png", (label, number, 0))
        save(tmp_path / "val" / f"class{label}" / "a.JPEG", size=(30, 40))
    return tmp_path


def test_classes_and_images(root):
    data = resolve(f"imagefolder:{root}:image_px=8").load()
    assert (data.classes, data.channels, data.image_px) == (3, 3, 8)
    assert (len(data.train), len(data.validation)) == (12, 3)
    image, label = data.train[5]
    assert label == 1
    assert image.shape == (3, 12, 20)
    assert image.dtype == torch.uint8
    assert image[:, 3, 3].tolist() == [1, 1, 0]
    assert [data.validation[index][1] for index in range(3)] == [0, 1, 2]


def test_the_other_name_of_the_validation_part(root):
    (root / "val").rename(root / "validation")
    assert len(resolve(f"imagefolder:{root}").load().validation) == 3


def test_a_single_class_is_an_error(tmp_path):
    for part in ("train", "val"):
        save(tmp_path / part / "cats" / "a.png")
    with pytest.raises(DataError, match=r"cats is its only class.*two classes or more"):
        resolve(f"imagefolder:{tmp_path}").load()


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg"), ("1", "bmp"), ("RGB", "webp")],
)
def test_every_kind_becomes_rgb(tmp_path, mode, suffix):
    save(tmp_path / f"a.{suffix}", mode=mode)
    assert decoded(tmp_path / f"a.{suffix}").shape == (3, 12, 20)


def test_a_palette_with_transparency_does_not_warn(tmp_path):
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert decoded(tmp_path / "a.png")[:, 2, 2].tolist() == [10, 20, 30]


def test_pixels_are_those_of_the_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.equal(decoded(tmp_path / "a.png"), torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "JPEG", "webp", "bmp", "gif"])
@pytest.mark.parametrize("kind", ["empty", "text", "cut", "header", "missing", "folder"])
def test_a_broken_file_is_named(tmp_path, suffix, kind):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.unlink()
    damaged = {"empty": b"", "text": b"not an image", "cut": content[: len(content) // 2]}
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(damaged.get(kind, content[:30]))
    with pytest.raises(BrokenImageError, match=rf"a.{suffix} cannot be read as an image: \S") as e:
        decoded(path)
    assert e.value.path == str(path)
    assert "\n" not in str(e.value)


def test_the_error_of_a_broken_image_can_be_sent_to_another_process():
    error = pickle.loads(pickle.dumps(BrokenImageError("a.png", "it is cut off.")))
    assert str(error) == "a.png cannot be read as an image: it is cut off."
    assert error.path == "a.png"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_files_and_a_broken_one(root, workers):
    (root / "train" / "class1" / "2.png").write_bytes(b"broken")
    data = resolve(f"imagefolder:{root}:image_px=8").load()
    augmentation = Augmentation(crop="resized", flip=0.5)
    reading = Reading(12, workers=workers)
    (batch,) = training_batches(data.train, reading, training(data, augmentation), None, epoch=0)
    assert batch.images.shape == (11, 3, 8, 8)
    assert batch.broken == (str(root / "train" / "class1" / "2.png"),)
    (batch,) = evaluation_batches(data.validation, reading, evaluation(data, augmentation))
    assert batch.images.shape == (3, 3, 8, 8)


def test_missing_folders(root, tmp_path):
    with pytest.raises(DataError, match=r"no folder '.*nowhere/train'. Put the images into PATH/"):
        resolve(f"imagefolder:{root}/nowhere").load()
    (root / "val").rename(root / "test")
    with pytest.raises(DataError, match=r"there is no folder '.*/val'. Put"):
        resolve(f"imagefolder:{root}").load()


def test_both_names_of_the_validation_part(root):
    (root / "validation").mkdir()
    with pytest.raises(DataError, match=r"both .*/val and .*/validation are there. Keep one"):
        resolve(f"imagefolder:{root}").load()


def test_folders_without_images(root):
    (root / "val" / "class1" / "a.JPEG").unlink()
    with pytest.raises(DataError, match=r"val': Found no valid file for the classes class1\."):
        resolve(f"imagefolder:{root}").load()


def test_a_part_without_class_folders(root):
    for label in range(3):
        (root / "val" / f"class{label}" / "a.JPEG").rename(root / "val" / f"{label}.JPEG")
        (root / "val" / f"class{label}").rmdir()
    with pytest.raises(DataError, match=r"any class folder in .*val.* a folder for each class"):
        resolve(f"imagefolder:{root}").load()


def test_differing_classes(root):
    save(root / "train" / "dog" / "a.png")
    for name in "wxyz":
        save(root / "val" / name / "a.png")
    match = r"different classes \(only in train: dog; only in val: w, x, y and 1 more\)\. Give"
    with pytest.raises(DataError, match=match):
        resolve(f"imagefolder:{root}").load()


def test_bad_size():
    with pytest.raises(SpecError, match=r"imagefolder: image_px=0 is not 1 or more"):
        resolve("imagefolder:x:image_px=0").load()
