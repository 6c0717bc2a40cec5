"""What the operators that stand in for an `nn.Conv2d` share."""

from torch import nn


def pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Return a number twice, and a pair as it is; `name` is that of the argument."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2:
        raise ValueError(f"A convolution takes a number or a pair; got {name}={value}.")
    return (both[0], both[1])


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
