import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms.v2 import functional as v2

from ctxbench.errors import VisualizeError
from ctxbench.models import create_model
from ctxbench.visualize.images import photographs
from ctxbench.visualize.preprocess import Preprocess, preprocess_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(pixels):
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def levels_apart(actual, expected, std):
    """Return by how many of 256 levels two normalised images differ at most."""
    assert actual.shape == expected.shape
    return float(((actual - expected).abs() * 255 * torch.tensor(std)[:, None, None]).max())


def plain(height, width, **options):
    return Preprocess(height, width, (0.0,) * 3, (1.0,) * 3, **options)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "inception_v3", "swin_t"])
def test_it_is_that_of_torchvision(name):
    theirs = models.get_model_weights(name).DEFAULT.transforms()
    ours = preprocess_of(f"torchvision/{name}", nn.Identity())
    for image in photographs():
        actual = ours.normalise(ours.frame(image.pixels))
        assert levels_apart(actual, theirs(picture(image.pixels)), theirs.std) < 1.01


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "beit_base_patch16_224"])
def test_it_is_that_of_timm(name):
    data = pytest.importorskip("timm.data")
    known = pytest.importorskip("timm").get_pretrained_cfg(name).to_dict()
    config = data.resolve_data_config(pretrained_cfg=known)
    model = nn.Identity()
    model.pretrained_cfg = known
    ours = preprocess_of(f"timm/{name}", model)
    for image in photographs():
        theirs = data.create_transform(**config)(picture(image.pixels))
        actual = ours.normalise(ours.frame(image.pixels))
        assert levels_apart(actual, theirs, config["std"]) < 1.01


def test_dense_predictions_see_the_centre_at_their_own_size():
    found = preprocess_of("torchvision/lraspp_mobilenet_v3_large", nn.Identity())
    assert found == Preprocess(520, 520, MEAN, STD, 520)


def test_detectors_normalise_by_themselves():
    spec = "torchvision/ssdlite320_mobilenet_v3_large"
    found = preprocess_of(spec, create_model(spec))
    assert found == plain(320, 320)
    pixels = next(photographs()).pixels
    assert torch.equal(found.normalise(found.frame(pixels)), found.frame(pixels) / 255)
    assert str(found).endswith("pixels as 0..1")


def test_a_transformer_keeps_the_size_that_it_was_built_for():
    model = nn.Identity()
    model.image_size = 64
    found = preprocess_of("torchvision/vit_b_16:image_size=64", model)
    assert (found.height, found.width, found.resize_px) == (64, 64, 73)  # 64 * 256 / 224


@pytest.mark.parametrize("spec", ["torchvision/r3d_18", "torchvision/raft_small"])
def test_networks_of_several_images_are_refused(spec):
    with pytest.raises(VisualizeError, match=rf"{spec} takes no single images: it is for"):
        preprocess_of(spec, nn.Identity())


def test_ours_see_what_imagenet_networks_see_and_small_ones_the_whole():
    assert preprocess_of("resnet50", nn.Identity()) == Preprocess(224, 224, MEAN, STD, 256)
    assert preprocess_of("resnet_tiny", nn.Identity()) == Preprocess(32, 32, MEAN, STD)
    replaced = preprocess_of("resnet_tiny:replace=coconv:levels=2", nn.Identity())
    assert replaced == preprocess_of("resnet_tiny", nn.Identity())


def test_grey_networks_get_one_channel_of_any_image():
    found = preprocess_of("resnet_tiny:in_channels=1", nn.Identity())
    assert found.mean == pytest.approx((sum(MEAN) / 3,))
    assert found.std == pytest.approx((sum(STD) / 3,))
    green = torch.tensor([0, 200, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 40, 50)
    assert (found.frame(green) == 117).all()  # 0.587 of it, the luminance of green
    assert found.normalise(found.frame(green)).shape == (1, 32, 32)


def test_coloured_networks_see_grey_as_colours():
    found = preprocess_of("resnet_tiny", nn.Identity())
    framed = found.frame(torch.full((1, 40, 50), 9, dtype=torch.uint8))
    assert framed.shape == (3, 32, 32)
    assert (framed == 9).all()


def test_a_network_from_a_file_gets_as_many_channels_as_its_first_convolution(tmp_path):
    (tmp_path / "nets.py").write_text("def net(): pass\ndef deep(): pass\n")
    spec = f"{tmp_path / 'nets.py'}:net"
    grey = preprocess_of(spec, nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3)))
    assert (len(grey.mean), grey.height, grey.resize_px) == (1, 224, 256)
    assert len(preprocess_of(spec, nn.Linear(3, 4)).mean) == 3
    with pytest.raises(VisualizeError, match=r"net takes 4 channels, and images have 1 or 3"):
        preprocess_of(spec, nn.Conv2d(4, 8, 3))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet_tiny:in_channels=5", "resnet_tiny:in_channels=5 takes 5 channels"),
        ("progan128", "progan128 takes no images"),
        ("op/coconv", "op/coconv takes 64 channels"),
    ],
)
def test_what_takes_no_images_is_refused(spec, message):
    with pytest.raises(VisualizeError, match=message):
        preprocess_of(spec, nn.Identity())


def test_a_square_keeps_the_share_that_is_cut_and_others_see_the_whole():
    known = Preprocess(224, 224, MEAN, STD, 256)
    assert known.sized(None) is known
    assert known.sized((112, 112)) == Preprocess(112, 112, MEAN, STD, 128)
    assert known.sized((112, 168)) == Preprocess(112, 168, MEAN, STD)
    assert Preprocess(32, 32, MEAN, STD).sized((64, 64)) == Preprocess(64, 64, MEAN, STD)
    with pytest.raises(VisualizeError, match="Size 0x5 is no size"):
        known.sized((0, 5))


def test_the_whole_of_an_image_is_seen_where_nothing_is_cut():
    halves = torch.zeros(3, 40, 300, dtype=torch.uint8)
    halves[..., 150:] = 200
    framed = plain(8, 8).frame(halves)
    assert (framed[..., :3] == 0).all()
    assert (framed[..., 5:] == 200).all()


def test_what_fits_is_not_changed():
    pixels = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    assert torch.equal(plain(24, 32).frame(pixels), pixels)
    assert torch.equal(plain(24, 24, resize_px=27).frame(pixels[..., :24]), pixels[..., :24])


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (1, 100_000), (500, 1)])
@pytest.mark.parametrize("cut", [None, 256])
def test_any_shape_is_framed_at_little_cost(shape, cut, monkeypatch):
    made = []
    resize = v2.resize
    monkeypatch.setattr(v2, "resize", lambda *a, **o: made.append(resize(*a, **o)) or made[-1])
    framed = plain(224, 224, resize_px=cut).frame(torch.full((3, *shape), 7, dtype=torch.uint8))
    assert framed.shape == (3, 224, 224)
    assert (framed == 7).all()
    assert max(made[0].shape[1:]) <= 3000


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("shape", "cut"), [((20, 401), 32), ((500, 30), 36), ((90, 2000), 32)])
def test_the_centre_of_a_long_image_is_where_it_would_be(shape, cut, interpolation):
    y, x = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    waves = (
        (128 + 60 * torch.sin(y / 40) + 60 * torch.sin(x / 40)).to(torch.uint8).expand(3, *shape)
    )
    framed = plain(28, 28, resize_px=cut, interpolation=interpolation).frame(waves)
    mode = v2.InterpolationMode(interpolation)
    expected = v2.center_crop(v2.resize(waves, [cut], mode, antialias=True), [28, 28])
    # sizes are rounded: by half a pixel of what is seen, 2 of the image, of 1.5 levels each
    assert (framed.int() - expected.int()).abs().max() <= 4


def test_a_picture_can_say_it_in_a_line():
    assert str(Preprocess(224, 224, MEAN, STD, 256)) == (
        "shorter side to 256 px (bilinear), central 224x224 px; mean 0.485, 0.456, 0.406; "
        "std 0.229, 0.224, 0.225"
    )
    whole = str(Preprocess(24, 32, (0.5,), (0.25,), interpolation="bicubic"))
    assert whole == "whole image at 24x32 px (bicubic); mean 0.5; std 0.25"
