"""What the commands of `ctxbench visualize` share: their options, and the way to the pictures."""

import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ctxbench.cli._complete import complete_subject
from ctxbench.cli._options import (
    RESULTS,
    DeviceOption,
    FormatOption,
    OutOption,
    QuietOption,
    image_size,
    listed,
    note,
    ticker,
)

if TYPE_CHECKING:
    from ctxbench.visualize.subject import Image

# of a row: what stands in the file and in JSON only
_HIDDEN = ("picture", "trained")
# of each kind, what a terminal has room for; the file and the other forms have everything
_BRIEF = {
    "gradcam": "layer method image class_name probability deletion random_deletion insertion "
    "random_insertion",
    "offsets": "layer image step_px mean_displacement_px largest_displacement_px share_outside "
    "mean_mask constant_share",
    "priors": "image true_class predicted donor swapped_predicted swapped_top_overlap "
    "swapped_correlation",
    "erf": "layer images width_px field_width_px square50_px square50_low_px square50_high_px "
    "square99_px square99_low_px square99_high_px",
    "cues": "measure layer part images share_percent shuffled_percent plain_percent area_percent",
}
_MOST = 1_000_000  # numbers in a list


@dataclass(frozen=True, slots=True)
class Request:
    """What all kinds of pictures are asked for: the options that their commands share."""

    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC... [IMAGE...]",
            help="Networks, or run:EXPERIMENT/LABEL/SEED or run:ID for what `ctxbench ablate` "
            "trained; then image files and folders. Without images: those of the run's data, or "
            "two photographs.",
            autocompletion=complete_subject,
        ),
    ]
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Weight file of the network.")
    ] = None
    data: Annotated[
        str | None, typer.Option("--data", help="Draw validation images of this data set.")
    ] = None
    index: Annotated[
        str | None, typer.Option("--index", help="Which images of the data: 0,3,5-9.")
    ] = None
    class_names: Annotated[
        Path | None, typer.Option("--class-names", help="File with a name for each class.")
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            "--image-size", help="224: the centre of the image; 256x192: the whole, resized."
        ),
    ] = None
    dtype: Annotated[
        Literal["fp32", "bf16"], typer.Option("--dtype", help="Of weights and images.")
    ] = "fp32"
    device: DeviceOption = "auto"
    seed: Annotated[int, typer.Option("--seed", help="Of random weights and of sampling.")] = 0
    name: Annotated[
        str | None, typer.Option("--name", help="Of the files, below figures/ of --out.")
    ] = None
    form: FormatOption = "table"
    out: OutOption = RESULTS
    quiet: QuietOption = False


def command_of(app: typer.Typer, kind: Callable[..., Mapping[str, Any]]) -> None:
    """Add the command of a kind: its own options and the shared ones, from words to pictures.

    `kind` takes its own options, and returns them as `draw_networks` has them; its name is that of
    the command, of its rows and of its folder.
    """
    own = list(inspect.signature(kind).parameters.values())
    words, *shared = inspect.signature(Request).parameters.values()

    def command(**given: Any) -> None:
        request = Request(**{part.name: given.pop(part.name) for part in (words, *shared)})
        _draw(kind.__name__, request, given, kind(**given))

    parameters = [part.replace(kind=part.KEYWORD_ONLY) for part in (words, *own, *shared)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {part.name: part.annotation for part in parameters}
    app.command(kind.__name__, help=kind.__doc__)(command)


def _draw(
    kind: str, request: Request, given: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Draw page after page, and print what they say."""
    from ctxbench.api._drawing import draw_all, file_name, pages_of
    from ctxbench.api._subjects import Loading

    specs, paths = _split(request.words, request.out)
    loading = Loading(
        request.out,
        request.data,
        request.checkpoint,
        request.class_names,
        image_size(request.size),
        request.dtype,
        request.device,
        request.seed,
    )
    # how and where the answer goes is no part of the question
    told = replace(request, form="table", out=RESULTS, quiet=False), given
    words = [word for word in request.words if word not in paths]
    tell = ticker(quiet=request.quiet)
    rows: list[dict[str, Any]] = []
    try:
        for each in draw_all(
            kind,
            pages_of(kind, options, request.seed),
            [(title or spec, spec) for spec, title in specs.items()],
            _images(kind, request, specs, paths),
            loading=loading,
            out=request.out,
            name=request.name or file_name(kind, words, told),
            notify=tell,
        ):
            rows += each.rows
            tell("")
            note(f"{each.path}.png, .svg, .npz", quiet=request.quiet)
    finally:  # what was drawn before a mistake is worth seeing
        tell("")
        _print(kind, rows, request.form)


def _split(words: list[str], out: Path) -> tuple[dict[str, str | None], list[str]]:
    """Tell networks, each with the title it is to have, from images.

    Raises: UnknownNameError for what is neither; SpecError if there is no network.
    """
    from ctxbench.errors import SpecError, UnknownNameError
    from ctxbench.models import MODELS
    from ctxbench.models.listing import expand
    from ctxbench.visualize.load import expanded

    specs: dict[str, str | None] = {}
    paths: list[str] = []
    experiments = {word.removeprefix("run:").split("/")[0] for word in words if "run:" in word}
    for word in words:
        name = word.partition(":")[0]
        if name in MODELS or word.startswith(("run:", "torchvision/", "timm/")) or ".py:" in word:
            for spec, title in expanded(word, out).items():
                of = f"{word.removeprefix('run:').split('/')[0]}: " if len(experiments) > 1 else ""
                specs[spec] = specs.get(spec) or (title and f"{of}{title}")
        elif os.path.exists(word):
            paths.append(word)
        elif any(sign in name for sign in "*?["):
            specs |= dict.fromkeys(expand([word]))
        elif name.startswith("op/"):
            raise SpecError(f"{word} is one operator, without images or classes. Name a network.")
        elif Path(word).suffix or "/" in word:
            raise SpecError(f"There is no image {word!r}, and no network of that name.")
        else:
            raise UnknownNameError("network", name, MODELS)
    if not specs:
        raise SpecError(f"{' '.join(words)!r} names no network. Write networks first, then images.")
    return specs, paths


def _images(
    kind: str, request: Request, specs: Iterable[str], paths: list[str]
) -> "Iterator[Image]":
    """Return the images asked for; else those of the run's data; else two photographs."""
    from ctxbench.api._subjects import data_of_runs, images_for
    from ctxbench.errors import SpecError

    if paths and (request.data or request.index):
        raise SpecError("Give either image files, or --data and --index.")
    data = request.data or data_of_runs(specs, request.out)
    if request.index and not data:
        raise SpecError(f"--index {request.index} is of images of --data, which is not given.")
    numbers = _numbers(request.index) if request.index else None
    return images_for(kind, paths or None, data, numbers, on_broken=partial(note, quiet=False))


def _numbers(text: str) -> list[int]:
    """Read `0,3,5-9` as numbers."""
    from ctxbench.errors import SpecError

    numbers: list[int] = []
    for part in listed(text):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise SpecError(f"--index {text!r} is no list of numbers. Write 0,3,5-9.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= _MOST:
            raise SpecError(f"--index {text!r} names more than {_MOST:,} images. Name fewer.")
        numbers += range(first, last + 1)
    return numbers


def _print(kind: str, rows: list[dict[str, Any]], form: Any) -> None:
    from ctxbench.api._drawing import flat
    from ctxbench.render import render

    wide = flat(rows)
    if form == "table":
        _print_brief(kind, wide)
    elif rows:
        typer.echo(render(rows if form == "json" else wide, _columns(wide, hidden=_HIDDEN), form))


def _print_brief(kind: str, rows: list[dict[str, Any]]) -> None:
    """Print as much as a terminal has room for, of each operator a table of its own."""
    from ctxbench.render import render

    named = all(row["network"] == row["model"] for row in rows)
    hidden = {*_HIDDEN, "weights", "operator", *(["model"] if named else [])}
    if kind in _BRIEF:
        kept = {"network", "model", *_BRIEF[kind].split()}
        hidden |= {key for row in rows for key in row} - kept
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        tables.setdefault(row.get("operator", ""), []).append(row)
    for operator, part in tables.items():
        told = f"{operator}\n" if operator else ""
        typer.echo(told + render(part, _columns(part, hidden=hidden), "table"))


def _columns(rows: list[dict[str, Any]], *, hidden: Collection[str]) -> dict[str, str]:
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    return {key: key.replace("_", " ") for key in keys if key not in hidden}
