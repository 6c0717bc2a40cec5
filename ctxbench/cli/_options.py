"""Options that are spelled the same in every command."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ctxbench.errors import SpecError
from ctxbench.render import Format

T = TypeVar("T")

FormatOption = Annotated[Format, typer.Option("--format", help="How to print the rows.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder whose raw/ the rows go to.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress and no notes.")]
ImageSizeOption = Annotated[
    str | None,
    typer.Option("--image-size", help="Side in pixels, or HEIGHTxWIDTH; default: the network's."),
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images in one batch.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="cpu, cuda or cuda:1; auto is the GPU if there is one.")
]

RESULTS = Path("results")


def image_size(text: str | None) -> tuple[int, int] | None:
    """Read `224` or `256x192` as (height, width)."""
    if not text:
        return None
    sides = text.lower().split("x")
    if not all(side.isdecimal() and int(side) > 0 for side in sides) or len(sides) > 2:
        raise SpecError(f"--image-size {text!r} is no size. Write a side like 224, or 256x192.")
    return int(sides[0]), int(sides[-1])


def listed(text: str) -> list[str]:
    """Read a list like `1, 8,64`, each value once; no text at all is one empty value."""
    values = [value.strip() for value in text.split(",")]
    if text and not all(values):
        raise SpecError(f"{text!r} has an empty place between its commas. Fill it or leave it out.")
    return list(dict.fromkeys(values))


def note(text: str, *, quiet: bool) -> None:
    """Say something that is not data, on standard error."""
    if not quiet:
        typer.echo(text, err=True)


def progress(items: Sequence[T], label: str, *, quiet: bool) -> Iterator[T]:
    """Go through items behind a progress bar on standard error, if there is a terminal."""
    hidden = quiet or len(items) < 2 or not sys.stderr.isatty()
    with typer.progressbar(items, label=label, file=sys.stderr, hidden=hidden) as bar:
        yield from bar


def ticker(*, quiet: bool) -> Callable[[str], None]:
    """Return what shows the step under way in one line on standard error, if it is a terminal."""
    if quiet or not sys.stderr.isatty():
        return lambda text: None
    return lambda text: typer.echo(f"\r\033[K{text}", nl=False, err=True)
