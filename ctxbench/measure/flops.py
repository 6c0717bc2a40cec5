"""Parameters and multiply-accumulates of any network, in total and by module."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ctxbench.errors import CountingError, UncountedOpError
from ctxbench.measure._flop_tables import MOVES, RULES
from ctxbench.measure.conventions import Work, convention

with catch_warnings():
    simplefilter("ignore", FutureWarning)  # fvcore still scripts a loss with torch.jit
    from fvcore.nn import FlopCountAnalysis

# what torch's own counter knows too, under the names of our kinds
_TORCH_KINDS = ("conv", "matmul", "einsum", "attention")


@dataclass(frozen=True, slots=True)
class ModuleCount:
    """One module with everything inside it; `own` is the work outside its children."""

    params: int
    work: Work
    own: Work
    kind: str


@dataclass(frozen=True, slots=True)
class Count:
    """What one forward pass of a network costs; nothing in it depends on the machine.

    `modules` goes from the path of a module ("" is the network) to its count. `uncounted` names
    operations without a rule, if they were allowed. `torch_macs` is half of what torch's
    FlopCounterMode counts, if it was asked, to be compared with `comparable_macs`.
    """

    params: int
    work: Work
    modules: Mapping[str, ModuleCount]
    uncounted: tuple[str, ...] = ()
    torch_macs: int | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.work.macs

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-accumulate."""
        return 2 * self.work.macs

    @property
    def operators(self) -> Mapping[str, int]:
        """Multiply-accumulates by kind of operation."""
        return self.work.macs_by_kind

    @property
    def comparable_macs(self) -> int:
        """Multiply-accumulates of the kinds that torch's counter knows."""
        return sum(self.work.macs_by_kind.get(kind, 0) for kind in _TORCH_KINDS)

    def total(self, name: str = "macs") -> int:
        """Return the count in a named convention."""
        return convention(name).count(self.work)


def count(
    model: nn.Module,
    *inputs: Tensor,
    allow_uncounted: bool = False,
    cross_check: bool = False,
) -> Count:
    """Count the parameters and the work of one forward pass, in eval mode and without gradients.

    The network is left as it was: weights, buffers, modes, hooks and gradients.
    `cross_check` runs the network once more, under torch's own counter.

    Raises: UncountedOpError for an operation that computes and has no rule, CountingError if the
            network cannot run on the inputs.
    """
    with _undisturbed(model), torch.no_grad():
        analysis = _Analysis(_Flat(model), inputs)
        by_module = analysis.by_module_and_operator()
        uncounted = _uncounted(analysis)
        if uncounted and not allow_uncounted:
            raise UncountedOpError(
                f"No counting rule for {'; '.join(uncounted)}. Add a rule to "
                f"ctxbench/measure/_flop_tables.py, or allow uncounted operations."
            )
        torch_macs = _count_with_torch(model, inputs) if cross_check else None
    modules = _module_counts(model, by_module)
    return Count(modules[""].params, modules[""].work, modules, uncounted, torch_macs)


class _Flat(nn.Module):
    """Runs a network and returns its tensors as a tuple, whatever it returns them in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        try:
            outputs = self.network(*inputs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            reason = " ".join(str(error).split())
            raise CountingError(f"The network cannot run on inputs {shapes}: {reason}") from error
        return tuple(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))


class _Analysis(FlopCountAnalysis):  # type: ignore[misc]
    """fvcore's counter with our rules alone, silent, and quick at naming ancestors."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__(model, inputs)
        self.clear_op_handles()
        self._ignored_ops = set(MOVES)
        self.set_op_handle(**RULES)
        self.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        self._get_all_ancestors = cache(super()._get_all_ancestors)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the network into eval mode, and everything back afterwards, also after an error."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    hooks = [
        (hooks, hooks.copy())
        for module in modules
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
    ]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would hide attention in one operation
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for live, saved in hooks:
            live.clear()
            live.update(saved)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _uncounted(analysis: FlopCountAnalysis) -> tuple[str, ...]:
    """Say which operations have no rule, and in which innermost module."""
    stats = analysis._stats.unsupported_ops
    found = []
    for operation, times in sorted(stats[""].items()):
        holders = [name for name, operations in stats.items() if operations[operation]]
        innermost = max(holders, key=lambda name: (name.count("."), len(name)))
        place = innermost.removeprefix("network").removeprefix(".") or "the network itself"
        found.append(f"{operation} in {place} ({times} in all)")
    return tuple(found)


def _count_with_torch(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    # torch's counter knows no fused attention of the CPU, but the products it consists of
    fused = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        with FlopCounterMode(display=False) as counter:
            model(*inputs)
    finally:
        torch.backends.cuda.enable_flash_sdp(fused)
    return int(counter.get_total_flops()) // 2


def _module_counts(
    model: nn.Module, by_module: Mapping[str, Counter[Any]]
) -> dict[str, ModuleCount]:
    found = {}
    for name, module in model.named_modules():
        path = f"network.{name}" if name else "network"
        total = by_module[path]
        own = Counter(total)
        for child, _ in module.named_children():
            own.subtract(by_module.get(f"{path}.{child}", {}))
        params = sum(parameter.numel() for parameter in module.parameters())
        found[name] = ModuleCount(params, _work(total), _work(own), type(module).__name__)
    return found


def _work(counts: Mapping[tuple[str, str], int]) -> Work:
    columns: dict[str, dict[str, int]] = {"macs": {}, "elements": {}, "fvcore": {}}
    for (column, kind), number in counts.items():
        if number:
            columns[column][kind] = number
    return Work(columns["macs"], columns["elements"], sum(columns["fvcore"].values()))
