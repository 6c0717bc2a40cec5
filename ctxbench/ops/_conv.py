"""What the operators that stand in for an `nn.Conv2d` share."""

from math import prod

from torch import Tensor, nn


def pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Return a number twice, and a pair as it is; `name` is that of the argument."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2:
        raise ValueError(f"A convolution takes a number or a pair; got {name}={value}.")
    return (both[0], both[1])


def check_kernel(operator: str, kernel_size: int | tuple[int, int]) -> None:
    """Raise ValueError for a kernel without a middle."""
    sizes = (kernel_size,) if isinstance(kernel_size, int) else kernel_size
    if any(size < 1 or size % 2 == 0 for size in sizes):
        raise ValueError(
            f"{operator} needs an odd kernel to stay centred; got kernel_size={kernel_size}."
        )


def check_groups(operator: str, in_channels: int, out_channels: int, groups: int) -> None:
    """Raise ValueError for channels that the groups do not divide."""
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"{operator} needs channels divisible by groups={groups}; got "
            f"in_channels={in_channels}, out_channels={out_channels}."
        )


def check_input(operator: str, in_channels: int, x: Tensor, *, unbatched: bool = False) -> None:
    """Raise ValueError for an input of other channels; `unbatched` allows (C, H, W) too."""
    if x.ndim not in ((3, 4) if unbatched else (4,)) or x.shape[-3] != in_channels:
        raise ValueError(
            f"{operator} of in_channels={in_channels} got an input of shape "
            f"{tuple(x.shape)}, (B, C, H, W)."
        )


def initialise(weight: Tensor, bias: Tensor | None) -> None:
    """Draw weight and bias as `nn.Conv2d` does."""
    nn.init.kaiming_uniform_(weight, a=5**0.5)
    if bias is not None:
        bound = prod(weight.shape[1:]) ** -0.5
        nn.init.uniform_(bias, -bound, bound)


def add_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    """Return y (B, C, H, W) plus the bias, in the type of y, which autocast may have lowered."""
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def check_zero_padding(conv: nn.Conv2d, operator: str) -> None:
    """Raise ValueError, with the reason alone, for a convolution padded with anything else."""
    if conv.padding_mode != "zeros":
        raise ValueError(f"padding_mode={conv.padding_mode!r}, where {operator} pads with zeros")


def check_replaceable(conv: nn.Conv2d) -> None:
    """Raise ValueError, with the reason alone, for a convolution that is not centred and "same"."""
    size = "x".join(map(str, conv.kernel_size))
    if any(length % 2 == 0 for length in conv.kernel_size):
        raise ValueError(f"an even kernel, {size}")
    same = tuple(
        rate * (length // 2) for rate, length in zip(conv.dilation, conv.kernel_size, strict=True)
    )
    if conv.padding not in (same, "same"):
        raise ValueError(f"padding {conv.padding}, where 'same' is {same}")


def take_over(op: nn.Module, conv: nn.Conv2d) -> None:
    """Give `op` the weight and the bias of a convolution, the same parameters, not copies."""
    op.weight = conv.weight
    if conv.bias is not None:
        op.bias = conv.bias
