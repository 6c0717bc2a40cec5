"""Pictures of what networks do inside: `ctxbench visualize` as a function."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from pandas import DataFrame

from ctxbench.api._drawing import SUFFIXES, draw_all, file_name, flat, identity, pages_of, save_page
from ctxbench.api._networks import Networks, Size, size_of
from ctxbench.api._rows import frame_of, without_empty
from ctxbench.api._subjects import Loading, Picturable, data_of_runs, images_for, titled
from ctxbench.style import style
from ctxbench.visualize.subject import Array

Kind = Literal["gradcam", "offsets", "kernels", "priors", "erf", "cues"]
_SHOWN_DPI = 100


@dataclass(frozen=True, slots=True, repr=False)
class Picture:
    """One picture: the figure, the numbers it shows, and a table of what it says.

    A notebook shows the figure; `save` writes it.
    """

    figure: Figure
    arrays: Mapping[str, Array]
    table: DataFrame

    def save(self, path: str | Path) -> list[Path]:
        """Write PNG, SVG and the numbers as NPZ beside each other, and return their paths.

        `path` is without a suffix, or with one of these. Raises: RecordsError if it cannot be.
        """
        stem = Path(path).expanduser()
        stem = stem.with_suffix("") if stem.suffix in SUFFIXES else stem
        return save_page(self.figure, self.arrays, stem)

    def __repr__(self) -> str:
        """Say how large it is and what it holds, without all its numbers."""
        width, height = (_SHOWN_DPI * side for side in self.figure.get_size_inches())
        return f"Picture of {width:.0f} x {height:.0f} px, with {len(self.table)} rows"

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        with style():
            self.figure.savefig(file, dpi=_SHOWN_DPI, metadata={"Software": None})
        return file.getvalue()


def draw_networks(  # noqa: PLR0913 - the options of `ctxbench visualize`
    kind: Kind,
    networks: Networks,
    images: Picturable | Sequence[Picturable] | None = None,
    *,
    data: str | None = None,
    index: int | Iterable[int] | None = None,
    checkpoint: str | Path | None = None,
    class_names: str | Path | None = None,
    image_size: Size | None = None,
    dtype: Literal["fp32", "bf16"] = "fp32",
    device: str = "auto",
    seed: int = 0,
    layer: str | Sequence[str] | None = None,
    methods: str | Sequence[str] | None = None,
    target: int | str | None = None,
    positions: Sequence[tuple[float, float]] | None = None,
    depth: int | None = None,
    top: int | None = None,
    probes: int | None = None,
    results: str | Path = "results",
    out: str | Path | None = None,
    name: str | None = None,
) -> list[Picture]:
    """Draw what networks do inside, and return the pictures, each with figure and table.

    `networks` are specs, modules, or `run:EXPERIMENT[/LABEL[/SEED]]` for what was trained with
    results in `results`. `images` are files, folders or `Image`s; else validation images of `data`
    (those of `index`), of the data of a run, or two photographs. A module in memory is drawn as a
    copy in eval mode; its images are normalised as those of `data`, or else as for ImageNet.

    kind      what is drawn, and the options of its own
    gradcam   what speaks for a class: `methods`, `target` (class), `layer`
    offsets   where contextual and deformable layers sample: `layer`, `positions`, `depth`
    kernels   dynamic kernels, gates, footprints: `layer`, `positions`
    priors    the likeliest classes by stage: `top`
    erf       effective receptive fields: `layer`, `probes`
    cues      whether networks look at what decides the class

    With `out`, a folder of results, pictures and rows are saved there, the pictures as `name`.

    >>> page, = draw_networks("erf", "coresnet_tiny:width=4", image_size=16, probes=1)
    >>> page.table[["model", "images", "trained"]]
                       model  images  trained
    0  coresnet_tiny:width=4       2    False

    Raises: CtxbenchError for what does not exist, fit, or cannot be drawn.
    """
    given = {
        "layer": layer, "methods": methods, "target": target, "positions": positions,
        "depth": depth, "top": top, "probes": probes,
    }  # fmt: skip
    pages = pages_of(kind, given, seed)
    folder = Path(results).expanduser()
    known = titled(networks, folder)
    data = data or data_of_runs(known.values(), folder)
    loading = Loading(
        folder,
        data,
        _path(checkpoint),
        _path(class_names),
        size_of(image_size),
        dtype,
        device,
        seed,
    )
    index = index if index is None or isinstance(index, int) else list(index)
    if out is not None and name is None:
        request = identity(list(known.values())), identity(images), index, loading, given
        name = file_name(kind, list(known), request)
    drawn = draw_all(
        kind, pages, known.items(), images_for(kind, images, data, index), loading=loading,
        out=_path(out), name=name or kind,
    )  # fmt: skip
    return [
        Picture(each.page.figure, each.page.arrays, without_empty(frame_of(flat(each.rows))))
        for each in drawn
    ]


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()
