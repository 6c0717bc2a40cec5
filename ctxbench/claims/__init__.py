"""What the papers publish, as data: one TOML file a paper, one claim a printed figure."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ctxbench.errors import UnknownNameError

# metrics that are counted; every other needs training
PARAMS, GFLOPS = "params (M)", "GFLOPs"
# the metric of a claim that two networks cost the same
PARITY = "same cost as"
# what a network has more than another one, and its share of what that costs
EXTRA_PARAMS, PARAMS_SHARE, GFLOPS_SHARE = "extra params", "share of params", "share of GFLOPs"
COUNTED = (PARAMS, GFLOPS, PARITY, EXTRA_PARAMS, PARAMS_SHARE, GFLOPS_SHARE)

REPRODUCED = "reproduced"
CLOSE = "close"
DIFFERS = "differs"
PROVED_EQUAL = "proved equal"
REFUTED = "refuted"
NOT_BUILDABLE = "not buildable here yet"
NEEDS_TRAINING = "needs training"
VERDICTS = (
    REPRODUCED, CLOSE, DIFFERS, PROVED_EQUAL, REFUTED, NOT_BUILDABLE, NEEDS_TRAINING,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    """One published figure: where it stands, what it is of, and what it says, as printed.

    `model` is the network by its definition, `reading` one that the authors may have counted;
    `against` is the network that it is compared with.
    """

    paper: str
    table: str
    row: str
    metric: str
    published: str
    model: str
    condition: str
    source: str
    convention: str
    image_px: int | None
    recipe: str | None = None
    reading: str | None = None
    against: str | None = None


def papers() -> list[str]:
    """Return the names of the papers whose claims are known."""
    return sorted(entry.name[:-5] for entry in _files())


def load_claims(paper: str | None = None) -> list[Claim]:
    """Return the claims of one paper, or of all; UnknownNameError names the known papers."""
    if paper is not None and paper not in papers():
        raise UnknownNameError("paper", paper, papers())
    chosen = [entry for entry in _files() if paper in (None, entry.name[:-5])]
    return [
        claim for entry in chosen for claim in _claims_of(tomllib.loads(entry.read_text("utf-8")))
    ]


def load_recipes(paper: str) -> dict[str, dict[str, Any]]:
    """Return the published training recipes of a paper: name -> setting -> value."""
    if paper not in papers():
        raise UnknownNameError("paper", paper, papers())
    found = next(entry for entry in _files() if entry.name[:-5] == paper)
    recipes: dict[str, dict[str, Any]] = tomllib.loads(found.read_text("utf-8"))["recipes"]
    return recipes


def _files() -> list[Any]:
    entries = resources.files("ctxbench.claims").iterdir()
    return sorted((e for e in entries if e.name.endswith(".toml")), key=lambda e: e.name)


def _claims_of(paper: dict[str, Any]) -> Iterator[Claim]:
    for table in paper["tables"]:
        recipe = _told(paper["recipes"][table["recipe"]]) if "recipe" in table else None
        for row in table["rows"]:
            published = zip(row.get("metrics", table["metrics"]), row["published"], strict=True)
            cells = {metric: text for metric, text in published if text}
            if "equals" in row:
                cells[PARITY] = row["equals"]
            for metric, published in cells.items():
                yield Claim(
                    paper=paper["paper"],
                    table=table["table"],
                    row=row["row"],
                    metric=metric,
                    published=published,
                    model=row["model"],
                    condition=table["condition"],
                    source=table.get("source", paper["citation"]),
                    convention=paper["convention"],
                    image_px=table.get("image_px"),
                    recipe=None if metric in COUNTED else recipe,
                    reading=row.get("reading") if metric != PARITY else None,
                    against=row.get("against"),
                )


def _told(recipe: dict[str, Any]) -> str:
    """Say a recipe in one line."""
    parts = []
    for key, value in recipe.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(f"{key.replace('_', ' ')}: {shown}")
    return "; ".join(parts)
