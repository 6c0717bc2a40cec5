"""What each traced operation costs: operation name -> rule(inputs, outputs) -> counts.

A rule returns a Counter whose keys are (column, kind):

    ("macs", kind)       multiply-accumulates; a product whose result is only summed over is one
    ("elements", kind)   other work, in output elements: no MAC, and never added to MACs
    ("fvcore", kind)     what fvcore itself adds to the MACs for this operation

Inputs and outputs are values of the traced graph. Operations that move data, make constants or
compute shapes are in MOVES; what stands in neither is an error for whoever counts.
"""

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

Counts = Counter[tuple[str, str]]
Rule = Callable[[list[Any], list[Any]], Counts]


def shape(value: Any) -> list[int]:
    """Return the sizes of a traced tensor; a number, which has none, is []."""
    return list(value.type().sizes()) if value.isCompleteTensor() else []


def numel(value: Any) -> int:
    """Return the number of elements of a traced tensor; 0 for what is no tensor."""
    return prod(value.type().sizes()) if value.isCompleteTensor() else 0


def macs(kind: str, count: int) -> Counts:
    """Count multiply-accumulates."""
    return Counter({("macs", kind): count})


def elements(kind: str, count: int, *, fvcore: int = 0) -> Counts:
    """Count other work, and what fvcore makes of it."""
    return Counter({("elements", kind): count, ("fvcore", kind): fvcore})


def convolution(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Every weight meets every output position; transposed, every input position."""
    x, weight, transposed = inputs[0], shape(inputs[1]), inputs[6].toIValue()
    places = shape(x) if transposed else shape(outputs[0])
    batch = places[0] if len(places) == len(weight) else 1
    return macs("conv", batch * prod(weight) * prod(places[-(len(weight) - 2) :]))


def deform_conv2d(inputs: list[Any], outputs: list[Any]) -> Counts:
    """B * O * Y * X * (C / groups) * kh * kw MACs on as many sampled values as an im2col has."""
    x, weight, out = shape(inputs[0]), shape(inputs[1]), shape(outputs[0])
    samples = x[0] * x[1] * prod(weight[2:]) * prod(out[2:])
    return macs("deform_conv", prod(out) * prod(weight[1:])) + elements("sampling", samples)


def matrix_product(first: int) -> Rule:
    """Every output element is a dot product over the last axis of input number `first`."""

    def rule(inputs: list[Any], outputs: list[Any]) -> Counts:
        return macs("matmul", prod(shape(outputs[0])) * shape(inputs[first])[-1])

    return rule


def batch_summed_product(inputs: list[Any], outputs: list[Any]) -> Counts:
    """addbmm: the products of a batch of matrices, summed."""
    return macs("matmul", prod(shape(inputs[1])) * shape(outputs[0])[-1])


def bilinear(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Every output element contracts one input with the weight, then with the other input."""
    weight = shape(inputs[2])
    rows = prod(shape(inputs[0])[:-1])
    return macs("matmul", rows * (prod(weight) + weight[0] * weight[2]))


def tensordot(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Contract the named axes."""
    axes = [shape(inputs[0])[axis] for axis in inputs[2].toIValue()]
    return macs("matmul", prod(shape(outputs[0])) * prod(axes))


def attention(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Count queries times keys, then weights times values; a mask saves nothing."""
    query, key, value = (shape(tensor) for tensor in inputs[:3])
    scores = prod(query[:-1]) * key[-2]
    return macs("attention", scores * (query[-1] + value[-1])) + elements("softmax", scores)


def einsum(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Contract the operands pairwise, in the order in which torch does."""
    equation = inputs[0].toIValue().replace(" ", "")
    shapes = [shape(value) for value in inputs[1].node().inputs()]
    path = inputs[2].toIValue() if len(inputs) > 2 else None
    terms, output = _labelled(equation, shapes)
    return _contract(terms, output, path)


Labels = tuple[str, ...]
Term = dict[str, int]


def _labelled(equation: str, shapes: list[list[int]]) -> tuple[list[Term], set[str]]:
    """Return label -> size of each operand, and the labels of the output.

    The axes of an ellipsis are labelled "...1", "...2", ... counted from the last.
    """
    left, arrow, right = equation.partition("->")
    labels = [_spell(term, len(sizes)) for term, sizes in zip(left.split(","), shapes, strict=True)]
    terms = []
    for names, sizes in zip(labels, shapes, strict=True):
        term: Term = {}
        for name, size in zip(names, sizes, strict=True):
            term[name] = max(size, term.get(name, 1))
        terms.append(term)
    seen = Counter(name for names in labels for name in names)
    dots = {name for name in seen if name.startswith("...")}
    if not arrow:
        return terms, dots | {name for name, times in seen.items() if times == 1}
    explicit = set(right.replace("...", ""))
    return terms, explicit | (dots if "..." in right else set())


def _spell(term: str, axes: int) -> Labels:
    before, dots, after = term.partition("...")
    hidden = axes - len(before) - len(after) if dots else 0
    return (*before, *(f"...{hidden - i}" for i in range(hidden)), *after)


def _contract(terms: list[Term], output: set[str], path: Any) -> Counts:
    """Add up the pairwise products; one that sums over nothing is elementwise work."""
    counts: Counts = Counter()
    pairs = list(zip(path[::2], path[1::2], strict=True)) if path else []
    while len(terms) > 1:
        i, j = sorted(pairs.pop(0)) if pairs else (0, 1)
        second, first = terms.pop(j), terms.pop(i)
        kept = output.union(*terms)
        first = {k: n for k, n in first.items() if k in kept or k in second}
        second = {k: n for k, n in second.items() if k in kept or k in first}
        both = {**first, **{k: max(n, first.get(k, 1)) for k, n in second.items()}}
        products = prod(both.values())
        summed = any(size > 1 for name, size in both.items() if name not in kept)
        counts += macs("einsum", products) if summed else elements("elementwise", products)
        result = {name: size for name, size in both.items() if name in kept}
        terms = [*terms, result] if pairs or path else [result, *terms]
    return counts


def product(inputs: list[Any], outputs: list[Any]) -> Counts:
    """mul: one MAC a product where the products of two tensors are only summed over.

    That is a dynamic kernel written as (patches * kernel).sum(axis). Otherwise elementwise.
    """
    count = numel(outputs[0])
    both_vary = min(numel(value) for value in inputs[:2]) > 1
    if both_vary and _only_summed(outputs[0]):
        return macs("contraction", count)
    return elements("elementwise", count)


def _only_summed(value: Any) -> bool:
    users = [use.user for use in value.uses()]
    return bool(users) and all(
        user.kind() in _SUMS
        or (user.kind() in _RESHAPES and all(_only_summed(out) for out in user.outputs()))
        for user in users
    )


_SUMS = {"aten::sum", "aten::mean"}
_RESHAPES = {
    f"aten::{name}"
    for name in (
        "view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "flatten", "unflatten",
        "contiguous", "movedim", "view_as", "reshape_as",
    )
}  # fmt: skip


def batch_norm(inputs: list[Any], outputs: list[Any]) -> Counts:
    """One element a value; fvcore adds 2 with an affine part, 1 without."""
    count = numel(inputs[0])
    return elements("batch_norm", count, fvcore=count * (2 if inputs[1].isCompleteTensor() else 1))


def norm(affine: int) -> Rule:
    """One element a value; fvcore adds 5 with an affine part at input `affine`, 4 without."""

    def rule(inputs: list[Any], outputs: list[Any]) -> Counts:
        count, scaled = numel(inputs[0]), inputs[affine].isCompleteTensor()
        return elements("norm", count, fvcore=count * (5 if scaled else 4))

    return rule


def adaptive_pooling(inputs: list[Any], outputs: list[Any]) -> Counts:
    """One element a pooled output; fvcore adds 1 an input value."""
    return elements("pooling", numel(outputs[0]), fvcore=numel(inputs[0]))


def per_output(kind: str, fvcore: int = 0) -> Rule:
    """Count output elements; fvcore adds `fvcore` for each."""

    def rule(inputs: list[Any], outputs: list[Any]) -> Counts:
        count = numel(outputs[0])
        return elements(kind, count, fvcore=fvcore * count)

    return rule


def per_input(kind: str) -> Rule:
    """Count the elements that go in: a reduction touches each."""

    def rule(inputs: list[Any], outputs: list[Any]) -> Counts:
        return elements(kind, numel(inputs[0]))

    return rule
