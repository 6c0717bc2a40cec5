"""The picture of sampling: what is drawn stands where the layers sample."""

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.quiver import Quiver
from torch import nn
from torchvision.ops import DeformConv2d

from ctxbench import ContextualConv2d, create_model
from ctxbench.errors import VisualizeError
from ctxbench.style import save
from ctxbench.visualize.offsets import sampling
from ctxbench.visualize.offsets_figure import pages
from ctxbench.visualize.preprocess import Preprocess
from ctxbench.visualize.subject import Image, Mark, Subject

ZERO = "all displacements are zero:\nuntrained"
SPEC = "ctx_resnet_tiny:width=4:num_classes=10:in_channels=1"


def subject(model, *, trained=True, size=(16, 24)):
    weights = "some weights" if trained else "random (seed 0)"
    return Subject(SPEC, "tiny", model, weights, trained, Preprocess(*size, (0.5,), (0.2,)))


def tiny(std=0.3):
    torch.manual_seed(0)
    model = create_model(SPEC).eval()
    for module in model.modules():
        if isinstance(module, ContextualConv2d):
            nn.init.normal_(module.offset_net[-1].weight, std=std)
    return model


def image(name="one", marks=(), size=(16, 24)):
    return Image(
        name, torch.arange(size[0] * size[1], dtype=torch.uint8).reshape(1, *size), 3, marks
    )


def panels(page):
    """Return the axes that show something, but not the colour bar."""
    return [axis for axis in page.figure.axes if axis.images]


def points(axis):
    return [s.get_offsets() for s in axis.collections if isinstance(s, PathCollection)]


class Shifted(nn.Module):
    """One deformable layer; every tap reads a row further down and three columns further left."""

    def __init__(self, groups=1):
        super().__init__()
        self.groups, self.conv = groups, DeformConv2d(groups, 1, 3, padding=1)

    def forward(self, x):
        offset = torch.tensor([1.0, -3.0]).to(x).repeat(9 * self.groups)
        offset = offset * torch.arange(1, self.groups + 1).to(x).repeat_interleave(18)
        maps = x.expand(-1, self.groups, -1, -1)
        return self.conv(maps, offset[:, None, None].expand(len(x), -1, *x.shape[2:]))


def test_a_page_for_each_image_and_network():
    one = subject(tiny())
    found = list(pages([one, one], [image("one"), image("two")]))
    assert [page.rows[0].image for page in found] == ["one", "one", "two", "two"]


def test_images_are_taken_one_at_a_time():
    taken = []

    def lazily():
        for name in ("one", "two"):
            taken.append(name)
            yield image(name)

    next(iter(pages([subject(tiny())], lazily())))
    assert taken == ["one"]


def test_panels_of_layers_fields_and_depths():
    page = next(pages([subject(tiny())], [image()]))
    titles = [axis.get_title() for axis in panels(page)]
    layers = [f"backbone.layer{stage}.0.conv2" for stage in (2, 3, 4)]
    assert titles[:3] == layers
    assert all(title.startswith("arrow lengths x") for title in titles[3:6])
    assert [title.split(":")[0] for title in titles[6:]] == [
        "last layer", "last 2 layers", "last 3 layers",
    ]  # fmt: skip
    assert [row.layer for row in page.rows] == layers


def test_points_stand_where_the_layer_samples():
    page = next(pages([subject(Shifted())], [image()], positions=[(6, 10)], depth=1))
    regular, sampled, position = points(panels(page)[0])
    grid = np.array([(10 + x, 6 + y) for y in (-1, 0, 1) for x in (-1, 0, 1)])
    assert (regular == grid).all()
    assert (sampled == grid + np.array((-3, 1))).all()  # x, then y
    assert (position == [(10, 6)]).all()


def test_arrows_point_from_the_grid_to_the_samples():
    axis = panels(next(pages([subject(Shifted())], [image()], positions=[(6, 10)])))[0]
    (arrows,) = (item for item in axis.collections if isinstance(item, Quiver))
    assert (np.array(arrows.XY)[4] == (10, 6)).all()
    assert (np.stack([arrows.U, arrows.V], axis=1) == (-3, 1)).all()
    assert (arrows.scale, arrows.angles, arrows.scale_units) == (1, "xy", "xy")


def test_down_in_the_image_is_down_in_the_picture():
    axis = panels(next(pages([subject(Shifted())], [image()])))[0]
    bottom, top = axis.get_ylim()
    assert bottom > top


def test_what_is_small_is_drawn_again_enlarged():
    one = subject(Shifted(), size=(96, 96))
    axis = panels(next(pages([one], [image(size=(96, 96))], positions=[(40, 30)])))[0]
    (inset,) = axis.child_axes
    _, sampled, _ = points(inset)
    assert (sampled == points(axis)[1]).all()
    assert inset.get_xlim()[0] < sampled[:, 0].min() < sampled[:, 0].max() < inset.get_xlim()[1]
    shown, whole = (np.ptp(part.get_xlim()) for part in (inset, axis))
    assert f"inset enlarged {0.4 * whole / shown:.2g} times" in axis.get_xlabel()


def test_areas_are_the_masks():
    model = tiny()
    with torch.no_grad():
        model.backbone.layer2[0].conv2.offset_net[-1].bias[18:] = torch.linspace(-2, 2, 9)
    page = next(pages([subject(model)], [image()], positions=[(8, 8)]))
    sizes = panels(page)[0].collections[2].get_sizes()
    mask = page.arrays["backbone.layer2.0.conv2.mask_GTYX"][0, :, 4, 4]
    np.testing.assert_allclose(sizes / sizes.max(), mask / mask.max(), rtol=1e-5)


def test_fields_share_one_scale():
    page = next(pages([subject(tiny())], [image()]))
    norms = {id(axis.images[1].norm) for axis in panels(page)[3:6]}
    assert len(norms) == 1


def test_layers_far_apart_have_a_logarithmic_scale():
    model = tiny()
    with torch.no_grad():
        model.backbone.layer4[0].conv2.offset_net[-1].bias[:18] = 50.0
    page = next(pages([subject(model)], [image()]))
    assert isinstance(panels(page)[3].images[1].norm, LogNorm)


def test_a_field_is_drawn_over_its_part_of_the_image():
    field = panels(next(pages([subject(tiny())], [image()])))[3]
    # stride 2 and padding 1: positions stand at pixels 0, 2, 4, ..., each with a pixel around it
    assert field.images[1].get_extent() == [-1, 23, 15, -1]


def test_zero_offsets_are_called_untrained():
    model = create_model(SPEC)
    page = next(pages([subject(model, trained=False)], [image()]))
    assert all(ZERO in axis.get_title() for axis in panels(page))
    assert all(row.zero for row in page.rows)
    assert "random (seed 0): untrained" in page.figure.get_suptitle()


def test_displacements_of_a_trained_network_are_not_called_untrained():
    page = next(pages([subject(tiny())], [image()]))
    assert not any("untrained" in axis.get_title() for axis in panels(page))
    assert page.figure.get_suptitle() == "Where convolutions sample: tiny, one\nsome weights"


def test_marks_are_framed_and_the_first_is_the_position():
    marks = (Mark(2, 4, 5, 5, "object"), Mark(2, 14, 5, 5, "cue"))
    page = next(pages([subject(tiny())], [image(marks=marks)]))
    assert page.arrays["positions_yx"].tolist() == [[4, 6]]
    corners = {p.get_xy() for p in panels(page)[0].patches if isinstance(p, Rectangle)}
    assert {(3.5, 1.5), (13.5, 1.5)} <= corners


def test_without_marks_the_centre_comes_first():
    page = next(pages([subject(tiny())], [image()]))
    assert page.arrays["positions_yx"][0].tolist() == [7.5, 11.5]
    assert page.arrays["positions_yx"].shape == (3, 2)


def test_the_default_is_the_last_layer_of_each_size():
    model = create_model("ctx_convnext_nano:width=4:num_classes=10:in_channels=1")
    page = next(pages([subject(model, size=(32, 32))], [image(size=(32, 32))], depth=1))
    assert page.arrays["drawn_layers"].tolist() == [
        "backbone.stages.1.0.dwconv", "backbone.stages.2.2.dwconv", "backbone.stages.3.0.dwconv",
    ]  # fmt: skip
    assert len(page.rows) == 5


def test_chosen_layers_are_drawn_and_composed():
    chosen = ["backbone.layer2.0.conv2", "backbone.layer3.0.conv2"]
    page = next(pages([subject(tiny())], [image()], layers=chosen))
    assert page.arrays["drawn_layers"].tolist() == chosen
    assert "composed2.points_px" in page.arrays
    assert "composed3.points_px" not in page.arrays


def test_what_is_far_out_is_said():
    page = next(pages([subject(Shifted())], [image()], positions=[(0, 0)], depth=1))
    assert "further out" not in panels(page)[0].get_xlabel()

    class Far(Shifted):
        def forward(self, x):
            return self.conv(x, x.new_full((len(x), 18, *x.shape[2:]), 100.0))

    page = next(pages([subject(Far())], [image()], positions=[(0, 0)], depth=1))
    assert "9 points further out" in panels(page)[0].get_xlabel()


def test_a_group_is_drawn_by_its_number():
    options = {"positions": [(6, 10)], "depth": 1}
    page = next(pages([subject(Shifted(groups=2))], [image()], group=1, **options))
    _, sampled, _ = points(panels(page)[0])
    assert (sampled[4] == (10 - 6, 6 + 2)).all()
    assert "group 1 of 2" in panels(page)[0].get_xlabel()
    with pytest.raises(VisualizeError, match="no offset group 2: .* at most 2"):
        next(pages([subject(Shifted(groups=2))], [image()], group=2, **options))


def test_arrays_hold_the_displacements():
    model = tiny()
    one = subject(model)
    page = next(pages([one], [image()]))
    expected = sampling(model, one.sample(image()).x[None])
    for layer in expected:
        np.testing.assert_array_equal(page.arrays[f"{layer.layer}.offset_GTYX2"], layer.offset[0])
    assert page.arrays["image"].dtype == np.uint8
    assert len(page.arrays["composed3.points_px"]) + page.arrays["composed3.lost"] == 729


@pytest.mark.parametrize("place", [(16, 0), (-1, 0), (0, 24)])
def test_a_position_outside_is_refused(place):
    with pytest.raises(VisualizeError, match="outside image 'one'.*16x24 pixels"):
        next(pages([subject(tiny())], [image()], positions=[place]))


def test_a_depth_of_nothing_is_refused():
    with pytest.raises(VisualizeError, match="depth=0 composes no layer"):
        next(pages([subject(tiny())], [image()], depth=0))


def test_it_can_be_saved(tmp_path):
    page = next(pages([subject(tiny())], [image()]))
    for suffix in ("png", "svg"):
        save(page.figure, tmp_path / f"offsets.{suffix}")
        assert (tmp_path / f"offsets.{suffix}").stat().st_size > 10_000
