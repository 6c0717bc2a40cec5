"""Reading the values of a traced graph, and writing down what an operation on them costs."""

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

# (column, kind) -> number; the columns are described in _flop_rules.py
Counts = Counter[tuple[str, str]]
Rule = Callable[[list[Any], list[Any]], Counts]

_INTEGERS = ("Long", "Int", "Short", "Char", "Byte", "Bool")


def macs(kind: str, count: int) -> Counts:
    """Count multiply-accumulates."""
    return Counter({("macs", kind): count})


def elements(kind: str, count: int, *, fvcore: int = 0) -> Counts:
    """Count other work, and what fvcore makes of it."""
    return Counter({("elements", kind): count, ("fvcore", kind): fvcore})


def shape(value: Any) -> list[int]:
    """Return the sizes of a traced tensor; a number, which has none, is []."""
    return list(value.type().sizes()) if value.isCompleteTensor() else []


def is_float(value: Any) -> bool:
    """Whether a traced tensor holds real or complex numbers; integers are indices and masks."""
    return value.isCompleteTensor() and value.type().scalarType() not in _INTEGERS


def numel(value: Any) -> int:
    """Return the number of elements of a traced tensor.

    It is 0 for what is no tensor, and for a single integer: the tracer makes those of shapes.
    """
    sizes = shape(value)
    return prod(sizes) if sizes or is_float(value) else 0


def integers(value: Any) -> list[int]:
    """Return a list of constant integers; [] for None."""
    if value.node().kind() == "prim::ListConstruct":
        return [item.toIValue() for item in value.node().inputs()]
    return list(value.toIValue() or ())
