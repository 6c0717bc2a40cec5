"""The torch backend of the contextual convolution against its definition, and wrong copies."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ctxbench.kernels.ctxconv import Window, _in_place, _places, _torch, contextual_conv2d
from ctxbench.ops import ContextualConv2d
from tests.kernels.tools import gradients, mutant
from tests.reference.ctxconv import ctxconv


class Case(NamedTuple):
    """What a layer computes with; the tensors are x, weight, change, offset and mask."""

    tensors: tuple[torch.Tensor | None, ...]
    window: Window
    groups: int

    def leaves(self):
        """Return the tensors that there are."""
        return [tensor for tensor in self.tensors if tensor is not None]

    def to(self, *what, **how):
        """Return the case with leaves of another type or layout."""
        changed = [
            None if one is None else one.detach().to(*what, **how).requires_grad_()
            for one in self.tensors
        ]
        return self._replace(tensors=tuple(changed))


def _case(
    *, batch=2, size=(5, 6), channels=3, outputs=4, window=(3, 1, 1), depthwise=False,
    change=True, moved=True, mask=True, reach=2.0,
):  # fmt: skip
    torch.manual_seed(0)
    window, taps = Window(*window), window[0] ** 2
    places = [(side - 1) // window.stride + 1 for side in size]
    kernel = (channels, 1) if depthwise else (outputs, channels)
    tensors = (
        torch.randn(batch, channels, *size),
        torch.randn(*kernel, window.kernel_size, window.kernel_size),
        torch.randn(batch, channels, taps) if change else None,
        reach * torch.randn(batch, 2 * taps, *places) if moved else None,
        torch.rand(batch, taps, *places) if moved and mask else None,
    )
    return Case(tensors, window, channels if depthwise else 1).to(torch.float64)


def _computed(case, backend="torch"):
    return contextual_conv2d(
        *case.tensors, window=case.window, groups=case.groups, backend=backend
    )  # fmt: skip


def _defined(case):
    x, weight, change, offset, mask = case.tensors
    return ctxconv(
        x, weight, None, offset, mask, change,
        stride=case.window.stride, dilation=case.window.dilation, groups=case.groups,
    )  # fmt: skip


def _assert_equal(case, expected, actual):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)
    found, defined = (gradients(y, case.leaves()) for y in (actual, expected))
    torch.testing.assert_close(found, defined, rtol=1e-10, atol=1e-11)


shapes = pytest.mark.parametrize(
    "shape",
    [
        {},
        {"depthwise": True},
        {"size": (2, 2), "outputs": 9, "batch": 2},
        {"change": False},
        {"depthwise": True, "change": False, "mask": False},
        {"moved": False},
        {"moved": False, "batch": 1},
        {"moved": False, "window": (3, 2, 2)},
        {"moved": False, "depthwise": True, "window": (5, 2, 1)},
        {"mask": False, "window": (3, 2, 2)},
        {"depthwise": True, "window": (7, 1, 1), "size": (4, 3)},
    ],
    ids=str,
)


@shapes
def test_equals_its_definition(shape):
    case = _case(**shape)
    _assert_equal(case, _defined(case), _computed(case))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=st.integers(1, 4),
    outputs=st.integers(1, 3),
    window=st.tuples(st.sampled_from([1, 3, 5]), st.integers(1, 3), st.integers(1, 3)),
    depthwise=st.booleans(),
    change=st.booleans(),
    moved=st.booleans(),
    mask=st.booleans(),
    reach=st.sampled_from([0.5, 3.0]),
)
def test_equals_its_definition_at_any_shape(**shape):
    case = _case(**shape)
    _assert_equal(case, _defined(case), _computed(case))


def _cut(monkeypatch, limit):
    for kernels in (_torch._Dense, _torch._Depthwise):
        monkeypatch.setattr(kernels, "numbers", limit)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("limit", [1, 200, 1000])
def test_blocks_change_nothing(monkeypatch, limit, depthwise):
    case = _case(batch=3, depthwise=depthwise)
    _cut(monkeypatch, limit)
    _assert_equal(case, _defined(case), _computed(case))


def _moved(case, offset):
    tensors = [*case.tensors]
    tensors[3] = offset.requires_grad_()
    return case._replace(tensors=tuple(tensors))


@pytest.mark.parametrize("depthwise", [False, True])
def test_whole_pixels_and_borders_are_exact(depthwise):
    case = _case(depthwise=depthwise)
    whole = torch.randint(-8, 9, case.tensors[3].shape).double()
    case = _moved(case, whole)
    # autograd of the definition has |.|' = 0 at a kink; the reference goes towards the next pixel
    torch.testing.assert_close(_computed(case), _defined(case), rtol=1e-10, atol=1e-11)
    _assert_equal(case, _computed(case, "reference"), _computed(case))


@pytest.mark.parametrize("depthwise", [False, True])
def test_what_is_far_away_is_zero(depthwise):
    case = _case(depthwise=depthwise, change=False)
    case = _moved(case, torch.full_like(case.tensors[3], 1e30))
    y = _computed(case)
    assert not y.any()
    assert not any(gradient.any() for gradient in gradients(y, case.leaves()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_place_that_is_no_number_gives_no_number_there_alone(depthwise, value):
    case = _case(depthwise=depthwise)
    offset = case.tensors[3].detach().clone()
    offset[1, 5, 2, 3] = value
    y = _computed(_moved(case, offset))
    missing = torch.zeros_like(y, dtype=torch.bool)
    missing[1, :, 2, 3] = True
    assert torch.equal(y.isnan(), missing)


@shapes
def test_equals_the_reference_backend(shape):
    case = _case(**shape).to(torch.float32)
    y, expected = _computed(case), _computed(case, "reference")
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    found, defined = (gradients(each, case.leaves()) for each in (y, expected))
    torch.testing.assert_close(found, defined, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("shape", [{}, {"depthwise": True}, {"moved": False}], ids=str)
def test_gradients_are_slopes(shape):
    case = _case(batch=1, size=(3, 4), channels=2, outputs=2, **shape)
    if case.tensors[3] is not None:  # clear of whole pixels, where the slope jumps
        offset = case.tensors[3].detach()
        case = _moved(case, offset.floor() + (offset - offset.floor()).clamp(0.1, 0.9))

    def run(*leaves):
        left = iter(leaves)
        tensors = tuple(None if one is None else next(left) for one in case.tensors)
        return _computed(case._replace(tensors=tensors))

    torch.autograd.gradcheck(run, case.leaves())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@shapes
def test_half_precision_is_close_and_keeps_its_type(shape, dtype):
    case = _case(**shape).to(dtype)
    y, exact = _computed(case), _computed(case.to(torch.float64))
    assert y.dtype == dtype
    scale = exact.abs().max()
    assert (y - exact).abs().max() < 0.02 * scale
    for low, high in zip(
        gradients(y, case.leaves()),
        gradients(_computed(wide := case.to(torch.float64)), wide.leaves()),
        strict=True,
    ):
        assert low.dtype == dtype
        assert (low - high).abs().max() < 0.03 * high.abs().max()


@pytest.mark.parametrize("shape", [{}, {"depthwise": True}, {"moved": False}], ids=str)
def test_any_layout_of_memory(shape):
    case = _case(**shape)
    other = [
        one.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        for one in case.leaves()
    ]
    other[0] = case.tensors[0].detach().to(memory_format=torch.channels_last).requires_grad_()
    left = iter(other)
    tensors = tuple(None if one is None else next(left) for one in case.tensors)
    changed = case._replace(tensors=tensors)
    y, expected = _computed(changed), _computed(case)
    assert y.is_contiguous()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, other), gradients(expected, case.leaves()))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_mask_without_an_offset_is_refused(backend):
    case = _case()
    x, weight, change, _, mask = case.tensors
    with pytest.raises(ValueError, match=r"a mask of \(2, 9, 5, 6\) and offset=None"):
        _computed(case._replace(tensors=(x, weight, change, None, mask)), backend)


@pytest.mark.parametrize("parts", ["both", "kernels"])
def test_works_on_no_device(parts):
    layer = ContextualConv2d(8, 8, context_channels=4, parts=parts, backend="torch").to("meta")
    x, context = torch.randn(2, 8, 9, 9, device="meta"), torch.randn(2, 4, device="meta")
    assert layer(x, context).shape == x.shape


@shapes
def test_an_empty_batch(shape):
    case = _case(**{**shape, "batch": 0})
    y = _computed(case)
    assert y.shape == _computed(case, "reference").shape
    assert [one.shape for one in gradients(y, case.leaves())] == [
        one.shape for one in case.leaves()
    ]


@pytest.mark.parametrize("shape", [{}, {"depthwise": True}, {"moved": False}], ids=str)
def test_autocast_changes_neither_sums_nor_gradient_types(shape):
    case = _case(**shape).to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = _computed(case)
    assert y.dtype == (torch.bfloat16 if "moved" in shape else torch.float32)
    assert {one.dtype for one in gradients(y, case.leaves())} == {torch.float32}
    if "moved" not in shape:
        torch.testing.assert_close(y, _computed(case), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [{}, {"depthwise": True}, {"moved": False}], ids=str)
def test_compiles_without_a_break(shape):
    case = _case(**shape).to(torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(_computed, fullgraph=True, backend="aot_eager")
    y, expected = compiled(case), _computed(case)
    torch.testing.assert_close(y, expected)
    found, defined = (gradients(each, case.leaves()) for each in (y, expected))
    torch.testing.assert_close(found, defined)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at gradients of results
@shapes
def test_is_registered_as_torch_wants(shape):
    case = _case(**shape)
    torch.library.opcheck(
        torch.ops.ctxbench.contextual_conv2d.default,
        (*case.tensors, *case.window, case.groups, "torch"),
    )


@pytest.mark.parametrize("needed", range(5))
def test_each_gradient_alone(needed):
    case = _case()
    upstream = torch.ones_like(_computed(case))
    alone = _torch.backward(
        upstream, *(one.detach() for one in case.tensors), case.window, 1,
        [index == needed for index in range(5)],
    )  # fmt: skip
    (expected,) = torch.autograd.grad(_defined(case), case.tensors[needed], upstream)
    assert [one is not None for one in alone] == [index == needed for index in range(5)]
    torch.testing.assert_close(alone[needed], expected, rtol=1e-10, atol=1e-11)


class _Largest(TorchDispatchMode):
    """Remembers the largest storage that an operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor):
                size = tensor.untyped_storage().nbytes() // 4
                self.numbers = max(self.numbers, size)
        return made


@pytest.mark.parametrize("depthwise", [False, True])
def test_no_pass_holds_a_map_a_tap(monkeypatch, depthwise):
    _cut(monkeypatch, 1)
    case = _case(
        size=(10, 10), channels=80, outputs=80, window=(7, 1, 1), depthwise=depthwise
    ).to(torch.float32)  # fmt: skip
    tensors = [one.detach() for one in case.tensors]
    largest_input = max(one.numel() for one in tensors)
    with torch.no_grad(), _Largest() as largest:
        y = _torch.forward(*tensors, case.window, case.groups)
        _torch.backward(y, *tensors, case.window, case.groups, [True] * 5)
    assert largest.numbers <= max(largest_input, 2 * y.numel())


@pytest.mark.parametrize("depthwise", [False, True])
def test_nothing_but_the_inputs_is_kept(depthwise):
    case = _case(depthwise=depthwise)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda one: one):
        _computed(case)
    ours = {one.untyped_storage().data_ptr() for one in case.tensors}
    assert {one.untyped_storage().data_ptr() for one in kept} <= ours


def test_results_repeat_exactly():
    case = _case(depthwise=True)
    first, second = (gradients(_computed(case), case.leaves()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# file, what is right, what is wrong
MUTANTS = {
    "a tap less": (_torch, "size**2, numbers", "size**2 - 1, numbers"),
    "dy and dx swapped": (_places, "dy, dx = ", "dx, dy = "),
    "window shifted": (_places, "- size // 2) *", "- size // 2 + 1) *"),
    "dilation forgotten": (_places, "// 2) * dilation", "// 2)"),
    "stride forgotten": (_places, ") * stride)", "))"),
    "margin too thin": (_places, ".clamp_(-_MARGIN, size)", ".clamp_(1 - _MARGIN, size)"),
    "border below too near": (_places, ".clamp_(-_MARGIN, size)", ".clamp_(-_MARGIN, size - 1)"),
    "mask forgotten": (_places, " if mask is None else", " if 1 else"),
    "mask forgotten in the slopes": (_places, "down * self.mask, right * self.mask", "down, right"),
    "neighbours swapped": (_places, "first + line, first", "first + line + 1, first"),
    "dense change forgotten": (_torch, "out_NO.add_(", "out_NO.add("),
    "dense change forgotten in backward": (_torch, "values_SNK.addcmul_(", "values_SNK.addcmul("),
    "depthwise change forgotten": (_torch, "kernels + change_BCT", "kernels + 0 * change_BCT"),
    "wrong sign down": (_places, "lower - upper, torch", "upper - lower, torch"),
    "wrong sign right": (_places, "torch.lerp(b - a, d - c", "torch.lerp(a - b, c - d"),
    "wrong sign of the map": (_torch, "grad_rows += ", "grad_rows -= "),
    "wrong sign of the weight": (_torch, ".T, read_MK)", ".T, -read_MK)"),
    "another sample": (_places, "first = samples", "first = 0 * samples"),
    "in place: shifted": (_in_place, "size * tap + rate * line", "size * tap + line"),
    "in place: change forgotten": (_in_place, "y += _shifted", "_ = _shifted"),
    "in place: depthwise change": (_in_place, "flatten(1) + change_BCT", "flatten(1) - change_BCT"),
    "in place: gradient": (_in_place, "grad_x + (change", "grad_x - (change"),
}  # fmt: skip


def _compare(module):
    for depthwise in (False, True):
        for shape in ({}, {"moved": False}):
            case = _case(batch=3, window=(3, 2, 2), size=(6, 7), depthwise=depthwise, **shape)
            y = _defined(case)
            tensors = [None if one is None else one.detach() for one in case.tensors]
            torch.testing.assert_close(
                module.forward(*tensors, case.window, case.groups), y, rtol=1e-10, atol=1e-11
            )
            found = module.backward(
                torch.ones_like(y), *tensors, case.window, case.groups, [True] * 5
            )
            expected = torch.autograd.grad(y, case.leaves(), torch.ones_like(y))
            found = tuple(one for one in found if one is not None)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_the_comparison_passes_for_what_is_right():
    _compare(_torch)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_copy_is_found(name, tmp_path, monkeypatch):
    module, right, wrong = MUTANTS[name]
    copy = mutant(module, right, wrong, tmp_path)
    if module is _places:
        for part in ("Taps", "Rows"):
            monkeypatch.setattr(_torch, part, getattr(copy, part))
    elif module is _in_place:
        monkeypatch.setattr(_torch, "_in_place", copy)
    with pytest.raises(AssertionError):
        _compare(copy if module is _torch else _torch)
