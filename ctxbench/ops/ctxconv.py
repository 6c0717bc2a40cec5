"""Contextual convolution: a class prior bends the sampling grid and the kernel of a convolution."""

from collections.abc import Mapping
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ctxbench.kernels import Backend, check_backend, told
from ctxbench.kernels.ctxconv import Window, contextual_conv2d
from ctxbench.ops._conv import (
    add_bias,
    check_input,
    check_kernel,
    check_replaceable,
    check_zero_padding,
    initialise,
    take_over,
)
from ctxbench.ops._norm import LayerNorm2d
from ctxbench.ops._spec import Layer, OpSpec, one_map, or_same

Parts = Literal["both", "offsets", "kernels"]
Norm = Literal["batch", "layer"]


class ContextualConv2d(nn.Module):
    """A convolution whose taps a prior displaces and weights, and whose kernels it changes.

    Two small networks see the features and the context vector. One gives every output pixel the
    displacement of each tap and, through a sigmoid, a factor (the mask); the other gives every
    sample an offset of the kernels: one map shared by all output channels where the convolution is
    dense, one kernel a channel where it is depthwise. Both end in zeros: a new layer samples where
    the plain convolution does, and gives half of its output, because the mask begins at 1/2.

    `parts` keeps one of the two networks alone, `mask=False` leaves the factors out, and without
    `context_channels` both see the features only: then `forward` takes no context.
    torch.compile's inductor compiles parts="kernels" anew for every batch size, since the samples
    are groups.

    Shape:  (B, C, H, W) and (B, context_channels) -> (B, O, ceil(H / stride), ceil(W / stride)).
    Cost:   with P output and Q input pixels, k x k kernels, S = C + context_channels and
            h = max(1, C // (4 * max(1, (k // 3)**2))) hidden channels, an image takes
            k*k * C * O / groups * P MACs of the convolution, S * h * Q + k*k * h * 3 * k*k * P of
            the displacements (2 instead of 3 without the mask), and S * h + h * k*k * C of the
            kernels. Bilinear sampling is counted in samples, not in MACs.
    Raises: ValueError for even kernels, groups other than 1 or C = O, and an input or a context of
            other channels.
    Source: ICLR 2023, OpenReview PldynS56bN, section 3;
            aliyun/Contextual-Convolutional-Networks@167050e.
    """

    def __init__(  # noqa: PLR0913 - the arguments of nn.Conv2d, and the switches of the ablation
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        context_channels: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        parts: Parts = "both",
        mask: bool = True,
        norm: Norm = "batch",
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        _check_choices(parts, norm)
        _check_numbers(in_channels, out_channels, context_channels, stride, dilation)
        _check_window(in_channels, out_channels, kernel_size, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.context_channels, self.mask = context_channels, mask
        self.backend = backend and check_backend(backend)
        self.kernel_size = (kernel_size, kernel_size)
        self.stride, self.dilation = (stride, stride), (dilation, dilation)
        self.padding = (dilation * (kernel_size // 2),) * 2
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        seen = in_channels + (context_channels or 0)
        hidden = max(1, in_channels // (4 * max(1, (kernel_size // 3) ** 2)))
        self.offset_net = self._offset_net(seen, hidden, norm) if parts != "kernels" else None
        self.kernel_net = self._kernel_net(seen, hidden, norm) if parts != "offsets" else None
        self.reset_parameters()

    def _offset_net(self, seen: int, hidden: int, norm: Norm) -> nn.Sequential:
        taps = self.kernel_size[0] ** 2
        return nn.Sequential(
            nn.Conv2d(seen, hidden, 1),
            nn.BatchNorm2d(hidden) if norm == "batch" else LayerNorm2d(hidden, eps=1e-6),
            nn.ReLU(inplace=True),
            nn.Conv2d(
                hidden, (3 if self.mask else 2) * taps, self.kernel_size,
                self.stride, self.padding, self.dilation,
            ),
        )  # fmt: skip

    def _kernel_net(self, seen: int, hidden: int, norm: Norm) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(seen, hidden),
            nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, self.in_channels * self.kernel_size[0] ** 2),
        )

    def reset_parameters(self) -> None:
        """Initialise the static kernel as `nn.Conv2d` does, and what is generated to zero."""
        initialise(self.weight, self.bias)
        self.reset_generated()

    def reset_generated(self) -> None:
        """Set the last layers of both networks to zero: no displacement, no kernel offset."""
        for net in (self.offset_net, self.kernel_net):
            if net is not None:
                nn.init.zeros_(net[-1].weight)  # type: ignore[arg-type]
                nn.init.zeros_(net[-1].bias)  # type: ignore[arg-type]

    def sampling(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the displacements (B, 2*k*k, Y, X) and the mask (B, k*k, Y, X) of every tap.

        A displacement is (dy, dx) in pixels.
        Raises: ValueError if the layer displaces nothing (parts="kernels").
        """
        if self.offset_net is None:
            raise ValueError("ContextualConv2d of parts='kernels' has no sampling displacements.")
        self._check_inputs(x, context)
        if context is not None:
            everywhere = context[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([everywhere, x], dim=1)
        taps = self.kernel_size[0] ** 2
        generated = self.offset_net(x)
        if not self.mask:
            return generated, None
        offset, mask = generated.split([2 * taps, taps], dim=1)
        return offset, mask.sigmoid()

    def kernels(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the kernels of every sample, (B, O, C / groups, k, k): static plus offset.

        The batch is 1 if no kernel is changed (parts="offsets").
        """
        self._check_inputs(x, context)
        change_BCT = self._change(x, context)
        if change_BCT is None:
            return self.weight[None]
        # a dense convolution has one offset for all output channels
        shape = (1, self.in_channels) if self.groups == 1 else (self.in_channels, 1)
        return self.weight + change_BCT.reshape(len(x), *shape, *self.kernel_size)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Convolve x where and with what the prior says."""
        offset, mask = (None, None) if self.offset_net is None else self.sampling(x, context)
        window = Window(self.kernel_size[0], self.stride[0], self.dilation[0])
        y = contextual_conv2d(
            x, self.weight, self._change(x, context), offset, mask,
            window=window, groups=self.groups, backend=self.backend,
        )  # fmt: skip
        return add_bias(y, self.bias)

    def _change(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """Return the kernel offset of every sample, (B, C, k * k)."""
        if self.kernel_net is None:
            return None
        seen = x.mean((2, 3))
        if context is not None:
            seen = torch.cat([context, seen], dim=1)
        change: Tensor = self.kernel_net(seen)
        return change.reshape(len(x), self.in_channels, self.kernel_size[0] ** 2)

    def _check_inputs(self, x: Tensor, context: Tensor | None) -> None:
        check_input("ContextualConv2d", self.in_channels, x)
        wanted = None if self.context_channels is None else (len(x), self.context_channels)
        given = None if context is None else tuple(context.shape)
        if given != wanted:
            raise ValueError(
                f"ContextualConv2d of context_channels={self.context_channels} takes a context of "
                f"shape {wanted}; got {given}."
            )

    def extra_repr(self) -> str:
        """Describe the layer inside a printed network."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, context_channels={self.context_channels}, "
            f"offsets={self.offset_net is not None}, kernels={self.kernel_net is not None}, "
            f"mask={self.mask}{told(self.backend)}"
        )


def _check_choices(parts: str, norm: str) -> None:
    if parts not in get_args(Parts):
        raise ValueError(
            f"ContextualConv2d generates parts='both', 'offsets' or 'kernels'; got parts={parts!r}."
        )
    if norm not in get_args(Norm):
        raise ValueError(
            f"ContextualConv2d normalises with norm='batch' or 'layer'; got norm={norm!r}."
        )


def _check_numbers(
    in_channels: int, out_channels: int, context_channels: int | None, stride: int, dilation: int
) -> None:
    given = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "context_channels": 1 if context_channels is None else context_channels,
        "stride": stride,
        "dilation": dilation,
    }
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"ContextualConv2d needs {name} of at least 1; got {name}={value}.")


def _check_window(in_channels: int, out_channels: int, kernel_size: int, groups: int) -> None:
    check_kernel("ContextualConv2d", kernel_size)
    if groups != 1 and not groups == in_channels == out_channels:
        raise ValueError(
            f"ContextualConv2d is defined for groups=1 and for a depthwise convolution "
            f"(groups = in_channels = out_channels); got groups={groups} with {in_channels} and "
            f"{out_channels} channels."
        )


def from_conv(
    conv: nn.Conv2d,
    *,
    prior: bool = True,
    parts: Parts = "both",
    mask: bool = True,
    backend: Backend | None = None,
) -> ContextualConv2d:
    """Return the contextual convolution that takes over the weight and the bias of a plain one.

    Raises: ValueError, with the reason alone, for a convolution that it cannot replace; and with a
            prior, which no network but a contextual one hands to its convolutions.
    """
    if prior:
        raise ValueError(
            "takes a class prior, a second input that the network does not make: use "
            "ctxconv:prior=false, or a contextual network such as ctx_resnet50"
        )
    if prod(conv.kernel_size) == 1:
        raise ValueError("1x1, which the paper leaves plain")
    check_replaceable(conv)
    check_zero_padding(conv, "ctxconv")
    for name in ("kernel_size", "stride", "dilation"):
        first, second = getattr(conv, name)
        if first != second:
            raise ValueError(f"{name} {(first, second)}, where ctxconv takes one number")
    op = ContextualConv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0],
        stride=conv.stride[0], dilation=conv.dilation[0], groups=conv.groups,
        bias=conv.bias is not None, parts=parts, mask=mask, backend=backend,
    ).to(conv.weight)  # fmt: skip
    take_over(op, conv)
    return op


def _layer(  # noqa: PLR0913 - the arguments of the class
    *,
    channels: int = 64,
    out_channels: int | None = None,
    kernel: int = 3,
    context_channels: int | None = None,
    stride: int = 1,
    dilation: int = 1,
    depthwise: bool = False,
    bias: bool = True,
    parts: Parts = "both",
    mask: bool = True,
    norm: Norm = "batch",
    backend: Backend | None = None,
) -> ContextualConv2d:
    op = ContextualConv2d(
        channels, or_same(out_channels, channels), kernel,
        context_channels=context_channels, stride=stride, dilation=dilation,
        groups=channels if depthwise else 1, bias=bias, parts=parts, mask=mask, norm=norm,
        backend=backend,
    )  # fmt: skip
    return _nudged(op, 0.01)


def _inputs(options: Mapping[str, Any], batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    x = one_map(options, batch, height, width)
    context_channels = options["context_channels"]
    return x if context_channels is None else (*x, torch.randn(batch, context_channels))


def _nudged(op: ContextualConv2d, std: float) -> ContextualConv2d:
    """Draw the last layers of both networks, which training leaves anything but zero.

    A new layer generates zeros: every tap falls on a whole pixel, where sampling has a kink and
    reads what lies in order, and no kernel changes. Neither its gradient nor its time is that of
    a layer in use.
    """
    for net in (op.offset_net, op.kernel_net):
        if net is not None:
            nn.init.normal_(net[-1].weight, std=std)  # type: ignore[arg-type]
            nn.init.normal_(net[-1].bias, std=0.3)  # type: ignore[arg-type]
    return op


LAYER = Layer(_layer, _inputs)
SPEC = OpSpec(
    build=lambda: _nudged(ContextualConv2d(8, 6, context_channels=4), 0.1),
    inputs=lambda b, h, w: (torch.randn(b, 8, h, w), torch.randn(b, 4)),
    source="ICLR 2023, OpenReview PldynS56bN; aliyun/Contextual-Convolutional-Networks@167050e",
    from_conv=from_conv,
)
