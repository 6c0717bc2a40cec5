"""Which backends the operators inside a network compute with: to choose them, and to tell them."""

from collections.abc import Iterator

from torch import nn

from ctxbench.kernels import BACKENDS, Backend, check_backend, choose
from ctxbench.ops._mixing import ContMix
from ctxbench.ops.cgc import CGConv2d
from ctxbench.ops.coconv import CoConv2d
from ctxbench.ops.ctxconv import ContextualConv2d
from ctxbench.ops.reparam import DepthwiseConv2d

Operator = CoConv2d | ContextualConv2d | CGConv2d | ContMix | DepthwiseConv2d


def set_backend(model: nn.Module, name: str | None) -> int:
    """Have every operator in a network compute with a backend; return how many there are.

    None leaves it to the default. `use_backend` counts more than what is set here.
    Raises: UnknownNameError for a backend that does not exist.
    """
    chosen = None if name is None else check_backend(name)
    found = list(operators_in(model))
    for operator in found:
        operator.backend = chosen
    return len(found)


def backends_in(model: nn.Module) -> list[Backend]:
    """Return the backends that the operators of a network compute with here, each once.

    Here is where this is called: inside `use_backend` it is that one. A network without such
    operators has none.
    """
    found = {choose(operator.backend) for operator in operators_in(model)}
    return [name for name in BACKENDS if name in found]


def operators_in(model: nn.Module) -> Iterator[Operator]:
    """Yield the operators of a network that have backends."""
    return (module for module in model.modules() if isinstance(module, Operator))
