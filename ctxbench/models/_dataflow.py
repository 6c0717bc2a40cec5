"""What one run of a network shows: which module made a tensor, and which modules read it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from types import FunctionType, ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# operations that give Python a value of a tensor
_VALUES = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)


class Call:
    """One call of a module: the tensors that it was given, and those that it has returned.

    `read_before` says of the first of those how often its memory had been read by then.
    """

    def __init__(self, module: nn.Module, given: Sequence[Tensor]) -> None:
        self.module, self.given = module, given
        self.made: Sequence[Tensor] = ()
        self.read_before = 0


class Dataflow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A run of a network, recorded operation by operation; nothing that it makes is freed before.

    Operations are those that reach memory, whoever calls them: asking for a shape is none, and
    a view is none either, but what reads the view reads the tensor. `readers` of a tensor are the
    innermost modules that such operations were called in; None stands for all that is no module:
    what takes the output of the network, keeps a tensor as an attribute, or hooks into a module.
    `decides` says whether a value was taken out of a tensor that was computed: what the network
    does may depend on it, and then no run shows all of that.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[nn.Module, list[Call]] = defaultdict(list)
        self.output: list[Tensor] = []
        self.decides = False
        self._model = model
        self._weights = {_memory(x) for x in (*model.parameters(), *model.buffers())}
        self._reads: dict[int, list[nn.Module | None]] = defaultdict(list)
        self._open: list[Call] = []

    @classmethod
    def of(cls, model: nn.Module, inputs: Sequence[Tensor]) -> Self:
        """Run a network, which stays as it is, and return what it did."""
        flow = cls(model)
        with torch.no_grad(), flow._watching(), flow:
            output = model(*inputs)
        flow.output = _tensors(output)
        flow._read(flow.output, None)
        flow._read(_kept(model), None)
        return flow

    def only_call(self, module: nn.Module) -> Call | None:
        """Return the call of a module that was called once, with tensors, and made one."""
        calls = self.calls.get(module, ())
        return calls[0] if len(calls) == 1 and calls[0].given and len(calls[0].made) == 1 else None

    def readers(self, call: Call) -> set[nn.Module | None]:
        """Return who has read the tensor that a call has made."""
        return set(self._reads[_memory(call.made[0])][call.read_before :])

    def readers_of_weight(self, weight: Tensor) -> set[nn.Module | None]:
        """Return who has read a parameter or a buffer."""
        return set(self._reads[_memory(weight)])

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation, and note what it reads."""
        kwargs = kwargs or {}
        if not func.is_view:
            reader = self._open[-1].module if self._open else None
            read = _tensors((args, kwargs))
            self._read(read, reader)
            if func in _VALUES:
                self.decides |= any(_memory(tensor) not in self._weights for tensor in read)
        return func(*args, **kwargs)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self._model.modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # seen from outside
                watched = has_hooks(module)
                before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                after = module.register_forward_hook(self._leave_hooked if watched else self._leave)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._open.append(Call(module, _tensors((args, kwargs))))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self._open.pop()
        call.made = _tensors(output)
        if call.made:
            call.read_before = len(self._reads[_memory(call.made[0])])
        self.calls[module].append(call)

    def _leave_hooked(self, module: nn.Module, args: Any, output: Any) -> None:
        self._leave(module, args, output)
        call = self.calls[module][-1]
        self._read([*call.given, *call.made], None)

    def _read(self, tensors: Sequence[Tensor], reader: nn.Module | None) -> None:
        for tensor in tensors:
            self._reads[_memory(tensor)].append(reader)


def has_hooks(module: nn.Module) -> bool:
    """Tell whether somebody sees, or changes, what goes through a module."""
    return any((
        module._forward_hooks, module._forward_pre_hooks,
        module._backward_hooks, module._backward_pre_hooks,
    ))  # fmt: skip


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in a value, also those in the attributes of objects in it."""
    found, seen, open_ = [], set(), [value]
    while open_:
        for leaf in tree_leaves(open_.pop()):
            if isinstance(leaf, Tensor):
                found.append(leaf)
            elif id(leaf) not in seen:
                seen.add(id(leaf))
                open_ += _attributes(leaf)
    return found


def _attributes(value: Any) -> list[Any]:
    if is_dataclass(value) and not isinstance(value, type):  # it may have slots
        return [getattr(value, field.name) for field in fields(value)]
    known = isinstance(value, nn.Module | type | ModuleType | FunctionType)
    return [] if known or not hasattr(value, "__dict__") else [vars(value)]


def _kept(model: nn.Module) -> list[Tensor]:
    """Return what the modules of a network keep besides their weights."""
    weights = {id(x) for x in (*model.parameters(), *model.buffers())}
    kept = _tensors([vars(module) for module in model.modules()])
    return [x for x in kept if id(x) not in weights]


def _memory(tensor: Tensor) -> int:
    # not the address of the data, which all tensors without data share
    return int(tensor.untyped_storage()._cdata)
