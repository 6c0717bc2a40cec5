"""The gated weights of a few samples at a time, then the convolution of each sample.

How many is bounded by numbers, not by the batch: gated weights are made in pieces of some samples,
or of some outputs of one sample where its weight is large, and made again for the gradients. So no
gate outlives its piece, and a piece is convolved while it is near the processor. Each sample alone
keeps a map channels last, which convolving the samples as groups does not, and takes a third of the
time of that at 512 channels of 7x7, half of it at 256 of 14x14 (batch 8, float32, one core).

On a CPU the results, gradients too, are the same in every run.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ctxbench.kernels.cgc._shape import Pair, empty_output, padding_of

# Numbers in a piece. A 3x3 weight of 512 channels, 9 MB in float32, is two of them.
_PIECE = 5 << 18
# Weights of fewer numbers, as of 32 channels: the samples of a piece are groups of one convolution,
# 0.6 to 0.9 of the time of calls for each of them (batch 128, 16 of 32x32, 32 of 16x16). From 64
# channels on, such groups take 1.2 to 3 times the time of the calls.
_SMALL = 10_000
# Weights of fewer numbers, as of 128 channels, are groups in float32 and the default layout, too.
_GROUPED = 1 << 18
# Numbers of the map in such a call, so that its result is near the processor when it is copied.
_MAP = 1 << 18
# Halves of a logit whose exponentials neither overflow nor lose bits in float32.
_MODERATE = 80.0


class _Geometry(NamedTuple):
    """How to convolve, in the order in which torch.convolution takes it."""

    stride: Pair
    padding: Pair
    dilation: Pair


class _Piece(NamedTuple):
    """Some samples, and some outputs of every group; several groups are not cut."""

    samples: slice
    rows: slice


class _Gates:
    """Makes gates and gated weights, (b, G, R, T, C) with the channels of a group innermost.

    Suffixes: B batch, G groups, R outputs and C input channels of a group, T taps. This is what a
    convolution in channels_last takes without copying, and what is fastest to fill.
    """

    def __init__(self, weight: Tensor, input_BCT: Tensor, output_BOT: Tensor, groups: int) -> None:
        exact = torch.promote_types(weight.dtype, torch.float32)
        batch, _, taps = input_BCT.shape
        rows, channels = len(weight) // groups, weight.shape[1]
        weight_OTC = weight.to(exact).flatten(2).transpose(1, 2).contiguous()
        self.weight_GRTC = weight_OTC.reshape(groups, rows, taps, channels)
        input_BGCT = input_BCT.to(exact).reshape(batch, groups, channels, taps)
        self.input_BG1TC = input_BGCT.transpose(2, 3).contiguous().unsqueeze(2)
        self.output_BGRT1 = output_BOT.to(exact).reshape(batch, groups, rows, taps, 1)
        halves = (self.input_BG1TC, self.output_BGRT1)
        # A product and a division take half of the time of sum, sigmoid and product. Not on a GPU,
        # which reads its memory no less for them, and would be waited for here.
        self.as_product = not weight.is_cuda and all(bool(_moderate(half)) for half in halves)
        if self.as_product:
            self.input_BG1TC, self.output_BGRT1 = (half.neg().exp_() for half in halves)

    def gates(self, piece: _Piece) -> Tensor:
        """Return the gates of a piece."""
        return self._denominators(piece).reciprocal_() if self.as_product else self._sigmoids(piece)

    def weights(self, piece: _Piece) -> Tensor:
        """Return the gated weights of a piece."""
        weight = self.weight_GRTC[:, piece.rows]
        if self.as_product:
            below = self._denominators(piece)
            return torch.div(weight, below, out=below)
        return self._sigmoids(piece).mul_(weight)

    def _denominators(self, piece: _Piece) -> Tensor:
        input_bG1TC, output_bGRT1 = self._halves(piece)
        # ones as long as a row: with a number instead, this would not be vectorised
        ones = input_bG1TC.new_ones(input_bG1TC.shape[-1])
        return torch.addcmul(ones, input_bG1TC, output_bGRT1)

    def _sigmoids(self, piece: _Piece) -> Tensor:
        input_bG1TC, output_bGRT1 = self._halves(piece)
        return (input_bG1TC + output_bGRT1).sigmoid_()

    def _halves(self, piece: _Piece) -> tuple[Tensor, Tensor]:
        return self.input_BG1TC[piece.samples], self.output_BGRT1[piece.samples, :, piece.rows]


def is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether the reference is faster: one sample of a small weight, or small weights as groups.

    One sample is one plain convolution there, in 0.6 to 0.95 of the time, since nothing is made
    again or copied. In float32 and the default layout, groups of 64 and 128 channels take 0.7 to
    0.9 of the time on two cores (batch 8, 56x56 and 28x28).
    """
    if len(x) == 1:
        return weight.numel() < _PIECE
    grouped = x.dtype == torch.float32 and not x.is_cuda and x.is_contiguous()
    return grouped and _SMALL <= weight.numel() < _GROUPED


def forward(
    x: Tensor,
    weight: Tensor,
    input_BCT: Tensor,
    output_BOT: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the convolution of each sample with its own gated weight."""
    y = empty_output(x, weight, stride)
    geometry = _geometry(weight, stride, dilation)
    gates = _Gates(weight, input_BCT, output_BOT, groups)
    for piece in _pieces(len(x), weight, groups):
        kernels = _as_kernels(gates.weights(piece), x, weight)
        outputs = _outputs(piece, groups)
        for samples, own in _at_once(piece, x, weight):
            y[samples, outputs] = _convolve(x[samples], kernels[own], geometry, groups)
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    input_BCT: Tensor,
    output_BOT: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, the weight and both halves of the logits; None if not needed."""
    geometry = _geometry(weight, stride, dilation)
    gates = _Gates(weight, input_BCT, output_BOT, groups)
    sums = _Sums(gates)
    grad_x = torch.empty_like(x) if needs[0] else None
    wanted = (needs[0], any(needs[1:]))
    for piece in _pieces(len(x), weight, groups):
        gate = gates.gates(piece)
        kernels = _as_kernels(gate * gates.weight_GRTC[:, piece.rows], x, weight)
        outputs = _outputs(piece, groups)
        for samples, own in _at_once(piece, x, weight):
            of_x, of_kernels = _convolve_backward(
                grad[samples, outputs], x[samples], kernels[own], geometry, groups, wanted
            )
            if grad_x is not None and piece.rows.start == 0:
                grad_x[samples] = of_x
            elif grad_x is not None:
                grad_x[samples] += of_x
            if wanted[1]:
                sums.add(_Piece(samples, piece.rows), of_kernels, gate[own])
    return grad_x, *sums.gradients(weight, input_BCT, output_BOT, needs)


class _Sums:
    """Sums up what the kernels of each sample give to the weight and to the halves."""

    def __init__(self, gates: _Gates) -> None:
        self.weight_GRTC = gates.weight_GRTC
        self.of_weight = torch.zeros_like(gates.weight_GRTC)
        self.of_input = torch.zeros_like(gates.input_BG1TC)
        self.of_output = torch.zeros_like(gates.output_BGRT1)

    def add(self, piece: _Piece, of_kernels: Tensor, gate_bGRTC: Tensor) -> None:
        """Add what one piece gives, from the gradient of its kernels (b, O, C, kh, kw)."""
        total = of_kernels.flatten(3).transpose(2, 3).reshape(gate_bGRTC.shape) * gate_bGRTC
        self.of_weight[:, piece.rows].add_(total[0] if len(total) == 1 else total.sum(0))
        # the derivative of a gate is gate * (1 - gate)
        total.mul_(self.weight_GRTC[:, piece.rows]).addcmul_(total, gate_bGRTC, value=-1)
        self.of_input[piece.samples].add_(total.sum(2, keepdim=True))
        self.of_output[piece.samples, :, piece.rows].add_(total.sum(4, keepdim=True))

    def gradients(
        self, weight: Tensor, input_BCT: Tensor, output_BOT: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the sums in the order and the type of what they are gradients of."""
        of_weight = self.of_weight.flatten(0, 1).transpose(1, 2)
        of_input = self.of_input.flatten(1, 2).transpose(2, 3)
        return (
            _like(weight, of_weight) if needs[1] else None,
            _like(input_BCT, of_input) if needs[2] else None,
            _like(output_BOT, self.of_output) if needs[3] else None,
        )


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    return torch.empty_like(tensor).copy_(values.reshape(tensor.shape))


def _moderate(half: Tensor) -> Tensor:
    """Whether all numbers are small enough; what is no number is not."""
    return (half.abs() <= _MODERATE).all()


def _geometry(weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> _Geometry:
    return _Geometry(
        (stride[0], stride[1]), padding_of(weight, dilation), (dilation[0], dilation[1])
    )


def _pieces(batch: int, weight: Tensor, groups: int) -> Iterator[_Piece]:
    """Cut the gates of a batch into pieces of few numbers."""
    numbers, rows = weight.numel(), len(weight) // groups
    samples = max(1, _PIECE // numbers)
    if groups == 1:
        rows = ceil(rows / ceil(numbers / _PIECE))
    for start in range(0, batch, samples):
        for row in range(0, len(weight) // groups, rows):
            yield _Piece(slice(start, min(start + samples, batch)), slice(row, row + rows))


def _outputs(piece: _Piece, groups: int) -> slice:
    """Return which outputs of the convolution a piece makes."""
    return piece.rows if groups == 1 else slice(None)


def _at_once(piece: _Piece, x: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    """Say which samples, and which of the piece, go through one convolution."""
    start, stop = piece.samples.start, piece.samples.stop
    step = max(1, _MAP // x[0].numel()) if weight.numel() < _SMALL else 1
    for own in range(0, stop - start, step):
        last = min(own + step, stop - start)
        yield slice(start + own, start + last), slice(own, last)


def _as_kernels(gated_bGRTC: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the kernels of a convolution of x, (b, O, C, kh, kw)."""
    kernels = gated_bGRTC.to(x.dtype).flatten(1, 2).transpose(2, 3)
    kernels = kernels.reshape(*kernels.shape[:2], *weight.shape[1:])
    # channels last, groups of few channels take 2 to 5 times as long
    return kernels.contiguous() if weight.numel() < _SMALL else kernels


def _convolve(x: Tensor, kernels: Tensor, geometry: _Geometry, groups: int) -> Tensor:
    batch = len(x)
    if batch == 1:  # the other way would hide that a map is channels last
        return torch.convolution(x, kernels[0], None, *geometry, False, (0, 0), groups)
    y = torch.convolution(
        x.flatten(0, 1)[None], kernels.flatten(0, 1), None, *geometry, False, (0, 0), batch * groups
    )
    return y.reshape(batch, -1, *y.shape[2:])


def _convolve_backward(
    grad: Tensor, x: Tensor, kernels: Tensor, geometry: _Geometry, groups: int,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of x and of the kernels, the unwanted empty."""
    batch = len(x)
    tensors = (grad, x, kernels[0])
    if batch > 1:
        tensors = (grad.flatten(0, 1)[None], x.flatten(0, 1)[None], kernels.flatten(0, 1))
    of_x, of_kernels, _ = torch.ops.aten.convolution_backward(
        *tensors, None, *geometry, False, (0, 0), batch * groups, [*wanted, False]
    )
    return (
        of_x.reshape(x.shape) if wanted[0] else x.new_empty(0),
        of_kernels.reshape(kernels.shape) if wanted[1] else x.new_empty(0),
    )
