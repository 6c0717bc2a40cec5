"""Bytes that the operators of a run read and write."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# what they write to, they do not read
_OVERWRITES = {
    "aten::bernoulli_", "aten::copy_", "aten::exponential_", "aten::fill_", "aten::normal_",
    "aten::random_", "aten::uniform_", "aten::zero_",
}  # fmt: skip


def traffic(run: Callable[[], object]) -> int:
    """Return the bytes that the operators of one eager run, without gradients, read and write.

    Every operator that the run calls reads each of its tensors once and writes each of its results
    once, wherever they lie; one that works in place does both to the same tensor. Of a tensor
    counts the memory that its elements lie in: once for what is expanded, nothing for gaps. Views
    and memory that is only set aside are no traffic.

    So this is the traffic of unfused operators with an empty cache that each holds all it needs.
    It is not what the memory sees: a fused or compiled run, and data that stay in a cache, move
    less; an operator that reads its inputs twice, or keeps scratch memory, moves more. A lookup
    counts its whole table, and only what an operator declares to write counts as written, which
    the running statistics of a batch norm in training are not.
    """
    seen = _Traffic()
    # in inference mode, operators made of others would arrive whole
    with torch.inference_mode(False), torch.no_grad(), seen:
        run()
    return seen.total_bytes


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of each operator that is called while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total_bytes: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operator."""
        result = func(*args, **(kwargs or {}))
        self.total_bytes += _moved(func, args, kwargs or {}, result)
        return result


def _moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Return the bytes that a call of one operator reads and writes."""
    read, written = _arguments(func._schema, args, kwargs)
    homes = {_storage(tensor) for tensor in read + written}
    results = _tensors(result)
    new = [tensor for tensor in results if _storage(tensor) not in homes]
    if _sets_aside(func) or (results and not new and not written):  # the latter is a view
        return 0
    if _ignores_values(func._schema.name):
        read = []
    return _touched(read) + _touched(written + new)


def _arguments(
    schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that a call reads and those that it writes to; some are both."""
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False))
    given |= kwargs
    read, written = [], []
    for argument in schema.arguments:
        tensors = _tensors(given.get(argument.name))
        writes = argument.alias_info is not None and argument.alias_info.is_write
        if writes:
            written += tensors
        if not (writes and (argument.is_out or schema.name in _OVERWRITES)):
            read += tensors
    return read, written


def _sets_aside(func: Any) -> bool:
    """Whether an operator only allocates memory, or changes in place how it is looked at."""
    namespace, _, name = func._schema.name.partition("::")
    return torch.Tag.inplace_view in func.tags or (namespace == "aten" and "empty" in name)


def _ignores_values(name: str) -> bool:
    """Whether an operator takes nothing but the shape and type of its tensor."""
    return name.startswith("aten::new_") or (name.startswith("aten::") and name.endswith("_like"))


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _touched(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors lie in, once for those that are equal, if only transposed."""
    found = {}
    for tensor in tensors:
        steps = [
            (stride, size)
            for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
            if stride and size != 1
        ]
        elements = span = 1
        for stride, size in steps:
            elements *= size
            span += stride * (size - 1)
        elements = min(elements, span) if tensor.numel() else 0  # windows overlap
        place = (_storage(tensor), tensor.storage_offset(), *sorted(steps))
        found[place] = elements * tensor.element_size()
    return sum(found.values())
