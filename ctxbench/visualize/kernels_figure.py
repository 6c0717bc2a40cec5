"""The pages of `kernels`: one an operator that a network has, ContMix's one an image and layer."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ctxbench.errors import VisualizeError
from ctxbench.visualize import (
    dynamic_kernels_figure,
    folding_figure,
    footprints_figure,
    gates_figure,
)
from ctxbench.visualize.dynamic_kernels import dynamic_kernels
from ctxbench.visualize.folding import folding
from ctxbench.visualize.footprints import footprints
from ctxbench.visualize.gates import GateSummary, gates
from ctxbench.visualize.kernels import KernelsRow, chosen_layers, stage_ends
from ctxbench.visualize.subject import Image, Page, Sample, Subject, batch_of, chunks, of

_AT_ONCE = 4  # images
# stages that fit on a page
_MOST = {"ContMix": 4, "CGC": 4, "CoConv": 5, "DilatedReparam": 6}


def pages(
    subjects: Sequence[Subject],
    images: Iterable[Image],
    *,
    layers: Sequence[str] | None = None,
    positions: Sequence[tuple[float, float]] | None = None,
) -> Iterator[Page]:
    """Yield the pages of every network: weights first, then what each image makes of them.

    `layers` are names of layers, or of parts of the network that hold some; without, the last one
    of each stage is drawn. `positions` are pixels (y, x) of what the network sees.
    Raises: VisualizeError for a network without these operators, a layer without them, a position
            outside the image, and if images are needed and there are none.
    """
    plans = []
    for subject in subjects:
        with of(subject):
            plans.append(_Plan(subject, layers))
    drawn = False
    for plan in plans:
        for page in plan.still_pages():
            drawn = True
            yield page
    for batch in chunks(images, _AT_ONCE):
        for plan in plans:
            samples = [plan.subject.sample(image) for image in batch]
            with of(plan.subject):
                plan.add(samples)
            for sample in samples:
                for page in plan.image_pages(sample, positions):
                    drawn = True
                    yield page
    for plan in plans:
        if plan.gates:
            drawn = True
            yield plan.gates_page()
    if not drawn:
        titles = ", ".join(plan.subject.title for plan in plans)
        raise VisualizeError(f"The kernels of {titles} are made from an image. Give one.")


class _Plan:
    """Which layers of a network are drawn, and what is known of its gates so far."""

    def __init__(self, subject: Subject, layers: Sequence[str] | None) -> None:
        self.subject = subject
        self.layers = chosen_layers(subject.model, layers)
        self.shown = {
            operator: names if layers else stage_ends(names, _MOST[operator])
            for operator, names in self.layers.items()
        }
        self.gates: dict[str, GateSummary] = {}
        self.first = ""

    def still_pages(self) -> Iterator[Page]:
        """Yield what depends on no image."""
        model = self.subject.model
        if self.shown["CoConv"]:
            depth = footprints(model, layers=self.layers["CoConv"])
            shown = [each for each in depth if each.layer in self.shown["CoConv"]]
            yield Page(
                footprints_figure.draw(self.subject, shown, depth),
                footprints_figure.arrays(shown, depth),
                [self._row("CoConv", each) for each in depth],
            )
        if self.shown["DilatedReparam"]:
            folded = folding(model, layers=self.shown["DilatedReparam"])
            yield Page(
                folding_figure.draw(self.subject, folded),
                folding_figure.arrays(folded),
                [self._row("DilatedReparam", each) for each in folded],
            )

    def image_pages(
        self, sample: Sample, positions: Sequence[tuple[float, float]] | None
    ) -> Iterator[Page]:
        """Yield a page for each layer of ContMix."""
        if not self.shown["ContMix"]:
            return
        places = dynamic_kernels_figure.positions_of(sample, positions)
        x = batch_of([sample])
        for found in dynamic_kernels(self.subject.model, x, layers=self.shown["ContMix"]):
            yield Page(
                dynamic_kernels_figure.draw(self.subject, sample, found, places),
                dynamic_kernels_figure.arrays(sample, found, places),
                [self._row("ContMix", found, image=sample.name, images=1)],
            )

    def add(self, samples: Sequence[Sample]) -> None:
        """Look at the gates that some more images set."""
        if not self.layers["CGC"]:
            return
        self.first = self.first or samples[0].name
        for found in gates(self.subject.model, batch_of(samples), layers=self.layers["CGC"]):
            summary = GateSummary.of(found)
            known = self.gates.get(found.layer)
            self.gates[found.layer] = known + summary if known else summary

    def gates_page(self) -> Page:
        """Return the page of the gates of all images."""
        depth = list(self.gates.values())
        shown = [self.gates[layer] for layer in self.shown["CGC"]]
        return Page(
            gates_figure.draw(self.subject, shown, depth, self.first),
            gates_figure.arrays(shown, depth),
            [self._row("CGC", each, images=each.images) for each in depth],
        )

    def _row(self, operator: str, found: Any, *, image: str = "", images: int = 0) -> KernelsRow:
        return KernelsRow(
            model=self.subject.spec, weights=self.subject.weights, trained=self.subject.trained,
            operator=operator, layer=found.layer, image=image, images=images,
            statistics=found.statistics(),
        )  # fmt: skip
