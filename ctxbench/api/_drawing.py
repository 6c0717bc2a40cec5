"""Pages of pictures drawn one after the other, and saved as they are made."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ctxbench import style
from ctxbench.api._networks import Network
from ctxbench.api._subjects import Loading
from ctxbench.errors import RecordsError, SpecError, UnknownNameError
from ctxbench.records import Row, append_rows, as_row, prepare
from ctxbench.visualize import (
    cues_figure,
    erf_figure,
    gradcam_figure,
    kernels_figure,
    offsets_figure,
    priors_figure,
)
from ctxbench.visualize.subject import Array, Image, Page, Subject

Pages = Callable[[list[Subject], Iterable[Image]], Iterator[Page]]
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
SUFFIXES = (".png", ".svg", ".npz")
_LONGEST, _MARK = 80, 6  # characters of a file's name: words, and what tells requests apart


@dataclass(frozen=True, slots=True)
class Drawn:
    """A page, the rows of it with the network's title, and where it is saved, without a suffix."""

    page: Page
    rows: list[Row]
    path: Path | None


def pages_of(kind: str, given: Mapping[str, Any], seed: int) -> Pages:
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


def draw_all(
    kind: str,
    pages: Pages,
    networks: Iterable[tuple[str, Network]],
    images: Iterable[Image],
    *,
    loading: Loading,
    out: Path | None,
    name: str,
    notify: Callable[[str], None] = lambda text: None,
) -> Iterator[Drawn]:
    """Load networks by title, draw page after page, and yield each.

    Before, it is saved with its rows in the folder of results `out`, if any, named `name`.
    Raises: CtxbenchError for what does not exist, fit, or cannot be drawn or written.
    """
    if out is not None:
        _prepare(out, name)
    subjects = [loading.subject(title, network) for title, network in networks]
    titles = {subject.spec: subject.title for subject in subjects}
    for number, page in enumerate(pages(subjects, _told(images, notify)), start=1):
        picture = (f"{name}-{number}" if number > 1 else name) if out is not None else None
        rows = [
            {"network": titles[row.model], **as_row(replace(row, picture=picture))}
            for row in page.rows
        ]
        path = None
        if out is not None:
            notify("saving")
            path = out / "figures" / str(picture)
            save_page(page.figure, page.arrays, path, way_out=" Choose --out.")
            append_rows(kind, rows, raw=out / "raw", seed=loading.seed)
        yield Drawn(page, rows, path)


def save_page(
    figure: Figure, arrays: Mapping[str, Array], stem: Path, *, way_out: str = ""
) -> list[Path]:
    """Write a figure as PNG and SVG, and its numbers as NPZ; RecordsError if it cannot be."""
    paths = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path in paths[:2]:
            style.save(figure, path)
        np.savez_compressed(paths[2], allow_pickle=False, **arrays)
    except OSError as error:
        raise RecordsError(f"Cannot write {stem}: {error.strerror}.{way_out}") from None
    return paths


def file_name(kind: str, words: Sequence[str], request: object) -> str:
    """Return a name that tells the networks, and is another one for any other request."""
    mark = hashlib.sha256(repr(request).encode()).hexdigest()[:_MARK]
    plain = re.sub(r"[^\w.=]+", "-", "-".join(words))[:_LONGEST].strip("-.")
    return f"{kind}/{plain}-{mark}"


def identity(value: object) -> object:
    """Return what tells a network or an image in memory from others of that name, by its content.

    Anything else is what it is, and several are told one by one.
    """
    if isinstance(value, nn.Module):
        told = re.sub(r" at 0x[0-9a-f]+", "", str(value))  # places in memory are new each time
        return told, [(key, _digest(each)) for key, each in value.state_dict().items()]
    if isinstance(value, Image):
        return replace(value, pixels=None), _digest(value.pixels)  # type: ignore[arg-type]
    return [identity(each) for each in value] if isinstance(value, list | tuple) else value


def _digest(value: object) -> str:
    """Return a mark of the numbers of a tensor, or of what something else says of itself."""
    if not isinstance(value, Tensor):
        return repr(value)
    data = value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(data).hexdigest()}"


def flat(rows: Iterable[Row]) -> list[Row]:
    """Make a column of each entry of what a row holds by name."""
    return [
        {key: value for key, value in row.items() if not isinstance(value, dict)}
        | {k: v for value in row.values() if isinstance(value, dict) for k, v in value.items()}
        for row in rows
    ]


def _prepare(out: Path, name: str) -> None:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise SpecError(f"--name {name} leads out of {out / 'figures'}. Choose --out.")
    prepare(out / "raw")


def _told(images: Iterable[Image], notify: Callable[[str], None]) -> Iterator[Image]:
    for number, image in enumerate(images, start=1):
        notify(f"image {number}: {image.name}")
        yield image
