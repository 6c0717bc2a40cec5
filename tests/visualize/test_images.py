import os
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ctxbench.data import BrokenImageError, resolve
from ctxbench.errors import DataError, UnknownNameError, VisualizeError
from ctxbench.visualize.images import images_of, images_of_data, photographs, pixels_of

ORIENTATION = 0x0112
CONTEXT = "context:image_px=24:classes=3:noise=0:train=4:validation=20"


def ramp(height=5, width=7):
    """Return an image in which every pixel is another."""
    levels = np.linspace(0, 255, height * width * 3).round().astype(np.uint8)
    return levels.reshape(height, width, 3)


def saved(path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def values(path):
    """Return what is read of a file: the channels of its first row, pixel by pixel."""
    return pixels_of(path)[:, 0].T.tolist()


def told(path, what="mode"):
    """Return what Pillow tells of a file."""
    with Image.open(path) as picture:
        return getattr(picture, what)


def read(paths):
    broken = []
    return list(images_of(paths, on_broken=broken.append)), broken


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "tga"])
def test_colours_are_read_as_they_are(tmp_path, suffix):
    array = ramp()
    path = saved(tmp_path / f"a.{suffix}", array)
    assert (pixels_of(path).permute(1, 2, 0).numpy() == array).all()


def test_grey_stays_grey(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 7, 255]], np.uint8))
    assert values(path) == [[0], [7], [255]]


def test_one_bit_is_black_and_white(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 255]], np.uint8), "1")
    assert told(path) == "1"
    assert values(path) == [[0], [255]]


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", np.array([[0, 256, 257, 32896, 65535]], np.uint16))
    assert values(path) == [[0], [1], [1], [128], [255]]


def test_32_bits_are_scaled_by_16_and_else_by_the_largest(tmp_path):
    path = saved(tmp_path / "a.tiff", np.array([[-5, 0, 65535]], np.int32))
    assert told(path) == "I"
    assert values(path) == [[0], [0], [255]]
    path = saved(tmp_path / "b.tiff", np.array([[0, 100_000, 200_000]], np.int32))
    assert values(path) == [[0], [128], [255]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 0.2, 1], [0, 51, 255]),
        ([-3, 51, 255], [0, 51, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 1e6, 5e6], [0, 51, 255]),
        ([0, np.nan, 1], [0, 0, 255]),
        ([np.inf, -np.inf, 0.2], [255, 0, 51]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_floating_point_is_scaled_by_what_holds_it(tmp_path, given, expected):
    path = saved(tmp_path / "a.tiff", np.array([given], np.float32))
    assert values(path) == [[value] for value in expected]


def test_what_is_transparent_is_white(tmp_path):
    array = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], np.uint8)
    path = saved(tmp_path / "a.png", array)
    # 51 is a fifth: 0.2 * colour + 0.8 * 255
    assert values(path) == [[10, 20, 30], [255, 255, 255], [204, 224, 255]]


def test_grey_on_white_stays_grey(tmp_path):
    picture = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 51)])
    picture.save(tmp_path / "a.png")
    assert values(tmp_path / "a.png") == [[224], [224]]


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 0, 0, 0, 0, 200])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.png", transparency=1)
    picture.save(tmp_path / "b.png", transparency=b"\x33\xff")
    assert values(tmp_path / "a.png") == [[200, 0, 0], [255, 255, 255]]
    assert values(tmp_path / "b.png") == [[244, 204, 204], [0, 0, 200]]


def test_a_transparent_grey_level_is_white(tmp_path):
    saved(tmp_path / "a.png", np.array([[10, 90]], np.uint8), transparency=90)
    assert values(tmp_path / "a.png") == [[10], [255]]


def test_a_palette_becomes_its_colours(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 1, 2, 3, 4, 200])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.bmp")
    assert values(tmp_path / "a.bmp") == [[200, 1, 2], [3, 4, 200]]


def test_printing_colours_become_light(tmp_path):
    ink = np.array([[[255, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
    Image.frombytes("CMYK", (3, 1), ink.tobytes()).save(tmp_path / "a.tiff")
    assert values(tmp_path / "a.tiff") == [[0, 255, 255], [0, 0, 0], [255, 255, 255]]


def test_lab_becomes_rgb(tmp_path):
    colours = Image.fromarray(np.array([[[10, 200, 30], [128, 128, 128]]], np.uint8))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(colours, srgb, lab, outputMode="LAB").save(tmp_path / "a.tiff")
    assert told(tmp_path / "a.tiff") == "LAB"
    assert np.abs(np.array(values(tmp_path / "a.tiff")) - np.array(colours)[0]).max() < 10


# what a camera stored, so that a viewer who turns it as EXIF says sees `upright`
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_upright(tmp_path, orientation, suffix):
    upright = ramp()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    saved(path, np.ascontiguousarray(STORED[orientation](upright)), exif=exif)
    assert (pixels_of(path).permute(1, 2, 0).numpy() == upright).all()


def test_damaged_exif_is_no_damaged_image(tmp_path):
    array = ramp(16, 16)
    saved(tmp_path / "a.png", array, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert (pixels_of(tmp_path / "a.png").permute(1, 2, 0).numpy() == array).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_the_first_frame_is_shown(tmp_path, suffix):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **lossless)
    assert told(tmp_path / f"a.{suffix}", "n_frames") == 2
    assert values(tmp_path / f"a.{suffix}")[0] == [255, 0, 0]


def test_one_pixel_and_a_line_are_images(tmp_path):
    for shape in ((1, 1, 3), (1, 300, 3), (300, 1, 3)):
        path = saved(tmp_path / "a.png", np.full(shape, 9, np.uint8))
        assert tuple(pixels_of(path).shape) == (3, *shape[:2])


def test_a_large_image_does_not_warn_and_a_huge_one_is_broken(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", ramp(10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.warns(Image.DecompressionBombWarning):
        told(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels_of(path).shape == (3, 10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(BrokenImageError, match=r"a\.png cannot be read .*100 pixels.* limit of 80"):
        pixels_of(path)


def test_broken_files_are_told_in_a_line_each_and_the_others_go_on(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image\n" * 9)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    whole = saved(tmp_path / "whole.jpg", noise).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    images, broken = read([tmp_path])
    assert [image.name for image in images] == ["whole.jpg"]
    assert len(broken) == 3
    assert "cut.jpg cannot be read as an image: image file is truncated" in broken[0]
    assert "empty.png cannot be read as an image: it is empty." in broken[1]
    assert "text.png cannot be read as an image: it is in no format that Pillow" in broken[2]
    assert not any("\n" in line for line in broken)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tiff", "webp", "bmp", "tga", "qoi", "dds"])
def test_files_cut_anywhere_are_images_or_broken_and_nothing_else(tmp_path, kind):
    whole = saved(tmp_path / f"whole.{kind}", ramp(16, 16)).read_bytes()
    for end in range(1, len(whole), max(1, len(whole) // 25)):
        (tmp_path / f"cut.{kind}").write_bytes(whole[:end])
        try:
            assert pixels_of(tmp_path / f"cut.{kind}").shape[1:] == (16, 16)
        except BrokenImageError:
            continue


def test_a_link_to_nowhere_is_a_broken_file(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    saved(tmp_path / "b.png", ramp())
    images, broken = read([tmp_path])
    assert [image.name for image in images] == ["b.png"]
    assert broken == [
        f"{tmp_path / 'a.png'} cannot be read as an image: No such file or directory."
    ]


def test_only_broken_files_are_an_error_after_their_lines(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    broken = []
    with pytest.raises(VisualizeError, match="none of the 2 images can be read"):
        list(images_of([tmp_path], on_broken=broken.append))
    assert len(broken) == 2
    with pytest.raises(VisualizeError, match="the image 'a.png' cannot be read"):
        read([tmp_path / "a.png"])


def test_a_folder_is_read_below_and_sorted_without_what_is_no_image(tmp_path):
    for name in ("b.PNG", "a/z.jpg", "a/deep/c.gif", "c.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        saved(tmp_path / name, ramp(), format={"PNG": "PNG", "jpg": "JPEG"}.get(name.split(".")[1]))
    for name in ("notes.txt", "a/weights.h5", "paper.pdf", "png"):
        (tmp_path / name).write_text("no image")
    images, broken = read([tmp_path])
    assert [image.name for image in images] == [
        os.path.join("a", "deep", "c.gif"), os.path.join("a", "z.jpg"), "b.PNG", "c.tif"
    ]  # fmt: skip
    assert broken == []


def test_paths_keep_their_order_and_a_file_may_have_any_suffix(tmp_path):
    saved(tmp_path / "photo.data", ramp(), format="PNG")
    (tmp_path / "more").mkdir()
    saved(tmp_path / "more/a.png", ramp())
    images, _ = read([str(tmp_path / "photo.data"), tmp_path / "more", tmp_path / "photo.data"])
    assert [image.name for image in images] == ["photo.data", "a.png", "photo.data"]
    assert all(image.pixels.dtype == torch.uint8 and image.label is None for image in images)


def test_what_is_not_there_is_an_error_before_anything_is_read(tmp_path):
    saved(tmp_path / "a.png", ramp())
    (tmp_path / "none").mkdir()
    with pytest.raises(VisualizeError, match=r"There is no image or folder '.*b\.png'"):
        images_of([tmp_path / "a.png", tmp_path / "b.png"], on_broken=print)
    with pytest.raises(VisualizeError, match=r"There are no images in the folder '.*none'"):
        images_of([tmp_path / "a.png", tmp_path / "none"], on_broken=print)


def test_images_are_decoded_one_at_a_time(tmp_path):
    for name in ("a.png", "b.png"):
        saved(tmp_path / name, ramp())
    told = []
    images = images_of([tmp_path], on_broken=told.append)
    assert next(images).name == "a.png"
    (tmp_path / "b.png").write_text("not read yet")
    assert list(images) == []
    assert len(told) == 1


def test_there_are_two_photographs():
    images = list(photographs())
    assert [image.name for image in images] == [
        "china.jpg (scikit-learn)", "flower.jpg (scikit-learn)"
    ]  # fmt: skip
    for image in images:
        assert image.pixels.shape == (3, 427, 640)
        assert image.pixels.dtype == torch.uint8


def test_images_of_data_are_those_of_the_validation_part_with_label_and_marks():
    data = resolve(CONTEXT).load()
    for index, image in zip((3, 0), images_of_data(CONTEXT, [3, 0]), strict=True):
        pixels, label = data.validation[index]
        assert image.name == f"validation image {index} (class {label})"
        assert image.label == label
        assert (image.pixels == pixels).all()
        thing, cue = image.marks
        assert (thing.height, thing.width) == (3, 3)
        assert (int(thing.name.split()[1]) + int(cue.name.split()[1])) % 3 == label
        assert sorted([abs(thing.top - cue.top), abs(thing.left - cue.left)]) == [0, 8]


def test_marks_stand_where_something_is_drawn():
    (image,) = images_of_data(CONTEXT, [5])
    for mark in image.marks:
        top, left = int(mark.top), int(mark.left)
        glyph = image.pixels[0, top : top + 3, left : left + 3]
        assert set(glyph.flatten().tolist()) == {25, 230}  # 0.1 and 0.9 without noise, rounded


@pytest.mark.parametrize("index", [-1, 20])
def test_an_index_that_is_not_there_is_an_error_at_once(index):
    with pytest.raises(VisualizeError, match=rf"no validation image {index}. It has 20: 0 to 19"):
        images_of_data(CONTEXT, [0, index])


def test_data_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(UnknownNameError, match="contxt"):
        images_of_data("contxt", [0])
    with pytest.raises(DataError, match="there is no folder"):
        images_of_data(f"imagefolder:{tmp_path}", [0])
