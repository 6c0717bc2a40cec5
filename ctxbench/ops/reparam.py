"""Large depthwise kernels with dilated helpers that fold into one, and the block around them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ctxbench.kernels import Backend, check_backend, told
from ctxbench.kernels.depthwise import depthwise_conv2d
from ctxbench.ops._norm import LayerNorm2d
from ctxbench.ops._parts import (
    LayerScale,
    ResidualDepthwise,
    SqueezeExcite,
    drop_path,
    feed_forward,
)
from ctxbench.ops._spec import Layer, OpSpec, check_numbers, one_map

# kernel size -> (size, dilation) of the branches beside the large kernel
BRANCHES = {
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
}
_EPS = 1e-5
_NORM = ("weight", "bias", "running_mean", "running_var")
_SOURCE = "arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b"


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise `nn.Conv2d` with "same" padding and stride 1, which has backends.

    Shape: (B, C, H, W) -> (B, C, H, W).
    Cost:  kernel_size^2 * C MACs per pixel.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        bias: bool = True,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(
            channels, channels, kernel_size,
            padding=dilation * (kernel_size // 2), dilation=dilation, groups=channels, bias=bias,
        )  # fmt: skip
        self.backend = backend and check_backend(backend)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        return depthwise_conv2d(
            x, self.weight, self.bias, dilation=self.dilation[0], backend=self.backend
        )

    def extra_repr(self) -> str:
        """Describe the layer inside a printed network."""
        return f"{super().extra_repr()}{told(self.backend)}"  # type: ignore[no-untyped-call]


class DilatedReparam(nn.Module):
    """A large depthwise convolution plus dilated small ones, each with its batch norm.

    The branches help training alone: `fold` puts all of them into the one large kernel, with a
    bias, and `folded=True` builds what that leaves.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   C * (K^2 + the sum of size^2 over the branches) MACs per pixel; folded C * K^2.
    Raises: ValueError for a kernel size without known branches when none are given, and for
            branches that are even, reach beyond the kernel, or come twice.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b; arXiv:2311.15599.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        branches: Sequence[tuple[int, int]] | None = None,
        folded: bool = False,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.kernel_size = channels, kernel_size
        self._backend = backend
        self.sizes = tuple(_branches(kernel_size, branches))
        if folded:
            self.conv = self._large()
            return
        parts = {f"{size}_{rate}": self._branch(size, rate) for size, rate in self.sizes}
        self.branches = nn.ModuleDict({"large": self._branch(kernel_size, 1), **parts})

    @property
    def folded(self) -> bool:
        """Whether all branches are one convolution."""
        return "conv" in self._modules

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches."""
        if self.folded:
            return self.conv(x)  # type: ignore[no-any-return]
        large, *others = self.branches.values()
        y: Tensor = large(x)
        for branch in others:
            y = y + branch(x)
        return y

    @torch.no_grad()
    def fold(self) -> None:
        """Become one convolution that computes what the branches do in eval mode."""
        if self.folded:
            return
        weight, bias = _fold(self.branches.state_dict(), self.kernel_size)
        conv = self._large().to(weight).train(self.training)
        conv.requires_grad_(any(p.requires_grad for p in self.branches.parameters()))
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
        del self.branches
        self.conv = conv

    def branch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every entry that the branches have, or had, in a state dict."""
        kernels = {"large": self.kernel_size, **{f"{k}_{rate}": k for k, rate in self.sizes}}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, size in kernels.items():
            shapes[f"{name}.0.weight"] = (self.channels, 1, size, size)
            shapes |= {f"{name}.1.{part}": (self.channels,) for part in _NORM}
        return shapes

    def _large(self) -> nn.Conv2d:
        return DepthwiseConv2d(self.channels, self.kernel_size, backend=self._backend)

    def _branch(self, size: int, rate: int) -> nn.Sequential:
        conv = DepthwiseConv2d(
            self.channels, size, dilation=rate, bias=False, backend=self._backend
        )
        return nn.Sequential(conv, nn.BatchNorm2d(self.channels, eps=_EPS))


def fold_state(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Fold the branches in a state dict wherever `model` holds them as one convolution.

    Raises: ValueError naming the first entry that is missing, left over, or of another shape.
    """
    for name, module in model.named_modules():
        if not (isinstance(module, DilatedReparam) and module.folded):
            continue
        prefix = f"{name}." if name else ""
        start = f"{prefix}branches."
        entries = {
            key.removeprefix(start): value for key, value in state.items() if key.startswith(start)
        }
        if not entries:
            continue  # folded already
        _check_branches(start, entries, module.branch_shapes())
        weight, bias = _fold(entries, module.kernel_size)
        state = {key: value for key, value in state.items() if not key.startswith(start)}
        state |= {f"{prefix}conv.weight": weight, f"{prefix}conv.bias": bias}
    return state


class RepConvBlock(nn.Module):
    """OverLoCK's static block: local, large-kernel and channel mixing beside the identity.

    `scaled` puts a learned scale and bias for each channel on the identity.

    Shape:  (B, C, H, W) -> (B, C, H, W).
    Cost:   C * (9 + R) + hidden * (2 * C + 9) MACs per pixel with hidden = ratio * C and R that of
            DilatedReparam for one channel, and 2 * C * max(16, C // 8) per image.
    Raises: ValueError for a kernel size that DilatedReparam does not know.
    Source: arXiv:2502.20087, section 3; LMMMEng/OverLoCK@2c8ab3b.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        ratio: int = 4,
        scaled: bool = False,
        drop_path_rate: float = 0.0,
        folded: bool = False,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.local = ResidualDepthwise(channels)
        self.norm = LayerNorm2d(channels, eps=1e-6)
        self.spatial = DilatedReparam(channels, kernel_size, folded=folded, backend=backend)
        self.spatial_norm = nn.BatchNorm2d(channels)
        self.excite = SqueezeExcite(channels)
        self.ffn = feed_forward(channels, ratio * channels)
        self.scale = LayerScale(channels) if scaled else nn.Identity()
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled identity plus the residual branch."""
        x = self.local(x)
        y = self.spatial_norm(self.spatial(self.norm(x)))
        y = self.ffn(self.excite(y))
        return self.scale(x) + self.drop_path(y)  # type: ignore[no-any-return]


def _branches(
    kernel_size: int, given: Sequence[tuple[int, int]] | None
) -> Sequence[tuple[int, int]]:
    if given is None:
        if kernel_size not in BRANCHES:
            known = ", ".join(map(str, sorted(BRANCHES)))
            raise ValueError(
                f"DilatedReparam knows the branches of kernel sizes {known}; got "
                f"kernel_size={kernel_size}. Give branches=[(size, dilation), ...] for any other."
            )
        return BRANCHES[kernel_size]
    odd = kernel_size % 2 == 1 and all(size % 2 == 1 and rate > 0 for size, rate in given)
    if not odd or any((size - 1) * rate >= kernel_size for size, rate in given):
        raise ValueError(
            f"DilatedReparam folds odd branches inside an odd kernel; got kernel_size="
            f"{kernel_size} and (size, dilation) {tuple(given)}."
        )
    if len(set(given)) < len(given):
        raise ValueError(f"DilatedReparam takes every branch once; got {tuple(given)}.")
    return given


def _check_branches(
    start: str, entries: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    given = {k: tuple(v.shape) for k, v in entries.items() if not k.endswith("batches_tracked")}
    odd = [key for key in {**wanted, **given} if given.get(key) != wanted.get(key)]
    if odd:
        raise ValueError(
            f"{start}{odd[0]} is {given.get(odd[0], 'missing')} in the file and "
            f"{wanted.get(odd[0], 'missing')} in the network, so the branches cannot be folded."
        )


def _fold(entries: Mapping[str, Tensor], kernel_size: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the one convolution from the entries of the branches.

    Adds up in float64, so that folding half precision loses nothing more.
    """
    large = entries["large.0.weight"]
    weight = large.new_zeros(large.shape, dtype=torch.float64)
    bias = weight.new_zeros(len(large))
    for name in dict.fromkeys(key.split(".")[0] for key in entries):
        rate = 1 if name == "large" else int(name.split("_")[1])
        kernel = entries[f"{name}.0.weight"].double()
        gain, offset, mean, variance = (entries[f"{name}.1.{part}"].double() for part in _NORM)
        scale = gain / (variance + _EPS).sqrt()
        reach = (kernel.shape[-1] - 1) * rate + 1
        first = (kernel_size - reach) // 2
        taps = slice(first, first + reach, rate)  # the zeros between the taps stay
        weight[..., taps, taps] += kernel * scale[:, None, None, None]
        bias += offset - mean * scale
    return weight.to(large.dtype), bias.to(large.dtype)


def _dilated_reparam(
    *,
    channels: int = 64,
    kernel: int = 7,
    folded: bool = False,
    backend: Backend | None = None,
) -> DilatedReparam:
    check_numbers(channels=channels)
    return DilatedReparam(channels, kernel, folded=folded, backend=backend)


def _repconv(
    *,
    channels: int = 64,
    kernel: int = 7,
    ratio: int = 4,
    scaled: bool = False,
    folded: bool = False,
    backend: Backend | None = None,
) -> RepConvBlock:
    check_numbers(channels=channels, ratio=ratio)
    return RepConvBlock(
        channels, kernel, ratio=ratio, scaled=scaled, folded=folded, backend=backend
    )


DILATED_REPARAM_LAYER = Layer(_dilated_reparam, one_map)
REPCONV_LAYER = Layer(_repconv, one_map)
DILATED_REPARAM = OpSpec(
    build=lambda: DilatedReparam(8, 7),
    inputs=lambda b, h, w: (torch.randn(b, 8, h, w),),
    source=_SOURCE,
)
REPCONV = OpSpec(
    build=lambda: RepConvBlock(8, 7, scaled=True),
    inputs=lambda b, h, w: (torch.randn(b, 8, h, w),),
    source=_SOURCE,
)
