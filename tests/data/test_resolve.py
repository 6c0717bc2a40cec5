import subprocess
import sys
from pathlib import Path

import pytest

import ctxbench.data
from ctxbench.data import DATA, Data, resolve
from ctxbench.errors import DataError, SpecError, UnknownNameError

FILE = """
import torch
from ctxbench.data import Data, TensorImages

def blobs(count: int = 6, channels=1, empty=False):
    print("made")
    images = TensorImages(torch.zeros(count, channels, 8, 8, dtype=torch.uint8),
                          torch.zeros(count).long())
    none = TensorImages(images.images[:0], images.labels[:0])
    return Data(images, none if empty else images, 2, channels, 8, (0.5,), (0.5,))

def number():
    return 3

def listless():
    return Data(5, 5, 2, 1, 8, (0.5,), (0.5,))

def failing():
    raise ValueError("of the user")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("name", sorted(DATA))
def test_every_data_set_is_named_with_its_file(name):
    source = resolve(f"{name}:somewhere" if name == "imagefolder" else name)
    assert source.spec.partition(":")[0] == name
    (path,) = source.files
    assert path.is_file()
    assert path.parent == Path(ctxbench.data.__file__).parent


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("digits", "digits"),
        (" digits : seed = +1 : image_px=16", "digits:image_px=16:seed=1"),
        ("imagefolder:a/b/", "imagefolder:a/b"),
        ("imagefolder: a=b :image_px=64", "imagefolder:a=b:image_px=64"),
        ("imagefolder:nets.py", "imagefolder:nets.py"),
        ("cifar10:root=x", "cifar10:root=x"),
    ],
)
def test_a_spec_has_one_spelling(spec, canonical):
    assert resolve(spec).spec == canonical


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("digit", UnknownNameError, r"Unknown data set 'digit'. Did you mean 'digits'\?"),
        ("digits:sed=1", UnknownNameError, r"Unknown option of digits 'sed'. Did you mean 'seed'"),
        ("digits:seed=a", SpecError, r"digits: seed=a is not a whole number"),
        ("digits:channels=2", SpecError, r"digits: channels=2 is not 1 or 3"),
        ("digits:seed", SpecError, r"'seed' is not of the form key=value"),
        ("", SpecError, r"Data spec '' has no name. Known: cifar10"),
        (":seed=1", SpecError, r"Data spec ':seed=1' has no name"),
        ("imagefolder", SpecError, r"'imagefolder' names no folder. Write imagefolder:PATH"),
        ("imagefolder:a:px=3", UnknownNameError, r"Unknown option of imagefolder 'px'"),
        ("cifar10:download=true", UnknownNameError, r"Unknown option of cifar10 'download'"),
    ],
)
def test_a_bad_spec_is_told(spec, error, match):
    with pytest.raises(error, match=match):
        resolve(spec)


def test_a_value_that_does_not_fit_is_told_when_loading():
    with pytest.raises(SpecError, match=r"digits: image_px=3 is less than the 8"):
        resolve("digits:image_px=3").load()


def test_a_function_of_a_file(file, capsys):
    source = resolve(f"{file}:blobs:count=9")
    assert source.spec == f"{file}:blobs:count=9"
    assert source.files == (file,)
    data = source.load()
    assert isinstance(data, Data)
    assert len(data.train) == 9
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rest", "error", "match"),
    [
        ("blob", UnknownNameError, r"Unknown function of .*mine.py 'blob'. Did you mean 'blobs'"),
        ("blobs:size=3", SpecError, r"blobs cannot be built with \{'size': 3\}"),
        ("number", DataError, r"number returned int, not a ctxbench.data.Data"),
        ("listless", DataError, r"listless returned int as train; it needs a length and items"),
        ("blobs:empty=true", DataError, r"blobs returned no images as validation"),
        ("blobs:channels=3", DataError, r"returned 3 channels, 1 mean and 1 std; it needs one"),
    ],
)
def test_what_a_file_gives_is_checked(file, rest, error, match):
    with pytest.raises(error, match=match):
        resolve(f"{file}:{rest}").load()


def test_an_error_of_the_user_keeps_its_traceback(file):
    with pytest.raises(ValueError, match="of the user"):
        resolve(f"{file}:failing").load()


@pytest.mark.parametrize("name", ["nowhere.py:f", "nowhere.py"])
def test_a_file_that_is_not_there(name):
    with pytest.raises(SpecError, match=r"nowhere.py"):
        resolve(name)


def test_import_is_light():
    heavy = ["torchvision", "sklearn", "pandas", "PIL"]
    modules = "sys, ctxbench.data, ctxbench.data.augment, ctxbench.data.batches"
    program = f"import {modules}; print(sys.modules.keys() & {heavy})"
    call = [sys.executable, "-c", program]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "set()\n"
