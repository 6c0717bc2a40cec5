"""Tracing a network with fvcore so that no operation is lost on the way."""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.utils._pytree import tree_leaves

from ctxbench.errors import CountingError
from ctxbench.measure._flop_tables import MOVES, RULES
from ctxbench.measure._values import Counts

with catch_warnings():
    simplefilter("ignore", FutureWarning)  # fvcore still scripts a loss with torch.jit
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_analysis import Statistics, _get_scoped_trace_graph

_SCOPE = "prim::TracedModuleForward"


class Analysis(FlopCountAnalysis):  # type: ignore[misc]
    """fvcore's counter with our rules alone, which reads the graph before the tracer prunes it.

    Pruning would drop what no output depends on, although it was computed, and takes time. Hooks
    stay on the network; whoever makes the analysis puts it back as it was.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__(_replace_compiled(model), inputs)
        self._stats: Any = None
        self._get_all_ancestors = cache(super()._get_all_ancestors)

    def _analyze(self) -> Statistics:
        if self._stats is None:
            graph = _trace(self._model, self._inputs, self._aliases)
            names = set(self._aliases.values())
            self._stats = Statistics(
                counts={name: Counter() for name in names},
                unsupported_ops={name: Counter() for name in names},
                uncalled_mods=set(),
            )
            self._add(graph, "")
        return self._stats

    def _add(self, block: Any, module: str) -> None:
        """Count the operations of a block, which were called in a module, and of those inside."""
        counts: Counts = Counter()
        unknown: Counter[str] = Counter()
        for node in block.nodes():
            kind = node.kind()
            if kind in MOVES:
                continue
            if kind in RULES:
                counts.update(RULES[kind](list(node.inputs()), list(node.outputs())))
            elif kind == _SCOPE:
                for inner in node.blocks():
                    self._add(inner, node.s("scope"))
            else:
                unknown[f"{kind}.{node.pyname()}" if kind == "prim::PythonOp" else kind] += 1
        for found, totals in (counts, self._stats.counts), (unknown, self._stats.unsupported_ops):
            for name in self._get_all_ancestors(module) if found else ():
                totals[name].update(found)


class _Traced(Exception):  # noqa: N818 - it is no error
    """The network has run, and this is what it did."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph = graph


def _trace(model: nn.Module, inputs: tuple[Tensor, ...], names: Any) -> Any:
    """Return the graph of a forward pass, in blocks that carry the names of the modules."""
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    (next(model.children()) if parallel else model).register_forward_hook(_end)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    try:
        with catch_warnings():
            simplefilter("ignore", TracerWarning)
            return _get_scoped_trace_graph(model, inputs, names)
    except _Traced as traced:
        return traced.graph
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CountingError(f"The network cannot run on inputs {shapes}: {reason}") from error


def _end(module: nn.Module, inputs: Any, outputs: Any) -> None:
    """Mark the outputs of a network, whatever it returns them in, and end the tracing."""
    graph = torch._C._get_tracing_state().graph()
    for tensor in _tensors_in(outputs):
        graph.registerOutput(torch._C._get_value_trace(tensor))  # type: ignore[attr-defined]
    raise _Traced(graph)


def _tensors_in(outputs: Any) -> Iterator[Tensor]:
    """Find the tensors in nested containers and in plain objects, such as a dataclass."""
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (value for value in tree_leaves(vars(leaf)) if isinstance(value, Tensor))


def _replace_compiled(network: nn.Module) -> nn.Module:
    """Put a stand-in wherever the network holds a compiled module."""
    if isinstance(network, torch.jit.ScriptModule):
        return _Compiled(network)
    for name, child in network._modules.items():
        if child is not None:
            network._modules[name] = _replace_compiled(child)
    return network


class _Compiled(nn.Module):
    """Runs a module compiled by TorchScript, which the tracer cannot enter, as one operation."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = (module,)  # in a tuple it is no child, and meets no hooks

    def forward(self, *inputs: Any) -> Any:
        return TorchScript.apply(self.module[0], *inputs)


class TorchScript(torch.autograd.Function):
    """What the traced graph shows of a compiled module."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, *inputs: Any) -> Any:
        """Run the module, hidden from the tracer."""
        tracing = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            return module(*inputs)
        finally:
            torch._C._set_tracing_state(tracing)  # type: ignore[attr-defined]
