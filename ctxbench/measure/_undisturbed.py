"""Leaving a network as it was, whatever its forward pass does to it."""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ctxbench.errors import CountingError

_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and everything back afterwards, also after an error.

    Everything: weights, buffers, modes, hooks, attributes such as caches, torch's random state.
    """
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if used else ()
    with torch.random.fork_rng(devices), _attributes(model), _tensors(model):
        for module in model.modules():
            module.training = False
        yield


@contextmanager
def _attributes(model: nn.Module) -> Iterator[None]:
    """Put back every attribute of every module: its mode, hooks, buffers by name, caches."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    attributes = [vars(module) for module in modules]
    inner = (value for values in attributes for value in values.values())
    found = [*attributes, *(value for value in inner if type(value) in _CONTAINERS)]
    live = {id(container): container for container in found}.values()  # some are shared
    saved = [(container, container.copy()) for container in live if container]  # most are empty
    try:
        yield
    finally:
        for container in live:
            container.clear()
        for container, items in saved:
            (container.extend if isinstance(items, list | deque) else container.update)(items)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode  # a compiled module keeps it elsewhere


@contextmanager
def _tensors(model: nn.Module) -> Iterator[None]:
    """Switch gradients off, and put back the values of parameters and buffers."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    if any(map(is_lazy, parameters + buffers)):
        raise CountingError("The network has lazy parameters. Run it once before counting.")
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    homes = [(tensor, tensor.detach()) for tensor in parameters + buffers]
    writes = _Writes(home for _, home in homes)
    # copied at once: batch norm and its like write to them without saying so
    writes.saved += [(home, home.clone()) for _, home in homes[len(parameters) :]]
    try:
        for parameter in wanted:
            parameter.requires_grad = False  # a view of a parameter would confuse torch's counter
        with writes:
            yield
    finally:
        with torch.inference_mode():  # or tensors made in that mode could not be written to
            for live, saved in writes.saved:
                if not torch.equal(live, saved):
                    live.copy_(saved)
            for tensor, home in homes:
                if tensor.data_ptr() != home.data_ptr():
                    tensor.data = home
            for parameter in wanted:
                parameter.requires_grad = True


class _Writes(TorchFunctionMode):
    """Copies a weight just before the first function that may write to it, to save memory."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.saved: list[tuple[Tensor, Tensor]] = []
        self._untouched: dict[int, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            self._untouched[_memory(tensor)].append(tensor)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one function."""
        kwargs = kwargs or {}
        if _writes(func.__name__, kwargs):
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    for tensor in self._untouched.pop(_memory(leaf), ()):
                        self.saved.append((tensor, tensor.clone()))
        return func(*args, **kwargs)


def _writes(function: str, options: Mapping[str, Any]) -> bool:
    if function.startswith("__"):
        return function.startswith("__i") or function == "__setitem__"
    return function.endswith("_") or "out" in options or options.get("max_norm") is not None


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
