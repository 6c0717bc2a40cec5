"""The operators at layer shapes of published networks: ours, the obvious formulation, the plain.

The obvious ones compute with the parameters of ours, so that outputs and gradients can be compared.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from string import Formatter
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from ctxbench.kernels.contmix._reference import aggregate
from ctxbench.ops import (
    CGConv2d,
    CoConv2d,
    ContextualConv2d,
    ContMixBlock,
    DilatedReparam,
    DynamicBlock,
    RepConvBlock,
    contmix,
)

BATCH = 4
CONTEXT = 64  # width of the vector that a contextual convolution sees besides its map


class Form(NamedTuple):
    """One way of computing an operator; `parameters` are those that training differentiates."""

    form: str
    formulation: str
    call: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    parameters: tuple[nn.Parameter, ...] = ()


class Case(NamedTuple):
    """An operator at one shape; `words` names the numbers that `forms` takes."""

    operator: str
    words: str
    forms: Callable[..., list[Form]]
    numbers: dict[str, Any]

    def __str__(self):
        """Return the shape in words."""
        return self.words.format(**self.numbers)

    def small(self):
        """Return the same case on tiny maps."""
        tiny = {"channels": 32, "size": 9, "batch": 2, "kernel": 7}
        return self._replace(
            numbers={key: min(value, tiny.get(key, value)) for key, value in self.numbers.items()}
        )

    def build(self, dtype=torch.float32):
        """Return the forms, the same each time."""
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        return self.forms(**self.numbers)


# coconv


def _coconv(batch, channels, size, levels):
    op, x = CoConv2d(channels, channels, levels=levels), _map(batch, channels, size)
    plain = nn.Conv2d(channels, channels, 3, padding=1)
    return [
        _form("ours", "one convolution a level", op, x),
        _form("obvious", "one zero-stuffed kernel for all levels", op, x, call=_zero_stuffed),
        _form("plain", "convolution 3x3", plain, x),
    ]


def _zero_stuffed(op, x):
    """Put all levels into one kernel that reaches as far as the largest dilation."""
    reach = max(rate for _, rate in op.levels)
    kernel = op.weight.new_zeros(*op.weight.shape[:2], 2 * reach + 1, 2 * reach + 1)
    start = 0
    for width, rate in op.levels:
        outputs = slice(start, start + width)
        taps = slice(reach - rate, reach + rate + 1, rate)
        kernel[outputs, :, taps, taps] = op.weight[outputs]
        start += width
    return F.conv2d(x, kernel, op.bias, padding=reach)


# cgc


def _cgc(batch, channels, size):
    op, x = CGConv2d(channels, channels).eval(), _map(batch, channels, size)
    plain = nn.Conv2d(channels, channels, 3, padding=1)
    return [
        _form("ours", "grouped convolution, unfold where patches are few", op, x),
        _form("obvious", "unfold + matmul", op, x, call=_gated_unfold),
        _form("plain", "convolution 3x3", plain, x),
    ]


def _gated_unfold(op, x):
    return _unfold_matmul(x, op.weight * op.gates(x), op.bias)


def _unfold_matmul(x, weight_BOCYX, bias):
    size = weight_BOCYX.shape[-1]
    columns = F.unfold(x, size, padding=size // 2)
    y = weight_BOCYX.flatten(2) @ columns
    return y.unflatten(2, x.shape[2:]) + bias[:, None, None]


# ctxconv


def _ctxconv(batch, channels, size):
    op, inputs = _contextual(batch, channels, size, 3)
    return [
        _form("ours", "weighted lookups + matmul", op, *inputs),
        _form("obvious", "grid_sample a tap + einsum", op, *inputs, call=_sampled_einsum),
        _form("obvious", "deform_conv2d, a group a sample", op, *inputs, call=_deformed),
        _form("plain", "convolution 3x3", nn.Conv2d(channels, channels, 3, padding=1), inputs[0]),
    ]


def _ctxconv_depthwise(batch, channels, size, kernel):
    op, inputs = _contextual(batch, channels, size, kernel, groups=channels)
    return [
        _form("ours", "weighted lookups, tap by tap", op, *inputs),
        _form("obvious", "block-diagonal deform_conv2d", op, *inputs, call=_scattered),
        _form("obvious", "deform_conv2d, a group a channel", op, *inputs, call=_deformed),
        _depthwise(channels, kernel, inputs[0]),
    ]


def _ctxconv_kernels(batch, channels, size):
    op, inputs = _contextual(batch, channels, size, 3, parts="kernels")
    return [
        _form("ours", "grouped convolution, unfold where patches are few", op, *inputs),
        _form("obvious", "unfold + matmul", op, *inputs, call=_kernels_unfold),
        _form("plain", "convolution 3x3", nn.Conv2d(channels, channels, 3, padding=1), inputs[0]),
    ]


def _contextual(batch, channels, size, kernel, **options):
    """Return a layer whose generated parts are not zero, so that taps lie between pixels."""
    op = ContextualConv2d(channels, channels, kernel, context_channels=CONTEXT, **options).eval()
    for net in (op.offset_net, op.kernel_net):
        if net is not None:
            nn.init.normal_(net[-1].weight, std=0.01)
            nn.init.normal_(net[-1].bias, std=0.3)
    context = torch.randn(batch, CONTEXT, requires_grad=True)
    return op, (_map(batch, channels, size), context)


def _sampled_einsum(op, x, context):
    size = op.kernel_size[0]
    offset, mask = op.sampling(x, context)
    patches_BCNYX = torch.stack(
        [
            _sample(
                x, offset[:, 2 * tap : 2 * tap + 2], *(at - size // 2 for at in divmod(tap, size))
            )
            * mask[:, tap : tap + 1]
            for tap in range(size**2)
        ],
        dim=2,
    )
    kernels_BOCN = op.kernels(x, context).flatten(3)
    y = torch.einsum("bocn,bcnyx->boyx", kernels_BOCN, patches_BCNYX)
    return y + op.bias[:, None, None]


def _sample(x, offset, down, right):
    """Read x at every position, that many pixels further on."""
    height, width = x.shape[2:]
    rows = torch.arange(height)[:, None] + down + offset[:, 0]
    columns = torch.arange(width) + right + offset[:, 1]
    grid = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], dim=-1)
    return F.grid_sample(x, grid, "bilinear", "zeros", align_corners=True)


def _deformed(op, x, context, kernels_BOCYX=None):
    """Convolve with the samples as groups of one batch element."""
    kernels_BOCYX = op.kernels(x, context) if kernels_BOCYX is None else kernels_BOCYX
    offset, mask = (part.flatten(0, 1)[None] for part in op.sampling(x, context))
    together = x.flatten(0, 1)[None]
    y = deform_conv2d(together, offset, kernels_BOCYX.flatten(0, 1), padding=op.padding, mask=mask)
    return y.reshape(len(x), -1, *y.shape[2:]) + op.bias[:, None, None]


def _scattered(op, x, context):
    """Put every sample's depthwise kernels on the diagonal of a dense one."""
    kernels_BC1YX = op.kernels(x, context)
    diagonal = torch.arange(op.in_channels)
    dense = x.new_zeros(len(x), op.in_channels, op.in_channels, *op.kernel_size)
    dense[:, diagonal, diagonal] = kernels_BC1YX[:, :, 0]
    return _deformed(op, x, context, dense)


def _kernels_unfold(op, x, context):
    return _unfold_matmul(x, op.kernels(x, context), op.bias)


# contmix


def _aggregation(batch, channels, size, kernel, heads):
    values = torch.randn(batch, heads, channels // heads, size, size)
    weights = torch.randn(batch, heads, kernel**2, size, size).softmax(2)
    inputs = (values.requires_grad_(), weights.requires_grad_())
    return [
        Form("ours", "a view a tap", partial(aggregate, kernel_size=kernel), inputs),
        Form("obvious", "unfold + index + einsum", partial(_unfolded, kernel_size=kernel), inputs),
        _depthwise(channels, kernel, _map(batch, channels, size)),
    ]


def _unfolded(values_BGCHW, weights_BGTHW, kernel_size):
    """Copy the whole window of every position, shifted inward near a border, and add it up."""
    batch, groups, channels, *sides = values_BGCHW.shape
    windows = F.unfold(values_BGCHW.flatten(1, 2), kernel_size)
    whole = [side - kernel_size + 1 for side in sides]
    windows = windows.reshape(batch, groups, channels, kernel_size**2, *whole)
    rows, columns = (
        (torch.arange(side) - kernel_size // 2).clamp(0, side - kernel_size) for side in sides
    )
    windows_BGCTHW = windows[..., rows[:, None], columns]
    return torch.einsum("bgcthw,bgthw->bgchw", windows_BGCTHW, weights_BGTHW)


def _contmix_block(batch, channels, size, kernel, heads):
    op, x = ContMixBlock(channels, kernel, heads=heads).eval(), _map(batch, channels, size)
    return [
        _form("ours", "the block with our aggregation", op, x),
        _form("obvious", "the block with unfold + index + einsum", op, x, call=_by_unfold),
        _depthwise(channels, kernel, x),
    ]


def _dynamic_block(batch, channels, prior, size, kernel, heads):
    op = DynamicBlock(channels, prior, kernel, heads=heads).eval()
    x = _map(batch, channels, size)
    inputs = (x, _map(batch, prior, size), _map(batch, prior, size))
    return [
        _form("ours", "the block with our aggregation", op, *inputs),
        _form("obvious", "the block with unfold + index + einsum", op, *inputs, call=_by_unfold),
        _depthwise(channels, kernel, x),
    ]


def _by_unfold(op, *inputs):
    with patch.object(contmix, "aggregate", _unfolded):
        return op(*inputs)


# dilated_reparam, repconv


def _dilated_reparam(batch, channels, size, kernel):
    return _folding(DilatedReparam(channels, kernel), channels, kernel, _map(batch, channels, size))


def _repconv(batch, channels, size, kernel):
    return _folding(RepConvBlock(channels, kernel), channels, kernel, _map(batch, channels, size))


def _folding(branches, channels, kernel, x):
    with torch.no_grad():
        branches(x)  # in training mode once: the batch norms get statistics to fold
    branches.eval()
    folded = deepcopy(branches)
    for module in [*folded.modules()]:
        if isinstance(module, DilatedReparam):
            module.fold()
    return [
        _form("ours", "folded into one convolution", folded, x),
        _form("obvious", "the sum of the branches", branches, x),
        _depthwise(channels, kernel, x),
    ]


# what the forms share


def _form(form, formulation, op, *inputs, call=None):
    """Return a form that computes with the parameters of `op`; call(op, *inputs) if not as it."""
    return Form(
        form, formulation, partial(call, op) if call else op, inputs, tuple(op.parameters())
    )


def _depthwise(channels, kernel, x):
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    return _form(
        "plain", f"depthwise convolution {kernel}x{kernel} of {channels} channels", conv, x
    )


def _map(batch, channels, size):
    return torch.randn(batch, channels, size, size, requires_grad=True)


def _cases(operator, forms, words, *rows):
    """Return a case for each row of the numbers that `words` names, in its order."""
    words = f"{words}, batch {{batch}}"
    names = dict.fromkeys(name for _, name, _, _ in Formatter().parse(words) if name)
    return [
        Case(operator, words, forms, dict(zip(names, (*row, BATCH), strict=True))) for row in rows
    ]


_DENSE = "{channels}->{channels}, 3x3, {size}x{size}"
_DEPTHWISE = "{channels} channels, {kernel}x{kernel}, {size}x{size}"
CASES = [
    *_cases("coconv", _coconv, f"{_DENSE}, {{levels}} levels", (64, 56, 4), (128, 28, 3)),
    *_cases("cgc", _cgc, _DENSE, (64, 56), (256, 14), (512, 7)),
    *_cases("ctxconv", _ctxconv, _DENSE, (128, 28), (512, 7)),
    *_cases("ctxconv depthwise", _ctxconv_depthwise, _DEPTHWISE, (192, 7, 28), (384, 7, 14)),
    *_cases("ctxconv kernels only", _ctxconv_kernels, _DENSE, (128, 28), (512, 7)),
    *_cases(
        "contmix aggregation", _aggregation, f"{_DEPTHWISE}, {{heads}} heads",
        (256, 13, 14, 8), (64, 7, 28, 4),
    ),
    *_cases(
        "dynamic_block", _dynamic_block, f"{_DEPTHWISE}, prior {{prior}}, {{heads}} heads",
        (256, 13, 14, 84, 4),
    ),
    *_cases(
        "contmix", _contmix_block, f"{_DEPTHWISE}, {{heads}} heads", (64, 7, 28, 2)
    ),
    *_cases("dilated_reparam", _dilated_reparam, _DEPTHWISE, (256, 13, 14)),
    *_cases("repconv", _repconv, _DEPTHWISE, (256, 13, 14)),
]  # fmt: skip
