"""Parameters and multiply-accumulates of any network, in total and by module."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ctxbench.errors import CountingError, UncountedOpError
from ctxbench.kernels import use_backend
from ctxbench.measure._trace import Analysis
from ctxbench.measure._undisturbed import undisturbed
from ctxbench.measure.conventions import Work, convention

# what torch's own counter knows too, under the names of our kinds
_TORCH_KINDS = ("conv", "linear", "matmul", "einsum", "attention")


@dataclass(frozen=True, slots=True)
class ModuleCount:
    """One module with everything inside it; `own` is what it has outside its children.

    What several modules share is the own of the first: own parameters and work add up to the total.
    """

    params: int
    work: Work
    own_params: int
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
    modules: Mapping[str, ModuleCount] = field(repr=False)
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

    The network is left as it was: weights, buffers, modes, hooks, gradients, attributes. The count
    is of the whole batch that `inputs` are, the tensors which `forward` takes. Whatever the backend
    of its operators, what they do is counted in their plain form, the backend `reference`.
    `allow_uncounted` names operations without a rule in the result instead of refusing them.
    `cross_check` runs the network once more, under torch's own counter.

        counted = count(create_model("coresnet50"), torch.zeros(1, 3, 224, 224))
        counted.params, counted.macs, counted.modules["layer1"].work.macs

    Raises: UncountedOpError for an operation that computes and has no rule, CountingError if the
            network cannot run on the inputs, TypeError for what is no network or no tensor.
    """
    _check(model, inputs)
    with undisturbed(model), torch.no_grad(), use_backend("reference"):
        analysis = Analysis(model, _copies(inputs))
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


def _check(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"count takes a torch.nn.Module; got {type(model).__name__}. A name is built by "
            f"ctxbench.create_model."
        )
    for given in inputs:
        if not isinstance(given, Tensor):
            raise TypeError(f"count takes the tensors of forward; got {type(given).__name__}.")
        if not given.numel():
            raise CountingError(
                f"An input of shape {tuple(given.shape)} is empty: nothing to count."
            )


def _copies(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy the inputs, since a forward pass may write to them."""
    return tuple(tensor.detach().clone() for tensor in inputs)


def _uncounted(analysis: Analysis) -> tuple[str, ...]:
    """Say which operations have no rule, and in which innermost module."""
    stats = analysis._stats.unsupported_ops
    found = []
    for operation, times in sorted(stats[""].items()):
        holders = [name for name, operations in stats.items() if operations[operation]]
        innermost = max(holders, key=lambda name: (name.count("."), len(name)))
        found.append(f"{operation} in {innermost or 'the network itself'} ({times} in all)")
    return tuple(found)


def _count_with_torch(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    # torch's counter knows no fused attention of the CPU, but the products it consists of
    fused = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        with (
            undisturbed(model), torch.no_grad(), use_backend("reference"),
            FlopCounterMode(display=False) as counter,
        ):  # fmt: skip
            model(*_copies(inputs))
    finally:
        torch.backends.cuda.enable_flash_sdp(fused)
    return int(counter.get_total_flops()) // 2


def _module_counts(
    model: nn.Module, by_module: Mapping[str, Counter[Any]]
) -> dict[str, ModuleCount]:
    found = {}
    seen: set[nn.Parameter] = set()
    sizes: dict[nn.Module, dict[nn.Parameter, int]] = {}
    for name, module in model.named_modules():
        work = by_module.get(name, Counter())
        own = Counter(work)
        for child, _ in module.named_children():
            own.subtract(by_module.get(f"{name}.{child}" if name else child, {}))
        params = sum(_sizes(module, sizes).values())
        new = {p for p in module._parameters.values() if p is not None} - seen
        seen |= new
        own_params = sum(parameter.numel() for parameter in new)
        kind = type(module).__name__
        found[name] = ModuleCount(params, _work(work), own_params, _work(own), kind)
    return found


def _sizes(
    module: nn.Module, known: dict[nn.Module, dict[nn.Parameter, int]]
) -> dict[nn.Parameter, int]:
    """Return the size of each parameter in a module, once; what is found is kept in `known`."""
    if module not in known:
        own = module._parameters.values()
        sizes = {parameter: parameter.numel() for parameter in own if parameter is not None}
        for child in module.children():
            sizes |= _sizes(child, known)
        known[module] = sizes
    return known[module]


def _work(counts: Mapping[tuple[str, str], int]) -> Work:
    columns: dict[str, dict[str, int]] = {"macs": {}, "elements": {}, "fvcore": {}}
    for (column, kind), number in counts.items():
        if number:
            columns[column][kind] = number
    return Work(columns["macs"], columns["elements"], sum(columns["fvcore"].values()))
