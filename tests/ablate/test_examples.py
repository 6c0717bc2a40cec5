import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ctxbench.ablate.examples import examples
from ctxbench.data import resolve
from ctxbench.errors import DataError, UnknownNameError
from ctxbench.records import as_row

FLAT = "context:image_px=24:classes=3:noise=0.05:train=10:validation=200"
FAMILIES = "context:classes=12:supers=3:clutter=2:distance=9:train=10:validation=200"


def pixels(png):
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image)


def places(marks):
    """Return what is marked: its kind -> number, row, column."""
    return {name.split()[0]: (int(name.split()[1]), row, column)
            for row, column, _, _, name in marks}  # fmt: skip


def write_image(path, colour, size=(90, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.mark.parametrize("spec", [FLAT, FAMILIES, "digits"])
def test_images_are_of_the_validation_part_unchanged(spec):
    row, images = examples(spec), resolve(spec).load().validation
    there = {(x.numpy().tobytes(), y) for x, y in map(images.__getitem__, range(len(images)))}
    assert len(row.images) == 6
    for png, label in zip(row.images, row.labels, strict=True):
        assert (pixels(png).tobytes(), label) in there


def test_images_are_of_different_classes_as_far_as_there_are():
    assert examples(FLAT).labels == (0, 1, 2, 0, 1, 2)
    assert examples(FAMILIES).labels == (0, 2, 4, 6, 8, 10)
    assert len(set(examples(FLAT).images)) == 6


def test_the_marks_of_a_pair_stand_at_the_distance_and_give_the_class():
    row = examples(FLAT)
    for label, marks in zip(row.labels, row.marks, strict=True):
        (thing, *at), (cue, *there) = places(marks)["object"], places(marks)["cue"]
        assert sorted(abs(a - b) for a, b in zip(at, there, strict=True)) == [0, 8]
        assert (thing + cue) % 3 == label


def test_the_marks_of_a_family_give_the_class():
    row = examples(FAMILIES)
    for label, marks in zip(row.labels, row.marks, strict=True):
        found = places(marks)
        (family, *at), (detail, *there) = found["object"], found["detail"]
        assert sorted(abs(a - b) for a, b in zip(at, there, strict=True)) == [0, 9]
        assert found["cue"][0] == family
        assert 4 * family + detail == label


@pytest.mark.parametrize("spec", [FLAT, FAMILIES])
def test_what_is_marked_alike_looks_alike_and_nothing_else_does(spec):
    plain = examples(f"{spec}:noise=0" if "noise" not in spec else spec.replace("0.05", "0"))
    looks = {}
    for png, marks in zip(plain.images, plain.marks, strict=True):
        for top, left, height, width, name in marks:
            rows, columns = (slice(int(a), int(a + b)) for a, b in ((top, height), (left, width)))
            looks.setdefault(name, set()).add(pixels(png)[rows, columns].tobytes())
    assert all(len(seen) == 1 for seen in looks.values())
    assert len(set.union(*looks.values())) == len(looks)


@pytest.mark.parametrize("spec", [FLAT, FAMILIES, "digits"])
def test_a_row_is_plain_and_small(spec):
    assert len(json.dumps(as_row(examples(spec)))) < 10_000


def test_rules_are_told_with_the_numbers_of_the_data():
    assert "mod 3" in examples(FLAT).rule
    assert "4 x object + detail" in examples(FAMILIES).rule
    assert "9 px" in examples(FAMILIES).rule
    assert examples("digits").rule is None


def test_large_images_are_reduced_and_their_marks_with_them():
    row = examples("context:image_px=128:distance=32:glyph_px=8:train=1:validation=50")
    assert row.image_px == 128
    assert pixels(row.images[0]).shape == (64, 64)
    (_, *at), (_, *there) = places(row.marks[0])["object"], places(row.marks[0])["cue"]
    assert sorted(abs(a - b) for a, b in zip(at, there, strict=True)) == [0, 16]
    assert row.marks[0][0][2:4] == (4, 4)


def test_images_of_a_folder_keep_their_shape_and_broken_ones_are_passed_over(tmp_path):
    for part in ("train", "val"):
        for name, colour in (("ant", "red"), ("bee", "blue")):
            for number in range(4):
                write_image(tmp_path / part / name / f"{number}.png", colour)
    (tmp_path / "val/ant/0.png").write_bytes(b"no image")
    row = examples(f"imagefolder:{tmp_path}")
    assert sorted(row.labels) == [0, 0, 0, 1, 1, 1]
    assert {pixels(png).shape for png in row.images} == {(43, 64, 3)}
    assert row.marks == ((),) * 6


def test_a_folder_without_any_image_that_can_be_read_is_an_error(tmp_path):
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            write_image(tmp_path / part / name / "0.png", "red")
            (tmp_path / "val" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "val" / name / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="None of the validation images"):
        examples(f"imagefolder:{tmp_path}")


def test_images_of_two_channels_are_shown_in_grey(tmp_path):
    (tmp_path / "two.py").write_text(
        "import torch\n"
        "from ctxbench.data import Data, TensorImages\n"
        "def pair():\n"
        "    x = torch.tensor([0, 100], dtype=torch.uint8).view(1, 2, 1, 1).expand(8, 2, 5, 5)\n"
        "    images = TensorImages(x, torch.arange(8) % 2)\n"
        "    return Data(images, images, 2, 2, 5, (0.5, 0.5), (0.2, 0.2))\n"
    )
    row = examples(f"{tmp_path / 'two.py'}:pair")
    assert (pixels(row.images[0]) == 50).all()
    assert row.labels == (0, 1, 0, 1, 0, 1)


def test_an_unknown_data_set_is_an_error():
    with pytest.raises(UnknownNameError, match="contxt"):
        examples("contxt")
