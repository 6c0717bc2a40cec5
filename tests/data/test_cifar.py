import hashlib
import pickle
import re
import tarfile
import warnings

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from ctxbench.data import resolve
from ctxbench.errors import DataError

COUNT = 4  # images in a file
KNOWN = {"cifar10": (CIFAR10, "labels"), "cifar100": (CIFAR100, "fine_labels")}


def as_python_2(value):
    """Pickle as numpy 1 under Python 2 did: its module's old name, and 0 and 1 in dtypes."""
    text = pickle.dumps(value, protocol=2).replace(b"numpy._core", b"numpy.core")
    return re.sub(rb"(?<=u1q.)\x89\x88", b"K\x00K\x01", text, flags=re.DOTALL)


def pixels(number):
    """Return the images of a file, (COUNT, 3, 32, 32), each channel with a gradient of its own."""
    flat = np.arange(COUNT * 3072, dtype=np.uint32) // 7 + number
    return (flat % 256).astype(np.uint8).reshape(COUNT, 3, 32, 32)


def made(monkeypatch, name, root):
    """Write small files in the format of CIFAR, and have torchvision know their checksums."""
    known, key = KNOWN[name]
    folder = root / known.base_folder
    folder.mkdir(parents=True)

    def write(file, value):
        content = as_python_2(value)
        (folder / file).write_bytes(content)
        return hashlib.md5(content).hexdigest()

    number = 0
    for files in ("train_list", "test_list"):
        sums = []
        for file, _ in getattr(known, files):
            labels = [number % 10, 1, 2, 3]
            flat = pixels(number).reshape(COUNT, -1)
            sums.append([file, write(file, {"data": flat, key: labels})])
            number += 1
        monkeypatch.setattr(known, files, sums)
    names = known.meta["key"]
    checksum = write(known.meta["filename"], {names: [str(label) for label in range(10)]})
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": checksum})
    return folder


@pytest.mark.parametrize(("name", "classes", "files"), [("cifar10", 10, 5), ("cifar100", 100, 1)])
def test_images_and_labels_are_those_of_the_files(monkeypatch, tmp_path, name, classes, files):
    made(monkeypatch, name, tmp_path)
    data = resolve(f"{name}:root={tmp_path}").load()
    assert (data.classes, data.channels, data.image_px) == (classes, 3, 32)
    assert (len(data.train), len(data.validation)) == (COUNT * files, COUNT)
    assert torch.equal(data.train.images[:COUNT], torch.from_numpy(pixels(0)))
    assert torch.equal(data.validation.images, torch.from_numpy(pixels(files)))
    assert data.validation.labels.tolist() == [files, 1, 2, 3]
    assert data.train.images.is_contiguous()
    assert len(data.mean) == len(data.std) == 3


def test_the_files_are_read_as_numpy_2_4_0_to_2_4_4_does_with_a_warning(monkeypatch, tmp_path):
    folder = made(monkeypatch, "cifar10", tmp_path)
    old = rb"numpy\.core\.multiarray.*u1q.K\x00K\x01"
    assert re.search(old, (folder / "test_batch").read_bytes(), flags=re.DOTALL)
    load = pickle.load

    def warning(*arguments, **options):
        text = "dtype(): align should be passed as Python or NumPy boolean but got `align=0`."
        warnings.warn(text, np.exceptions.VisibleDeprecationWarning, stacklevel=2)
        return load(*arguments, **options)

    monkeypatch.setattr(pickle, "load", warning)
    assert len(resolve(f"cifar10:root={tmp_path}").load().validation) == COUNT


def test_missing_files_are_told_with_the_way_out(tmp_path):
    match = r"^cifar10: there is no folder '.*cifar-10-batches-py'. Unpack cifar-10-.*gz in"
    with pytest.raises(DataError, match=match + ".* root=, or .* --download.$"):
        resolve(f"cifar10:root={tmp_path}").load()


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_damaged_file_is_told(monkeypatch, tmp_path, file):
    folder = made(monkeypatch, "cifar10", tmp_path)
    (folder / file).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"^cifar10: a file in '.*' is missing or damaged .*\.$"):
        resolve(f"cifar10:root={tmp_path}").load()


def archived(monkeypatch, root):
    """Leave only an archive, known by its checksum, from a place that nobody can reach."""
    folder = made(monkeypatch, "cifar10", root)
    archive = root / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "url", (root / "nowhere" / CIFAR10.filename).as_uri())
    return archive


def test_an_archive_is_unpacked_when_downloading_is_allowed(monkeypatch, tmp_path, capsys):
    archived(monkeypatch, tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        resolve(f"cifar10:root={tmp_path}").load()
    data = resolve(f"cifar10:root={tmp_path}", download=True).load()
    assert len(data.validation) == COUNT
    assert capsys.readouterr().out == ""


def test_a_download_that_fails_is_told(monkeypatch, tmp_path):
    archived(monkeypatch, tmp_path).unlink()
    match = r"^cifar10 cannot be fetched from file:.* into '.*': .* by hand and unpack it there.$"
    with pytest.raises(DataError, match=match):
        resolve(f"cifar10:root={tmp_path}", download=True).load()
