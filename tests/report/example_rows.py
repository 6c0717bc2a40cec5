"""Images of data sets that never were, as `ctxbench.ablate.examples` would save them."""

import base64
import io

import numpy as np
from PIL import Image


def png(*shape):
    """Return an image of one dark and one light half, as the text of a PNG file."""
    pixels = np.full(shape, 60, dtype=np.uint8)
    pixels[: shape[0] // 2] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def example(data, *shape, count=6, marks=(), **changes):
    row = {"data": data, "classes": 3, "image_px": shape[0], "images": [png(*shape)] * count}
    row |= {"labels": [index % 3 for index in range(count)], "marks": [list(marks)] * count}
    return {**row, "rule": None, **changes}


PAIR = ([2, 1, 3, 3, "object 1"], [2, 9, 3, 3, "cue 0"])
FAMILY = ([2, 1, 3, 3, "object 1"], [2, 9, 3, 3, "detail 4"], [10, 4, 3, 3, "cue 1"])
EXAMPLES = [
    example("context:distance=8", 16, 16, marks=PAIR, rule="class = object + cue"),
    example("context:supers=2", 16, 16, marks=FAMILY, rule="class = 2 x object + detail"),
    example("imagefolder:photos", 40, 64, 3, count=4, image_px=224),
]
