"""Contextual CNN: after each stage the classes are ranked, and the likeliest bend the next stage.

Ours differs from aliyun/Contextual-Convolutional-Networks in one form of computing: scores are
taken in class order and then gathered, where the authors carry a sorted copy of all embeddings.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.models._spec import at_least_one
from ctxbench.ops.class_prior import ClassEmbedding, ClassMerger, VisualProjection, rank
from ctxbench.ops.ctxconv import ContextualConv2d, Norm, Parts

SOURCE = "ICLR 2023, OpenReview PldynS56bN; aliyun/Contextual-Convolutional-Networks@167050e"
# for 10 classes and 32x32 images
SMALL_PRIOR = {"prior_sizes": (8, 5, 3), "contextual_every": 1, "class_embedding_width": 64}


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """What a class prior is made of and where it acts; every field is an option of the spec string.

    `prior_sizes` is how many of the likeliest classes are merged for each contextual stage, and
    `contextual_stages` are those stages, counted from 1; the one before the first of them ranks
    first. Blocks 0, `contextual_every`, ... of a stage are contextual. `ranking` says what becomes
    of the other classes: the authors' code sorts them behind ("rerank"), the paper drops them
    ("reduce"). Without `prior` the generated parts see the features only.
    """

    prior_sizes: tuple[int, ...] = (500, 200, 50)
    contextual_stages: tuple[int, ...] | None = (2, 3, 4)
    contextual_every: int = 2
    class_embedding_width: int = 256
    parts: Parts = "both"
    mask: bool = True
    prior: bool = True
    ranking: Literal["rerank", "reduce"] = "rerank"

    def __post_init__(self) -> None:
        at_least_one(self, "prior_sizes", "contextual_every", "class_embedding_width")

    def check(self, *, stages: int, classes: int) -> None:
        """Raise ValueError naming the first field that does not fit the network."""
        given = self.contextual_stages or ()
        if list(given) != sorted(set(given)) or not set(given) <= set(range(2, stages + 1)):
            raise ValueError(
                f"contextual_stages={_list(given)} is out of range. Give rising stages from 2 to "
                f"{stages}: stage 1 has no ranking before it."
            )
        if given and len(self.prior_sizes) != len(given):
            raise ValueError(
                f"prior_sizes={_list(self.prior_sizes)} does not fit contextual_stages="
                f"{_list(given)}. Give one size a contextual stage."
            )
        if given and max(self.prior_sizes) > classes:
            raise ValueError(
                f"prior_sizes={_list(self.prior_sizes)} asks for more classes than "
                f"num_classes={classes}. Give smaller prior_sizes."
            )
        if self.ranking == "reduce" and list(self.prior_sizes) != sorted(self.prior_sizes)[::-1]:
            raise ValueError(
                f"prior_sizes={_list(self.prior_sizes)} grows, and ranking=reduce has dropped "
                f"those classes. Give falling sizes."
            )

    def is_contextual(self, stage: int, index: int) -> bool:
        """Tell whether block `index` of a stage (both from 0) is contextual."""
        return stage + 1 in (self.contextual_stages or ()) and index % self.contextual_every == 0

    def convolution(
        self,
        channels: int,
        kernel_size: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        norm: Norm,
    ) -> ContextualConv2d:
        """Return the contextual convolution that stands in for a plain one of the backbone."""
        return ContextualConv2d(
            channels,
            channels,
            kernel_size,
            context_channels=channels // 2 if self.prior else None,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=norm == "layer",
            parts=self.parts,
            mask=self.mask,
            norm=norm,
        )


class Backbone(Protocol):
    """A network of stages, whose blocks take a context besides the features."""

    def stem(self, x: Tensor) -> Tensor:
        """Return what the first stage takes."""
        ...

    def parts(self) -> list[list[nn.Module]]:
        """Return what each stage applies in turn."""
        ...


class ContextualNetwork(nn.Module):
    """A backbone whose stages are classified by class embeddings, each stage guiding the next.

    It has no linear classifier: an image belongs to the class whose embedding its features are
    most parallel to.

    Shape:  (B, in_channels, H, W) -> (B, classes) scores in class order.
    Source: ICLR 2023, OpenReview PldynS56bN; aliyun/Contextual-Convolutional-Networks@167050e.
    """

    def __init__(
        self, backbone: nn.Module, config: PriorConfig, *,
        widths: Sequence[int], expansion: int, classes: int, norm: Norm,
    ) -> None:  # fmt: skip
        super().__init__()
        config.check(stages=len(widths), classes=classes)
        self.backbone = backbone
        self.reduces = config.ranking == "reduce"
        self.takes_context = [[*map(_takes_context, parts)] for parts in backbone.parts()]  # type: ignore[operator]
        stages = [stage - 1 for stage in config.contextual_stages or ()]
        self.sizes = dict(zip(stages, config.prior_sizes, strict=False))
        self.first_ranked = min(stages, default=len(widths)) - 1
        self.classes = ClassEmbedding(classes, config.class_embedding_width)
        self.projections = nn.ModuleDict(
            {
                str(stage): VisualProjection(
                    expansion * width, width, config.class_embedding_width, norm=norm
                )
                for stage, width in enumerate(widths)
                if stage >= self.first_ranked
            }
        )
        self.mergers = nn.ModuleDict(
            {
                str(stage): ClassMerger(config.class_embedding_width, widths[stage] // 2)
                for stage in stages
                if config.prior
            }
        )
        for module in self.modules():
            if isinstance(module, ContextualConv2d):  # the backbone has drawn them like all others
                module.reset_generated()

    def rankings(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return, by stage, scores (B, classes) in class order and the ranking before it, (B, k).

        The first ranked stage finds the classes in their own order; with ranking=reduce the later
        ones find fewer.
        """
        x = self.backbone.stem(x)  # type: ignore[operator]
        order = torch.arange(len(self.classes.weight), device=x.device).expand(len(x), -1)
        found, context = [], None
        for stage, parts in enumerate(self.backbone.parts()):  # type: ignore[operator]
            for part, takes_context in zip(parts, self.takes_context[stage], strict=True):
                x = part(x, context) if takes_context and context is not None else part(x)
            if stage >= self.first_ranked:
                scores = self.classes(self.projections[str(stage)](x))
                found.append((scores, order))
                order, context = self._contextualise(stage + 1, scores, order)
        return found

    def _contextualise(
        self, stage: int, scores: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Rank the classes anew and merge the likeliest into the context of a stage."""
        order = order.gather(1, rank(scores.gather(1, order)))
        size = self.sizes.get(stage)
        if size is not None and self.reduces:
            order = order[:, :size]
        if str(stage) not in self.mergers:
            return order, None
        return order, self.mergers[str(stage)](self.classes.rows(order[:, :size]))

    def stage_logits(self, x: Tensor) -> list[Tensor]:
        """Return the scores of every ranked stage, (B, k), in the order that the last one left."""
        return [scores.gather(1, order) for scores, order in self.rankings(x)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the last stage; dropped classes have the lowest there can be."""
        scores, order = self.rankings(x)[-1]
        if not self.reduces:
            return scores
        lowest = -self.classes.limit.expand_as(scores)
        return lowest.scatter(1, order, scores.gather(1, order))


def contextual_loss(
    model: ContextualNetwork,
    x: Tensor,
    target: Tensor,
    *,
    earlier: float = 0.15,
    smoothing: float = 0.1,
) -> Tensor:
    """Return the cross entropies of all ranked stages, the earlier ones weighted, summed.

    The label of a stage is the place at which the stages before have ranked the class. `target`
    holds class indices (B,), which are smoothed, or shares (B, classes) of mixup and cutmix, which
    are taken as they are. With ranking=reduce an image counts in a stage by the share of its
    classes that are left: not at all once its own is dropped.
    """
    shares, smooth = target, 0.0
    if target.ndim == 1:
        shares, smooth = F.one_hot(target, len(model.classes.weight)).to(x.dtype), smoothing
    losses = []
    for scores, order in model.rankings(x):
        left = shares.gather(1, order)
        total = left.sum(1, keepdim=True)
        kept = total.squeeze(1) > 0
        each = F.cross_entropy(
            scores.gather(1, order),
            left / total.where(kept[:, None], 1),
            reduction="none",
            label_smoothing=smooth,
        )
        losses.append((each * total.squeeze(1)).sum() / kept.sum().clamp(min=1))
    return earlier * sum(losses[:-1], start=losses[-1].new_zeros(())) + losses[-1]


def from_authors(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Translate the entries of a file by the authors; other files pass unchanged."""
    ours = any(isinstance(module, _OURS) for module in model.modules())
    if not (ours and any(_AUTHORS.search(key) for key in state)):
        return state
    network = isinstance(model, ContextualNetwork)
    return {_our_name(key, network=network): value for key, value in state.items()}


_OURS = (ContextualNetwork, ContextualConv2d, VisualProjection, ClassMerger)
_AUTHORS = re.compile(
    r"(^|\.)((spatial|weight)_offset_layer\.|nonlinear\.|(in|out)_nonlinear\.|cls\.)"
)
# in a file of a whole network, what is not about classes belongs to the backbone
_RENAMES = (
    (r"^cls\.class_token_embedding\.", "classes."),
    (r"^cls\.logit_scale$", "classes.log_scale"),
    (r"^cls\.visual_proj_heads\.", "projections."),
    (r"^cls\.class_mergers\.", "mergers."),
    (r"(^|\.)nonlinear\.0\.", r"\1reduce."),
    (r"(^|\.)nonlinear\.1\.", r"\1norm."),
    (r"(^|\.)nonlinear\.3\.", r"\1expand."),
    (r"(^|\.)in_nonlinear\.0\.", r"\1row."),
    (r"(^|\.)in_nonlinear\.1\.", r"\1row_norm."),
    (r"(^|\.)out_nonlinear\.0\.", r"\1merge."),
    (r"(^|\.)out_nonlinear\.1\.", r"\1merge_norm."),
    (r"(^|\.)spatial_offset_layer\.", r"\1offset_net."),
    (r"(^|\.)weight_offset_layer\.", r"\1kernel_net."),
    (r"(^|\.)conv\.(weight|bias)$", r"\1\2"),
)


def _our_name(key: str, *, network: bool) -> str:
    backbone = network and not key.startswith("cls.")
    for pattern, ours in _RENAMES:
        key = re.sub(pattern, ours, key)
    return f"backbone.{key}" if backbone else key


def _takes_context(part: nn.Module) -> bool:
    return any(isinstance(module, ContextualConv2d) for module in part.modules())


def _list(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers)) or "none"
