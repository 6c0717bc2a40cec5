"""What the networks that are trained like transformers share."""

from torch import nn

from ctxbench.ops import ContextualConv2d


def rising_rates(last: float, blocks: int) -> list[float]:
    """Return the stochastic-depth rate of every block, rising linearly from 0 to `last`.

    Raises: ValueError for a rate that is none.
    """
    if not 0 <= last < 1:
        raise ValueError(f"drop_path={last} is out of range. Give a rate from 0 to below 1.")
    return [last * index / max(1, blocks - 1) for index in range(blocks)]


def initialise(module: nn.Module) -> None:
    """Draw the weights of a convolution or a linear layer from N(0, 0.02**2), biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear | ContextualConv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
