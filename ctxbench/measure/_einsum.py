"""What an einsum costs: its operands are contracted pairwise, in the order in which torch does."""

from collections import Counter
from math import prod
from typing import Any

from ctxbench.measure._values import Counts, elements, integers, macs, shape

# label -> size; an axis of size 1 is broadcast or dropped, so it is left out
Term = dict[str, int]


def einsum(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Add up the pairwise products; one that sums over nothing is elementwise work."""
    equation = inputs[0].toIValue().replace(" ", "")
    shapes = [shape(value) for value in inputs[1].node().inputs()]
    path = integers(inputs[2]) if len(inputs) > 2 else []
    terms, output = _labelled(equation, shapes)
    counts: Counts = Counter()
    while len(terms) > 1:
        i, j = sorted((path.pop(0), path.pop(0))) if path else (0, 1)
        second, first = terms.pop(j), terms.pop(i)
        product, result = _contract(first, second, output.union(*terms))
        counts += product
        # a path numbers results last; without one torch goes on with the result
        terms = [*terms, result] if path else [result, *terms]
    return counts


def _contract(first: Term, second: Term, kept: set[str]) -> tuple[Counts, Term]:
    """Multiply two operands and sum over what is not kept; what only one has is summed before."""
    summed = (first.keys() & second.keys()) - kept
    both = {**first, **second}
    result = {name: size for name, size in both.items() if name in kept}
    products = prod(result.values()) * prod(both[name] for name in summed)
    return macs("einsum", products) if summed else elements("elementwise", products), result


def _labelled(equation: str, shapes: list[list[int]]) -> tuple[list[Term], set[str]]:
    """Return the operands, and the labels of the output.

    The axes of an ellipsis are labelled "...1", "...2", ... counted from the last.
    """
    left, arrow, right = equation.partition("->")
    labels = [_spell(term, len(sizes)) for term, sizes in zip(left.split(","), shapes, strict=True)]
    terms = [
        {name: size for name, size in zip(names, sizes, strict=True) if size != 1}
        for names, sizes in zip(labels, shapes, strict=True)
    ]
    seen = Counter(name for names in labels for name in names)
    dots = {name for name in seen if name.startswith("...")}
    if not arrow:
        return terms, dots | {name for name, times in seen.items() if times == 1}
    explicit = set(right.replace("...", ""))
    return terms, explicit | (dots if "..." in right else set())


def _spell(term: str, axes: int) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    hidden = axes - len(before) - len(after) if dots else 0
    return (*before, *(f"...{hidden - i}" for i in range(hidden)), *after)
