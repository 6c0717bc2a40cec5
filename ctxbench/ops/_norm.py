"""Normalisation over the channels of a map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each position.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x, normalised over its channels."""
        y = F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        y = y.permute(0, 3, 1, 2)
        # torch 2.14's inductor fails on the permuted result once height and width are symbols
        return y.contiguous() if torch.compiler.is_compiling() else y
