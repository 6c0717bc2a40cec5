"""What each traced operation costs: operation name -> rule(inputs, outputs) -> counts.

A rule returns a Counter whose keys are (column, kind):

    ("macs", kind)       multiply-accumulates; a product whose result is only summed over is one
    ("elements", kind)   other work, in output elements: no MAC, and never added to MACs
    ("fvcore", kind)     what fvcore itself adds to the MACs for this operation

Inputs and outputs are values of the traced graph. Operations that move data, make constants or
compute shapes are in MOVES; what stands in neither is an error for whoever counts.
"""

from math import prod
from typing import Any

import torch

from ctxbench.kernels import macs as kernel_macs
from ctxbench.measure._values import Counts, Rule, elements, integers, is_float, macs, numel, shape


def convolution(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Every weight meets every output position; transposed, every input position."""
    return _weight_at(inputs[1], inputs[0] if inputs[6].toIValue() else outputs[0])


def same_convolution(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Count a convolution whose padding is a word, which is never transposed."""
    return _weight_at(inputs[1], outputs[0])


def _weight_at(weight: Any, positions: Any) -> Counts:
    batch, _, *places = shape(positions)
    return macs("conv", batch * prod(shape(weight)) * prod(places))


def deform_conv2d(inputs: list[Any], outputs: list[Any]) -> Counts:
    """B * O * Y * X * (C / groups) * kh * kw MACs on as many sampled values as an im2col has."""
    x, weight, out = shape(inputs[0]), shape(inputs[1]), shape(outputs[0])
    samples = x[0] * x[1] * prod(weight[2:]) * prod(out[2:])
    return macs("deform_conv", prod(out) * prod(weight[1:])) + elements("sampling", samples)


def coconv(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Count our convolutions as plain ones: dilated by level, or gated by sample."""
    return macs("conv", kernel_macs.convolution(shape(inputs[1]), shape(outputs[0])))


def contextual_conv2d(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Count a convolution at displaced taps, whose values are sampled; in place it is plain.

    The kinds are those of its plain form.
    """
    x, weight, change, offset = inputs[:4]
    found = kernel_macs.convolution(shape(weight), shape(outputs[0]))
    if not offset.isCompleteTensor():
        return macs("conv", found)
    samples = shape(x)[0] * shape(x)[1] * prod(shape(weight)[2:]) * prod(shape(outputs[0])[2:])
    dense = "matmul" if change.isCompleteTensor() else "linear"
    kind = dense if shape(weight)[1] == shape(x)[1] else "contraction"
    return macs(kind, found) + elements("sampling", samples)


def contmix(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Count the logits, which are a 1x1 convolution, and the sums over all windows."""
    values, affinity, weight = map(shape, inputs[:3])
    logits = kernel_macs.contmix_logits(affinity, weight)
    positions = prod(affinity) // affinity[2]
    return (
        macs("conv", logits)
        + macs("contraction", kernel_macs.contmix_sums(values, weight))
        + elements("softmax", positions * weight[0])
    )


def matrix_product(first: int, kind: str = "matmul") -> Rule:
    """Every output element is a dot product over the last axis of input number `first`."""

    def rule(inputs: list[Any], outputs: list[Any]) -> Counts:
        return macs(kind, prod(shape(outputs[0])) * prod(shape(inputs[first])[-1:]))

    return rule


def batch_summed_product(inputs: list[Any], outputs: list[Any]) -> Counts:
    """addbmm: the products of a batch of matrices, summed."""
    return macs("matmul", prod(shape(inputs[1])) * shape(outputs[0])[-1])


def tensordot(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Contract the named axes; one of size 1 is broadcast, so the other is summed before."""
    sizes = [[shape(inputs[i])[axis] for axis in integers(inputs[i + 2])] for i in (0, 1)]
    return macs("matmul", prod(shape(outputs[0])) * prod(map(min, *sizes)))


def bilinear(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Every output element contracts one input with the weight, then with the other input."""
    weight = shape(inputs[2])
    rows = prod(shape(inputs[0])[:-1])
    return macs("bilinear", rows * (prod(weight) + weight[0] * weight[2]))


def affine_grid(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Every coordinate of the grid is a row of the matrix times a place with a 1 appended."""
    grid = shape(outputs[0])
    return macs("matmul", prod(grid) * (grid[-1] + 1))


def attention(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Count queries times keys, then weights times values; a mask saves nothing."""
    query, key, out = shape(inputs[0]), shape(inputs[1]), shape(outputs[0])
    scores = prod(out[:-1]) * key[-2]
    return macs("attention", scores * (query[-1] + out[-1])) + elements("softmax", scores)


def vector_products(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Dot products of vectors paired with vectors, as in a cosine similarity."""
    pairs = torch.broadcast_shapes(*map(shape, inputs[:2]))  # type: ignore[no-untyped-call]
    return macs("contraction", prod(pairs))


def distances(inputs: list[Any], outputs: list[Any]) -> Counts:
    """Every vector of one set minus every vector of another: a norm each, no MAC."""
    return elements("distance", prod(shape(outputs[0])) * shape(inputs[0])[-1])


def product(inputs: list[Any], outputs: list[Any]) -> Counts:
    """mul: one MAC a product where the products of two tensors are only summed over.

    That is a dynamic kernel written as (patches * kernel).sum(axis), or added up tap by tap.
    Otherwise elementwise.
    """
    count = numel(outputs[0])
    if _is_product(outputs[0].node()) and _only_summed(outputs[0]):
        return macs("contraction", count)
    return elements("elementwise", count)


def added_product(inputs: list[Any], outputs: list[Any]) -> Counts:
    """addcmul: one MAC a product where it is added to other products, or to nothing."""
    summed = _is_product(outputs[0].node()) and _adds_products(inputs[0])
    return (macs if summed else elements)(
        "contraction" if summed else "elementwise", numel(outputs[0])
    )


def _is_product(node: Any) -> bool:
    """Whether a node multiplies two tensors; a number times a tensor is no product."""
    kind, factors = node.kind().rstrip("_"), list(node.inputs())
    factors = factors[1:3] if kind == "aten::addcmul" else factors[:2]
    known = kind in ("aten::mul", "aten::multiply", "aten::addcmul") and is_float(node.output())
    return known and min(numel(factor) for factor in factors) > 1


def _only_summed(value: Any) -> bool:
    """Whether a sum takes in all that becomes of a value; to ask for its shape is no use of it."""
    uses = [use for use in value.uses() if use.user.kind() not in _QUESTIONS]
    return bool(uses) and all(_sums(use.user, use.offset) for use in uses)


def _sums(node: Any, position: int) -> bool:
    kind = node.kind()
    if kind in _SUMS:
        return numel(node.output()) < numel(node.inputsAt(0))
    if kind in _ADDITIONS:
        return position < 2 and _adds_products(node.inputsAt(1 - position))
    scaled = kind in _SCALINGS and position < 2 and numel(node.inputsAt(1 - position)) <= 1
    moved = kind in ("prim::ListConstruct", "aten::neg") or (kind in _RESHAPES and position == 0)
    return (scaled or moved) and _only_summed(node.output())


def _adds_products(value: Any) -> bool:
    """Whether a value is a product, or products added up, or the zero that a sum begins with."""
    terms = [value]
    while terms:
        term = terms.pop()
        node = term.node()
        if node.kind() in _ADDITIONS:
            terms += [node.inputsAt(0), node.inputsAt(1)]
        elif node.kind() in ("aten::addcmul", "aten::addcmul_") and _is_product(node):
            terms.append(node.inputsAt(0))
        elif not (_is_product(node) or node.kind() in _ZEROS or _is_number_zero(node)):
            return False
    return True


def _is_number_zero(node: Any) -> bool:
    return node.kind() == "prim::Constant" and node.output().toIValue() in (0, 0.0)


_ADDITIONS = {"aten::add", "aten::add_"}
_SCALINGS = {"aten::mul", "aten::mul_", "aten::div", "aten::div_"}
_ZEROS = {"aten::zeros", "aten::zeros_like", "aten::new_zeros"}
_QUESTIONS = {"aten::size", "aten::dim", "aten::numel", "prim::device", "prim::dtype"}
_SUMS = {"aten::sum", "aten::mean", "aten::nansum", "aten::nanmean"}
_RESHAPES = {
    f"aten::{name}"
    for name in (
        "view", "reshape", "permute", "transpose", "swapaxes", "t", "numpy_T", "movedim",
        "unsqueeze", "squeeze", "flatten", "unflatten", "view_as", "reshape_as", "contiguous",
        "clone", "to", "type_as", "detach", "stack", "cat", "masked_fill",
    )
}  # fmt: skip


def batch_norm(inputs: list[Any], outputs: list[Any]) -> Counts:
    """One element a value; fvcore adds 2 with an affine part, 1 without.

    One that normalises by the batch's own statistics, also in eval mode, is a norm as any other.
    """
    if inputs[5].toIValue():
        return norm(1)(inputs, outputs)
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
