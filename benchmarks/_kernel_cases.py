"""The operators at layer shapes of published networks, in every form that there is of them."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from string import Formatter
from typing import Any, NamedTuple
from unittest.mock import patch

import _obvious_forms as obvious
import torch
from torch import nn

from ctxbench.kernels import KERNELS, use_backend
from ctxbench.kernels.contmix import mix
from ctxbench.ops import (
    CGConv2d,
    CoConv2d,
    ContextualConv2d,
    ContMixBlock,
    DilatedReparam,
    DynamicBlock,
    RepConvBlock,
    _mixing,
)

CONTEXT = 64  # width of the vector that a contextual convolution sees besides its map
_REGIONS = 49  # of the context, that ContMix relates every position to
# what takes seconds or gigabytes at a larger batch is left out there
_FEW = 8


class Form(NamedTuple):
    """One way of computing an operator; `module` holds the parameters that it computes with.

    The first `obvious` one is what ours are held against. `plain` computes something cheaper, a
    `library` something else of the same shape.
    """

    form: str
    formulation: str
    call: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    module: nn.Module

    @property
    def parameters(self):
        """Return what training differentiates besides the inputs."""
        return tuple(self.module.parameters())


class Setting(NamedTuple):
    """Where and on what the forms run."""

    batch: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"


class Case(NamedTuple):
    """An operator at one shape; `words` names the numbers that `forms` takes after the batch."""

    operator: str
    words: str
    forms: Callable[..., list[Form]]
    numbers: dict[str, Any]

    def __str__(self):
        """Return the shape in words."""
        return self.words.format(**self.numbers)

    def small(self):
        """Return the same case on tiny maps."""
        tiny = {"channels": 32, "size": 9, "kernel": 7}
        return self._replace(
            numbers={key: min(value, tiny.get(key, value)) for key, value in self.numbers.items()}
        )

    def build(self, setting):
        """Return the forms that this setting affords, the same each time."""
        torch.manual_seed(0)
        with torch.device(setting.device):
            forms = self.forms(setting, **self.numbers)
        return [_placed(form, setting) for form in forms if _affords(form, setting)]


def _affords(form, setting):
    if form.form == "triton":
        return setting.device == "cuda" and setting.dtype != torch.float64
    return setting.batch <= _FEW or form.form not in ("obvious", "library")


def _placed(form, setting):
    last = setting.layout == "channels_last"
    form.module.to(setting.dtype)
    if last:
        form.module.to(memory_format=torch.channels_last)
    inputs = tuple(_leaf(x, setting.dtype, last) for x in form.inputs)
    return form._replace(inputs=inputs)


def _leaf(x, dtype, last):
    x = x.detach().to(dtype)
    if last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_()


def _ours(operator, op, *inputs):
    """Return a form a backend."""
    return [
        Form(backend, known.words, partial(_with_backend, backend, op), inputs, op)
        for backend, known in sorted(KERNELS[operator].items(), key=lambda item: item[0] != "torch")
    ]


def _with_backend(backend, op, *inputs):
    with use_backend(backend):
        return op(*inputs)


def _form(form, formulation, op, *inputs, call=None):
    """Return a form that computes with the parameters of `op`; call(op, *inputs) if not as it."""
    return Form(form, formulation, partial(call, op) if call else op, inputs, op)


def _coconv(setting, channels, size, levels):
    op = CoConv2d(channels, channels, levels=levels, bias=False)
    x = torch.randn(setting.batch, channels, size, size)
    plain = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return [
        *_ours("coconv", op, x),
        _form(
            "obvious", "one zero-stuffed kernel for all levels", op, x, call=obvious.zero_stuffed
        ),
        _form("plain", "convolution 3x3", plain, x),
    ]


def _cgc(setting, channels, size):
    op = CGConv2d(channels, channels).eval()
    x = torch.randn(setting.batch, channels, size, size)
    return [
        *_ours("cgc", op, x),
        _form("obvious", "unfold + matmul", op, x, call=obvious.gated_unfold),
        _form("plain", "convolution 3x3", nn.Conv2d(channels, channels, 3, padding=1), x),
    ]


def _ctxconv(setting, channels, size):
    op, inputs = _contextual(setting, channels, size, 3)
    return [
        *_ours("ctxconv", op, *inputs),
        _form(
            "obvious", "torchvision's deform_conv2d, a group a sample", op, *inputs,
            call=obvious.deformed,
        ),
        _form(
            "obvious", "grid_sample a tap + einsum", op, *inputs, call=obvious.sampled_einsum
        ),
        _form("plain", "convolution 3x3", nn.Conv2d(channels, channels, 3, padding=1), inputs[0]),
    ]  # fmt: skip


def _ctxconv_depthwise(setting, channels, size, kernel):
    op, inputs = _contextual(setting, channels, size, kernel, groups=channels)
    return [
        *_ours("ctxconv", op, *inputs),
        _form(
            "obvious", "torchvision's deform_conv2d, a group a channel", op, *inputs,
            call=obvious.deformed,
        ),
        _depthwise(channels, kernel, inputs[0]),
    ]  # fmt: skip


def _ctxconv_kernels(setting, channels, size):
    op, inputs = _contextual(setting, channels, size, 3, parts="kernels")
    return [
        *_ours("ctxconv", op, *inputs),
        _form("obvious", "unfold + matmul", op, *inputs, call=obvious.kernels_unfold),
        _form("plain", "convolution 3x3", nn.Conv2d(channels, channels, 3, padding=1), inputs[0]),
    ]


def _contextual(setting, channels, size, kernel, **options):
    """Return a layer whose generated parts are not zero, so that taps lie between pixels."""
    op = ContextualConv2d(channels, channels, kernel, context_channels=CONTEXT, **options).eval()
    for net in (op.offset_net, op.kernel_net):
        if net is not None:
            nn.init.normal_(net[-1].weight, std=0.01)
            nn.init.normal_(net[-1].bias, std=0.3)
    x = torch.randn(setting.batch, channels, size, size)
    return op, (x, torch.randn(setting.batch, CONTEXT))


class Mixing(nn.Module):
    """The kernel of ContMix alone, with the parameters that its kernels are made from."""

    def __init__(self, heads, kernel):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.randn(kernel**2, _REGIONS) / 7)
        self.bias = nn.Parameter(torch.randn(kernel**2))
        self.table = nn.Parameter(torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1))

    def forward(self, values, affinity, by=mix):
        """Return the mixed values."""
        parts = (self.weight, self.bias, self.table)
        return by(values, affinity, *parts, kernel_size=self.kernel)


def _mix(setting, channels, size, kernel, heads):
    op = Mixing(heads, kernel)
    values = torch.randn(setting.batch, heads, channels // heads, size, size)
    affinity = torch.randn(setting.batch, heads, _REGIONS, size, size)
    forms = [
        *_ours("contmix", op, values, affinity),
        _form(
            "obvious", "all kernels, unfold + index + einsum", op, values, affinity,
            call=partial(_call_by, by=obvious.mixed_by_unfold),
        ),
        _depthwise(channels, kernel, torch.randn(setting.batch, channels, size, size)),
    ]  # fmt: skip
    if obvious.has_natten(setting.device):
        by = partial(obvious.neighbourhood_attention, kernel_size=kernel)
        forms.append(Form("library", "NATTEN's na2d", by, (values,), nn.Module()))
    return forms


def _call_by(op, *inputs, by):
    return op(*inputs, by=by)


def _contmix_block(setting, channels, size, kernel, heads):
    op = ContMixBlock(channels, kernel, heads=heads).eval()
    x = torch.randn(setting.batch, channels, size, size)
    return [
        *_ours("contmix", op, x),
        _form("obvious", "the block, mixing by unfold", op, x, call=_by_unfold),
        _depthwise(channels, kernel, x),
    ]


def _dynamic_block(setting, channels, prior, size, kernel, heads):
    op = DynamicBlock(channels, prior, kernel, heads=heads).eval()
    x = torch.randn(setting.batch, channels, size, size)
    inputs = (x, *(torch.randn(setting.batch, prior, size, size) for _ in range(2)))
    return [
        *_ours("dynamic_block", op, *inputs),
        _form("obvious", "the block, mixing by unfold", op, *inputs, call=_by_unfold),
        _depthwise(channels, kernel, x),
    ]


def _by_unfold(op, *inputs):
    with patch.object(_mixing, "mix", _unfolded):
        return op(*inputs)


def _unfolded(*parts, kernel_size, backend):
    return obvious.mixed_by_unfold(*parts, kernel_size)


def _dilated_reparam(setting, channels, size, kernel):
    branches = DilatedReparam(channels, kernel)
    return _folding(setting, "dilated_reparam", branches, channels, size, kernel)


def _repconv(setting, channels, size, kernel):
    branches = RepConvBlock(channels, kernel)
    return _folding(setting, "repconv", branches, channels, size, kernel)


def _folding(setting, operator, branches, channels, size, kernel):
    """Return our forms folded into one convolution, beside the branches."""
    x = torch.randn(setting.batch, channels, size, size)
    with torch.no_grad():
        branches(x)  # in training mode once: the batch norms get statistics to fold
    branches.eval()
    folded = deepcopy(branches)
    for module in [*folded.modules()]:
        if isinstance(module, DilatedReparam):
            module.fold()
    return [
        *_ours(operator, folded, x),
        _form("obvious", "the sum of the branches", branches, x, call=_plainly),
        _depthwise(channels, kernel, x),
    ]


def _plainly(op, x):
    return _with_backend("reference", op, x)


def _depthwise(channels, kernel, x):
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    return _form("plain", f"depthwise convolution {kernel}x{kernel}", conv, x)


def _cases(operator, forms, words, *rows):
    """Return a case for each row of the numbers that `words` names, in its order."""
    names = dict.fromkeys(name for _, name, _, _ in Formatter().parse(words) if name)
    return [Case(operator, words, forms, dict(zip(names, row, strict=True))) for row in rows]


_DENSE = "{channels}->{channels}, 3x3, {size}x{size}"
_DEPTHWISE = "{channels} channels, {kernel}x{kernel}, {size}x{size}"
CASES = [
    *_cases(
        "coconv", _coconv, f"{_DENSE}, {{levels}} levels",
        (64, 56, 4), (128, 28, 3), (256, 14, 2),
    ),
    *_cases("cgc", _cgc, _DENSE, (64, 56), (128, 28), (256, 14), (512, 7)),
    *_cases("ctxconv", _ctxconv, _DENSE, (128, 28), (512, 7)),
    *_cases("ctxconv depthwise", _ctxconv_depthwise, _DEPTHWISE, (96, 7, 28), (384, 7, 14)),
    *_cases("ctxconv kernels only", _ctxconv_kernels, _DENSE, (128, 28), (512, 7)),
    *_cases(
        "contmix mixing", _mix, f"{_DEPTHWISE}, {{heads}} heads",
        (256, 13, 28, 8), (256, 13, 14, 8), (64, 7, 28, 4),
    ),
    *_cases(
        "dynamic_block", _dynamic_block, f"{_DEPTHWISE}, prior {{prior}}, {{heads}} heads",
        (256, 13, 14, 84, 4),
    ),
    *_cases("contmix", _contmix_block, f"{_DEPTHWISE}, {{heads}} heads", (64, 7, 28, 2)),
    *_cases("dilated_reparam", _dilated_reparam, _DEPTHWISE, (256, 13, 14)),
    *_cases("repconv", _repconv, _DEPTHWISE, (256, 13, 14)),
]  # fmt: skip
