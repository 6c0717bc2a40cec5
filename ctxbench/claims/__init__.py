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

    `model` is the network by its definition, `reading` one that the authors may have counted.
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
    image_px: int
    recipe: str | None = None
    reading: str | None = None


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


def _files() -> list[Any]:
    entries = resources.files("ctxbench.claims").iterdir()
    return sorted((e for e in entries if e.name.endswith(".toml")), key=lambda e: e.name)


def _claims_of(paper: dict[str, Any]) -> Iterator[Claim]:
    for table in paper["tables"]:
        recipe = paper["recipes"][table["recipe"]] if "recipe" in table else None
        for row in table["rows"]:
            cells = dict(zip(table["metrics"], row["published"], strict=True))
            if "equals" in row:
                cells[PARITY] = row["equals"]
            for metric, published in cells.items():
                counted = metric in (PARAMS, GFLOPS, PARITY)
                yield Claim(
                    paper=paper["paper"],
                    table=table["table"],
                    row=row["row"],
                    metric=metric,
                    published=published,
                    model=row["model"],
                    condition=table["condition"],
                    source=paper["citation"],
                    convention=paper["convention"],
                    image_px=table["image_px"],
                    recipe=None if counted else recipe,
                    reading=row.get("reading") if metric != PARITY else None,
                )
