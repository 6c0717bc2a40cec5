"""Counts of random convolutions, products and einsums against brute force."""

import itertools

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.measure.nets import macs

few = settings(deadline=None, max_examples=40)
small = st.integers(1, 3)


@st.composite
def convolutions(draw):
    axes, groups = draw(st.integers(1, 3)), draw(small)
    options = {
        name: [draw(st.integers(low, 2)) for _ in range(axes)]
        for name, low in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    kernel = [draw(small) for _ in range(axes)]
    places = [draw(st.integers(5, 8)) for _ in range(axes)]
    channels = groups * draw(small), groups * draw(small)
    batch = draw(st.none() | small)
    return batch, groups, channels, kernel, places, options


@few
@given(convolutions(), st.booleans())
def test_convolution(case, transposed):
    """Every tap of a kernel that reads a place, padding included, is a product a channel pair."""
    batch, groups, (entering, leaving), kernel, places, options = case
    weight = (entering, leaving // groups) if transposed else (leaving, entering // groups)
    suffix = f"{len(kernel)}d"
    name = f"conv_transpose{suffix}" if transposed else f"conv{suffix}"
    x = (*([] if batch is None else [batch]), entering, *places)
    done = macs(
        lambda x, w: getattr(F, name)(x, w, groups=groups, **options), x, (*weight, *kernel)
    )

    taps = 1
    for side, size, stride, padding, dilation in zip(
        places, kernel, *options.values(), strict=True
    ):
        starts = range(0, side + 2 * padding - dilation * (size - 1), stride)
        taps *= size * (side if transposed else len(starts))
    pairs = entering * leaving // groups
    assert done == {"conv": (batch or 1) * pairs * taps}


@st.composite
def factors(draw):
    """Two shapes that matmul takes, with some batch axes of size 1 or missing."""
    batch = [draw(small) for _ in range(draw(st.integers(0, 3)))]
    rows, inner, columns = (draw(st.integers(1, 4)) for _ in range(3))

    def partly():
        kept = batch[draw(st.integers(0, len(batch))) :]
        return [draw(st.sampled_from([1, size])) for size in kept]

    left = draw(st.sampled_from([(*partly(), rows, inner), (inner,)]))
    right = draw(st.sampled_from([(*partly(), inner, columns), (inner,)]))
    return left, right


@few
@given(factors())
def test_matmul(shapes):
    """As many products as the sum of the broadcast elementwise products has terms."""
    left, right = map(torch.ones, shapes)
    left = left if left.dim() > 1 else left[None]
    right = right if right.dim() > 1 else right[:, None]
    terms = left.unsqueeze(-1) * right.unsqueeze(-3)  # (..., rows, inner, columns)
    assert macs(torch.matmul, *shapes) == {"matmul": terms.numel()}


@st.composite
def equations(draw):
    """Two operands over a few letters, each with a size; the output keeps some of them."""
    sizes = {letter: draw(st.integers(1, 3)) for letter in "abcd"}
    letters = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)
    left, right = draw(letters), draw(letters)
    both = sorted({*left, *right})
    return sizes, left, right, draw(st.lists(st.sampled_from(both), unique=True))


@few
@given(equations())
def test_einsum(case):
    """Enumerate the products; letters of one operand alone, and not kept, were summed before."""
    sizes, left, right, kept = case
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    shapes = [tuple(sizes[letter] for letter in term) for term in (left, right)]
    done = macs(lambda a, b: torch.einsum(equation, a, b), *shapes)

    summed = {letter for letter in left if letter in right and letter not in kept}
    ranges = [range(sizes[letter]) for letter in {*kept, *summed}]
    products = len(list(itertools.product(*ranges)))
    contracts = any(sizes[letter] > 1 for letter in summed)
    assert done == ({"einsum": products} if contracts else {})
