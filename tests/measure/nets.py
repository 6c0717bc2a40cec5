"""What the tests of counting share: a function as a network, and the work it does."""

import torch
from torch import nn

from ctxbench.measure.flops import count


class Calls(nn.Module):
    """Calls a function of its inputs; modules it calls are passed by name."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs):
        return self.function(self, *inputs) if self._modules else self.function(*inputs)


def work(function, *inputs):
    """Return what a function does with inputs; a tuple of sizes stands for a tensor of noise."""
    tensors = [torch.randn(x) if isinstance(x, tuple) else x for x in inputs]
    return count(Calls(function), *tensors).work


def macs(function, *inputs):
    """Return the multiply-accumulates of a function, by kind."""
    return dict(work(function, *inputs).macs_by_kind)


def elements(function, *inputs):
    """Return the other work of a function, by kind, which must do no multiply-accumulate."""
    done = work(function, *inputs)
    assert done.macs == 0
    return dict(done.elements)
