"""Pictures of what networks do inside: `ctxbench visualize` as a function."""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame

from ctxbench.api._networks import Networks, Size, size_of
from ctxbench.api._rows import frame_of, raw_of, without_empty
from ctxbench.api._subjects import Loading, Picturable, data_of_runs, images_for, titled
from ctxbench.errors import RecordsError, SpecError, UnknownNameError
from ctxbench.records import append_rows, as_row, prepare
from ctxbench.style import save, style
from ctxbench.visualize import (
    cues_figure,
    erf_figure,
    gradcam_figure,
    kernels_figure,
    offsets_figure,
    priors_figure,
)
from ctxbench.visualize.subject import Array, Page, Subject

Kind = Literal["gradcam", "offsets", "kernels", "priors", "erf", "cues"]
# what draws each kind, and the options that it knows, by the names that `pages` has for them
_KINDS: dict[str, tuple[Any, dict[str, str]]] = {
    "gradcam": (
        gradcam_figure.pages, {"layer": "layer", "methods": "methods", "target": "target"}
    ),
    "offsets": (
        offsets_figure.pages, {"layer": "layers", "positions": "positions", "depth": "depth"}
    ),
    "kernels": (kernels_figure.pages, {"layer": "layers", "positions": "positions"}),
    "priors": (priors_figure.pages, {"top": "top"}),
    "erf": (erf_figure.pages, {"layer": "layer", "probes": "probes"}),
    "cues": (cues_figure.pages, {}),
}  # fmt: skip
_SHOWN_DPI = 100
_LONGEST, _MARK = 80, 6


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
        stem = stem.with_suffix("") if stem.suffix in (".png", ".svg", ".npz") else stem
        names = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg", ".npz")]
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            for name in names[:2]:
                save(self.figure, name)
            np.savez_compressed(names[2], allow_pickle=False, **self.arrays)
        except OSError as error:
            raise RecordsError(f"Cannot write {stem}: {error.strerror}.") from None
        return names

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
    pages = _pages_of(kind, given, seed)
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
    subjects = [loading.subject(title, network) for title, network in known.items()]
    if out is not None:
        prepare(raw_of(out))
    pictures: list[Picture] = []
    for page in pages(subjects, images_for(kind, images, data, index)):
        if out is not None:
            request = (images, index, loading, given)
            stem = name or _file_name(kind, list(known), request)
            stem += f"-{len(pictures) + 1}" if pictures else ""
            pictures.append(_kept(kind, page, subjects, Path(out).expanduser(), stem, seed))
        else:
            pictures.append(_picture(page, subjects))
    return pictures


def _pages_of(kind: str, given: Mapping[str, Any], seed: int) -> Any:
    """Return what draws a kind, with its options; any of another kind is a mistake."""
    if kind not in _KINDS:
        raise UnknownNameError("kind of picture", kind, _KINDS)
    pages, known = _KINDS[kind]
    options: dict[str, Any] = {"seed": seed} if kind == "erf" else {}
    for key, value in given.items():
        if value is None:
            continue
        if key not in known:
            raise SpecError(f"{kind} has no option {key!r}. It has {', '.join(known) or 'none'}.")
        listed = known[key] in ("layers", "methods") and isinstance(value, str)
        options[known[key]] = [value] if listed else value
    return partial(pages, **options)


def _rows(page: Page, subjects: Sequence[Subject], picture: str | None) -> list[dict[str, Any]]:
    titles = {subject.spec: subject.title for subject in subjects}
    return [
        {"network": titles[row.model], **as_row(replace(row, picture=picture))} for row in page.rows
    ]


def _picture(page: Page, subjects: Sequence[Subject], picture: str | None = None) -> Picture:
    flat = [
        {key: value for key, value in row.items() if not isinstance(value, dict)}
        | {k: v for value in row.values() if isinstance(value, dict) for k, v in value.items()}
        for row in _rows(page, subjects, picture)
    ]
    return Picture(page.figure, page.arrays, without_empty(frame_of(flat)))


def _kept(
    kind: str, page: Page, subjects: Sequence[Subject], out: Path, stem: str, seed: int
) -> Picture:
    """Save a picture and its rows."""
    if Path(stem).is_absolute() or ".." in Path(stem).parts:
        raise SpecError(f"name={stem!r} leads out of {out / 'figures'}. Choose out.")
    picture = _picture(page, subjects, stem)
    picture.save(out / "figures" / f"{stem}.png")
    append_rows(kind, _rows(page, subjects, stem), raw=raw_of(out), seed=seed)
    return picture


def _file_name(kind: str, titles: Sequence[str], request: object) -> str:
    """Return a name that tells the networks, and is another one for any other request."""
    mark = hashlib.sha256(repr(request).encode()).hexdigest()[:_MARK]
    plain = re.sub(r"[^\w.=]+", "-", "-".join(titles))[:_LONGEST].strip("-.")
    return f"{kind}/{plain}-{mark}"


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()
