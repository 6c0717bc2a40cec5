"""Pictures inside the page: few colours, few bytes, within a budget; the files stay beside it."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_COLOURS = 128
_WIDTHS_PX = (1400, 1000, 700)
# at which share of the budget the next narrower size is taken
_NARROWER = (0.8, 0.92, 1.0)
_LINKED = ("png", "svg", "pdf")


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture as a data URI, None if there was no room for it, and the files it is of."""

    uri: str | None
    width_px: int
    height_px: int
    files: list[str]


class Embedder:
    """Turns PNG files into data URIs, narrower ones and then none as the budget is used up."""

    def __init__(self, folder: Path, budget: int) -> None:
        self._folder, self._budget, self._used, self._level = folder, budget, 0, 0

    def embed(self, name: str) -> Embedded | None:
        """Return a picture of the folder by its name without suffix, None if it cannot be read."""
        root = self._folder.resolve()
        path = (root / f"{name}.png").resolve()
        if not (path.is_relative_to(root) and path.is_file()):
            return None
        beside = [path.with_suffix(f".{suffix}") for suffix in _LINKED]
        files = [f"figures/{each.relative_to(root).as_posix()}" for each in beside if each.exists()]
        try:
            with Image.open(path) as picture:
                return Embedded(self._uri(picture), picture.width, picture.height, files)
        except OSError:  # torn while it was drawn
            return None

    def _uri(self, picture: Image.Image) -> str | None:
        while self._level < len(_WIDTHS_PX):
            uri = _encode(picture, _WIDTHS_PX[self._level])
            if self._used + len(uri) <= _NARROWER[self._level] * self._budget:
                self._used += len(uri)
                return uri
            self._level += 1
        return None


def _encode(picture: Image.Image, width_px: int) -> str:
    """Return a PNG of few colours; without dither, which would multiply the bytes."""
    picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    if picture.width > width_px:
        height_px = round(picture.height * width_px / picture.width)
        picture = picture.resize((width_px, height_px), Image.Resampling.LANCZOS)
    few = picture.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG", compress_level=6)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
