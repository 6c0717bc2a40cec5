"""From features to a class prior: what the image looks like, ranked, and its top classes merged."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.ops.ctxconv import Norm


class VisualProjection(nn.Module):
    """Projects the average of a map into the space of the class embeddings.

    Shape:  (B, C, H, W) -> (B, width).
    Cost:   C * hidden + hidden * width MACs per image.
    Source: ICLR 2023, OpenReview PldynS56bN; aliyun/Contextual-Convolutional-Networks@167050e.
    """

    def __init__(self, channels: int, hidden: int, width: int, *, norm: Norm) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return one vector an image."""
        return self.expand(self.norm(self.reduce(x.mean((2, 3)))).relu())  # type: ignore[no-any-return]


class ClassMerger(nn.Module):
    """Merges the embeddings of the likeliest classes into one context vector, in any order.

    Shape:  (B, classes, width) -> (B, channels).
    Cost:   (classes * width + channels) * hidden MACs per image, hidden = max(width // 4, 128).
    Source: ICLR 2023, OpenReview PldynS56bN; aliyun/Contextual-Convolutional-Networks@167050e.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        hidden = max(width // 4, 128)
        self.row = nn.Linear(width, hidden)
        self.row_norm = nn.LayerNorm(hidden)
        self.merge = nn.Linear(hidden, channels)
        self.merge_norm = nn.LayerNorm(channels)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the context vector of each image."""
        mean = self.row_norm(self.row(rows)).relu().mean(1)
        return self.merge_norm(self.merge(mean)).relu()  # type: ignore[no-any-return]


class ClassEmbedding(nn.Module):
    """One learned vector a class, compared with visual vectors by their scaled cosine.

    The scale is the exponential of one learned value. Parallel and opposite vectors score plus
    and minus the scale, `limit`.

    Shape:  (B, width) -> (B, classes) scores, in class order.
    Cost:   classes * width MACs per image.
    Source: ICLR 2023, OpenReview PldynS56bN; aliyun/Contextual-Convolutional-Networks@167050e.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))
        self.log_scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors from N(0, 0.02**2); the scale begins at 1 / 0.07."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.constant_(self.log_scale, -math.log(0.07))

    @property
    def limit(self) -> Tensor:
        """The largest score there can be."""
        return self.log_scale.exp()

    def forward(self, visual: Tensor) -> Tensor:
        """Return the scores of all classes."""
        # no epsilon in the norms, as in the authors' code
        image = visual / visual.norm(dim=1, keepdim=True)
        classes = self.weight / self.weight.norm(dim=1, keepdim=True)
        return self.limit * F.linear(image, classes)

    def rows(self, order: Tensor) -> Tensor:
        """Return the vectors of the classes named in (B, k), as (B, k, width)."""
        return F.embedding(order, self.weight)


def rank(scores: Tensor) -> Tensor:
    """Return the places (B, N) of the scores (B, N) from the highest to the lowest."""
    return scores.detach().argsort(dim=1, descending=True, stable=True)
