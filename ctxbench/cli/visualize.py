"""`ctxbench visualize KIND`: one command a kind of picture."""

from collections.abc import Mapping
from typing import Annotated

import typer

from ctxbench.cli._options import listed
from ctxbench.cli._pictures import command_of

app = typer.Typer(
    help="Draw what networks do inside, with your images and theirs.\n\n"
    "Example: ctxbench visualize gradcam torchvision/resnet18 resnet50",
    no_args_is_help=True,
    rich_markup_mode=None,
)

LayerOption = Annotated[str, typer.Option("--layer", help="One layer, as layer4.0.conv2.")]
LayersOption = Annotated[
    str, typer.Option("--layer", help="One layer or a list, as layer4.0.conv2.")
]
Options = Mapping[str, object]  # None where an option is not given
AtOption = Annotated[
    str,
    typer.Option("--at", metavar="Y,X", help="Positions in image pixels: 112,80 or 112,80;9,9."),
]


def gradcam(
    method: Annotated[
        str, typer.Option("--method", help="gradcam, hirescam, scorecam, ... or a list of them.")
    ] = "gradcam",
    target: Annotated[
        str | None, typer.Option("--class", help="Index or name; default: the predicted class.")
    ] = None,
    layer: LayerOption = "",
) -> Options:
    """Draw what speaks for a class (Grad-CAM), and how faithful it is.

    Example: ctxbench visualize gradcam resnet50 --method gradcam,hirescam
    """
    return {"methods": listed(method), "target": target, "layer": layer or None}


def offsets(
    layer: LayersOption = "",
    at: AtOption = "",
    depth: Annotated[
        int, typer.Option("--depth", min=1, max=4, help="Layers composed back to the image.")
    ] = 3,
) -> Options:
    """Draw where contextual and deformable layers sample.

    Example: ctxbench visualize offsets ctx_resnet50 --at 112,80
    """
    return {"layer": _layers(layer), "positions": _places(at), "depth": depth}


def kernels(layer: LayersOption = "", at: AtOption = "") -> Options:
    """Draw dynamic kernels, gates, footprints, folded kernels.

    Example: ctxbench visualize kernels overlock_xt --at 112,112
    """
    return {"layer": _layers(layer), "positions": _places(at)}


def priors(
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to show.")] = 5,
) -> Options:
    """Draw the likeliest classes by stage, and what a prior does.

    Example: ctxbench visualize priors ctx_resnet50 --top 3
    """
    return {"top": top}


def erf(
    layer: LayerOption = "",
    probes: Annotated[
        int, typer.Option("--probes", min=1, help="Random directions for each image.")
    ] = 2,
) -> Options:
    """Draw effective receptive fields beside the theoretical.

    Example: ctxbench visualize erf resnet50 coresnet50 --layer layer4
    """
    return {"layer": layer or None, "probes": probes}


def cues() -> Options:
    """Draw whether networks look at what decides the class.

    Example: ctxbench visualize cues run:context_gallery
    """
    return {}


def _layers(text: str) -> list[str] | None:
    return listed(text) if text else None


def _places(text: str) -> list[tuple[float, float]] | None:
    """Read `112,80;0,0` as positions (y, x)."""
    from ctxbench.errors import SpecError

    if not text:
        return None
    try:
        return [_place(place) for place in text.split(";")]
    except ValueError:
        raise SpecError(f"--at {text!r} is no position. Write Y,X or Y,X;Y,X.") from None


def _place(text: str) -> tuple[float, float]:
    y, x = map(float, text.split(","))
    return y, x


for _kind in (gradcam, offsets, kernels, priors, erf, cues):
    command_of(app, _kind)
