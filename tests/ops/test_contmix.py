"""ContMix and its blocks against their definitions, their cost and their memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ctxbench
from ctxbench.kernels.contmix import make_kernels
from ctxbench.kernels.contmix._reference import aggregate
from ctxbench.ops import ContMix, ContMixBlock, DynamicBlock, _mixing
from tests.conformance import vectors
from tests.ops.test_reparam import assert_same, drawn, entries
from tests.reference.contmix import contmix_block, kernels, mix, window_start
from tests.reference.dynamic_block import dynamic_block

# the last two are smaller than the kernel and are enlarged
SIZES = [(8, 8), (7, 10), (4, 5), (1, 3)]
SHAPE = {"kernel_sizes": (3, 7), "groups": 4}


def _maps(*channels, size):
    torch.manual_seed(1)
    return [torch.randn(2, c, *size, dtype=torch.float64, requires_grad=True) for c in channels]


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(5, 5), (6, 11), (12, 5)])
def test_the_aggregation_equals_its_definition(size, kernel_size):
    values, weights = _maps(6, 2 * kernel_size**2, size=size)
    grouped = values.unflatten(1, (2, 3))
    windows = weights.unflatten(1, (2, -1))
    actual = aggregate(grouped, windows, kernel_size).flatten(1, 2)
    assert_same(actual, mix(values, windows), [values, weights])


def test_a_window_at_the_border_is_shifted_inward():
    ramp = torch.arange(6.0).expand(1, 1, 1, 6, 6)
    first = torch.zeros(1, 1, 9, 6, 6)
    first[:, :, 0] = 1  # the first tap alone
    starts = [0, 0, 1, 2, 3, 3]
    assert aggregate(ramp, first, 3)[0, 0, 0, 0].tolist() == starts
    assert [window_start(i, 6, 3) for i in range(6)] == starts


@pytest.mark.parametrize("size", SIZES)
def test_the_plug_in_block_equals_its_definition(size):
    op = drawn(ContMixBlock(8, 7, small_kernel_size=3, heads=2))
    (x,) = _maps(8, size=size)
    assert_same(op(x), contmix_block(x, entries(op), **SHAPE), [x, *op.parameters()])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_the_dynamic_block_equals_its_definition(size, first):
    op = drawn(DynamicBlock(8, 4, 7, small_kernel_size=3, heads=2, first=first))
    x, context, reference = _maps(8, 4, 4, size=size)
    expected = dynamic_block(x, context, reference, entries(op), **SHAPE, first=first)
    leaves = [x, context, *([] if first else [reference]), *op.parameters()]
    assert_same(op(x, context, reference), expected, leaves)


def test_the_kernels_can_be_asked_for():
    op = drawn(ContMix(8, 6, 7, small_kernel_size=3, heads=2))
    query, context = _maps(8, 6, size=(8, 9))
    named = {f"mix.{key}": value for key, value in entries(op).items()}
    expected = kernels(query, context, named, "mix", **SHAPE)
    for actual, wanted, taps in zip(op.kernels(query, context), expected, (9, 49), strict=True):
        assert actual.shape == (2, 4, taps, 8, 9)
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(actual.sum(2), torch.ones_like(actual[:, :, 0]))


def test_the_blocks_show_the_kernels_that_they_mix_with(monkeypatch):
    x, context, reference = _maps(8, 4, 4, size=(8, 9))
    for op, inputs in (
        (ContMixBlock(8, 7), (x,)),
        (DynamicBlock(8, 4, 7), (x, context, reference)),
    ):
        made = []
        drawn(op)

        def remember(values, *parts, kernel_size, backend, made=made):
            made.append(make_kernels(*parts))
            return values

        monkeypatch.setattr(_mixing, "mix", remember)
        op(*inputs)
        torch.testing.assert_close(tuple(made), op.kernels(*inputs), rtol=0, atol=0)


def _dynamic_macs(c, p, places, kernel_sizes, groups):
    taps = sum(k * k for k in kernel_sizes)
    per_place = c * c // 2 + 49 * c // 2 + groups * 49 * taps + taps * c // 2
    return places * per_place + 49 * p * c // 2


@pytest.mark.parametrize("folded", [False, True])
def test_costs_what_it_says(folded):
    c, p, h, w = 16, 4, 8, 10
    d, taps = c + p, 49 if folded else 101
    x, context = torch.zeros(1, c, h, w), torch.zeros(1, p, h, w)
    plug_in = ContMixBlock(c, 7, heads=2, folded=folded)
    dynamic = DynamicBlock(c, p, 7, heads=2, folded=folded)
    alone = _dynamic_macs(c, p, h * w, (5, 7), groups=4)
    gates = 2 * c * 16
    hidden = 4 * c
    block = c * (4 * c + taps + 18) + hidden * (2 * c + 9)
    assert ctxbench.count(ContMix(c, p, 7, heads=2), x, x, context).macs == alone
    assert ctxbench.count(plug_in, x).macs == (
        _dynamic_macs(c, c, h * w, (5, 7), groups=4) + h * w * block + gates
    )
    hidden = 3 * c
    block = 9 * d + c * d + c * (2 * c + taps + d) + 18 * d + hidden * (2 * d + 9)
    assert ctxbench.count(dynamic, x, context, context).macs == alone + h * w * block + gates


class _Largest(TorchDispatchMode):
    """Remembers the largest storage that an operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numbers = max(self.numbers, size)
        return made


def _saved_numbers(make):
    """Return what `make` computes, and how many numbers autograd keeps for it."""
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = make()
    return made, sum(storages.values())


def test_the_reference_makes_no_copy_of_the_map_for_each_tap():
    kernel_size, side = 7, 20
    values = torch.randn(1, 1, 64, side, side, requires_grad=True)
    weights = torch.randn(1, 1, kernel_size**2, side, side, requires_grad=True)
    continued = 64 * (side + kernel_size - 1) ** 2
    with _Largest() as largest:
        y, saved = _saved_numbers(lambda: aggregate(values, weights, kernel_size))
        y.sum().backward()
    assert largest.numbers <= continued
    assert saved <= continued + 3 * weights.numel()  # the weights turned, and their index


def test_takes_half_precision_values_with_full_precision_weights():
    values = torch.randn(1, 1, 4, 6, 6, dtype=torch.bfloat16)
    weights = torch.rand(1, 1, 9, 6, 6)
    assert aggregate(values, weights, 3).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "channels=8 and heads=3. Give a multiple of 12"),
        ({"heads": 0}, "heads=0. Give a multiple of 4"),
        ({"small_kernel_size": 4}, r"got small_kernel_size=4 and kernel_size=7"),
        ({"kernel_size": 9}, "knows the branches of kernel sizes 7, 13, 15, 17; got kernel_size=9"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContMixBlock(**{"channels": 8, "kernel_size": 7, **arguments})


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("contmix_block", lambda f: ContMixBlock(32, 7, heads=2, folded=f)),
        ("contmix_block_small_map", lambda f: ContMixBlock(32, 13, heads=2, folded=f)),
        ("overlock_dynamic_block", lambda f: DynamicBlock(32, 16, 7, heads=2, ratio=4, folded=f)),
    ],
)
@pytest.mark.parametrize("folded", [False, True])
def test_equals_the_authors_code(name, build, folded, tmp_path):
    _, state, inputs, expected = vectors.load(name)
    op = build(folded).double().eval()
    torch.save(state, tmp_path / "authors.pth")
    ctxbench.load_checkpoint(op, tmp_path / "authors.pth")
    outputs = torch.cat(list(expected.values()), dim=1)  # the published block splits its output
    assert vectors.relative_error(op(*inputs), outputs) < 1e-9
