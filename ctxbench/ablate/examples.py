"""A few images of a data set as a row, of which a figure can be drawn without the data."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

from ctxbench.ablate.plan import load
from ctxbench.data import resolve
from ctxbench.data._spec import BrokenImageError, Images, TensorImages
from ctxbench.data.context import Plan, SceneImages
from ctxbench.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_IMAGES = 6
_SHOWN_PX = 64
# top, left, height and width in pixels of the image that is shown, and what stands there
Mark = tuple[float, float, float, float, str]


@dataclass(frozen=True, slots=True)
class ExamplesRow:
    """Images of a data set's validation part, from different classes as far as there are.

    `images` are PNG files in base64, reduced to 64 pixels on the longer side. `marks` are, for each
    image, the parts that decide its class: an object, what is bound to it, and the family's cue,
    where the data tell of them. `rule` says how they decide it.
    """

    data: str
    classes: int
    image_px: int
    images: tuple[str, ...]
    labels: tuple[int, ...]
    marks: tuple[tuple[Mark, ...], ...]
    rule: str | None


def examples(spec: str, *, download: bool = False) -> ExamplesRow:
    """Take some images of the data set that a spec string names.

    Raises: as `ctxbench.data.resolve` does; DataError if none of the images can be read.
    """
    source = resolve(spec, download=download)
    data = load(source.spec, download)
    found = list(islice(_readable(data.validation), _IMAGES))
    if not found:
        raise DataError(f"None of the validation images of {source.spec} can be read.")
    pictures = [_picture(image) for _, image, _ in found]
    scales = [max(p.size) / max(i.shape[1:]) for p, (_, i, _) in zip(pictures, found, strict=True)]
    known = data.validation if isinstance(data.validation, SceneImages) else None
    return ExamplesRow(
        data=source.spec,
        classes=data.classes,
        image_px=data.image_px,
        images=tuple(map(_png, pictures)),
        labels=tuple(label for _, _, label in found),
        marks=tuple(
            marks_of(known, index, scale) if known else ()
            for (index, _, _), scale in zip(found, scales, strict=True)
        ),
        rule=_rule(known.scenes.plan) if known else None,
    )


def _readable(images: Images) -> Iterator[tuple[int, Tensor, int]]:
    """Yield index, image and label of the images that can be read, in a telling order."""
    for index in telling_order(images):
        try:
            image, label = images[index]
        except BrokenImageError:
            continue
        yield index, image, label


def telling_order(images: Images) -> Iterator[int]:
    """Yield every index once, so that the first few are of different classes."""
    if isinstance(images, TensorImages):
        labels: list[int] = images.labels.tolist()
    else:
        # to know the labels would be to read all files; those of a folder lie class by class
        labels = [index * _IMAGES // len(images) for index in range(len(images))]
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    every = max(1, len(members) // _IMAGES)
    classes = sorted(members)
    spread = [label for first in range(every) for label in classes[first::every]]
    for place in range(max(map(len, members.values()))):
        yield from (members[label][place] for label in spread if place < len(members[label]))


def _picture(image: Tensor) -> "Picture":
    """Return an image (C, H, W) as grey or coloured, no larger than it is shown."""
    from PIL import Image

    colours = image if len(image) in (1, 3) else image.float().mean(0, keepdim=True).byte()
    pixels = colours.permute(1, 2, 0).squeeze(-1).contiguous().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SHOWN_PX, _SHOWN_PX))
    return picture


def _png(picture: "Picture") -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def marks_of(images: SceneImages, index: int, scale: float) -> tuple[Mark, ...]:
    """Return where the glyphs stand that decide the class of an image, the object first."""
    scenes = images.scenes
    side = scale * scenes.plan.glyph_px
    found = []
    for column in dict.fromkeys((0, 1, scenes.plan.cue)):
        top, left = (scale * float(place) for place in scenes.places[index, column])
        found.append((top, left, side, side, scenes.plan.name(int(scenes.glyphs[index, column]))))
    return tuple(found)


def _rule(plan: Plan) -> str:
    if plan.supers == 1:
        return (
            f"class = (object + cue) mod {plan.classes}, of the one object and the one cue that "
            f"stand {plan.distance} px apart along an axis"
        )
    return (
        f"class = {plan.partners} x object + detail: the cue, anywhere, says which object counts; "
        f"its detail stands {plan.distance} px from it"
    )
