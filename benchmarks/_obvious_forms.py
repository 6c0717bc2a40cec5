"""The operators in the fewest lines of PyTorch, and by libraries: what ours are timed against.

They compute with the parameters of our layers, so that outputs and gradients can be compared.
"""

from importlib.util import find_spec

import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d


def zero_stuffed(op, x):
    """CoConv: one kernel for all levels, which reaches as far as the largest dilation."""
    reach = max(rate for _, rate in op.levels)
    kernel = op.weight.new_zeros(*op.weight.shape[:2], 2 * reach + 1, 2 * reach + 1)
    start = 0
    for width, rate in op.levels:
        outputs = slice(start, start + width)
        taps = slice(reach - rate, reach + rate + 1, rate)
        kernel[outputs, :, taps, taps] = op.weight[outputs]
        start += width
    return F.conv2d(x, kernel, op.bias, padding=reach)


def gated_unfold(op, x):
    """CGC: copy all patches, multiply them with each sample's gated weight."""
    return _unfold_matmul(x, op.weight * op.gates(x), op.bias)


def kernels_unfold(op, x, context):
    """Contextual kernels without displacements: copy all patches, multiply."""
    return _unfold_matmul(x, op.kernels(x, context), op.bias)


def _unfold_matmul(x, weight_BOCYX, bias):
    size = weight_BOCYX.shape[-1]
    columns = F.unfold(x, size, padding=size // 2)
    y = weight_BOCYX.flatten(2) @ columns
    return y.unflatten(2, x.shape[2:]) + bias[:, None, None]


def sampled_einsum(op, x, context):
    """Contextual convolution: a grid_sample a tap, then one einsum over all that was read."""
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
    rows = torch.arange(height, device=x.device)[:, None] + down + offset[:, 0]
    columns = torch.arange(width, device=x.device) + right + offset[:, 1]
    grid = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], dim=-1)
    return F.grid_sample(x, grid, "bilinear", "zeros", align_corners=True)


def deformed(op, x, context):
    """Contextual convolution by torchvision, with the samples as groups of one batch element."""
    kernels_BOCYX = op.kernels(x, context)
    offset, mask = (part.flatten(0, 1)[None] for part in op.sampling(x, context))
    together = x.flatten(0, 1)[None]
    y = deform_conv2d(together, offset, kernels_BOCYX.flatten(0, 1), padding=op.padding, mask=mask)
    return y.reshape(len(x), -1, *y.shape[2:]) + op.bias[:, None, None]


def mixed_by_unfold(values_BGCHW, affinity_BGLHW, weight_TL, bias_T, table_GYX, kernel_size):
    """ContMix: all kernels by einsum and softmax, all windows copied, one einsum over both."""
    height, width = values_BGCHW.shape[3:]
    logits = torch.einsum("tl,bglyx->bgtyx", weight_TL, affinity_BGLHW)
    logits = logits + bias_T[:, None, None]
    starts = [
        (torch.arange(side, device=values_BGCHW.device) - kernel_size // 2).clamp(
            0, side - kernel_size
        )
        for side in (height, width)
    ]
    taps = torch.arange(kernel_size, device=values_BGCHW.device)
    # entry kernel_size - 1 of the table is that of the position itself
    rows, columns = (
        start + taps[:, None] - torch.arange(len(start), device=start.device) + kernel_size - 1
        for start in starts
    )
    spread = table_GYX[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(1, 2)
    weights_BGTHW = (logits + spread).softmax(2)
    windows = F.unfold(values_BGCHW.flatten(1, 2), kernel_size)
    whole = [side - kernel_size + 1 for side in (height, width)]
    windows = windows.reshape(*values_BGCHW.shape[:3], kernel_size**2, *whole)
    windows_BGCTHW = windows[..., starts[0][:, None], starts[1]]
    return torch.einsum("bgcthw,bgthw->bgchw", windows_BGCTHW, weights_BGTHW)


def has_natten(device):
    """Whether NATTEN, which runs on GPUs alone, is here."""
    return device == "cuda" and find_spec("natten") is not None


def neighbourhood_attention(values_BGCHW, kernel_size):
    """NATTEN's kernel at the same shape: windows as ours, kernels from queries and keys."""
    from natten import na2d

    heads_last = values_BGCHW.permute(0, 3, 4, 1, 2).contiguous()
    y = na2d(heads_last, heads_last, heads_last, kernel_size)
    return y.permute(0, 3, 4, 1, 2)
