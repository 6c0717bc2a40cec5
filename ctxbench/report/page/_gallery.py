"""The gallery: pictures of networks that were drawn before, with captions made from their rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ctxbench.records import Row
from ctxbench.report._frames import MADE_OF, made_of
from ctxbench.report.page._origins import Origins
from ctxbench.report.page._pictures import Embedded, Embedder

_SHOWS = {
    "cues": "Attention on the parts of images that decide the class, beside that by chance",
    "gradcam": "Grad-CAM: where the evidence for a class lies",
    "offsets": "Where the taps of a context-dependent convolution move",
    "kernels": "Kernels",
    "priors": "The likeliest classes after each stage, and what another image's prior changes",
    "erf": "Effective receptive fields",
}
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Hung:
    """A picture of the gallery: its title, what is told of it, and where it comes from."""

    key: str
    title: str
    caption: str
    alt: str
    made_by: str
    picture: Embedded


def gallery(
    kinds: Iterable[str], rows: Mapping[str, Sequence[Row]], *, embedder: Embedder, origins: Origins
) -> tuple[list[Hung], list[str]]:
    """Return the pictures that rows of these kinds name, and the names of those without a file."""
    hung, lacking = [], []
    for kind in kinds:
        for name, seen in _by_picture(rows[kind]).items():
            picture = embedder.embed(name)
            if picture is None:
                lacking.append(name)
            else:
                hung.append(_hang(kind, name, seen, origins, picture))
    return hung, lacking


def _by_picture(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Gather the rows of each picture; drawn again, only the last time counts."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(name := row.get("picture"), str):
            found.setdefault(name, []).append(row)
    return {
        name: [row for row in seen if row.get("stamp") == seen[-1].get("stamp")]
        for name, seen in found.items()
    }


def _hang(kind: str, name: str, seen: Sequence[Row], origins: Origins, picture: Embedded) -> Hung:
    operators = _distinct(seen, "operator")
    title = f"{_SHOWS[kind]} of {_listed(operators)}" if operators else _SHOWS[kind]
    networks = f"{_listed(_distinct(seen, 'network'))}"
    said = [f"Networks: {networks}"]
    for key, what in (("layer", "layers"), ("image", "images"), ("weights", "weights")):
        if values := _distinct(seen, key):
            said.append(f"{what}: {_listed(values)}")
    return Hung(
        f"picture-{name.replace('/', '-')}",
        title,
        f"{'; '.join(said)}.",
        f"{title}; networks: {networks}. {len(seen)} rows hold what it says in numbers.",
        origins.told(made_of(seen)[MADE_OF]),
        picture,
    )


def _distinct(rows: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(str(row[key]) for row in rows if row.get(key)))


def _listed(names: Sequence[str]) -> str:
    kept = list(names[:_NAMED])
    beyond = len(names) - len(kept)
    return ", ".join([*kept, *([f"and {beyond} more"] if beyond else [])])
