"""ContMix: at every position a kernel made from how the position relates to the whole map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctxbench.kernels import Backend, check_backend, told
from ctxbench.kernels.contmix import make_kernels, mix
from ctxbench.ops._parts import conv_norm

# the context is pooled to so many regions per axis
_REGIONS = 7


class ContMix(nn.Module):
    """Two windows of dynamic kernels, from the affinity of each position to 7x7 context regions.

    Half of the channels is mixed with k x k kernels, half with K x K, each in 2 * heads groups.
    A map smaller than K is enlarged for it and the result pooled back.

    Shape:  values (B, C, H, W), query (B, C, H, W), context (B, P, H, W) -> (B, C, H, W).
    Cost:   per position C^2 / 2 for the query, 49 * C / 2 for the affinities, G * 49 * (k^2 + K^2)
            for the logits, (k^2 + K^2) * C / 2 for the sums; 49 * P * C / 2 per image for the key;
            G = 2 * heads. The positions are those of the enlarged map.
    Raises: ValueError for channels that are no multiple of 4 * heads, and for even kernels.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        kernel_size: int,
        *,
        small_kernel_size: int = 5,
        heads: int = 1,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.backend = backend and check_backend(backend)
        self.groups = 2 * heads
        self.kernel_sizes = (small_kernel_size, kernel_size)
        _check(channels, heads, self.kernel_sizes)
        # sqrt(2) smaller than the usual 1 / sqrt(head width), as the authors' code has it
        self.scale = (channels / self.groups) ** -0.5
        half = channels // 2
        self.query = conv_norm(channels, half)
        self.key = nn.Sequential(nn.AdaptiveAvgPool2d(_REGIONS), *conv_norm(context_channels, half))
        self.projection = nn.Conv2d(_REGIONS**2, sum(k * k for k in self.kernel_sizes), 1)
        small, large = (2 * k - 1 for k in self.kernel_sizes)
        self.small_bias = nn.Parameter(torch.zeros(self.groups, small, small))
        self.large_bias = nn.Parameter(torch.zeros(self.groups, large, large))

    def forward(self, values: Tensor, query: Tensor, context: Tensor) -> Tensor:
        """Return the values mixed by the kernels of each position."""
        height, width = values.shape[-2:]
        affinity = self._affinity(query, context)
        halves = self._enlarge(values).chunk(2, dim=1)
        mixed = [
            mix(
                _grouped(half, self.groups), affinity, *window,
                kernel_size=kernel_size, backend=self.backend,
            ).flatten(1, 2)
            for half, window, kernel_size in zip(
                halves, self._windows(), self.kernel_sizes, strict=True
            )
        ]  # fmt: skip
        y = torch.cat(mixed, dim=1)
        small = min(height, width) < max(self.kernel_sizes)
        return F.adaptive_avg_pool2d(y, (height, width)) if small else y

    def kernels(self, query: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return both windows' kernels, (B, G, taps, H, W), on the enlarged map if it is small.

        The taps are those of the shifted window, row by row, and sum to one.
        """
        affinity = self._affinity(query, context)
        small, large = (make_kernels(affinity, *window) for window in self._windows())
        return small, large

    def _affinity(self, query: Tensor, context: Tensor) -> Tensor:
        """Return how each position relates to each region of the context, (B, G, L, H, W)."""
        query, context = self._enlarge(query), self._enlarge(context)
        height, width = query.shape[-2:]
        query_BGCN = _grouped(self.query(query) * self.scale, self.groups).flatten(3)
        key_BGLC = _grouped(self.key(context), self.groups).flatten(3).transpose(2, 3)
        return (key_BGLC @ query_BGCN).reshape(*key_BGLC.shape[:3], height, width)

    def _windows(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return weight, bias and position bias of both windows' logits."""
        taps = [kernel_size**2 for kernel_size in self.kernel_sizes]
        weights = torch.split(self.projection.weight.flatten(1), taps)
        biases = torch.split(self.projection.bias, taps)  # type: ignore[arg-type]
        return list(zip(weights, biases, (self.small_bias, self.large_bias), strict=True))

    def _enlarge(self, x: Tensor) -> Tensor:
        short, kernel_size = min(x.shape[-2:]), max(self.kernel_sizes)
        if short >= kernel_size:
            return x
        # in floating point, as in the authors' code: 17 over 7 times 21 is 50 there, not 51
        height, width = (
            kernel_size if side == short else int(kernel_size / short * side)
            for side in x.shape[-2:]
        )
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        """Describe the layer inside a printed network."""
        return f"kernel_sizes={self.kernel_sizes}, groups={self.groups}{told(self.backend)}"


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Return (B, groups * C, H, W) as (B, groups, C, H, W)."""
    return x.reshape(len(x), groups, x.shape[1] // groups, *x.shape[-2:])


def _check(channels: int, heads: int, kernel_sizes: tuple[int, int]) -> None:
    if heads < 1 or channels % (4 * heads):
        raise ValueError(
            f"ContMix cuts each half of the channels in 2 * heads groups; got channels={channels} "
            f"and heads={heads}. Give a multiple of {4 * max(1, heads)} channels."
        )
    if any(size < 1 or size % 2 == 0 for size in kernel_sizes):
        small, large = kernel_sizes
        raise ValueError(
            f"ContMix needs odd kernels to stay centred; got small_kernel_size={small} and "
            f"kernel_size={large}."
        )
